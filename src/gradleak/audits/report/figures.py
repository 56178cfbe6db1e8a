"""The report's figures for programs: `report.json`."""

import json
from dataclasses import asdict, replace
from typing import Any

from gradleak.audits.report.answers import answers_of
from gradleak.audits.store import PSNR, Contents, ImageLeak, ceiling_sentence, plain


def figures(contents: Contents) -> bytes:
    """Verdict, groups, limits and counts as strict JSON; numbers that are not finite are strings.

    Args:
        contents: of a store.

    Returns:
        The file's bytes.
    """
    summary = contents.summary
    thresholds = summary.merit.thresholds(contents.declared.thresholds)
    found: dict[str, Any] = {
        "name": contents.declared.name,
        "verdict": summary.level,
        "trials": summary.trials,
        "statuses": summary.statuses,
        f"private_{summary.merit.noun}s": len(summary.own),
        "thresholds": thresholds,
        "reconstructed": {f"{at:g}": summary.above(at) for at in thresholds},
        **({} if summary.merit == PSNR else {"word_for_word": summary.exact}),
        "worst": None if summary.worst is None else _worst(summary.worst),
        "limits": [{**asdict(one), "state": one.state, "words": one.describe()} for one in contents.limits],
        "answers": answers_of(contents),
        "frontiers": frontier_figures(contents),
        "bounds": bound_figures(contents),
        "groups": [_without_texts(asdict(group)) for group in summary.groups],
        "warnings": contents.warnings,
    }
    return (json.dumps(plain(found, "figures"), indent=1, allow_nan=False) + "\n").encode()


def _worst(worst: ImageLeak) -> dict[str, Any]:
    """The worst case; that of images by the names that programs know."""
    found = asdict(worst)
    if worst.score != PSNR.score:
        return found
    names = {"best": "psnr", "baseline": "baseline_psnr"}
    return {
        names.get(name, name): found[name] for name in ("data", "example", "best", "attack", "trial", "row", "baseline")
    }


def _without_texts(group: dict[str, Any]) -> dict[str, Any]:
    """Figures of a group; those of images without what only texts have."""
    if group["score"] != PSNR.score:
        return group
    for row in (group, *group["baselines"], *group["differences"]):
        for name in ("score", "scores", "score_interval", "exact"):
            row.pop(name, None)
    return group


def frontier_figures(contents: Contents) -> list[dict[str, Any]]:
    """Every frontier as plain data; of the judged attack its name stands for the group."""
    found: list[dict[str, Any]] = []
    for frontier in contents.frontiers:
        points = [
            {**asdict(point), "judged": point.judged.attack, "psnr": asdict(point.psnr)} for point in frontier.points
        ]
        found.append({**asdict(replace(frontier, points=())), "points": points})
    return found


def bound_figures(contents: Contents) -> list[dict[str, Any]]:
    """What bounds say about every setting as plain data, with the sentence of the report."""
    return [{**asdict(one), "words": ceiling_sentence(one)} for one in contents.ceilings.values()]
