"""A plot as a file of its own: what the page's style sheet says in variables is written into it."""

import re
from importlib import resources


def standalone(svg: str) -> str:
    """The markup of an SVG file, with the colors of the light page on white.

    Args:
        svg: a plot of the page.

    Returns:
        The markup with nothing left to look up.
    """
    css = resources.files("gradleak.audits.report").joinpath("report.css").read_text(encoding="utf-8")
    light = css[: css.index("@media")]
    colors = dict(re.findall(r"(--[\w-]+):\s*(#[0-9a-f]+)", light))
    filled = re.sub(r"var\((--[\w-]+)\)", lambda found: colors[found.group(1)], svg)
    return filled.replace("<svg ", f'<svg style="background: {colors["--card"]}" ', 1)
