"""The report's figures for programs: `report.json`."""

import json
from dataclasses import asdict, replace
from typing import Any

from gradleak.audits.report.answers import answers_of
from gradleak.audits.store import Contents, ceiling_sentence, plain


def figures(contents: Contents) -> bytes:
    """Verdict, groups, limits and counts as strict JSON; numbers that are not finite are strings.

    Args:
        contents: of a store.

    Returns:
        The file's bytes.
    """
    summary = contents.summary
    found: dict[str, Any] = {
        "name": contents.declared.name,
        "verdict": summary.level,
        "trials": summary.trials,
        "statuses": summary.statuses,
        "private_images": len(summary.images),
        "thresholds": contents.declared.thresholds,
        "reconstructed": {f"{at:g}": summary.above(at) for at in contents.declared.thresholds},
        "worst": None if summary.worst is None else asdict(summary.worst),
        "limits": [{**asdict(one), "state": one.state, "words": one.describe()} for one in contents.limits],
        "answers": answers_of(contents),
        "frontiers": frontier_figures(contents),
        "bounds": bound_figures(contents),
        "groups": [asdict(group) for group in summary.groups],
        "warnings": contents.warnings,
    }
    return (json.dumps(plain(found, "figures"), indent=1, allow_nan=False) + "\n").encode()


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
