"""The derivative of many local steps in the memory of one: only the weights after each step are kept.

Going backwards, a step is computed once more from the weights before it, with the graph of this step alone, and hands
on the derivative by what it started from. With plain SGD that is `lambda <- lambda - lr H lambda`; momentum, weight
decay, Adam and running statistics follow in the same way, since the rule of a step itself is differentiated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradleak.clients.local_training import Batch, LocalTraining, Memory, Named
from gradleak.clients.settings import sent_names
from gradleak.clients.step import BoundStep, bound_step
from gradleak.tasks import ModelState, Task

Flat = tuple[Tensor, ...]
Key = tuple[str, str]
"""Where a tensor of the state belongs: `("w", name)` weights, `("b", name)` buffers, `("m/" + kind, name)` memory."""


@dataclass(frozen=True, eq=False)
class _Path:
    """One client's steps as a map of a flat state; `keys` are those of the state after the first step."""

    client: LocalTraining
    step: BoundStep

    def start(self) -> dict[Key, Tensor]:
        """The state before the first step."""
        parameters = {("w", name): value for name, value in self.step.parameters.items()}
        return {**parameters, **{("b", name): value for name, value in self.step.buffers.items()}}

    def advance(self, state: dict[Key, Tensor], variable: Tensor, targets: Tensor, number: int) -> dict[Key, Tensor]:
        """The state after step `number`, from 1."""
        parameters = {name: value for (kind, name), value in state.items() if kind == "w"}
        buffers = {name: value for (kind, name), value in state.items() if kind == "b"}
        memory: dict[str, dict[str, Tensor]] = {}
        for (kind, name), value in state.items():
            if kind.startswith("m/"):
                memory.setdefault(kind[2:], {})[name] = value
        result = self.step(parameters, buffers, variable, targets)
        after, remembered = self.client.rule(parameters, result.gradients, memory, number)
        return {**_flat("w", after), **_flat("b", result.buffers), **_flat_memory(remembered)}


def _flat(kind: str, tensors: Named) -> dict[Key, Tensor]:
    return {(kind, name): value for name, value in tensors.items()}


def _flat_memory(memory: Memory) -> dict[Key, Tensor]:
    return {(f"m/{kind}", name): value for kind, tensors in memory.items() for name, value in tensors.items()}


class _Steps(torch.autograd.Function):
    """From the batches of all steps to the weights and buffers after the last."""

    @staticmethod
    def forward(ctx: Any, path: _Path, names: list[Key], *batches: Tensor) -> Flat:
        """Run all steps without a graph, and keep the state before each."""
        state = path.start()
        before: list[dict[Key, Tensor]] = []
        with torch.no_grad():
            for number in range(len(batches) // 2):
                before.append(state)
                variable, targets = batches[2 * number].detach(), batches[2 * number + 1].detach()
                state = path.advance(state, variable, targets, number + 1)
        ctx.path, ctx.names, ctx.before = path, names, before
        ctx.save_for_backward(*batches)
        return tuple(state[key].clone() for key in names)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Step by step from the last to the first."""
        path: _Path = ctx.path
        cotangents: dict[Key, Tensor] = dict(zip(ctx.names, gradients, strict=True))
        batches: tuple[Tensor, ...] = ctx.saved_tensors
        found: list[Tensor | None] = [None] * len(batches)
        for number in reversed(range(len(batches) // 2)):
            leaves = {
                key: value.detach().requires_grad_() if value.is_floating_point() else value
                for key, value in ctx.before[number].items()
            }
            variable = batches[2 * number].detach().requires_grad_()
            targets = batches[2 * number + 1].detach().requires_grad_()
            with torch.enable_grad():
                after = path.advance(leaves, variable, targets, number + 1)
            ends = [key for key in cotangents if after[key].requires_grad]
            starts = [key for key, value in leaves.items() if value.is_floating_point()]
            handed = torch.autograd.grad(
                [after[key] for key in ends],
                [*(leaves[key] for key in starts), variable, targets],
                [cotangents[key] for key in ends],
                allow_unused=True,
            )
            found[2 * number], found[2 * number + 1] = handed[-2], handed[-1]
            by_start: list[tuple[Key, Tensor | None]] = list(zip(starts, handed[:-2], strict=True))
            cotangents = {key: value for key, value in by_start if value is not None}
        return None, None, *found


def bind_checkpointed(
    client: LocalTraining, task: Task, state: ModelState
) -> Callable[[Sequence[Batch]], dict[str, Tensor]]:
    """`LocalTraining.bind_steps` with a derivative in the memory of one step and all steps' weights.

    Each step is computed twice, so that an evaluation takes about a third longer.

    Args:
        client: with local steps.
        task: the public task.
        state: the model's values before the first step.

    Returns:
        A function from the batches, in order, to what is sent; differentiable once, not usable under `vmap`.
    """
    path = _Path(client, bound_step(client, task, state, all_trained=True))
    sent = sent_names(client, list(path.step.parameters))
    buffers = [name for name in path.step.buffers if client.send_buffers]
    keys: list[Key] = [*(("w", name) for name in sent), *(("b", name) for name in buffers)]

    def simulate(batches: Sequence[Batch]) -> dict[str, Tensor]:
        flat = [tensor for batch in batches for tensor in batch]
        ended = dict(zip(keys, _Steps.apply(path, keys, *flat), strict=True))
        delta = {name: ended["w", name] - path.step.parameters[name] for name in sent}
        return {**delta, **{name: ended["b", name] for name in buffers}}

    return simulate
