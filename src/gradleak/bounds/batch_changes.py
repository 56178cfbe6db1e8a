"""A defense's change of the batch, as it fell, by its derivative: what mixing and image operations do near a batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradleak.defenses import ChangesBatch, Defense
from gradleak.defenses.applying import changed_batch
from gradleak.tasks import Task

Change = Callable[[Tensor], Tensor]


def linear_changes(
    defenses: Sequence[Defense], variable: Tensor, probabilities: Tensor, task: Task, seed: int
) -> tuple[Change, Change]:
    """Maps of inputs and of probabilities with the value and the derivative of the change at a batch.

    The operations themselves may draw, or lack the forward mode in which all else is differentiated, so their
    derivatives are taken row by row.

    Args:
        defenses: all of them, in order.
        variable: `[N, *variable_shape]`, float64.
        probabilities: `[N, C]`.
        task: of the batch.
        seed: of the defenses' private draws.

    Returns:
        The identity twice where no defense changes the batch.
    """
    if not any(isinstance(defense, ChangesBatch) for defense in defenses):
        return (lambda values: values), (lambda values: values)
    return (
        _tangent_map(lambda x: changed_batch(defenses, x, probabilities, task.space, seed)[0], variable),
        _tangent_map(lambda y: changed_batch(defenses, variable, y, task.space, seed)[1], probabilities),
    )


def _tangent_map(change: Change, at: Tensor) -> Change:
    followed = at.detach().requires_grad_()
    value = change(followed)
    rows = torch.zeros(value.numel(), at.numel()).to(at)
    if value.requires_grad:
        for row, entry in zip(rows, value.flatten(), strict=True):
            (slope,) = torch.autograd.grad(entry, followed, retain_graph=True, materialize_grads=True)
            row.copy_(slope.flatten())
    base = value.detach()
    return lambda values: base + (rows @ (values - at).flatten()).view(base.shape)
