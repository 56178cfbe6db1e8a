"""The CIFAR ResNets of He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2."""

from torch import Tensor, nn
from torch.nn import functional

from gradleak.errors import refuse
from gradleak.zoo.models.building import Activation, at_least, seeded

STAGES = 3
FIRST_STAGE_CHANNELS = 16
LAYERS_PER_BLOCK = 2
LAYERS_OUTSIDE_BLOCKS = 2
"""The first convolution and the linear layer: depth = 3 stages * n blocks * 2 layers + 2."""


class _Block(nn.Module):
    """Two 3x3 convolutions with batch normalization, added to a shortcut that has no parameters (option A)."""

    def __init__(self, before: int, after: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.activation2 = activation()
        self.stride = stride
        self.added_channels = after - before

    def forward(self, inputs: Tensor) -> Tensor:
        residual = self.activation1(self.bn1(self.conv1(inputs)))
        residual = self.bn2(self.conv2(residual))
        return self.activation2(residual + self._shortcut(inputs))

    def _shortcut(self, inputs: Tensor) -> Tensor:
        if self.stride == 1 and self.added_channels == 0:
            return inputs
        subsampled = inputs[:, :, :: self.stride, :: self.stride]
        # The paper leaves open on which side the zero channels go. Half on each side is what published weights use.
        first = self.added_channels // 2
        return functional.pad(subsampled, (0, 0, 0, 0, first, self.added_channels - first))


class CifarResNet(nn.Module):
    """A residual network of three stages; built by `resnet20`, `resnet32`, `resnet44`, `resnet56` or `resnet`.

    Parameters are named `conv1`, `bn1`, `layer{1,2,3}.{i}.conv{1,2}`, `layer{1,2,3}.{i}.bn{1,2}` and `linear`.
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int,
        in_channels: int,
        first_stage_channels: int,
        strides: bool,
        activation: Activation,
    ) -> None:
        """Take checked arguments as `resnet` does; `blocks` is the number of blocks per stage."""
        super().__init__()
        channels = [first_stage_channels * 2**stage for stage in range(STAGES)]
        later_stride = 2 if strides else 1
        self.conv1 = nn.Conv2d(in_channels, channels[0], kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.activation1 = activation()
        self.layer1 = _stage(blocks, channels[0], channels[0], 1, activation)
        self.layer2 = _stage(blocks, channels[0], channels[1], later_stride, activation)
        self.layer3 = _stage(blocks, channels[1], channels[2], later_stride, activation)
        self.linear = nn.Linear(channels[2], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `[N, num_classes]` of inputs `[N, in_channels, height, width]`."""
        features = self.activation1(self.bn1(self.conv1(inputs)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(features.mean(dim=(2, 3)))


def _stage(blocks: int, before: int, after: int, stride: int, activation: Activation) -> nn.Sequential:
    first = _Block(before, after, stride, activation)
    return nn.Sequential(first, *(_Block(after, after, 1, activation) for _ in range(blocks - 1)))


def resnet(
    depth: int,
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    width_multiplier: int = 1,
    activation: Activation = nn.ReLU,
    strides: bool = True,
    seed: int = 0,
) -> CifarResNet:
    """The CIFAR ResNet with `depth` weighted layers and option-A shortcuts (subsample, pad channels with zeros).

    Convolutions are initialized as in He et al., ICCV 2015 (normal, fan-out); batch normalization starts at
    weight 1 and bias 0; the linear layer keeps PyTorch's default. Any input height and width works.

    Args:
        depth: 6 n + 2 for n blocks per stage: 20, 32, 44, 56, ...; 8 is the smallest.
        num_classes: number of logits, at least 1.
        in_channels: input channels, at least 1.
        width_multiplier: multiplies the 16, 32 and 64 channels of the stages, at least 1.
        activation: makes one activation layer; must not be in-place.
        strides: False gives every convolution stride 1, as for the networks attacked in Zhu, Liu, Han, *Deep
            Leakage from Gradients*, NeurIPS 2019, section 4.1; shortcuts then only pad channels.
        seed: decides the weights, at least 0.

    Returns:
        A model from `[N, in_channels, height, width]` to logits `[N, num_classes]`, in training mode.

    Raises:
        BadInput: when a number is out of range, `depth` is not 6 n + 2, or the activation is in-place.
    """
    blocks, rest = divmod(depth - LAYERS_OUTSIDE_BLOCKS, STAGES * LAYERS_PER_BLOCK)
    problems = at_least("num_classes", num_classes, 1) + at_least("in_channels", in_channels, 1)
    problems += at_least("width_multiplier", width_multiplier, 1)
    if blocks < 1 or rest:
        problems.append(f"depth: expected 6 n + 2 with n at least 1, got {depth}; give 8, 14, 20, 32, 44, 56 or so")
    refuse(problems)

    def build() -> CifarResNet:
        channels = FIRST_STAGE_CHANNELS * width_multiplier
        model = CifarResNet(blocks, num_classes, in_channels, channels, strides, activation)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return model

    return seeded(seed, build)


def resnet20(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    width_multiplier: int = 1,
    activation: Activation = nn.ReLU,
    strides: bool = True,
    seed: int = 0,
) -> CifarResNet:
    """ResNet-20: `resnet` with depth 20; 269,722 parameters for 3 channels and 10 classes.

    Returns:
        The model, as `resnet` returns it.

    Raises:
        BadInput: as for `resnet`.
    """
    return resnet(
        20,
        num_classes,
        in_channels,
        width_multiplier=width_multiplier,
        activation=activation,
        strides=strides,
        seed=seed,
    )


def resnet32(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    width_multiplier: int = 1,
    activation: Activation = nn.ReLU,
    strides: bool = True,
    seed: int = 0,
) -> CifarResNet:
    """ResNet-32: `resnet` with depth 32; 464,154 parameters for 3 channels and 10 classes.

    Returns:
        The model, as `resnet` returns it.

    Raises:
        BadInput: as for `resnet`.
    """
    return resnet(
        32,
        num_classes,
        in_channels,
        width_multiplier=width_multiplier,
        activation=activation,
        strides=strides,
        seed=seed,
    )


def resnet44(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    width_multiplier: int = 1,
    activation: Activation = nn.ReLU,
    strides: bool = True,
    seed: int = 0,
) -> CifarResNet:
    """ResNet-44: `resnet` with depth 44; 658,586 parameters for 3 channels and 10 classes.

    Returns:
        The model, as `resnet` returns it.

    Raises:
        BadInput: as for `resnet`.
    """
    return resnet(
        44,
        num_classes,
        in_channels,
        width_multiplier=width_multiplier,
        activation=activation,
        strides=strides,
        seed=seed,
    )


def resnet56(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    width_multiplier: int = 1,
    activation: Activation = nn.ReLU,
    strides: bool = True,
    seed: int = 0,
) -> CifarResNet:
    """ResNet-56: `resnet` with depth 56; 853,018 parameters for 3 channels and 10 classes.

    Returns:
        The model, as `resnet` returns it.

    Raises:
        BadInput: as for `resnet`.
    """
    return resnet(
        56,
        num_classes,
        in_channels,
        width_multiplier=width_multiplier,
        activation=activation,
        strides=strides,
        seed=seed,
    )
