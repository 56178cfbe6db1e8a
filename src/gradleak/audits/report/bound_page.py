"""The page of `gradleak bound`: verdict, which part of each example leaks, and the spectra. One file, no network."""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gradleak.audits.report.plots import spectrum_plot
from gradleak.audits.report.standalone import standalone
from gradleak.audits.report.words import decibels, fixed
from gradleak.audits.store import BoundFacts, encode_png, is_image, write_whole

_SMALLEST_SIDE = 160
MOST_SHOWN = 8
"""Largest number of examples of one batch whose pictures are shown."""


@dataclass(frozen=True, eq=False)
class Bounded:
    """A bound with what it is about.

    Attributes:
        examples: positions of the private examples in the data.
        facts: the figures.
        inputs: `[N, ...]`.
        pixel_std: least standard deviation of an estimate of each value, of the shape of the inputs.
        singular_values: descending.
        bounds: of the values of the inputs.
    """

    examples: tuple[int, ...]
    facts: BoundFacts
    inputs: Tensor
    pixel_std: Tensor
    singular_values: Tensor
    bounds: tuple[float, float]


@dataclass(frozen=True)
class _Picture:
    """Two pictures of one example, and in words what the right one shows."""

    example: int
    truth: str
    std: str
    caption: str


@dataclass(frozen=True)
class _Card:
    """One bound on the page."""

    title: str
    figures: tuple[tuple[str, str], ...]
    pictures: tuple[_Picture, ...]
    svg: str


def write_bound_page(folder: Path, title: str, verdict: Sequence[str], found: Sequence[Bounded]) -> Path:
    """Write `bound.html`, `bound.json`, and the page's pictures as files of their own.

    Args:
        folder: made if there is none.
        title: what was bounded.
        verdict: sentences.
        found: the bounds.

    Returns:
        Where the page is.

    Raises:
        BadInput: when it cannot be written.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    cards: list[_Card] = []
    for number, one in enumerate(found):
        pictures = _pictures(one) if is_image(one.inputs) else ()
        for row, (truth, std, _) in enumerate(pictures):
            write_whole(folder / "pictures" / f"{number}-{row}-example.png", truth, durable=False)
            write_whole(folder / "pictures" / f"{number}-{row}-std.png", std, durable=False)
        svg = spectrum_plot(one.singular_values.tolist())
        if svg:
            write_whole(folder / "pictures" / f"{number}-spectrum.svg", standalone(svg).encode(), durable=False)
        shown = tuple(
            _Picture(example, _uri(truth), _uri(std), caption)
            for example, (truth, std, caption) in zip(one.examples, pictures, strict=False)
        )
        cards.append(_Card(_title(one.examples), _figures(one.facts), shown, svg))

    def source(name: str) -> str:
        return resources.files("gradleak.audits.report").joinpath(name).read_text(encoding="utf-8")

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = Markup  # only ever applied to plots of ours
    page = environment.from_string(source("bound.html.j2")).render(
        css=Markup(source("report.css")),
        title=title,
        verdict=verdict,
        cards=cards,
        assumptions=found[0].facts.assumptions,
    )
    figures = {
        "title": title,
        "verdict": list(verdict),
        "bounds": [{"examples": list(one.examples), **one.facts.model_dump(mode="json")} for one in found],
    }
    write_whole(folder / "bound.json", (json.dumps(figures, indent=1, allow_nan=False) + "\n").encode())
    write_whole(folder / "bound.html", page.encode())
    return folder / "bound.html"


def _title(examples: Sequence[int]) -> str:
    return f"Example {examples[0]}" if len(examples) == 1 else f"Examples {', '.join(map(str, examples))}"


def _figures(facts: BoundFacts) -> tuple[tuple[str, str], ...]:
    rows = [
        ("Unbiased ceiling", _ceiling(facts)),
        *(() if facts.noisy else (("With rounding as noise", f"{decibels(facts.precision_ceiling)} dB"),)),
        ("Rank", f"{facts.rank} of {facts.unknowns}"),
        ("Free directions", str(facts.free_directions)),
        ("Known to 8 bits", f"{100 * facts.recoverable:.0f} %"),
        ("Seconds", fixed(facts.seconds, 1)),
    ]
    if not math.isnan(facts.prior_psnr_ceiling):
        rows.insert(
            1 if facts.noisy else 2, (f"With the prior {facts.prior}", f"{decibels(facts.prior_psnr_ceiling)} dB")
        )
    return tuple(rows)


def _ceiling(facts: BoundFacts) -> str:
    if math.isfinite(facts.psnr_ceiling):
        return f"{decibels(facts.psnr_ceiling)} dB"
    return "none: no noise" if facts.psnr_ceiling > 0 else "no estimate of the whole"


def _pictures(one: Bounded) -> tuple[tuple[bytes, bytes, str], ...]:
    """Each example and its standard deviations, as PNG, with a caption."""
    return tuple(
        (
            _enlarged(encode_png(image, one.bounds)),
            *_std_picture(std, one.bounds[1] - one.bounds[0]),
        )
        for image, std in list(zip(one.inputs, one.pixel_std, strict=True))[:MOST_SHOWN]
    )


def _std_picture(std: Tensor, peak: float) -> tuple[bytes, str]:
    """A picture of standard deviations `[C, H, W]`, dark where the example leaks; the scale is logarithmic.

    Values that no unbiased estimate knows are a checkerboard.

    Returns:
        PNG and its caption.
    """
    deviation = std.double().square().mean(dim=0, keepdim=True).sqrt() / peak
    known = deviation[torch.isfinite(deviation)]
    if not len(known):
        return _enlarged(encode_png(torch.full_like(deviation, math.nan))), "no pixel can be estimated without bias"
    # Values of one size are noise of the last bits, which must not fill the scale.
    low, high = float(known.min()), max(float(known.max()), 1.02 * float(known.min()), 1e-300)
    low = max(low, 1e-12 * high)
    shade = (deviation.clamp(min=low) / low).log() / math.log(high / low)
    shade = torch.where(torch.isfinite(deviation), shade, math.nan)
    caption = f"least std of an estimate: {low:.2g} (black) to {high:.2g} (white) of the range"
    if len(known) < deviation.numel():
        caption += "; checkered: no unbiased estimate"
    return _enlarged(encode_png(shade)), caption


def _enlarged(png: bytes) -> bytes:
    """The picture large enough to be looked at as a file, pixels kept square."""
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    factor = max(1, -(-_SMALLEST_SIDE // max(image.size)))
    pixels = np.asarray(image).repeat(factor, axis=0).repeat(factor, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
