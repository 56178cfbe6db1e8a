"""Defenses of a scaled update: what they were before the scale was taken off."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from gradleak.defenses import Defense, GaussianNoise, TopK


@runtime_checkable
class _Rescales(Protocol):
    """A defense that says what it is in other units."""

    def rescaled(self, factor: float) -> Defense:
        """The defense D' with `D'(factor * u) = factor * D(u)`."""
        ...


def rescaled(defenses: Sequence[Defense], factor: float) -> tuple[Defense, ...] | None:
    """The defenses of an update in other units.

    Args:
        defenses: in order.
        factor: not 0, of either sign: pruning looks at sizes, and the law of noise is symmetric.

    Returns:
        Defenses D' with `D'(factor * u) = factor * D(u)` in law; None where one of them does not say what it becomes.
    """
    if factor == 1:
        return tuple(defenses)
    found: list[Defense] = []
    for defense in defenses:
        if isinstance(defense, _Rescales):
            found.append(defense.rescaled(factor))
        elif isinstance(defense, GaussianNoise):
            found.append(replace(defense, std=abs(factor) * defense.std))
        elif isinstance(defense, TopK):
            found.append(defense)
        else:
            return None
    return tuple(found)
