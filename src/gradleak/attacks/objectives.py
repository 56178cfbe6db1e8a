"""How far a candidate's simulated update is from the observed one.

Each objective is exactly zero when the two are equal, to the last bit: the cosine distance is written as half the
squared distance of the normalized updates, since `1 - cosine` ends in rounding at 1e-16.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


def sum_of_layer_distances(simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
    """Sum over layers of the Euclidean distance, not squared (Yin et al. 2021, equation 3).

    Returns:
        `sum_l ||g'_l - g_l||`, a scalar in the update's units; its gradient at zero distance is zero.
    """
    return torch.stack([torch.linalg.vector_norm(simulated[name] - observed[name]) for name in observed]).sum()


def cosine_distance(simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
    """One minus the cosine between the two updates as single vectors (Geiping et al. 2020, equation 4).

    Returns:
        A scalar in [0, 2].
    """
    compared = {name: simulated[name] for name in observed}
    return _half_squared_chord(compared, observed, _squared_norm(compared).sqrt(), _squared_norm(observed).sqrt())


def layer_cosine_distance(simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
    """One minus the cosine of each tensor, averaged over the tensors whose observed value is not zero.

    Returns:
        A scalar in [0, 2]; a simulated tensor of zero counts as 1/2.
    """
    terms = [
        _half_squared_chord({name: simulated[name]}, {name: value}, _safe_norm(simulated[name]), _safe_norm(value))
        for name, value in observed.items()
    ]
    known = torch.stack([(value != 0).any() for value in observed.values()])
    return torch.where(known, torch.stack(terms), 0).sum() / known.sum().clamp(min=1)


@dataclass(frozen=True)
class WeightedSquaredDistance:
    """Each tensor's squared distance relative to its observed squared norm, weighted and averaged.

    Args:
        decay: the weight of tensor l of L is `decay ** l`, divided by the sum of all; 1 weighs all alike, below 1
            the first tensors count most.
    """

    decay: float = 1.0

    def __call__(self, simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """The weighted distance.

        Returns:
            A scalar without units. Tensors whose observed value is zero are left out.
        """
        total = sum(self.decay**layer for layer in range(len(observed)))
        terms: list[Tensor] = []
        for layer, (name, value) in enumerate(observed.items()):
            size = value.square().sum()
            relative = (simulated[name] - value).square().sum() / torch.where(size > 0, size, 1)
            terms.append(torch.where(size > 0, relative * (self.decay**layer / total), 0))
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class GaussianKernelDistance:
    """SAPAG's distance: one Gaussian kernel a tensor, whose width follows from the observed tensor.

    `sum_l q_l (1 - exp(-||g'_l - g_l||^2 / sigma_l^2))` with `sigma_l^2` the variance of the entries of `g_l` times
    their number, so that a typical distance is of order one in every layer (Wang et al. 2020, section 3.3).

    Args:
        decay: the layer weight is `q_l = decay ** l`.
    """

    decay: float = 1.0

    def __call__(self, simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """The distance.

        Returns:
            A scalar in [0, sum of q_l].
        """
        terms: list[Tensor] = []
        for layer, (name, value) in enumerate(observed.items()):
            width = (value - value.mean()).square().sum()
            # A tensor of equal entries has no variance; its own size stands in.
            width = torch.where(width > 0, width, value.square().sum())
            distance = (simulated[name] - value).square().sum() / torch.where(width > 0, width, 1)
            terms.append(-torch.expm1(-distance) * self.decay**layer)
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class AbsoluteAndSquaredDistance:
    """TAG's distance: `sum_l ||g'_l - g_l||_2^2 + alpha ||g'_l - g_l||_1` (Deng et al. 2021, equation 6).

    Args:
        alpha: weight of the absolute differences, at least 0.
    """

    alpha: float = 0.01

    def __call__(self, simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """The distance.

        Returns:
            A scalar.
        """
        return squared_distance(simulated, observed) + self.alpha * absolute_distance(simulated, observed)


def absolute_distance(simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
    """Sum over all entries of the absolute difference.

    Returns:
        `sum_l ||g'_l - g_l||_1`, a scalar in the update's units.
    """
    return torch.stack([(simulated[name] - observed[name]).abs().sum() for name in observed]).sum()


def _half_squared_chord(
    simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], length: Tensor, observed_length: Tensor
) -> Tensor:
    """Half the squared distance of the two unit vectors, which is one minus their cosine."""
    chords = [(simulated[name] / length - observed[name] / observed_length).square().sum() for name in observed]
    return 0.5 * torch.stack(chords).sum()


def _squared_norm(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum()


def _safe_norm(tensor: Tensor) -> Tensor:
    """The norm, or 1 for a tensor of zeros, with a gradient that is finite there."""
    square = tensor.square().sum()
    return torch.where(square > 0, square, 1).sqrt()


OBJECTIVES: tuple[Objective, ...] = (
    squared_distance,
    normalized_squared_distance,
    sum_of_layer_distances,
    cosine_distance,
    layer_cosine_distance,
    absolute_distance,
    WeightedSquaredDistance(),
    GaussianKernelDistance(),
    AbsoluteAndSquaredDistance(),
)
"""Every objective, for tests that hold for all of them."""
