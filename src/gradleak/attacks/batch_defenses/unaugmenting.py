"""From augmented images back to those before, by a known policy whose choices are not known.

For everything that the policy may have done to an image, the image before is sought that gives the observed one, smooth
where the policy left nothing of it. What cannot have given it leaves a misfit; among what can, the more usual
brightness and contrast wins.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from gradleak.attacks.closed_form.pixels import total_variation
from gradleak.defenses.augment import Steps, transformed
from gradleak.optim import Budget, WolfeLBFGS, minimize, value_and_gradient
from gradleak.tasks import ImageSpace

# Standard deviation of the augmented image's pixels, as recovered, in units of the bounds' distance.
_ERROR = 0.005
_PRIOR = 20.0
_CHROMA = 3.0
_STEPS = 80
# Mean and, in logarithms, standard deviation of an image's pixels over photographs, each with its spread.
_MEAN, _MEAN_SPREAD = 0.43, 0.15
_CONTRAST, _CONTRAST_SPREAD = -1.6, 0.4
_MOST_CHOICES = 64
_MOVES = frozenset({"shearX", "shearY", "translateX", "translateY", "rotate"})
# Derivative by a pixel from which on it counts as seen.
_SEEN = 0.5


def unaugment(images: Tensor, possible: Sequence[Steps], space: ImageSpace) -> tuple[Tensor, tuple[Steps, ...]]:
    """Undo a policy, image by image.

    Args:
        images: augmented, `[N, C, H, W]`, in the space's units.
        possible: what the policy may have done, see `Augment.possible_steps`; the first 64 are tried.
        space: of the images.

    Returns:
        The images before, and what was undone in each.
    """
    rows: list[Tensor] = []
    undone: list[Steps] = []
    low, high = space.bounds
    for image in images.split(1):
        unit = ((image.double() - low) / (high - low)).clamp(0, 1)
        found = [(*_before(unit, steps), steps) for steps in possible[:_MOST_CHOICES]]
        _, before, steps = min(found, key=lambda entry: entry[0])
        rows.append(low + (high - low) * before)
        undone.append(steps)
    return torch.cat(rows).to(images), tuple(undone)


_UNIT = ImageSpace((1, 1, 1))


def _before(image: Tensor, steps: Steps) -> tuple[float, Tensor]:
    """An image `[1, C, H, W]` in [0, 1] before some steps, and how implausible that is."""

    def misfit(candidate: Tensor) -> Tensor:
        return (transformed(steps, candidate, _UNIT) - image).square().mean() / _ERROR**2

    def energy(point: Tensor) -> Tensor:
        candidate = point.view(image.shape)
        return misfit(candidate) + _PRIOR * total_variation(candidate, _CHROMA)

    start = _first(image, steps)
    ended = minimize(
        value_and_gradient(energy),
        start.reshape(1, -1),
        optimizer=WolfeLBFGS(steps=_STEPS),
        budget=Budget(evaluations=2 * _STEPS),
        box=(torch.zeros(image.numel()).double(), torch.ones(image.numel()).double()),
    )
    before = ended.points[0].view(image.shape)
    with torch.no_grad():
        unusual = ((before.mean() - _MEAN) / _MEAN_SPREAD).square()
        unusual = unusual + ((before.std().clamp(min=1e-6).log() - _CONTRAST) / _CONTRAST_SPREAD).square()
        # A misfit beyond the error that is allowed for counts with every pixel.
        return float((misfit(before) - 1).clamp(min=0) * image.numel() / 2 + unusual / 2), before


def _first(image: Tensor, steps: Steps) -> Tensor:
    """Roughly the image before: what is left of it, moved back, and spread over what is not."""
    left = torch.ones_like(image).requires_grad_()
    moved = left
    for name, amount in steps:
        moved = transformed(((name, amount),), moved, _UNIT) if name in _MOVES else moved
    (weight,) = torch.autograd.grad(moved.sum(), left) if moved is not left else (left.detach(),)
    for name, amount in reversed(steps):
        if name in _MOVES or name == "invert":
            image = transformed(((name, -amount),), image, _UNIT)
    return _spread(image, (weight > _SEEN).to(image))


def _spread(image: Tensor, known: Tensor) -> Tensor:
    """Unknown pixels as the mean of their neighbors, from the known ones outward."""
    for _ in range(max(image.shape[-2:])):
        if bool(known.all()):
            break
        share = avg_pool2d(known, 3, stride=1, padding=1)
        around = avg_pool2d(known * image, 3, stride=1, padding=1) / share.clamp(min=1e-12)
        image = torch.where(known > 0, image, torch.where(share > 0, around, image))
        known = (known + share > 0).to(image)
    return image
