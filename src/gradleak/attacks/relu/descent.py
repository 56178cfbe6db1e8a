"""Adam under a total variation whose weight falls: strong enough at first to shape the image, weak at the end.

A small constant weight leaves the search in poor local minima, and a large one blurs the result.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradleak.optim import Adam, Budget, Energy, Minimum, minimize


@dataclass(frozen=True)
class Descent:
    """How to descend.

    Args:
        first_weight: weight of the total variation at the beginning, see `color_variation`.
        last_weight: from `settled` on; in between it falls geometrically.
        settled: share of the budget after which the weight stays.
        lr: Adam's learning rate, in pixel units; it falls along half a cosine over the budget.
    """

    first_weight: float = 0.1
    last_weight: float = 0.003
    settled: float = 0.8
    lr: float = 0.1

    def weight(self, progress: float) -> float:
        """Weight of the total variation when a share `progress` of the budget is spent."""
        return self.first_weight * (self.last_weight / self.first_weight) ** min(progress / self.settled, 1.0)


def color_variation(images: Tensor) -> Tensor:
    """Isotropic total variation that couples the color channels.

    The mean over pixels of `sqrt(sum_c dx_c^2 + dy_c^2)` (Blomgren and Chan 1998 for color images, without their
    channel-wise norms): edges that coincide in all channels cost less, as they do in photographs.

    Args:
        images: `[N, C, H, W]`, H and W at least 2.

    Returns:
        A scalar in pixel units; nothing is assumed beyond the border.
    """
    across = torch.nn.functional.pad(images[..., :, 1:] - images[..., :, :-1], (0, 1))
    down = torch.nn.functional.pad(images[..., 1:, :] - images[..., :-1, :], (0, 0, 0, 1))
    # The small constant keeps the root differentiable in flat regions, far below one grey level of 1/255.
    return ((across.square() + down.square()).sum(dim=-3) + 1e-6).sqrt().mean()


def descend(
    energy: Energy,
    starts: Tensor,
    shape: tuple[int, ...],
    *,
    settings: Descent,
    bounds: tuple[float, float],
    evaluations: int,
    seconds: float | None,
    progress: Callable[[int, float], None] | None = None,
    snapshots: int = 24,
) -> Minimum:
    """Minimize `energy + weight * color_variation` over images in a box, from several starts.

    The weight and the learning rate follow the budget, whichever of its two limits is nearer: with `seconds` None
    the run is reproducible to the bit. Values reported are those at the last weight throughout, so that they can be
    compared over the whole run.

    Args:
        energy: data term of one candidate `[D]`.
        starts: `[restarts, D]`.
        shape: of one candidate's images, `[N, C, H, W]`.
        settings: weights and learning rate.
        bounds: smallest and largest pixel value.
        evaluations: of each restart, at least 1.
        seconds: wall time, or None.
        progress: see `gradleak.optim.minimize`.
        snapshots: how many best-so-far candidates to keep.

    Returns:
        The best candidate of each restart.
    """
    began = time.perf_counter()
    done = [0]

    def share() -> float:
        by_time = 0.0 if seconds is None else (time.perf_counter() - began) / max(seconds, 1e-9)
        return min(1.0, max(done[0] / evaluations, by_time))

    def parts(candidate: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        data, variation = energy(candidate), color_variation(candidate.view(shape))
        return data + weight * variation, data + settings.last_weight * variation

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        weight = settings.weight(share())
        leaf = points.detach().requires_grad_()
        if len(leaf) == 1:
            descended, values = (part[None] for part in parts(leaf[0], weight))
        else:
            descended, values = torch.vmap(parts, in_dims=(0, None))(leaf, weight)
        (gradients,) = torch.autograd.grad(descended.sum(), leaf)
        done[0] += 1
        return values.detach(), gradients

    def falling(lr: float, step: int, steps: int) -> float:
        del step, steps
        return 0.5 * lr * (1 + math.cos(math.pi * share()))

    low, high = (torch.full_like(starts[0], bound) for bound in bounds)
    return minimize(
        evaluate,
        starts,
        optimizer=Adam(steps=evaluations, lr=settings.lr, schedule=falling),
        budget=Budget(evaluations=evaluations, seconds=seconds),
        box=(low, high),
        moments=snapshots,
        progress=progress,
    )
