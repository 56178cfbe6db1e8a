"""Which layers of a model may be an attention's query, key and value, by the tokens that they receive."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.clients import Gradient
from gradleak.clients.stateless import stateless_copy
from gradleak.seeds import stage_generator
from gradleak.tasks import Task
from gradleak.threat import Observation

_INPUTS_OF_ATTENTION = ("query", "key", "value")


class _Reached(Exception):  # noqa: N818  # ends a forward pass early, not an error
    """The layer of interest has received its inputs."""


@dataclass(frozen=True, eq=False)
class StoppedModel:
    """A model that runs one example, and stops where it is of no more interest.

    Attributes:
        task: the public task.
        module: a copy of its model.
        values: what the copy computes with, trained parameters first.
    """

    task: Task
    module: nn.Module
    values: Mapping[str, Tensor]

    def tokens_at(self, layer: str, variable: Tensor, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """What a layer receives, `[T, d]`.

        Args:
            layer: its name.
            variable: of one example, `[*variable_shape]`.
            values: instead of some of the model's own.

        Returns:
            The tokens, attached to the graph if gradients are on.
        """
        received: list[Tensor] = []

        def stop(owner: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            received.append(_inputs(owner, inputs, named)[0])
            raise _Reached

        handle = self.module.get_submodule(layer).register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with contextlib.suppress(_Reached):
                self.task.space.forward(self.module, {**self.values, **(values or {})}, variable[None])
        finally:
            handle.remove()
        return received[0].reshape(-1, received[0].shape[-1])

    def random(self, stage: str) -> Tensor:
        """A variable without structure, `[*variable_shape]`; the stage decides it."""
        generator = stage_generator(0, f"attack/april/{stage}")
        return torch.randn(self.task.space.variable_shape, generator=generator, dtype=torch.float64).to(
            self.task.device
        )


def stopped_model(observation: Observation, client: Gradient) -> StoppedModel:
    """The model as the client runs it.

    Args:
        observation: what the attacker holds.
        client: with the mode, and how dropout is handled.

    Returns:
        A model that leaves the observation's own alone.
    """
    task, state = observation.task, observation.state
    module = stateless_copy(
        task.model, mode=client.mode, dropout=client.dropout, dropout_seed=client.dropout_seed
    ).module
    known = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
    values = {name: value for name, value in {**state.parameters, **state.constants}.items() if name in known}
    return StoppedModel(task, module, values)


def _inputs(owner: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors that a layer transforms, wherever they stand among its arguments."""
    names = _INPUTS_OF_ATTENTION if isinstance(owner, nn.MultiheadAttention) else ("input",)
    return [*inputs[: len(names)], *(named[name] for name in names[len(inputs) :])]


@dataclass(frozen=True, eq=False)
class Receiver:
    """Layers that receive the very same tokens.

    Attributes:
        layer: name of the first of them.
        tokens: what they receive for a probe, `[T, d]`.
        weights: names of their weights.
        is_attention: whether the first is an `nn.MultiheadAttention`.
    """

    layer: str
    tokens: Tensor
    weights: list[str]
    is_attention: bool


def attention_receivers(model: StoppedModel) -> list[Receiver]:
    """Groups of layers that may be an attention's.

    Args:
        model: the model, with any values.

    Returns:
        Attentions and layers that share their tokens, then single layers wide enough for query, key and value at once;
        each in order of use.
    """
    found: list[Receiver] = []

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
        def hook(owner: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            received = [tensor.detach() for tensor in _inputs(owner, inputs, named)]
            tokens = received[0].reshape(-1, received[0].shape[-1])
            is_attention = isinstance(owner, nn.MultiheadAttention)
            weight = f"{name}.{'in_proj_weight' if is_attention else 'weight'}".lstrip(".")
            one = len(tokens) > 1 and all(torch.equal(tensor, received[0]) for tensor in received[1:])
            if not one or weight not in model.values:
                return
            same = next((group for group in found if torch.equal(group.tokens, tokens)), None)
            if same is None:
                found.append(Receiver(name, tokens, [weight], is_attention))
            elif weight not in same.weights:
                same.weights.append(weight)

        return hook

    handles = [
        layer.register_forward_pre_hook(record(name), with_kwargs=True)
        for name, layer in model.module.named_modules()
        if isinstance(layer, nn.Linear | nn.MultiheadAttention)
    ]
    # With gradients on, since fused encoder layers for inference pass their parts by.
    with torch.enable_grad():
        model.task.space.forward(model.module, dict(model.values), model.random("receivers")[None])
    for handle in handles:
        handle.remove()

    def rows(group: Receiver) -> int:
        return sum(len(model.values[name]) for name in group.weights)

    likely = [group for group in found if len(group.weights) > 1 or rows(group) >= 3 * group.tokens.shape[1]]
    return sorted(likely, key=lambda group: not group.is_attention and len(group.weights) == 1)
