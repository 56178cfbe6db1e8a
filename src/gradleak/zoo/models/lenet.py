"""The LeNet of the code released with *Deep Leakage from Gradients* (Zhu, Liu, Han, NeurIPS 2019)."""

from typing import Literal

import torch
from torch import nn

from gradleak.errors import refuse
from gradleak.zoo.models.building import Activation, at_least, height_and_width, named_layers, seeded

INITIALIZATIONS = ("uniform", "default")
UNIFORM_BOUND = 0.5
"""Half-width of the released code's initialization: every weight and bias is drawn from U(-0.5, 0.5)."""


def lenet(
    num_classes: int = 10,
    channels: int = 3,
    *,
    input_size: int | tuple[int, int] = 32,
    width: int = 12,
    activation: Activation = nn.Sigmoid,
    initialization: Literal["uniform", "default"] = "uniform",
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Sequential:
    """Three 5x5 convolutions (stride 2, 2, 1) with an activation after each, and one linear layer.

    With 3x32x32 inputs and width 12 this is the released network: 768 hidden units, 15,826 parameters for 10
    classes and 85,036 for 100; seed 1234 gives the very weights that the released script attacks on a CPU.
    1x28x28 inputs give 588 hidden units. The wide initialization is what makes this network easy to attack: PyTorch's
    own (`initialization="default"`) flattens the gradient by orders of magnitude.

    Args:
        num_classes: number of logits, at least 1.
        channels: input channels, at least 1.
        input_size: height and width of the inputs in pixels, or one number for both.
        width: channels of every convolution, at least 1.
        activation: makes one activation layer; called three times.
        initialization: `"uniform"` draws all weights and biases from U(-0.5, 0.5); `"default"` is PyTorch's.
        dropout: probability with which what enters the linear layer is dropped, in [0, 1); 0 adds no such layer.
        seed: decides the weights, at least 0.

    Returns:
        A model from `[N, channels, height, width]` to logits `[N, num_classes]`.

    Raises:
        BadInput: when a number is out of range, the initialization is unknown, or the activation is in-place.
    """
    height, columns = height_and_width(input_size)
    problems = at_least("num_classes", num_classes, 1) + at_least("channels", channels, 1)
    problems += at_least("input_size", min(height, columns), 1) + at_least("width", width, 1)
    if initialization not in INITIALIZATIONS:
        known = ", ".join(INITIALIZATIONS)
        problems.append(f"initialization: expected one of {known}, got {initialization!r}; choose one of them")
    if not 0 <= dropout < 1:
        problems.append(f"dropout: expected a probability in [0, 1), got {dropout}; 0 is none")
    refuse(problems)
    # A 5x5 convolution with padding 2 and stride 2 maps n pixels to ceil(n / 2); two of them to ceil(n / 4).
    hidden = width * -(-height // 4) * -(-columns // 4)

    def build() -> nn.Sequential:
        model = named_layers(
            ("conv1", nn.Conv2d(channels, width, kernel_size=5, padding=2, stride=2)),
            ("activation1", activation()),
            ("conv2", nn.Conv2d(width, width, kernel_size=5, padding=2, stride=2)),
            ("activation2", activation()),
            ("conv3", nn.Conv2d(width, width, kernel_size=5, padding=2, stride=1)),
            ("activation3", activation()),
            ("flatten", nn.Flatten()),
            *((("dropout", nn.Dropout(dropout)),) if dropout else ()),
            ("linear", nn.Linear(hidden, num_classes)),
        )
        if initialization == "uniform":
            # The released script seeds after building the network, then draws layer by layer, weight before bias.
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                nn.init.uniform_(parameter, -UNIFORM_BOUND, UNIFORM_BOUND, generator=generator)
        return model

    return seeded(seed, build)
