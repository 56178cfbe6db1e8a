"""A single example at a last layer without bias: features and residual up to the few scales that softmax allows.

Of one example the weight gradient is `dW = r a^T`, which gives residual r and features a up to a factor: `r = rho u`,
`a = sigma v / rho` with the leading singular triple. The softmax fixes the factor:

    softmax(W a + b) - y = rho u

For two classes this is one equation, `-m / (1 + e^m) = <dW, W>` in the margin m (Zhu and Blaschko 2021,
*R-GAP*), with up to two solutions for either label; for more classes usually a single one fits.
"""

import math

import torch
from torch import Tensor

from gradleak.attacks.closed_form.single import SingleExample

_SMALLEST = 1e-14
_GRID = 4000
_BISECTIONS = 60
# Gaps between which a pair of close roots may lie, and which count as zero.
_TOUCHING = 1e-2
_ROUNDED = 1e-12


def examples_without_bias(
    weight_gradient: Tensor, weight: Tensor, offset: Tensor, class_weights: Tensor
) -> list[SingleExample]:
    """Everything that one example may have been, best fit of the softmax first.

    Args:
        weight_gradient: `[C, D]`, in the type in which it was shared.
        weight: of the last layer, `[C, D]`, float64.
        offset: what the layer adds without training it, `[C]`, float64; usually zeros.
        class_weights: of the loss, `[C]`; ones for the plain cross-entropy.

    Returns:
        Candidates; empty if no scale meets the softmax.
    """
    left, values, right = torch.linalg.svd(weight_gradient.double(), full_matrices=False)
    noise = float(values[1:].square().sum().sqrt() / values[0].clamp(min=1e-300))
    rounding = max(noise, torch.finfo(weight_gradient.dtype).eps / 2)
    found: list[tuple[float, SingleExample]] = []
    for sign in (1.0, -1.0):
        direction, ray = sign * left[:, 0], sign * values[0] * right[0]
        label = int(direction.argmin())
        if float(direction[label]) >= 0:
            continue
        line = _Line(weight @ ray, offset, float(-direction[label] / class_weights[label]), label)
        for scale in line.roots():
            misfit = line.residual(scale) * class_weights[label] - scale * direction
            error = float(misfit.norm() / scale)
            precision = rounding * max(1.0, 1 / max(abs(line.steepness(scale)), 1e-300))
            found.append((error, SingleExample(ray / scale, scale * direction, precision)))
    return [example for _, example in sorted(found, key=lambda pair: pair[0])]


class _Line:
    """The softmax of one example as a function of the scale rho, which its residual is proportional to."""

    def __init__(self, slope: Tensor, offset: Tensor, share: float, label: int) -> None:
        self.slope, self.offset, self.share, self.label = slope, offset, share, label

    def _logits(self, scale: Tensor) -> Tensor:
        return self.slope / scale[..., None] + self.offset

    def gap(self, scale: Tensor) -> Tensor:
        """Logarithm of the label's missing probability at the softmax, over that which the residual calls for."""
        logits = self._logits(scale)
        others = torch.cat([logits[..., : self.label], logits[..., self.label + 1 :]], dim=-1)
        missing = torch.logsumexp(others, dim=-1) - torch.logsumexp(logits, dim=-1)
        return missing - (scale * self.share).log()

    def residual(self, scale: float) -> Tensor:
        """`softmax - y` at one scale, `[C]`."""
        probabilities = torch.softmax(self._logits(torch.tensor(scale).double()), dim=-1)
        probabilities[self.label] -= 1
        return probabilities

    def roots(self) -> list[float]:
        """Scales at which the gap is zero, by bisection between points of a grid in the logarithm."""
        grid = torch.linspace(math.log(_SMALLEST), 0.0, _GRID, dtype=torch.float64) - math.log(self.share)
        distance = self.gap(grid.exp()).abs()
        closest = (distance[1:-1] < distance[:-2]) & (distance[1:-1] < distance[2:]) & (distance[1:-1] < _TOUCHING)
        turns = [self._turn(grid[at - 1], grid[at + 1]) for at in (closest.nonzero()[:, 0] + 1).tolist()]
        grid = torch.cat([grid, *(turn[None] for turn in turns)]).sort().values
        above = self.gap(grid.exp()) > 0
        crossed = (above[1:] != above[:-1]).nonzero()[:, 0].tolist()
        found = [self._bisect(grid[index], grid[index + 1]) for index in crossed]
        # Two roots that coincide touch zero and do not cross it.
        return found + [float(turn.exp()) for turn in turns if abs(float(self.gap(turn.exp()))) < _ROUNDED]

    def _turn(self, low: Tensor, high: Tensor) -> Tensor:
        """Where the size of the gap is least between two logarithms of scales, by thirds; past zero, where it turns."""
        sign = torch.sign(self.gap(low.exp()))
        for _ in range(_BISECTIONS):
            left, right = low + (high - low) / 3, high - (high - low) / 3
            if bool(sign * self.gap(left.exp()) < sign * self.gap(right.exp())):
                high = right
            else:
                low = left
        return (low + high) / 2

    def _bisect(self, low: Tensor, high: Tensor) -> float:
        """The root between two logarithms of scales."""
        above = bool(self.gap(low.exp()) > 0)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if bool(self.gap(middle.exp()) > 0) == above else (low, middle)
        return float(((low + high) / 2).exp())

    def steepness(self, scale: float) -> float:
        """Derivative of the gap in the logarithm of the scale: how precisely the scale is determined."""
        step = 1e-4
        at = torch.tensor([scale * (1 - step), scale * (1 + step)]).double()
        low, high = self.gap(at).tolist()
        return (high - low) / (2 * step)
