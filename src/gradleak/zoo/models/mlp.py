"""Fully connected networks."""

from collections.abc import Sequence

from torch import nn

from gradleak.errors import refuse
from gradleak.zoo.models.building import Activation, at_least, named_layers, seeded


def mlp(
    in_features: int,
    hidden: Sequence[int] = (400,),
    num_classes: int = 10,
    *,
    activation: Activation = nn.ReLU,
    seed: int = 0,
) -> nn.Sequential:
    """Flatten, then a linear layer and an activation for each hidden width, then a linear layer to the logits.

    Weights and biases are PyTorch's default, U(-1/sqrt(n), 1/sqrt(n)) for n inputs of a layer.

    Args:
        in_features: numbers per example (for an image channels * height * width), at least 1.
        hidden: units of each hidden layer, at least 1 each; empty for one linear layer.
        num_classes: number of logits, at least 1.
        activation: makes one activation layer; called once per hidden layer.
        seed: decides the weights, at least 0.

    Returns:
        A model from `[N, ...]` with `in_features` numbers per example to logits `[N, num_classes]`.

    Raises:
        BadInput: when a number is out of range or the activation is in-place.
    """
    problems = at_least("in_features", in_features, 1) + at_least("num_classes", num_classes, 1)
    for index, units in enumerate(hidden):
        problems += at_least(f"hidden[{index}]", units, 1)
    refuse(problems)

    def build() -> nn.Sequential:
        layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
        widths = (in_features, *hidden)
        for index, (before, after) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            layers += [(f"linear{index}", nn.Linear(before, after)), (f"activation{index}", activation())]
        return named_layers(*layers, ("linear", nn.Linear(widths[-1], num_classes)))

    return seeded(seed, build)
