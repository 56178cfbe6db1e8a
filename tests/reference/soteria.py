"""Soteria as it is written down by Sun et al., CVPR 2021, with one loop over examples and one over features."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def soteria_scores(features: Callable[[Tensor], Tensor], inputs: Tensor, epsilon: float) -> Tensor:
    """Sum over examples of `||dr_f/dx|| / (|r_f| + epsilon)`; `features` maps one input to a vector."""
    total = torch.zeros(len(features(inputs[0])), dtype=inputs.dtype)
    for example in inputs:
        for index in range(len(total)):
            at = example.clone().requires_grad_()
            values = features(at)
            slope = torch.autograd.grad(values[index], at)[0]
            total[index] += slope.square().sum().sqrt() / (values[index].detach().abs() + epsilon)
    return total


def soteria_mask(scores: Tensor, percent: float) -> Tensor:
    """One for features that are sent, zero for those below numpy's percentile, as in the released code."""
    threshold = np.percentile(scores.numpy(), percent)
    mask = np.where(scores.numpy() < threshold, 0.0, 1.0)
    return torch.from_numpy(mask)
