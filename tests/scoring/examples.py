"""Truths and reconstructions to score, built by hand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradleak.captures import Truth
from gradleak.reconstructions import Reconstruction, Status
from gradleak.tasks import ImageSpace, TabularSpace


def random_images(count: int, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def image_truth(inputs: Tensor, targets: Tensor | None = None, bounds: tuple[float, float] = (0.0, 1.0)) -> Truth:
    channels, height, width = inputs.shape[1:]
    # Mean and std of a real data set: no score may depend on them.
    space = ImageSpace((channels, height, width), mean=(0.4,), std=(0.25,), bounds=bounds)
    return Truth(inputs, torch.arange(len(inputs)) if targets is None else targets, space)


def row_truth(inputs: Tensor, bounds: tuple[float, float] | None = None) -> Truth:
    return Truth(inputs, torch.arange(len(inputs)), TabularSpace(inputs.shape[1], bounds))


def reconstruction(
    variable: Tensor,
    targets: Tensor | Sequence[int] | None = None,
    *,
    targets_given: bool = False,
    status: Status = "converged",
) -> Reconstruction:
    found = torch.arange(len(variable)) if targets is None else torch.as_tensor(targets)
    return Reconstruction(
        inputs=variable.clamp(0.0, 1.0),
        targets=found,
        targets_given=targets_given,
        objective=0.0,
        evaluations=1,
        seconds=0.0,
        status=status,
        attack="by hand",
        variable=variable,
        target_probabilities=torch.zeros(len(variable), 10),
    )
