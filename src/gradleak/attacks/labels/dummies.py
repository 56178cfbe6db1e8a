"""Inputs that stand in for private ones where only their general kind matters: how a model responds to any input."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.attacks.head import Head
from gradleak.clients.stateless import Mode, stateless_copy
from gradleak.seeds import stage_generator
from gradleak.tasks import ImageSpace, InputSpace, Task
from gradleak.threat import Observation

_CHUNK = 256


def dummy_variables(space: InputSpace, count: int, seed: int = 0) -> Tensor:
    """Variables of plausible inputs: for images, smooth random ones with the spectrum of photographs.

    Photographs have an amplitude that falls about as the inverse of the frequency (Field 1987); their mean and
    contrast vary more between images than within. Rows are uniform in their bounds, or N(0, 1) without bounds.

    Args:
        space: what an input is.
        count: how many.
        seed: decides them.

    Returns:
        `[count, *variable_shape]`, float32.
    """
    generator = stage_generator(seed, "labels/dummies")
    if isinstance(space, ImageSpace):
        return _images(space, count, generator)
    shape = (count, *space.variable_shape)
    if space.bounds is None or space.variable_shape != space.shape:
        return torch.randn(shape, generator=generator)
    low, high = space.bounds
    return low + (high - low) * torch.rand(shape, generator=generator)


def _images(space: ImageSpace, count: int, generator: torch.Generator) -> Tensor:
    channels, height, width = space.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    amplitude = torch.where(frequency > 0, frequency, 1.0) ** -1.2 * (frequency > 0)

    def smooth(layers: int) -> Tensor:
        field = torch.fft.irfft2(torch.fft.rfft2(normal(count, layers, height, width)) * amplitude, s=(height, width))
        return field / field.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-12)

    # Channels share most of their structure; the numbers are those of everyday photographs in units of the range.
    texture = 0.9 * smooth(1) + 0.45 * smooth(channels)
    contrast = 0.2 * torch.exp(0.4 * normal(count, 1, 1, 1))
    level = 0.47 + 0.14 * normal(count, 1, 1, 1) + 0.06 * normal(count, channels, 1, 1)
    low, high = space.bounds
    return low + (high - low) * (level + contrast * texture).clamp(0, 1)


def client_mode(observation: Observation) -> Mode:
    """The mode in which the client trained; evaluation where that is not known or makes no difference."""
    return "train" if getattr(observation.client, "mode", "eval") == "train" else "eval"


@dataclass(frozen=True, eq=False)
class Responses:
    """What a model makes of inputs.

    Attributes:
        features: what enters the last layer, `[M, D]`, float64.
        logits: `[M, C]`, float64.
    """

    features: Tensor
    logits: Tensor


def responses(observation: Observation, head: Head, variables: Tensor, batch_size: int) -> Responses:
    """Run the model, in the client's mode where it is known, on variables `[M, ...]`.

    Args:
        observation: what the attacker holds.
        head: the model's last layer.
        variables: the inputs' variables, `[M, ...]`.
        batch_size: how many share their batch statistics in a model that uses them.

    Returns:
        Features and logits in the order of the variables.
    """
    task, state = observation.task, observation.state
    mode = client_mode(observation)
    module = stateless_copy(task.model, mode=mode, dropout="off").module
    layer = module.get_submodule(head.weight.rpartition(".")[0])
    received: list[Tensor] = []

    def record(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        received.append(inputs[0].detach().double())

    handle = layer.register_forward_pre_hook(record)
    size = batch_size if mode == "train" else _CHUNK
    logits = [_forward(task, module, {**state.parameters, **state.constants}, part) for part in variables.split(size)]
    handle.remove()
    return Responses(torch.cat(received), torch.cat(logits))


def _forward(task: Task, module: nn.Module, state: Mapping[str, Tensor], variables: Tensor) -> Tensor:
    known = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
    with torch.no_grad():
        kept = {name: value for name, value in state.items() if name in known}
        return task.space.forward(module, kept, variables.to(task.device, task.dtype)).double()
