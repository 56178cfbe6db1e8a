"""Trained weights from `.safetensors` files."""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from gradleak.errors import refuse
from gradleak.tensorfiles import read_safetensors

M = TypeVar("M", bound=nn.Module)

COUNTER = "num_batches_tracked"
"""Batch normalization's count of training batches: absent from many published files and unused at momentum != None."""


def load_weights(model: M, path: str | Path) -> M:
    """Load every parameter and buffer of `model` from a `.safetensors` file, strictly, in place.

    Names and shapes must agree exactly, except that counters named `num_batches_tracked` may be absent and then
    keep their value. Floating-point values are converted to the model's precision; integer buffers are copied
    bit for bit. Nothing is loaded unless everything fits.

    Args:
        model: receives the weights.
        path: a `.safetensors` file.

    Returns:
        The same model.

    Raises:
        BadInput: when the file is missing, truncated or in another format, or when tensors are missing, extra,
            misshaped, of another kind of number, or not finite; all of these at once.
    """
    path = Path(path)
    tensors, _ = read_safetensors(path)
    expected = model.state_dict()
    problems: list[str] = []
    for name in sorted(expected.keys() - tensors.keys()):
        if not name.endswith(COUNTER):
            shape = list(expected[name].shape)
            problems.append(
                f"{path.name}: expected a tensor {name!r} of shape {shape}, got none; use the file of this model"
            )
    for name in sorted(tensors.keys() - expected.keys()):
        problems.append(
            f"{path.name}: expected no tensor {name!r}, got one of shape {list(tensors[name].shape)}; "
            "use the model that this file was written from"
        )
    for name in sorted(tensors.keys() & expected.keys()):
        problems += [f"{path.name}: {problem}" for problem in _problems_with(name, tensors[name], expected[name])]
    refuse(problems)
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)
    return model


def _problems_with(name: str, tensor: Tensor, expected: Tensor) -> list[str]:
    if tensor.shape != expected.shape:
        return [
            f"tensor {name!r}: expected shape {list(expected.shape)}, got {list(tensor.shape)}; "
            "use a model of the same width and number of classes"
        ]
    if tensor.is_floating_point() != expected.is_floating_point():
        return [f"tensor {name!r}: expected {expected.dtype}, got {tensor.dtype}; write it as {expected.dtype}"]
    if not expected.is_floating_point() and tensor.dtype != expected.dtype:
        return [f"tensor {name!r}: expected {expected.dtype}, got {tensor.dtype}; write it as {expected.dtype}"]
    unusable = int((~torch.isfinite(tensor.to(expected.dtype))).sum())
    if unusable:
        return [
            f"tensor {name!r}: expected finite values in {expected.dtype}, got {unusable} that are not; "
            "use weights from a training that did not diverge"
        ]
    return []
