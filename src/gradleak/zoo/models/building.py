"""What every model factory of the zoo shares: checks of its arguments, and weights that depend on the seed alone."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from gradleak.errors import refuse

M = TypeVar("M", bound=nn.Module)

Activation = Callable[[], nn.Module]
"""Makes one activation layer, for instance `nn.ReLU`, `nn.Sigmoid` or `lambda: nn.Softplus(beta=5)`."""


def at_least(what: str, value: int, minimum: int) -> list[str]:
    """The problem with `value` if it is below `minimum`, as a list of one line or none."""
    if value >= minimum:
        return []
    return [f"{what}: expected at least {minimum}, got {value}; give {minimum} or more"]


def text_problems(vocabulary: int, padding: int | None, sizes: Mapping[str, int | None]) -> list[str]:
    """What is wrong with the numbers of a model that takes token ids.

    Args:
        vocabulary: number of token ids, at least 2.
        padding: an id, or None.
        sizes: further numbers by name, at least 1 each where given; `heads` has to divide `width`.

    Returns:
        One line for each problem.
    """
    problems = at_least("vocabulary", vocabulary, 2)
    if padding is not None and not 0 <= padding < vocabulary:
        problems.append(f"padding: expected an id from 0 to {vocabulary - 1}, got {padding}; see the tokenizer's ids")
    for name, value in sizes.items():
        problems += [] if value is None else at_least(name, value, 1)
    width, heads = sizes.get("width"), sizes.get("heads")
    if width and heads and heads > 0 and width % heads:
        problems.append(f"heads: expected a divisor of the width {width}, got {heads}; each head gets as many numbers")
    return problems


def height_and_width(input_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels, of which one number means a square."""
    return (input_size, input_size) if isinstance(input_size, int) else input_size


def seeded(seed: int, build: Callable[[], M]) -> M:
    """Build a model whose random weights depend on `seed` alone, leaving the caller's random state as it was.

    PyTorch's layers draw their initial weights from the process-wide CPU generator, so that generator is
    seeded for the time of `build` and then restored. Only the CPU generator is touched, because weights are
    drawn on the CPU: the same seed gives the same bits on a machine with an accelerator.

    Returns:
        What `build` made.

    Raises:
        BadInput: when `seed` is negative, or when the model holds an in-place activation, which would
            overwrite values that the derivatives of gradients still need.
    """
    refuse(at_least("seed", seed, 0))
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        model = build()
    finally:
        torch.default_generator.set_state(before)
    in_place = sorted({str(layer) for layer in model.modules() if getattr(layer, "inplace", False)})
    refuse(
        f"activation: expected a layer that is not in-place, got {layer}; build it with inplace=False"
        for layer in in_place
    )
    return model


def named_layers(*layers: tuple[str, nn.Module]) -> nn.Sequential:
    """A flat `nn.Sequential` of layers with the given names, in order."""
    return nn.Sequential(OrderedDict(layers))
