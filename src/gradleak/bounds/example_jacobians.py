"""The Jacobian of every example's own update by that example, for a chunk of examples at once, by products alone."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.func import vjp, vmap

from gradleak.clients import Gradient
from gradleak.tasks import Task

_Pull = Callable[[Tensor], tuple[Tensor]]

# Entries of updates held at once, 64 MB in float32; intermediate values of a network are several times that.
_ENTRIES_AT_ONCE = 2**24
_LARGEST_CHUNK = 64


def chunk_size(task: Task) -> int:
    """Examples whose products are taken together."""
    entries = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
    return max(1, min(_LARGEST_CHUNK, _ENTRIES_AT_ONCE // (4 * max(1, entries))))


class ExampleJacobians:
    """J of each of n examples: how its own gradient moves when the example moves.

    The step is recorded once, its transpose is reverse mode through that record, and J itself is reverse mode through
    the transpose, which is linear. Nothing runs forward again from product to product: a product costs about as much as
    a step of training, half of what forward mode over reverse mode costs.

    Args:
        task: in the precision in which all is computed.
        client: one gradient.
        inputs: `[n, *shape]`.
        targets: class indices `[n]`, or probabilities `[n, C]`.

    Attributes:
        updates: `[n, P]`, of each example alone.
        unknowns: values of one example d.
    """

    def __init__(self, task: Task, client: Gradient, inputs: Tensor, targets: Tensor) -> None:
        simulate = client.bind(task, task.state())
        variable, probabilities = task.encode(inputs), task.target_probabilities(targets)

        def alone(variable: Tensor, probabilities: Tensor) -> Tensor:
            tensors = simulate(variable[None], probabilities[None])
            return torch.cat([tensor.flatten() for tensor in tensors.values()])

        def updates(flat: Tensor) -> Tensor:
            return vmap(alone)(flat.view(variable.shape), probabilities)

        sent, pull = vjp(updates, variable.flatten(1))
        self.unknowns = variable[0].numel()
        self.updates = cast(Tensor, sent).detach()
        self._pull = cast(_Pull, pull)
        _, push = vjp(lambda rows: self._pull(rows)[0], torch.zeros_like(self.updates))
        self._push = cast(_Pull, push)

    def times(self, vectors: Tensor) -> Tensor:
        """J of each times a vector of its own: `[n, d]` to `[n, P]`."""
        return self._push(vectors)[0].detach()

    def transposed(self, rows: Tensor) -> Tensor:
        """The transpose of each times rows of its own: `[n, P]` to `[n, d]`."""
        return self._pull(rows)[0].detach()
