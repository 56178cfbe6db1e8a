"""Declared defenses that say, entry by entry, where an update may lie: the check is then as sharp as without them."""

from collections.abc import Sequence

from torch import Tensor

from gradleak.consistency.comparison import Cause, Tensors, compare
from gradleak.consistency.hypotheses import Setting
from gradleak.consistency.precision import Recompute
from gradleak.consistency.scales import common_factors
from gradleak.defenses import Defense
from gradleak.defenses.applying import defended, response
from gradleak.updates import Update, UpdateKind

# Draws of the defenses themselves, to see whether what they say of single entries is exact.
_DRAWS = 3


def within_intervals(
    defenses: Sequence[Defense], update: Update, undefended: Recompute, setting: Setting, tolerance: float
) -> Recompute | None:
    """What is to be compared with an update whose defenses drew at random, entry by entry.

    A stochastic rounding leaves a cell for every entry, and random pruning leaves what it sends: all that can be held
    against the update is the distance to that. Additive noise leaves no such thing.

    Args:
        defenses: that are declared, in order.
        update: the observed one under the model's names.
        undefended: from a setting to the update before the defenses, in the update's own kind.
        setting: what is believed.
        tolerance: relative error that counts as equal.

    Returns:
        From a setting to the nearest update that the defenses allow, in the update's own kind; None where they draw
        nothing, or do not say it exactly.
    """
    before = undefended(setting)
    drawn = [defended(defenses, before, update.kind, seed=seed) for seed in range(_DRAWS)]
    if not defenses or all(compare(one, drawn[0]).relative_error == 0 for one in drawn):
        return None
    if any(_distance(defenses, one, before, update.kind) > tolerance for one in drawn):
        return None
    respond = response(defenses, update.tensors, update.kind)

    def recompute(setting: Setting) -> dict[str, Tensor]:
        made = undefended(setting)
        return {**made, **respond({name: made[name] for name in update.tensors})}

    return recompute


def factor_causes(
    defenses: Sequence[Defense], update: Update, before: Tensors, count: int, tolerance: float
) -> list[Cause]:
    """The factor without which the defenses allow the update, if one of the frequent ones does that.

    Args:
        defenses: that are declared, in order.
        update: the observed one under the model's names.
        before: the update before the defenses, in the update's own kind.
        count: number of examples N.
        tolerance: relative error that counts as equal.

    Returns:
        One cause, or none.
    """
    for factor, name, why in common_factors(count):
        error = _distance(defenses, {key: h / factor for key, h in update.tensors.items()}, before, update.kind)
        if error <= tolerance:
            return [Cause(name, why, error, proven=True)]
    return []


def _distance(defenses: Sequence[Defense], sent: Tensors, before: Tensors, kind: UpdateKind) -> float:
    """Of an update to what the defenses allow, relative to what was sent."""
    return compare(sent, response(defenses, sent, kind)(before)).relative_error
