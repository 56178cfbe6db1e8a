"""The Jacobian of every example's own update by that example, for a chunk of examples at once, by products alone."""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from gradleak.clients import Gradient
from gradleak.linalg import JacobianOperator
from gradleak.tasks import Task

_Pull = Callable[[Tensor], tuple[Tensor]]
_Alone = Callable[[Tensor, Tensor], Tensor]

# Entries of updates held at once, 64 MB in float32; intermediate values of a network are several times that.
_ENTRIES_AT_ONCE = 2**24
_LARGEST_CHUNK = 64

# Relative difference up to which two ways of differentiating are the same but for rounding in float32.
_AGREE = 1e-3
_TRIED = 2


class ExampleJacobians(Protocol):
    """J of each of n examples: how its own gradient moves when the example moves."""

    @property
    def updates(self) -> Tensor:
        """`[n, P]`, of each example alone."""
        ...

    def times(self, vectors: Tensor) -> Tensor:
        """J of each times a vector of its own: `[n, d]` to `[n, P]`."""
        ...

    def transposed(self, rows: Tensor) -> Tensor:
        """The transpose of each times rows of its own: `[n, P]` to `[n, d]`."""
        ...


class Recorded:
    """Quick: the step is recorded once, and products replay the record.

    The transpose is reverse mode through the record, and J is reverse mode through the transpose, which is linear. The
    record is one of batched kernels, and their second derivatives can be silently wrong: LayerNorm's batched backward
    pass is made of its mean and deviation, which count as constants there (torch 2.x). See `quick_route_holds`.

    Args:
        task: in the precision in which all is computed.
        client: one gradient.
        inputs: `[n, *shape]`.
        targets: class indices `[n]`, or probabilities `[n, C]`.
    """

    def __init__(self, task: Task, client: Gradient, inputs: Tensor, targets: Tensor) -> None:
        alone = _alone(task, client)
        variable, probabilities = task.encode(inputs), task.target_probabilities(targets)

        def updates(flat: Tensor) -> Tensor:
            return vmap(alone)(flat.view(variable.shape), probabilities)

        sent, self._pull = _recorded(updates, variable.flatten(1))
        self.updates = sent.detach()
        _, self._push = _recorded(self.transposed_with_record, torch.zeros_like(self.updates))

    def times(self, vectors: Tensor) -> Tensor:
        """See `ExampleJacobians`."""
        return self._push(vectors)[0].detach()

    def transposed(self, rows: Tensor) -> Tensor:
        """See `ExampleJacobians`."""
        return self._pull(rows)[0].detach()

    def transposed_with_record(self, rows: Tensor) -> Tensor:
        """The same, differentiable."""
        return self._pull(rows)[0]


class Repeated:
    """Safe and about half as fast: each product differentiates the step of one example, and all of this is batched.

    Args:
        task: as for `Recorded`, with the rest.
        client: likewise.
        inputs: likewise.
        targets: likewise.
    """

    def __init__(self, task: Task, client: Gradient, inputs: Tensor, targets: Tensor) -> None:
        JacobianOperator(torch.tanh, torch.zeros(1))  # loads forward mode, of which torch would warn
        self._alone, self._shape = _alone(task, client), inputs.shape
        self._variable, self._probabilities = task.encode(inputs), task.target_probabilities(targets)
        with torch.no_grad():
            self.updates = vmap(self._alone)(self._variable, self._probabilities).detach()

    def times(self, vectors: Tensor) -> Tensor:
        """See `ExampleJacobians`."""

        def one(variable: Tensor, probabilities: Tensor, vector: Tensor) -> Tensor:
            def updates(at: Tensor) -> Tensor:
                return self._alone(at, probabilities)

            return cast(Tensor, jvp(updates, (variable,), (vector,))[1])

        return vmap(one)(self._variable, self._probabilities, vectors.view(self._shape)).detach()

    def transposed(self, rows: Tensor) -> Tensor:
        """See `ExampleJacobians`."""

        def one(variable: Tensor, probabilities: Tensor, row: Tensor) -> Tensor:
            def updates(at: Tensor) -> Tensor:
                return self._alone(at, probabilities)

            return _recorded(updates, variable)[1](row)[0]

        return vmap(one)(self._variable, self._probabilities, rows).detach().flatten(1)


def quick_route_holds(
    task: Task, client: Gradient, inputs: Tensor, targets: Tensor, generator: torch.Generator
) -> bool:
    """Whether both ways agree, on the first examples and in random directions.

    Args:
        task: as for `Recorded`.
        client: likewise.
        inputs: `[n, *shape]`, of which a few are tried.
        targets: likewise.
        generator: of the directions.

    Returns:
        False also where the quick way cannot be taken at all.
    """
    inputs, targets = inputs[:_TRIED], targets[:_TRIED]
    safe = Repeated(task, client, inputs, targets)
    vectors = torch.randn(len(inputs), inputs[0].numel(), generator=generator).to(safe.updates)
    images = safe.times(vectors)
    backs = safe.transposed(images)
    try:
        quick = Recorded(task, client, inputs, targets)
        differences = ((quick.times(vectors), images), (quick.transposed(images), backs))
    # An operation of a foreign model that lacks a third derivative.
    except Exception:  # noqa: BLE001
        return False
    return all(float((got - wanted).norm()) <= _AGREE * float(wanted.norm()) for got, wanted in differences)


def chunk_size(task: Task) -> int:
    """Examples whose products are taken together."""
    entries = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
    return max(1, min(_LARGEST_CHUNK, _ENTRIES_AT_ONCE // (4 * max(1, entries))))


def _recorded(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, _Pull]:
    """A function's value and the transpose of its Jacobian."""
    return cast(tuple[Tensor, _Pull], vjp(function, at))


def _alone(task: Task, client: Gradient) -> _Alone:
    """One example's update as a flat vector."""
    simulate = client.bind(task, task.state())

    def alone(variable: Tensor, probabilities: Tensor) -> Tensor:
        tensors = simulate(variable[None], probabilities[None])
        return torch.cat([tensor.flatten() for tensor in tensors.values()])

    return alone
