"""A small plain convolutional network in the style of VGG (Simonyan and Zisserman, ICLR 2015)."""

from typing import Literal

from torch import nn

from gradleak.errors import refuse
from gradleak.zoo.models.building import Activation, at_least, height_and_width, named_layers, seeded

POOLINGS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
SMALLEST_INPUT = 8
"""Three 2x2 poolings need 8 pixels to leave one."""


def convnet(
    num_classes: int = 10,
    channels: int = 3,
    *,
    input_size: int | tuple[int, int] = 32,
    width: int = 32,
    activation: Activation = nn.ReLU,
    pooling: Literal["max", "average"] = "max",
    seed: int = 0,
) -> nn.Sequential:
    """Five 3x3 convolutions in three groups, each group followed by a 2x2 pooling, then one linear layer.

    Channels are width, 2 width | 2 width, 4 width | 4 width, with an activation after every convolution; there
    is no normalization layer. Width 32 and 3x32x32 inputs give 298,250 parameters for 10 classes. Weights and
    biases are PyTorch's default.

    Args:
        num_classes: number of logits, at least 1.
        channels: input channels, at least 1.
        input_size: height and width of the inputs in pixels, or one number for both; at least 8 each.
        width: channels of the first convolution, at least 1.
        activation: makes one activation layer; called five times.
        pooling: `"max"`, or `"average"` for a model that is as smooth as its activation.
        seed: decides the weights, at least 0.

    Returns:
        A model from `[N, channels, height, width]` to logits `[N, num_classes]`.

    Raises:
        BadInput: when a number is out of range, the pooling is unknown, or the activation is in-place.
    """
    height, columns = height_and_width(input_size)
    problems = at_least("num_classes", num_classes, 1) + at_least("channels", channels, 1)
    problems += at_least("input_size", min(height, columns), SMALLEST_INPUT) + at_least("width", width, 1)
    if pooling not in POOLINGS:
        problems.append(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}; choose one of them")
    refuse(problems)
    groups = ((width, 2 * width), (2 * width, 4 * width), (4 * width,))
    hidden = 4 * width * (height // 8) * (columns // 8)

    def build() -> nn.Sequential:
        layers: list[tuple[str, nn.Module]] = []
        before, index = channels, 1
        for group, sizes in enumerate(groups, start=1):
            for after in sizes:
                layers.append((f"conv{index}", nn.Conv2d(before, after, kernel_size=3, padding=1)))
                layers.append((f"activation{index}", activation()))
                before, index = after, index + 1
            layers.append((f"pool{group}", POOLINGS[pooling](2)))
        return named_layers(*layers, ("flatten", nn.Flatten()), ("linear", nn.Linear(hidden, num_classes)))

    return seeded(seed, build)
