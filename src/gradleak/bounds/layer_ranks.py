"""How many independent linear equations an exact gradient holds on the inputs of each layer.

Who knows everything above a layer knows its outputs z where the activation can be inverted, and the derivatives k of
the loss by them. Both tie the layer's inputs x: `W x + b = z`, and `sum_n k_n x_n^T = dW`. Where their rank is the
number of unknowns at every layer, the gradient determines the inputs, and an attack that follows it exists
(Zhu and Blaschko, ICLR 2021, *R-GAP*, section 3.2, who count equations; here their rank is computed).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.attacks.closed_form.layers import Activation, Affine, AveragePool, Chain, Layer, read_chain
from gradleak.errors import refuse
from gradleak.linalg import ConvolutionEquations, singular_values_above_rounding
from gradleak.tasks import Task

# Singular values below this share of the largest do not count: what they determine drowns in rounding.
_TOLERANCE = 1e-5
# A unit is active above this share of the mean size of its layer.
_ACTIVE_SHARE = 1e-7
LARGEST = 6144
"""Most unknowns of a layer whose rank is computed: two matrices of that order, 300 MB each, and about a minute."""


@dataclass(frozen=True)
class LayerRank:
    """The equations on the inputs of one layer, over the whole batch.

    Attributes:
        layer: name of its weight.
        unknowns: entries of its inputs.
        known_outputs: outputs that are known: all of an activation that can be inverted, the active ones of ReLU.
        gradient_entries: of its weight.
        equations: R-GAP's count, the sum of the two: an upper limit of the rank.
        rank: of both groups of equations together; None where it was too large to compute.
        input_span: numerical rank of the weight's gradient: of the span of its inputs what shows;
            for a linear layer the number of examples behind it is at least that.
        obstacle: why the outputs of this layer are not known; empty if they are.
    """

    layer: str
    unknowns: int
    known_outputs: int
    gradient_entries: int
    rank: int | None
    input_span: int
    obstacle: str = ""

    @property
    def equations(self) -> int:
        """Known outputs and entries of the gradient."""
        return self.known_outputs + self.gradient_entries

    @property
    def free(self) -> int | None:
        """Directions of the inputs on which no equation speaks; None where the rank is not known."""
        return None if self.rank is None else self.unknowns - self.rank

    def describe(self) -> str:
        """One clause, such as `conv1.weight: rank 2087 of 3072, 985 directions stay free`."""
        if self.obstacle:
            return f"{self.layer}: {self.obstacle}"
        if self.rank is None:
            most = min(self.equations, self.unknowns)
            return f"{self.layer}: {self.unknowns} unknowns, {self.equations} equations, so a rank of at most {most}"
        end = "determined" if self.free == 0 else f"{self.free} directions stay free"
        return f"{self.layer}: rank {self.rank} of {self.unknowns}, {end}"


def layer_ranks(task: Task, inputs: Tensor, targets: Tensor) -> tuple[LayerRank, ...] | str:
    """Count the independent equations of every layer of a sequential network, last layer first.

    These are equations that an attacker has who goes layer by layer, from a gradient in evaluation mode without a
    defense. Inequalities, such as those that inactive units leave, and the layers' joint equations come on top: a free
    direction here is no proof that nobody can know it, but full ranks everywhere prove that somebody can.

    Args:
        task: the public task.
        inputs: the private batch `[N, ...]` in the input space's own units.
        targets: class indices `[N]` or probabilities `[N, C]`.

    Returns:
        One entry for each layer with a weight, or one clause that says why the model is no chain of layers.

    Raises:
        BadInput: when the batch does not fit the task.
    """
    refuse(task.space.problems(inputs) + task.target_problems(targets, len(inputs)))
    chain = read_chain(task, task.state())
    if isinstance(chain, str):
        return chain
    values, cotangents = _passes(task, chain, inputs, targets)
    found: list[LayerRank] = []
    for index in reversed(range(len(chain.layers))):
        layer = chain.layers[index]
        if isinstance(layer, Affine):
            known, obstacle = _known(chain.layers[index + 1 :], values[index + 1])
            found.append(_rank_of(layer, values[index], cotangents[index + 1], known, obstacle))
    return tuple(found)


def _passes(task: Task, chain: Chain, inputs: Tensor, targets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What enters each layer, with the outputs at the end, and the derivatives of the loss by them; float64."""
    variable = task.encode(inputs).double()
    values = [chain.normalize(variable).requires_grad_()]
    for layer in chain.layers:
        values.append(layer(values[-1]))
    loss = task.loss(values[-1], task.target_probabilities(targets).double())
    cotangents = torch.autograd.grad(loss, values)
    return [value.detach() for value in values], list(cotangents)


