"""How implausible a candidate is without looking at the update.

A prior is made for one observation, and gives one number for a candidate; an attack adds it, weighted, to its
objective. Nothing here is compared with a truth: what is plausible comes from the input space and the public model.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the only common base class

from gradleak.threat import Observation

Term = Callable[[Tensor, Tensor], Tensor]
"""`term(variable [N, ...], target_probabilities [N, C]) -> scalar`."""

Prior = Callable[[Observation], Term]
"""Prepares the term for one observation."""


@dataclass(frozen=True)
class Weighted:
    """A prior and what it counts against the objective.

    Attributes:
        weight: factor of the term.
        prior: the term.
    """

    weight: float
    prior: Prior


def mean_absolute_differences(images: Tensor) -> Tensor:
    """Anisotropic total variation as Geiping et al. (2020) released it: mean |dx| + mean |dy|.

    The two means run over all neighbouring pairs of all images and channels; nothing is assumed beyond the border,
    so a constant image has none.

    Args:
        images: `[N, C, H, W]`.

    Returns:
        A scalar in pixel units, whatever the size of the image and of the batch.
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return across + down


def total_variation(observation: Observation) -> Term:
    """The total variation of images, see `mean_absolute_differences`."""
    del observation

    def term(variable: Tensor, targets: Tensor) -> Tensor:
        del targets
        return mean_absolute_differences(variable)

    return term


def euclidean_norm(observation: Observation) -> Term:
    """`||x||_2` over the batch (Yin et al. 2021, equation 8)."""
    del observation

    def term(variable: Tensor, targets: Tensor) -> Tensor:
        del targets
        return torch.linalg.vector_norm(variable)

    return term


def task_loss(observation: Observation) -> Term:
    """The model's loss at the candidate and its targets (Wei et al. 2020, the label term)."""
    task, state = observation.task, observation.state
    module = copy.deepcopy(task.model).eval()

    def term(variable: Tensor, targets: Tensor) -> Tensor:
        outputs = task.space.forward(module, {**state.parameters, **state.constants}, variable)
        return task.loss(outputs, targets)

    return term


def batch_norm_statistics(observation: Observation) -> Term:
    """Distance of the candidate's feature statistics to the running ones of every BatchNorm layer.

    `sum_l ||mean_l(x) - m_l|| + ||var_l(x) - v_l||` (Yin et al. 2021, equation 9): mean and biased variance over the
    batch and all positions, norms not squared, running statistics as a proxy of the private batch's.

    Returns:
        The term; zero for a model without such layers.
    """
    task, state = observation.task, observation.state
    module = copy.deepcopy(task.model).eval()
    values = {**state.parameters, **state.constants}
    entered: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _layer, inputs: entered.update({name: inputs[0]})

    layers = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]
    for name in layers:
        module.get_submodule(name).register_forward_pre_hook(record(name))

    def term(variable: Tensor, targets: Tensor) -> Tensor:
        del targets
        if not layers:
            return variable.new_zeros(())
        entered.clear()
        task.space.forward(module, values, variable)
        return torch.stack([_statistics_distance(entered[name], values, name) for name in layers]).sum()

    return term


def _statistics_distance(entering: Tensor, values: Mapping[str, Tensor], name: str) -> Tensor:
    """Distance of mean and variance of what enters one layer `[N, C, ...]` to its running ones `[C]`."""
    channels = entering.transpose(0, 1).flatten(1)
    prefix = f"{name}." if name else ""
    mean_gap = channels.mean(dim=1) - values[f"{prefix}running_mean"]
    variance_gap = channels.var(dim=1, correction=0) - values[f"{prefix}running_var"]
    return torch.linalg.vector_norm(mean_gap) + torch.linalg.vector_norm(variance_gap)


def group_consistency(variables: Tensor) -> Tensor:
    """Distance of every restart's candidate to the mean over restarts (Yin et al. 2021, equation 10).

    The mean is the plain one: the registration before it, which the paper adds for large images, is left out.

    Args:
        variables: `[restarts, D]`.

    Returns:
        `[restarts]`; zero for a single restart.
    """
    return torch.linalg.vector_norm(variables - variables.mean(dim=0), dim=1)
