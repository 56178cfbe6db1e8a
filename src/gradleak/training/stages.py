"""The moments of training at which the model is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradleak.training.spec import DEFAULT_CHECKPOINTS


@dataclass(frozen=True)
class Stage:
    """One moment.

    Attributes:
        fraction: of training, in [0, 1].
        unit: the step or round after which it is.
    """

    fraction: float
    unit: int

    @property
    def label(self) -> str:
        """The fraction as decimals, so that labels sort as text; `0.0` and `1.0` for the ends."""
        return np.format_float_positional(self.fraction, trim="0")

    @property
    def file(self) -> str:
        """The name of its checkpoint."""
        return f"stage-{self.label}.safetensors"

    @property
    def words(self) -> str:
        """As tables and curves have it, such as `10 % of training`."""
        return f"{100 * self.fraction:.6g} % of training"


def stages_of(fractions: Sequence[float] | None, total: int) -> tuple[tuple[Stage, ...], list[str]]:
    """The stages of a training of `total` steps or rounds.

    Args:
        fractions: declared; None for the default ones that fall on a unit of their own.
        total: units of the whole training.

    Returns:
        The stages in ascending order, and what is wrong with the fractions.
    """
    if fractions is None:
        kept = {unit_of(fraction, total): fraction for fraction in DEFAULT_CHECKPOINTS if _has_unit(fraction, total)}
        return tuple(Stage(fraction, unit) for unit, fraction in sorted(kept.items())), []
    stages: dict[int, Stage] = {}
    problems: list[str] = []
    for fraction in sorted(fractions):
        unit = unit_of(fraction, total)
        if not _has_unit(fraction, total):
            problems.append(
                f"expected fractions of at least one of {total} steps or rounds ({1 / total:.3g}), got {fraction:g}; "
                "give a larger one, or train longer"
            )
        elif unit in stages:
            problems.append(
                f"expected fractions that fall on steps or rounds of their own, got {stages[unit].fraction:g} and "
                f"{fraction:g}, both number {unit} of {total}; remove one"
            )
        else:
            stages[unit] = Stage(float(fraction), unit)
    return tuple(stages.values()), problems


def unit_of(fraction: float, total: int) -> int:
    """The nearest whole number of steps or rounds."""
    return int(fraction * total + 0.5)


def _has_unit(fraction: float, total: int) -> bool:
    return fraction == 0 or unit_of(fraction, total) > 0
