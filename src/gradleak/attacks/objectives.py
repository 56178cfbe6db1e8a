"""How far a candidate's simulated update is from the observed one.

Each objective is exactly zero when the two are equal, to the last bit: the cosine distance is written as half the
squared distance of the normalized updates, since `1 - cosine` ends in rounding at 1e-16.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Objective = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
"""`objective(simulated, observed) -> scalar`, both tensors by name with the same names."""


def squared_distance(simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
    """Sum over all entries of the squared difference (Zhu, Liu, Han 2019, equation 4).

    Returns:
        `sum_l ||g'_l - g_l||^2`, a scalar in the square of the update's units.
    """
    return torch.stack([(simulated[name] - observed[name]).square().sum() for name in observed]).sum()


def normalized_squared_distance(simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
    """The squared distance divided by the squared norm of the observed update, without units.

    Returns:
        `||g' - g||^2 / ||g||^2`, a scalar; 1 for a simulated update of zero.
    """
    return squared_distance(simulated, observed) / _squared_norm(observed)


def cosine_distance(simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
    """One minus the cosine between the two updates as single vectors (Geiping et al. 2020, equation 4).

    Returns:
        A scalar in [0, 2].
    """
    length, observed_length = _squared_norm(simulated).sqrt(), _squared_norm(observed).sqrt()
    return (
        0.5
        * torch.stack(
            [(simulated[name] / length - observed[name] / observed_length).square().sum() for name in observed]
        ).sum()
    )


def _squared_norm(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum()


OBJECTIVES: tuple[Objective, ...] = (squared_distance, normalized_squared_distance, cosine_distance)
"""Every objective, for tests that hold for all of them."""