def _known(above: tuple[Layer, ...], outputs: Tensor) -> tuple[Tensor, str]:
    """Which outputs of a layer are known to who knows what follows, and why none is."""
    everywhere = torch.ones_like(outputs, dtype=torch.bool)
    for layer in above:
        if isinstance(layer, Affine):
            break
        if isinstance(layer, AveragePool):
            return ~everywhere, "average pooling after it keeps only means"
        if isinstance(layer, Activation) and layer.kind == "relu":
            return outputs > _ACTIVE_SHARE * float(outputs.square().mean().sqrt()), ""
    return everywhere, ""


def _rank_of(layer: Affine, inputs: Tensor, cotangents: Tensor, known: Tensor, obstacle: str) -> LayerRank:
    unknowns = inputs.numel()
    shape = (len(inputs), *layer.input_shape)
    matrix = _convolution_gram if layer.is_convolution else _linear_gram
    rank = None
    if not obstacle and unknowns <= LARGEST:
        rank = _numerical_rank(matrix(layer, shape, cotangents.reshape(len(inputs), *layer.output_shape), known))
    return LayerRank(
        layer.name,
        unknowns,
        int(known.sum()),
        layer.weight.numel(),
        rank,
        singular_values_above_rounding(_weight_gradient(layer, inputs, cotangents)),
        obstacle,
    )


def _weight_gradient(layer: Affine, inputs: Tensor, cotangents: Tensor) -> Tensor:
    """`[outputs, inputs of an output]`."""
    cotangents = cotangents.reshape(len(inputs), *layer.output_shape)
    if not layer.is_convolution:
        return cotangents.T @ inputs.reshape(len(inputs), -1)
    windows = torch.nn.functional.unfold(
        inputs.reshape(len(inputs), *layer.input_shape),
        layer.weight.shape[2:],
        layer.dilation,
        layer.padding,
        layer.stride,
    )
    return torch.einsum("nop,nip->oi", cotangents.flatten(2), windows)


def _numerical_rank(groups: tuple[Tensor, Tensor]) -> int:
    """Rank of two groups of equations together, from the Gram matrix of each, scaled alike."""
    total = torch.zeros_like(groups[0])
    for gram in groups:
        scale = float(gram.diagonal().mean())
        if scale > 0:
            total += gram / scale
    values = torch.linalg.eigvalsh(total)
    return int((values > _TOLERANCE**2 * values.max().clamp(min=1e-300)).sum())


def _linear_gram(layer: Affine, shape: tuple[int, ...], cotangents: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Of a linear layer: outputs and gradient, each `[unknowns, unknowns]`."""
    count = len(cotangents)
    rows = [layer.weight[known[example].flatten()] for example in range(count)]
    outputs = torch.block_diag(*(own.T @ own for own in rows))
    gradient = torch.kron(cotangents @ cotangents.T, torch.eye(math.prod(shape[1:]), dtype=torch.float64))
    return outputs, gradient


def _convolution_gram(
    layer: Affine, shape: tuple[int, ...], cotangents: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """Of a convolution: outputs and gradient, each `[unknowns, unknowns]`."""
    count, channels, height, width = shape
    pixels = height * width
    equations = ConvolutionEquations(
        layer.weight, cotangents, known.double(), 1.0, (height, width), layer.stride, layer.padding, layer.dilation
    )
    unit = torch.eye(channels * pixels, dtype=torch.float64).view(-1, channels, height, width)
    seen = equations.outputs(unit).flatten(1)
    outputs = torch.block_diag(*(seen[:, own] @ seen[:, own].T for own in known.reshape(count, -1)))
    # The gradient's equations are the same for every channel, and couple examples.
    gradient = torch.zeros(count, channels, pixels, count, channels, pixels, dtype=torch.float64)
    of_channel = torch.zeros(count * pixels, count * pixels, dtype=torch.float64)
    for places, block in equations.gradient_blocks():
        rows = block.flatten(1)
        own = (torch.arange(count)[:, None] * pixels + places).flatten()
        of_channel[own[:, None], own] += rows.T @ rows
    for channel in range(channels):
        gradient[:, channel, :, :, channel] = of_channel.view(count, pixels, count, pixels)
    return outputs, gradient.view(count * channels * pixels, -1)
