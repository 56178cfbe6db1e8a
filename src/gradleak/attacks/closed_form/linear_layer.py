"""Exact inputs from the gradient of a linear layer that the input enters directly."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.attacks.closed_form.answers import answer
from gradleak.attacks.labels import targets_of
from gradleak.attacks.protocol import Progress, not_applicable
from gradleak.linalg import singular_values_above_rounding
from gradleak.reconstructions import Reconstruction
from gradleak.tasks import ModelState, Task
from gradleak.threat import Observation


@dataclass(frozen=True, eq=False)
class Entry:
    """A linear layer that receives the input itself: `layer input[j] = offset[j] + scale[j] * variable[order[j]]`.

    Attributes:
        weight: name of the weight `[m, n]` in an update.
        bias: name of the bias `[m]`, or None.
        order: which entry of the flattened variable each layer input is, `[n]`.
        scale: what the input space's and the model's own normalization multiply it with, `[n]`.
        offset: what they add to it, `[n]`.
    """

    weight: str
    bias: str | None
    order: Tensor
    scale: Tensor
    offset: Tensor

    def variable(self, layer_inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The variable `[N, *shape]`, float64, behind layer inputs `[N, n]`."""
        values = (layer_inputs.double() - self.offset) / self.scale
        return torch.empty_like(values).index_copy_(1, self.order, values).reshape(-1, *shape)

    def layer_inputs(self, variable: Tensor) -> Tensor:
        """What the layer receives, `[N, n]`, float64, for a variable `[N, ...]`."""
        return self.offset + self.scale * variable.double().flatten(1)[:, self.order]


def find_entry(task: Task, state: ModelState) -> Entry | None:
    """Find the first linear layer with a trained weight that receives every entry of the input, each by itself.

    The layer is found by what it receives: three probes tell the order of the entries and the affine map of each,
    so that flattening, permuting and normalizing inside the model are allowed, and mixing entries is not.

    Args:
        task: the public task.
        state: the model's values.

    Returns:
        The layer, or None if there is none.
    """
    module = copy.deepcopy(task.model).eval()
    received: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            received.setdefault(name, inputs[0].detach())

        return hook

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and f"{name}.weight".lstrip(".") in state.parameters:
            layer.register_forward_pre_hook(record(name))
    probes = _probes(task)
    with torch.no_grad():
        task.space.forward(module, {**state.parameters, **state.constants}, probes)
    for name, inputs in received.items():
        if inputs.shape == (len(probes), probes[0].numel()):
            found = _affine_map(probes.flatten(1).double(), inputs.double())
            if found is not None:
                weight, bias = (f"{name}.{kind}".lstrip(".") for kind in ("weight", "bias"))
                return Entry(weight, bias if bias in state.parameters else None, *found)
    return None


def _probes(task: Task) -> Tensor:
    """A variable of zeros, one of ones, and one with evenly spaced values in a scrambled order, `[3, ...]`."""
    shape = task.space.variable_shape
    size = int(torch.Size(shape).numel())
    # A fixed scramble: no entry keeps its place, and neighbors are not neighbors in value.
    scrambled = torch.randperm(size, generator=torch.Generator().manual_seed(0)).double() / size
    rows = [torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64), scrambled]
    return torch.stack(rows).reshape(3, *shape).to(task.device, task.dtype)


def _affine_map(probes: Tensor, received: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Order, scale and offset if each received entry is an affine function of one probed entry."""
    offset, scale = received[0], received[1] - received[0]
    if not bool((scale.abs() > 1e-6 * scale.abs().max()).all()):
        return None
    ratio = (received[2] - offset) / scale
    size = ratio.numel()
    spaced = (ratio * size).round().long()
    if not torch.equal(spaced.sort().values, torch.arange(size, device=spaced.device)):
        return None
    if float((ratio * size - spaced).abs().max()) > 0.1:
        return None
    place = torch.empty_like(spaced).index_copy_(
        0, (probes[2] * size).round().long(), torch.arange(size, device=spaced.device)
    )
    return place[spaced], scale, offset


def input_of_single_example(weight_gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    """What entered a linear layer, from the gradient of one example: `dW^T db / ||db||^2`.

    With `dW = d x^T` and `db = d` every row gives x; this is their least-squares combination (Phong et al. 2017,
    equation 3; Geiping et al. 2020, proposition 3.1). A common factor of both, as in a weight delta, cancels.

    Args:
        weight_gradient: `[m, n]`.
        bias_gradient: `[m]`, not all zero.

    Returns:
        The layer's input `[n]`, float64.
    """
    bias = bias_gradient.double()
    return weight_gradient.double().T @ (bias / bias.square().sum())


def input_from_row(weight_gradient: Tensor, bias_gradient: Tensor, row: int | None = None) -> Tensor:
    """What entered a linear layer, from one row: `dW_i / db_i`.

    For batches this is exact at a row that a single example reaches.

    Args:
        weight_gradient: `[m, n]`.
        bias_gradient: `[m]`, not zero at the row.
        row: which one; None takes the largest bias gradient.

    Returns:
        The layer's input `[n]`, float64.
    """
    index = int(bias_gradient.abs().argmax()) if row is None else row
    return weight_gradient[index].double() / bias_gradient[index].double()


@dataclass(frozen=True)
class LinearLayer:
    """The attack of `linear_layer`."""

    name: str = "linear_layer"

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress | None = None) -> Reconstruction:
        """Attack; see `Attack.__call__`. Nothing in it is random."""
        del seed, progress
        began = time.perf_counter()
        if observation.batch_size not in {None, 1}:
            return not_applicable(
                self.name, observation, f"one row mixes all examples of a batch of {observation.batch_size}; use spear"
            )
        entry = find_entry(observation.task, observation.state)
        if entry is None:
            return not_applicable(self.name, observation, "no linear layer receives the input itself")
        if entry.bias is None:
            return not_applicable(self.name, observation, f"{entry.weight} has no trained bias, which gives the scale")
        gradient = observation.update.in_gradient_direction()
        weight, bias = gradient[entry.weight], gradient[entry.bias]
        if not bool(bias.any()):
            return not_applicable(self.name, observation, f"every entry of {entry.bias} is zero: no unit was active")
        rank = 1 if observation.batch_size == 1 else singular_values_above_rounding(weight)
        if rank != 1:
            return not_applicable(
                self.name, observation, f"the gradient of {entry.weight} has rank {rank}, and one example leaves rank 1"
            )
        inputs = input_of_single_example(weight, bias)[None]
        variable = entry.variable(inputs, observation.task.space.variable_shape)
        return answer(self.name, observation, variable, targets_of(observation, variable), began=began)


def linear_layer(
    *, restarts: int = 1, max_evaluations: int | None = None, max_seconds: float | None = None
) -> LinearLayer:
    """Exact input of a single example from a linear first layer with a bias, for any network and loss behind it.

    Needs a linear layer that receives the input itself, flattened, permuted or normalized. A weight delta serves as
    well as a gradient, as long as all local steps saw the one example under plain SGD.

    Args:
        restarts: accepted like by every attack; there is nothing to restart.
        max_evaluations: likewise; one evaluation is used, to compare the result with the update.
        max_seconds: likewise; the work is two matrix products.

    Returns:
        The attack.
    """
    del restarts, max_evaluations, max_seconds
    return LinearLayer()
