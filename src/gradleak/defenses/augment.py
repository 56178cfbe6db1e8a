"""Augmentation by a policy, as a defense: the client trains on transformed images."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

from gradleak.defenses.image_operations import SIGNED, operate, strength
from gradleak.tasks import ImageSpace, InputSpace
from gradleak.updates import UpdateKind

POLICIES: tuple[tuple[str, int], ...] = (
    *(("invert", 7), ("contrast", 6), ("rotate", 2), ("translateX", 9), ("sharpness", 1)),
    *(("sharpness", 3), ("shearY", 2), ("translateY", 2), ("autocontrast", 5), ("equalize", 2)),
    *(("shearY", 5), ("posterize", 5), ("color", 3), ("brightness", 5), ("sharpness", 9)),
    *(("brightness", 9), ("equalize", 5), ("equalize", 1), ("contrast", 7), ("sharpness", 5)),
    *(("color", 5), ("translateX", 5), ("equalize", 7), ("autocontrast", 8), ("translateY", 3)),
    *(("sharpness", 6), ("brightness", 6), ("color", 8), ("solarize", 0), ("invert", 0)),
    *(("equalize", 0), ("autocontrast", 0), ("equalize", 8), ("equalize", 4), ("color", 5)),
    *(("equalize", 5), ("autocontrast", 4), ("solarize", 4), ("brightness", 3), ("color", 0)),
    *(("solarize", 1), ("autocontrast", 0), ("translateY", 3), ("translateY", 3), ("autocontrast", 1)),
    *(("solarize", 1), ("equalize", 5), ("invert", 0), ("translateY", 3), ("autocontrast", 1)),
)
"""The 50 operations of the released code of Gao et al. (CVPR 2021), each with its magnitude of 0 to 9."""

# Pixels around the image from which a crop is drawn, as usual for CIFAR.
_PADDING = 4

Steps = tuple[tuple[str, float], ...]
"""Operations with their signed strengths, in order."""


@dataclass(frozen=True)
class Augment:
    """Transform every image by a policy, as ATS does (Gao et al., CVPR 2021).

    A policy is a sequence of indices into `POLICIES`, `"3-1-7"`; of several, joined by `+`, each image draws one. The
    direction of shears, translations and changes of color, contrast, sharpness and brightness is drawn for each image.
    The search for policies is not part of this; what is transcribed from the released code are the 50 operations with
    their magnitudes, the ranges that these stand for, and the random directions. See `image_operations` for what
    differs. The probabilities that the released list holds are ignored there too.

    Args:
        policy: indices 0 to 49, for instance `"3-1-7+43-18-18"`.
        crop: before that, draw a crop of the image with 4 black pixels around, and flip it left to right in half of
            the cases, as the released code does; the attack here does not search these.
    """

    policy: str = "3-1-7+43-18-18"
    crop: bool = False

    def problems(self) -> list[str]:
        """A policy that is not a list of known indices."""
        try:
            policies = self.policies
        except ValueError:
            return [f"Augment.policy: expected indices such as '3-1-7+43-18-18', got {self.policy!r}; write it so"]
        return [
            f"Augment.policy: expected indices 0 to {len(POLICIES) - 1}, got {index}; see defenses.augment.POLICIES"
            for policy in policies
            for index in policy
            if index >= len(POLICIES)
        ]

    @property
    def policies(self) -> tuple[tuple[int, ...], ...]:
        """The sequences of indices, one of which each image draws."""
        return tuple(tuple(int(index) for index in policy.split("-")) for policy in self.policy.split("+"))

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The update as it is: the batch was changed."""
        del kind, generator
        return dict(tensors)

    def possible_steps(self) -> tuple[Steps, ...]:
        """Everything that the policy may do to an image, by choice of sequence and directions; crops left out."""
        found: dict[Steps, None] = {}
        for policy in self.policies:
            chosen = [POLICIES[index] for index in policy]
            directions = [(1, -1) if name in SIGNED and strength(name, level) else (1,) for name, level in chosen]
            for signs in product(*directions):
                steps = (
                    (name, sign * strength(name, level)) for (name, level), sign in zip(chosen, signs, strict=True)
                )
                found[tuple(steps)] = None
        return tuple(found)

    def change_batch(
        self, variable: Tensor, target_probabilities: Tensor, space: InputSpace, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The transformed images; see `ChangesBatch.change_batch`. Anything but images is left as it is."""
        if not isinstance(space, ImageSpace):
            return variable, target_probabilities
        rows: list[Tensor] = []
        for image in variable.split(1):
            if self.crop:
                image = _cropped(image, space.bounds[0], generator)
            policy = self.policies[int(torch.randint(len(self.policies), (), generator=generator))]
            rows.append(transformed(self._drawn(policy, generator), image, space))
        return torch.cat(rows), target_probabilities

    @staticmethod
    def _drawn(policy: tuple[int, ...], generator: torch.Generator) -> Steps:
        """A sequence with directions drawn for those that have one."""
        steps: list[tuple[str, float]] = []
        for index in policy:
            name, level = POLICIES[index]
            sign = 2 * int(torch.randint(2, (), generator=generator)) - 1 if name in SIGNED else 1
            steps.append((name, sign * strength(name, level)))
        return tuple(steps)


def transformed(steps: Steps, images: Tensor, space: ImageSpace) -> Tensor:
    """Images after a sequence of operations, differentiable.

    Args:
        steps: operations with their strengths.
        images: `[N, C, H, W]`, in the space's units.
        space: whose bounds stand for black and white.

    Returns:
        Of the same shape.
    """
    low, high = space.bounds
    unit = (images - low) / (high - low)
    for name, amount in steps:
        unit = operate(name, amount, unit)
    return low + (high - low) * unit


def _cropped(image: Tensor, black: float, generator: torch.Generator) -> Tensor:
    top, left = torch.randint(2 * _PADDING + 1, (2,), generator=generator).tolist()
    height, width = image.shape[-2:]
    crop = pad(image, [_PADDING] * 4, value=black)[..., top : top + height, left : left + width]
    return crop.flip(-1) if int(torch.randint(2, (), generator=generator)) else crop
