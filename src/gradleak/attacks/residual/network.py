"""Reading a residual network from what it computes: convolutions with BatchNorm folded in, ReLU and shortcuts.

The model runs once on zeros and every tensor operation is recorded. From the outputs backwards that must be a linear
classifier, a mean over all positions, and blocks: convolutions with ReLU between them, to whose result a shortcut of
the block's own input may be added, and a ReLU. In evaluation mode BatchNorm is affine, so that a convolution and its
BatchNorm are one convolution with a bias.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from gradleak.attacks.closed_form.layers import Affine
from gradleak.attacks.closed_form.recording import Recorder
from gradleak.attacks.residual.graph import Graph, Norm, NotResidual, Shortcut
from gradleak.tasks import ImageSpace, ModelState, Task


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution with what follows it until the next ReLU or sum.

    Attributes:
        layer: the whole as one convolution; its `bias_name` is that of the trained summand, be it BatchNorm's.
        gain: what BatchNorm multiplies each output channel with, `[O]`; ones without.
        norm: BatchNorm itself; None without.
        batch: whether BatchNorm normalizes with the statistics of what it receives, as in training mode.
    """

    layer: Affine
    gain: Tensor
    norm: Norm | None = None
    batch: bool = False

    def __call__(self, maps: Tensor) -> Tensor:
        """What comes out behind BatchNorm, for maps `[N, C, H, W]`."""
        if not self.batch or self.norm is None:
            return self.layer(maps)
        summand, factor = (values.to(maps).view(-1, 1, 1) for values in (self.norm.summand, self.norm.factor))
        made = self.convolved(maps)
        mean, variance = made.mean(dim=(0, 2, 3)), made.var(dim=(0, 2, 3), correction=0)
        deviation = (variance + self.norm.epsilon).sqrt()
        return (made - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1) * factor + summand

    def convolved(self, maps: Tensor) -> Tensor:
        """What BatchNorm receives, but for the convolution's own bias, for maps `[N, C, H, W]`."""
        assert self.norm is not None
        layer = self.layer
        return functional.conv2d(maps, self.norm.weight.to(maps), None, layer.stride, layer.padding, layer.dilation)

    def weight_gradient(self, update: dict[str, Tensor]) -> Tensor:
        """The derivative with respect to the whole's weight `[O, I, height, width]`."""
        return update[self.layer.name] / self.gain.view(-1, 1, 1, 1)

    def bias_gradient(self, update: dict[str, Tensor]) -> Tensor | None:
        """The derivative with respect to the whole's bias `[O]`, the sum of its cotangents; None if untrained."""
        return None if self.layer.bias_name is None else update[self.layer.bias_name]


@dataclass(frozen=True, eq=False)
class Block:
    """`relu(convolutions(x) + shortcut(x))`, with ReLU between the convolutions.

    Attributes:
        convolutions: from the input up.
        shortcut: an affine map of maps `[N, C, H, W]`; None without.
    """

    convolutions: tuple[Convolution, ...]
    shortcut: Shortcut | None

    def inner(self, entering: Tensor, until: int) -> Tensor:
        """What the convolution at place `until` receives, for block inputs `[N, C, H, W]`."""
        for convolution in self.convolutions[:until]:
            entering = torch.relu(convolution(entering))
        return entering

    def __call__(self, entering: Tensor) -> Tensor:
        """Block outputs."""
        last = len(self.convolutions) - 1
        outputs = self.convolutions[last](self.inner(entering, last))
        return torch.relu(outputs if self.shortcut is None else outputs + self.shortcut(entering))


@dataclass(frozen=True, eq=False)
class Network:
    """A residual network on normalized inputs.

    Attributes:
        blocks: from the image up.
        head: name of the classifier's weight.
        head_bias: name of its bias.
        head_weight: `[C, D]`, float64.
        mean: what the input space subtracts, broadcast to one example.
        std: what it divides by after that.
    """

    blocks: tuple[Block, ...]
    head: str
    head_bias: str
    head_weight: Tensor
    mean: Tensor
    std: Tensor

    def entering(self, variable: Tensor, block: int) -> Tensor:
        """What a block receives for variables `[N, C, H, W]`, in their precision."""
        maps = self.normalized(variable)
        for one in self.blocks[:block]:
            maps = one(maps)
        return maps

    def normalized(self, variable: Tensor) -> Tensor:
        """What the model receives."""
        return (variable - self.mean.to(variable)) / self.std.to(variable)

    def scaled(self, variable: Tensor, factor: Tensor | float) -> Tensor:
        """The variable whose normalized values are `factor` times as large."""
        return self.mean.to(variable) + self.std.to(variable) * self.normalized(variable) * factor

    def in_training(self) -> "Network | str":
        """The same with BatchNorm in training mode, or one clause why that is not covered."""
        convolutions = [one for block in self.blocks for one in block.convolutions]
        bare = [one.layer.name for one in convolutions if one.norm is None]
        if bare:
            return f"{bare[0]} has no BatchNorm behind it, as all need in training mode"
        blocks = [
            replace(block, convolutions=tuple(replace(one, batch=True) for one in block.convolutions))
            for block in self.blocks
        ]
        return replace(self, blocks=tuple(blocks))

    @property
    def batch(self) -> bool:
        """Whether BatchNorm normalizes with the batch's statistics."""
        return self.blocks[0].convolutions[0].batch

    def to(self, like: Tensor) -> "Network":
        """The same network in another precision, on another device."""
        blocks = [
            replace(
                block,
                convolutions=tuple(
                    replace(
                        one,
                        layer=replace(one.layer, weight=one.layer.weight.to(like), bias=one.layer.bias.to(like)),
                        norm=None if one.norm is None else one.norm.to(like),
                    )
                    for one in block.convolutions
                ),
            )
            for block in self.blocks
        ]
        return replace(self, blocks=tuple(blocks), mean=self.mean.to(like), std=self.std.to(like))


def read_network(task: Task, state: ModelState) -> Network | str:
    """Read a task's model in evaluation mode.

    Args:
        task: the public task.
        state: the model's values.

    Returns:
        The network, or one clause that says where the model departs from a residual network.
    """
    space = task.space
    if not isinstance(space, ImageSpace):
        return f"the inputs are not images but {type(space).__name__}"
    values = {**state.parameters, **state.constants}
    zeros = torch.zeros((1, *space.variable_shape), dtype=task.dtype, device=task.device)
    recorder = Recorder()
    with torch.no_grad(), recorder:
        outputs = functional_call(copy.deepcopy(task.model).eval(), values, (zeros,))
    try:
        with torch.no_grad():
            head, head_bias, blocks = _read(Graph(values, set(state.parameters), recorder.calls, zeros, outputs))
    except NotResidual as reason:
        return str(reason)
    names = [convolution.layer.name for block in blocks for convolution in block.convolutions]
    if len(set(names)) < len(names):
        return "a convolution is used twice"
    # One number serves all channels.
    mean, std = (
        torch.tensor(numbers, dtype=torch.float64).expand(space.shape[0]).view(-1, 1, 1)
        for numbers in (space.mean, space.std)
    )
    return Network(blocks, head, head_bias, values[head].detach().double(), mean, std)


def _read(graph: Graph) -> tuple[str, str, tuple[Block, ...]]:
    """Names of the classifier's parameters, and the blocks from the image up."""
    head, head_bias, node = graph.classifier()
    blocks: list[Block] = []
    while node != 0:
        layers, shortcut, node = graph.block_below(node)
        blocks.append(Block(tuple(Convolution(*layer) for layer in layers), shortcut))
    return head, head_bias, tuple(reversed(blocks))
