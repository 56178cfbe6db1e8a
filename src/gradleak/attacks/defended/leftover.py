"""What known defenses leave of an update: everything, all but rounding, or less."""

from dataclasses import replace

import torch
from torch import Tensor

from gradleak.attacks.defended.likelihood import known_noise
from gradleak.defenses import Preimage, StatesPreimage
from gradleak.threat import Observation

# Cells that are wider than this, relative to a tensor's entries, are no mere rounding.
_ROUNDING = 1e-2


def undefended(observation: Observation) -> Observation:
    """The observation without its defenses where these changed nothing, as noise of std 0, or a limit not reached.

    Args:
        observation: what the attacker holds; it is not changed.

    Returns:
        The observation itself unless every entry before the defenses is known exactly.
    """
    cells = _cells(observation)
    exact = cells is not None and all(torch.equal(cells.lower[name], cells.upper[name]) for name in cells.lower)
    return replace(observation, defenses=()) if exact else observation


def as_rounded(observation: Observation) -> Observation | None:
    """An undefended observation whose update is coarser, where the defenses did no more than round.

    Args:
        observation: what the attacker holds; it is not changed.

    Returns:
        It, for attacks that weigh rounding by `Update.coarseness`; None where more was lost.
    """
    cells = _cells(observation)
    if cells is None:
        return None
    coarseness = max(
        (_coarseness(cells.lower[name], cells.upper[name], tensor) for name, tensor in _sent(observation).items()),
        default=0.0,
    )
    if not coarseness <= _ROUNDING:
        return None
    update = replace(observation.update, coarseness=max(coarseness, observation.update.coarseness))
    return replace(observation, update=update, defenses=())


def _cells(observation: Observation) -> Preimage | None:
    """Where the entries were before all defenses; None where the defenses do not say, or added noise."""
    if not observation.defenses or known_noise(observation).std:
        return None
    known = Preimage.exactly(observation.update.tensors)
    for defense in reversed(observation.defenses):
        before = defense.preimage(known) if isinstance(defense, StatesPreimage) else None
        if before is None or before.sizes is not None:
            return None
        known = before
    return known


def _sent(observation: Observation) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in observation.update.tensors.items() if bool(tensor.any())}


def _coarseness(lower: Tensor, upper: Tensor, sent: Tensor) -> float:
    """Standard deviation within the cells, relative to the tensor's entries."""
    spread = (upper.double() - lower.double()).square().mean() / 12
    return float((spread / sent.double().square().mean()).sqrt())
