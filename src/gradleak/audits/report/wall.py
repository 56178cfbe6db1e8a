"""The pictures of a trial as data URIs, with what they show in words."""

import base64
import math
from dataclasses import dataclass

from torch import Tensor

from gradleak.audits.report.choosing import MOST_IMAGES
from gradleak.audits.report.words import decibels, whole
from gradleak.audits.store import Store, TrialImages, TrialRecord, bounds_of, encode_png, is_image

STEPS = 8
"""Pictures in a strip, the truth aside."""


@dataclass(frozen=True)
class Picture:
    """An image with its alternative text and its caption."""

    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Pair:
    """One private example: truth, reconstruction, and how the reconstruction came about."""

    example: int
    psnr: float
    ssim: float
    truth: Picture
    reconstruction: Picture
    strip: tuple[Picture, ...]


@dataclass(frozen=True)
class Card:
    """One trial on the wall.

    Attributes:
        record: the trial.
        color: number of its attack's color.
        pairs: one for each private example, in true order; empty if there are no pictures.
        missing: why there are none.
        more: images of the batch that are not shown.
    """

    record: TrialRecord
    color: int
    pairs: tuple[Pair, ...]
    missing: str = ""
    more: int = 0


def card(store: Store, record: TrialRecord, color: int) -> Card:
    """The card of a trial.

    Args:
        store: holds the images.
        record: the trial.
        color: number of its attack's color.

    Returns:
        Pictures and words.
    """
    images = store.images(record)
    if images is None:
        return Card(record, color, (), "The image file of this trial is not in the folder.")
    if not is_image(images.truth):
        return Card(record, color, (), "These inputs are no images.")
    count = min(len(images.truth), MOST_IMAGES)
    pairs = tuple(_pair(record, row, images) for row in range(count))
    return Card(record, color, pairs, more=len(images.truth) - count)


def _pair(record: TrialRecord, row: int, images: TrialImages) -> Pair:
    """Pictures of one private example of a trial."""
    example = record.examples[row] if row < len(record.examples) else row
    name, bounds = f"{record.data} image {example}", bounds_of(record)
    psnr, ssim = (record.numbers(column)[row] if row < record.batch_size else math.nan for column in ("psnr", "ssim"))
    truth = Picture(_uri(images.truth[row], bounds), f"Private {name}", "truth")
    words = f"{decibels(psnr)} dB"
    alt = f"Reconstruction of {name} by {record.attack}, {words}"
    strip = [
        Picture(
            _uri(images.snapshots[moment, row], bounds),
            f"Candidate for {name} after {count} evaluations",
            whole(count),
        )
        for moment, count in _moments(record, len(images.snapshots))
    ]
    return Pair(example, psnr, ssim, truth, Picture(_uri(images.reconstruction[row], bounds), alt, words), tuple(strip))


def _moments(record: TrialRecord, count: int) -> list[tuple[int, int]]:
    """Positions and evaluation counts of at most `STEPS` snapshots, evenly spread, from the first to the last."""
    counts = record.course.snapshot_evaluations
    available = min(count, len(counts))
    chosen = sorted({round(step * (available - 1) / (STEPS - 1)) for step in range(STEPS)}) if available else []
    return [(position, counts[position]) for position in chosen]


def _uri(image: Tensor, bounds: tuple[float, float]) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image, bounds)).decode()
