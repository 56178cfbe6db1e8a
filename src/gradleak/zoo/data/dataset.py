"""A labeled data set held in memory, and how private batches are drawn from it."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from gradleak.errors import refuse
from gradleak.tokens import IGNORED, Objective, TokenSpace

IMAGE_RANK = 4


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs with their targets.

    Inputs of shape `[n, channels, height, width]` are images with values in [0, 1]; inputs of any other shape
    `[n, ...]` may hold any finite values. Texts are token ids `[n, T]`, and then `tokens` says what they mean.

    Attributes:
        name: what messages and reports call it.
        inputs: float32 `[n, ...]`, n at least 1; int64 `[n, T]` for texts.
        targets: int64 `[n]`, indices into `class_names`; for language models ids `[n, T]`, -100 where there is none.
        class_names: one name per class, all different.
        tokens: the input space of texts; None for anything else.
        objective: what the targets are; anything but `classification` is for texts only.

    Raises:
        BadInput: when the parts do not fit together; all problems at once.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    class_names: tuple[str, ...]
    tokens: TokenSpace | None = None
    objective: Objective = "classification"

    def __post_init__(self) -> None:
        """Check everything."""
        found = _input_problems(self.inputs) if self.tokens is None else self.tokens.problems(self.inputs)
        problems = [*found, *self._target_problems()]
        names = self.class_names
        if not names or len(set(names)) != len(names):
            problems.append(f"class names: expected one or more different names, got {list(names)}; rename or add some")
        refuse(f"data {self.name!r}: {problem}" for problem in problems)

    def _target_problems(self) -> list[str]:
        targets, last = self.targets, len(self.class_names) - 1
        if self.classified == "token":
            if self.tokens is None or targets.dtype != torch.int64 or targets.shape != self.inputs.shape:
                got = f"{targets.dtype} {list(targets.shape)}"
                return [f"targets: expected int64 [n, T] as the texts have, got {got}; see with_objective"]
            targets, last = targets[targets != IGNORED], self.tokens.vocabulary - 1
        elif targets.dtype != torch.int64 or targets.dim() != 1:
            got = f"{targets.dtype} {list(targets.shape)}"
            return [f"targets: expected int64 [n], got {got}; give one class index per example"]
        problems: list[str] = []
        if self.inputs.dim() and len(self.targets) != len(self.inputs):
            problems.append(
                f"targets: expected one per example, got {len(self.targets)} targets for {len(self.inputs)} inputs; "
                "check that both come from the same data"
            )
        if len(targets) and (int(targets.min()) < 0 or int(targets.max()) > last):
            got = f"{int(targets.min())} to {int(targets.max())}"
            problems.append(f"targets: expected 0 to {last}, got {got}; number the classes from 0")
        return problems

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.inputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, `(channels, height, width)` for images."""
        return tuple(self.inputs.shape[1:])

    @property
    def num_classes(self) -> int:
        """The number of classes, with or without examples; of texts with a target for every token, their ids."""
        if self.classified == "token" and self.tokens is not None:
            return self.tokens.vocabulary
        return len(self.class_names)

    @property
    def classified(self) -> Literal["example", "token"]:
        """What has a target: each example, or each token of it."""
        return "example" if self.objective == "classification" else "token"

    def indices(self, count: int, seed: int, *, distinct_labels: bool = False) -> Tensor:
        """Positions `[count]` of examples drawn at random without replacement, int64.

        A larger `count` with the same seed continues the same draw: the first positions stay.

        Args:
            count: how many, at least 1 and at most the number of examples (of classes, with distinct labels).
            seed: decides the draw, at least 0.
            distinct_labels: take at most one example of each class.

        Returns:
            The positions, in the order of the draw.

        Raises:
            BadInput: when `count` or `seed` is out of range.
        """
        if distinct_labels and self.classified == "token":
            refuse(["distinct_labels: expected a class for each text, got a target for each token; leave it out"])
        available = int(torch.bincount(self.targets).count_nonzero()) if distinct_labels else len(self)
        what = "classes with examples" if distinct_labels else "examples"
        problems: list[str] = []
        if not 1 <= count <= available:
            problems.append(
                f"count: expected 1 to {available} ({what} of {self.name!r}), got {count}; choose within it"
            )
        if seed < 0:
            problems.append(f"seed: expected at least 0, got {seed}; give 0 or more")
        refuse(problems)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        if distinct_labels:
            first_of_class: dict[int, int] = {}
            for position in order:
                first_of_class.setdefault(int(self.targets[position]), int(position))
            order = torch.tensor(list(first_of_class.values()))
        return order[:count]

    def sample(self, count: int, seed: int, *, distinct_labels: bool = False) -> tuple[Tensor, Tensor]:
        """Inputs `[count, ...]` and targets `[count]` at the positions that `indices` draws.

        Returns:
            Inputs and targets, in the order of the draw.

        Raises:
            BadInput: as for `indices`.
        """
        chosen = self.indices(count, seed, distinct_labels=distinct_labels)
        return self.inputs[chosen], self.targets[chosen]

    def subset(self, indices: Tensor) -> "Dataset":
        """The examples at `indices` `[m]` (int64, m at least 1), with the same class names.

        Returns:
            The chosen examples, in the order of `indices`.

        Raises:
            BadInput: when an index is out of range or there is none.
        """
        bad = bool(((indices < 0) | (indices >= len(self))).any())
        refuse([f"indices: expected 0 to {len(self) - 1}, got others among them; drop them"] if bad else [])
        return replace(self, inputs=self.inputs[indices], targets=self.targets[indices])

    def split(self, count: int, seed: int) -> "tuple[Dataset, Dataset]":
        """Two disjoint data sets: `count` examples drawn at random, and all others.

        Returns:
            The drawn part and the rest.

        Raises:
            BadInput: when `count` is not 1 to n - 1 or `seed` is negative.
        """
        problem = (
            f"count: expected 1 to {len(self) - 1} so that both parts hold an example, got {count}; choose within it"
        )
        refuse([problem] if not 1 <= count < len(self) else [])
        order = self.indices(len(self), seed)
        return self.subset(order[:count]), self.subset(order[count:])

    def resized(self, size: int) -> "Dataset":
        """The same images at `size` x `size` pixels, by bilinear interpolation with antialiasing.

        The aspect ratio of images that are not square changes.

        Returns:
            The resized data set, or this one if it has that size.

        Raises:
            BadInput: when the inputs are not images or `size` is below 1.
        """
        problems: list[str] = []
        if self.inputs.dim() != IMAGE_RANK:
            shape = list(self.input_shape)
            problems.append(f"size: expected images to resize, got inputs of shape {shape}; leave size out")
        if size < 1:
            problems.append(f"size: expected at least 1 pixel, got {size}; give 1 or more")
        refuse(problems)
        if self.input_shape[1:] == (size, size):
            return self
        inputs = functional.interpolate(self.inputs, size=(size, size), mode="bilinear", antialias=True)
        # Interpolation weights sum to one only up to rounding.
        return Dataset(self.name, inputs.clamp(0, 1), self.targets, self.class_names)


def _input_problems(inputs: Tensor) -> list[str]:
    if inputs.dtype != torch.float32 or inputs.dim() < 2 or inputs.numel() == 0:
        got = f"{inputs.dtype} {list(inputs.shape)}"
        return [f"inputs: expected float32 [n, ...] with at least one number, got {got}; give images or rows"]
    lowest, highest = float(inputs.min()), float(inputs.max())
    if not bool(torch.isfinite(inputs).all()):
        return ["inputs: expected finite values, got NaN or infinity; remove those examples"]
    if inputs.dim() == IMAGE_RANK and (lowest < 0 or highest > 1):
        return [
            f"inputs: expected images with values in [0, 1], got {lowest:g} to {highest:g}; "
            "divide 8-bit values by 255, or undo a normalization"
        ]
    return []
