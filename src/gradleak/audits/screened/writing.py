"""The files of a screening: all scores for programs, and one page for people."""

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from gradleak.audits.files import write_whole
from gradleak.audits.pictures import encode_png, is_image
from gradleak.audits.report.plots import histogram_plot
from gradleak.audits.screened.rows import ExampleRow, Screened, rank_agreement

MOST_PICTURES = 12
"""Thumbnails of each end of the list."""

_LISTED = 20


@dataclass(frozen=True)
class Thumbnail:
    """An example with its picture.

    Attributes:
        row: its figures.
        uri: the picture as a data URI.
    """

    row: ExampleRow
    uri: str


def write_screened(screened: Screened, folder: Path, *, command: str = "") -> Path:
    """Write `scores.csv`, `scores.jsonl` and `screening.html`, which shows private examples.

    Args:
        screened: what was found.
        folder: is made if there is none.
        command: how to repeat it, for the page.

    Returns:
        Where the page is.

    Raises:
        BadInput: when a file cannot be written.
    """
    write_whole(folder / "scores.csv", _csv(screened.rows))
    write_whole(folder / "scores.jsonl", _json_lines(screened.rows))
    path = folder / "screening.html"
    write_whole(path, _page(screened, command).encode())
    return path


def shown_most(screened: Screened) -> tuple[Sequence[ExampleRow], Sequence[ExampleRow]]:
    """Riskiest and safest rows, the safest first among theirs; none is in both, and those without a score in neither.

    Args:
        screened: what was found.

    Returns:
        Up to as many as a table lists.
    """
    rows = [row for row in screened.rows if math.isfinite(row.score)]
    half = min(_LISTED, (len(rows) + 1) // 2)
    return rows[:half], rows[half:][-_LISTED:][::-1]


def _csv(rows: Sequence[ExampleRow]) -> bytes:
    buffer = io.StringIO(newline="")
    table = csv.DictWriter(buffer, list(asdict(rows[0])))
    table.writeheader()
    table.writerows(asdict(row) for row in rows)
    return buffer.getvalue().encode()


def _json_lines(rows: Sequence[ExampleRow]) -> bytes:
    def line(row: ExampleRow) -> str:
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(row).items()
        }
        return json.dumps(plain, ensure_ascii=False, allow_nan=False)

    return ("\n".join(map(line, rows)) + "\n").encode()


def _page(screened: Screened, command: str) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Callable[..., object]] = {"three": _three, "whole": _whole, "relative": _relative}
    environment.filters.update(filters)
    css = resources.files("gradleak.audits.report").joinpath("report.css").read_text(encoding="utf-8")
    source = resources.files("gradleak.audits.screened").joinpath("screening.html.j2").read_text(encoding="utf-8")
    riskiest, safest = shown_most(screened)
    scores = [row.score for row in screened.rows]
    marks = [] if screened.noise is None else [screened.noise]
    return environment.from_string(source).render(
        css=Markup(css),
        # Markup of our own, which holds no text from the data.
        histogram=Markup(histogram_plot(scores, "noise std that an example needs", marks)),
        screened=screened,
        quantiles=screened.quantiles(),
        agreement=rank_agreement(screened.rows),
        ends=(
            ("riskiest", "The riskiest", riskiest, _thumbnails(screened, riskiest)),
            ("safest", "The safest", safest, _thumbnails(screened, safest)),
        ),
        lost=sum(not math.isfinite(score) for score in scores),
        covered=sum(score <= (screened.noise or 0.0) for score in scores),
        command=command,
    )


def _thumbnails(screened: Screened, rows: Sequence[ExampleRow]) -> list[Thumbnail]:
    """Pictures of the first rows; none where inputs are no images."""
    found: list[Thumbnail] = []
    for row in rows[:MOST_PICTURES]:
        image = screened.images.get(row.position)
        if image is not None and is_image(image[None]):
            png = base64.b64encode(encode_png(image, screened.bounds)).decode()
            found.append(Thumbnail(row, f"data:image/png;base64,{png}"))
    return found


def _three(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{value:.3g}"


def _relative(row: ExampleRow) -> str:
    return f"{100 * row.score_error / row.score:.1f} %" if row.score > 0 else "0 %"


def _whole(value: int) -> str:
    return f"{value:,}"
