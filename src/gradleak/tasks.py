"""What the server hands out: the model, its loss, and what an input is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gradleak.errors import BadInput, refuse
from gradleak.tokens import IGNORED, OfTokens, token_cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]
"""`loss(outputs [N, C], target_probabilities [N, C]) -> scalar`, averaged over the batch; `[N, T, C]` for tokens."""

Classified = Literal["example", "token"]
"""What has a class: each example, or each position of a sequence, as in language models."""


def soft_cross_entropy(outputs: Tensor, target_probabilities: Tensor) -> Tensor:
    """Cross-entropy with soft targets, averaged over the batch (the loss of the released DLG code).

    Args:
        outputs: logits `[N, C]`.
        target_probabilities: one row of class probabilities per example, `[N, C]`; one-hot rows give the
            ordinary cross-entropy.

    Returns:
        A scalar.
    """
    return -(target_probabilities * torch.log_softmax(outputs, dim=-1)).sum(dim=-1).mean()


@runtime_checkable
class InputSpace(Protocol):
    """What an input is, and the continuous variable through which an attack searches for it.

    An attack never optimizes inputs; it optimizes the *variable* that the space defines, and the space decodes
    the result. For images and rows the two coincide. For tokens the variable is continuous (for instance token
    probabilities, which enter through the model's embedding) while the input is an integer sequence.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input in the space's own units."""
        ...

    @property
    def variable_shape(self) -> tuple[int, ...]:
        """Shape of the continuous variable of one input."""
        ...

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Smallest and largest value of an input in its own units, or None when there is no such limit."""
        ...

    def problems(self, inputs: Tensor) -> list[str]:
        """Everything that is wrong with a batch of inputs, one line each."""
        ...

    def encode(self, inputs: Tensor) -> Tensor:
        """The variable `[N, *variable_shape]` that stands for inputs `[N, *shape]`."""
        ...

    def decode(self, variable: Tensor) -> Tensor:
        """The nearest valid inputs `[N, *shape]` for a variable `[N, *variable_shape]`."""
        ...

    def forward(self, module: nn.Module, state: Mapping[str, Tensor], variable: Tensor) -> Tensor:
        """The module's outputs at the variable, with `state` in place of its parameters and buffers."""
        ...


def _batch_problems(what: str, shape: tuple[int, ...], inputs: Tensor) -> list[str]:
    """Faults of a batch of real-valued inputs against the shape of one of them."""
    if tuple(inputs.shape[1:]) != shape:
        wanted = ", ".join(map(str, ("N", *shape)))
        return [f"inputs: expected {what} of shape [{wanted}], got {list(inputs.shape)}; reshape or change the space"]
    if len(inputs) == 0:
        return ["inputs: expected a batch of at least 1 example, got 0; give the client's private batch"]
    if inputs.is_complex() or not inputs.is_floating_point():
        return [f"inputs: expected floating-point values, got {inputs.dtype}; convert and scale them first"]
    if not bool(torch.isfinite(inputs).all()):
        return ["inputs: expected finite values, got NaN or infinity; clean the batch first"]
    return []


@dataclass(frozen=True)
class ImageSpace:
    """Images `[channels, height, width]` in pixel units, with the normalization that the model expects.

    The attack's variable is the image in pixel units; `forward` normalizes it, so bounds and scores never depend
    on mean and std.

    Args:
        shape: `(channels, height, width)`.
        mean: per-channel mean subtracted before the model, in pixel units; one number serves all channels.
        std: per-channel standard deviation divided by after that, in pixel units.
        bounds: smallest and largest pixel value.

    Raises:
        BadInput: on a shape that is not three positive integers, a mean or std of the wrong length, a std that is
            not positive, or empty bounds.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(side) for side in self.shape))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        problems: list[str] = []
        if len(self.shape) != 3 or min(self.shape) < 1:
            problems.append(f"image shape: expected (channels, height, width), got {self.shape}; e.g. (3, 32, 32)")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.shape[0]}:
                problems.append(
                    f"{name}: expected 1 or {self.shape[0]} values, got {len(values)}; give one for each channel"
                )
        if min(self.std, default=0.0) <= 0:
            problems.append(f"std: expected positive values, got {self.std}; use (1.0,) for no scaling")
        if not self.bounds[0] < self.bounds[1]:
            problems.append(f"bounds: expected low < high, got {self.bounds}; images in [0, 1] have (0.0, 1.0)")
        refuse(problems)

    @property
    def variable_shape(self) -> tuple[int, ...]:
        """An image is its own variable."""
        return self.shape

    def problems(self, inputs: Tensor) -> list[str]:
        """Wrong shape, empty batch, integer, complex or non-finite pixels, pixels outside the bounds."""
        found = _batch_problems("images", self.shape, inputs)
        low, high = self.bounds
        # A little slack: resampling and float16 storage overshoot by rounding.
        if not found and (float(inputs.min()) < low - 1e-3 or float(inputs.max()) > high + 1e-3):
            found.append(
                f"inputs: expected pixels in [{low:g}, {high:g}], got [{float(inputs.min()):g}, "
                f"{float(inputs.max()):g}]; give un-normalized pixels, the space applies mean and std itself"
            )
        return found

    def encode(self, inputs: Tensor) -> Tensor:
        """The images themselves."""
        return inputs

    def decode(self, variable: Tensor) -> Tensor:
        """Pixels clamped to the bounds."""
        return variable.clamp(*self.bounds)

    def forward(self, module: nn.Module, state: Mapping[str, Tensor], variable: Tensor) -> Tensor:
        """The module's outputs at the normalized images."""
        mean = torch.as_tensor(self.mean, dtype=variable.dtype, device=variable.device).view(-1, 1, 1)
        std = torch.as_tensor(self.std, dtype=variable.dtype, device=variable.device).view(-1, 1, 1)
        plain = self.mean == (0.0,) and self.std == (1.0,)
        return functional_call(module, dict(state), (variable if plain else (variable - mean) / std,))


@dataclass(frozen=True)
class TabularSpace:
    """Rows of real numbers, as the model receives them.

    Args:
        columns: number of columns.
        bounds: smallest and largest value of every column, or None.

    Raises:
        BadInput: when `columns` is below 1 or the bounds are empty.
    """

    columns: int
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.columns < 1:
            problems.append(f"columns: expected at least 1, got {self.columns}; give the length of a row")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            problems.append(f"bounds: expected low < high, got {self.bounds}; None means no bounds")
        refuse(problems)

    @property
    def shape(self) -> tuple[int, ...]:
        """One row."""
        return (self.columns,)

    @property
    def variable_shape(self) -> tuple[int, ...]:
        """A row is its own variable."""
        return self.shape

    def problems(self, inputs: Tensor) -> list[str]:
        """Wrong shape, empty batch, integer, complex or non-finite values."""
        return _batch_problems("rows", self.shape, inputs)

    def encode(self, inputs: Tensor) -> Tensor:
        """The rows themselves."""
        return inputs

    def decode(self, variable: Tensor) -> Tensor:
        """Rows clamped to the bounds, if there are any."""
        return variable if self.bounds is None else variable.clamp(*self.bounds)

    def forward(self, module: nn.Module, state: Mapping[str, Tensor], variable: Tensor) -> Tensor:
        """The module's outputs at the rows."""
        return functional_call(module, dict(state), (variable,))


@dataclass(frozen=True, eq=False)
class ModelState:
    """The values of a model at the moment of the client's step, copied so that later training cannot alter them.

    Attributes:
        parameters: the trained ones, by name, in the model's own order; an update has exactly these names.
        constants: frozen parameters and buffers, by name.
    """

    parameters: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """The public model with its loss and its input space: everything that the server hands out.

    The model is only read: attacks run on copies of its values, and its training flags are never touched.

    Args:
        model: any module from a batch of inputs to outputs `[N, num_classes]`, or to `[N, T, num_classes]` where every
            token is classified.
        space: what an input is.
        num_classes: number of classes C; for language models the vocabulary.
        loss: see `Loss`; `torch.nn.CrossEntropyLoss(...)` objects fit, since they accept class probabilities. Where
            every token is classified the default is `token_cross_entropy`.
        classified: what has a class; `"token"` with a `TokenSpace` only, and then targets are ids `[N, T]` with
            `IGNORED` (-100) where there is none (`next_tokens`, `masked_tokens`).

    Raises:
        BadInput: when the model has nothing to train, refuses an input of the declared shape, or returns another
            number of classes.
    """

    model: nn.Module
    space: InputSpace
    num_classes: int
    loss: Loss = field(default=soft_cross_entropy)
    classified: Classified = "example"

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.classified == "token" and self.loss is soft_cross_entropy:
            object.__setattr__(self, "loss", token_cross_entropy)
        if self.classified == "token" and not isinstance(self.space, OfTokens):
            problems.append(
                f"classified: expected 'example' for a {type(self.space).__name__}, got 'token'; only sequences of "
                "tokens have a class at every position"
            )
        if self.num_classes < 2:
            problems.append(f"num_classes: expected at least 2, got {self.num_classes}; count the model's outputs")
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            problems.append(
                "model: expected at least one parameter with requires_grad, got none; "
                "an update holds only trained parameters, so unfreeze what the client trains"
            )
        refuse(problems or self._forward_problems())

    def _forward_problems(self) -> list[str]:
        """Run the model once on an all-zero batch and report what does not fit."""
        flags = [(module, module.training) for module in self.model.modules()]
        shape = list(self.space.shape)
        try:
            # A model with a latent variable draws, and the caller's random state is not ours to advance.
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                variable = torch.zeros((1, *self.space.variable_shape), dtype=self.dtype, device=self.device)
                outputs = self.space.forward(self.model.eval(), {}, variable)
        except BadInput as error:
            return list(error.problems)
        # The model is foreign code, and any exception of it means the same to the user: it refuses this input.
        except Exception as error:  # noqa: BLE001
            found = self.space.token_space.position_problems(self.model) if isinstance(self.space, OfTokens) else []
            if found:
                return found
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return [f"model: expected it to accept an input of shape {shape}, got {reason}; check shape and model"]
        finally:
            for module, training in flags:
                module.training = training
        if tuple(outputs.shape) != (1, *self.target_shape):
            wanted = ", ".join(map(str, ("N", *self.target_shape)))
            return [
                f"model: expected outputs of shape [{wanted}], got {['N', *outputs.shape[1:]]} "
                f"for inputs of shape {shape}; correct num_classes, classified or the model"
            ]
        return []

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one example's target probabilities: `(C,)`, or `(T, C)` where every token is classified."""
        return (*self.space.shape, self.num_classes) if self.classified == "token" else (self.num_classes,)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the model's trained parameters (the first one's)."""
        return next(parameter.dtype for parameter in self.model.parameters() if parameter.requires_grad)

    @property
    def device(self) -> torch.device:
        """Device of the model's trained parameters (the first one's)."""
        return next(parameter.device for parameter in self.model.parameters() if parameter.requires_grad)

    def state(self) -> ModelState:
        """A copy of the model's present values; tied parameters appear once, under their first name."""
        trained: dict[str, Tensor] = {}
        constants: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            (trained if parameter.requires_grad else constants)[name] = parameter.detach().clone()
        constants.update((name, buffer.detach().clone()) for name, buffer in self.model.named_buffers())
        return ModelState(trained, constants)

    def encode(self, inputs: Tensor) -> Tensor:
        """The variable for inputs, in the model's own precision and on its device."""
        return self.space.encode(inputs.to(self.device)).to(self.dtype)

    def target_probabilities(self, targets: Tensor) -> Tensor:
        """Targets as rows of probabilities `[N, C]`, from class indices `[N]` or rows that are already soft.

        Returns:
            Where every token is classified `[N, T, C]`, from ids `[N, T]`, with rows of zeros where there is no target.
        """
        targets = targets.to(self.device)
        if targets.dim() == 1 + len(self.target_shape):
            return targets.to(self.dtype)
        rows = nn.functional.one_hot(targets.long().clamp(min=0), self.num_classes).to(self.dtype)
        return rows if self.classified == "example" else rows * (targets != IGNORED)[..., None].to(self.dtype)

    def target_problems(self, targets: Tensor, count: int) -> list[str]:
        """Everything that is wrong with the targets of a batch of `count` examples, one line each."""
        classes = self.num_classes
        if self.classified == "token":
            return self._token_target_problems(targets, count)
        if targets.dim() not in {1, 2} or len(targets) != count or targets.shape[1:] not in {(), (classes,)}:
            return [
                f"targets: expected class indices [{count}] or probabilities [{count}, {classes}], "
                f"got shape {list(targets.shape)}; give one target for each input"
            ]
        if targets.dim() == 1:
            if targets.is_floating_point() or targets.is_complex():
                return [f"targets: expected integer class indices, got {targets.dtype}; call .long() on them"]
            if count and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
                return [
                    f"targets: expected classes 0..{classes - 1}, got {int(targets.min())}..{int(targets.max())}; "
                    "correct the labels or num_classes"
                ]
        elif not bool(torch.isfinite(targets).all()) or float((targets.sum(dim=1) - 1).abs().max()) > 1e-3:
            return ["targets: expected rows of probabilities that sum to 1, got other values; normalize the rows"]
        return []

    def _token_target_problems(self, targets: Tensor, count: int) -> list[str]:
        """The same where every position has a target."""
        wanted = (count, *self.space.shape)
        if tuple(targets.shape) != wanted or targets.is_floating_point():
            return [
                f"targets: expected token ids of shape {list(wanted)}, got {targets.dtype} of shape "
                f"{list(targets.shape)}; give one for each position, {IGNORED} where there is none"
            ]
        kept = targets[targets != IGNORED]
        if kept.numel() == 0:
            return [
                f"targets: expected at least one position with a target, got {IGNORED} everywhere; nothing is trained"
            ]
        if int(kept.min()) < 0 or int(kept.max()) >= self.num_classes:
            return [
                f"targets: expected ids from 0 to {self.num_classes - 1} or {IGNORED}, got {int(kept.min())} to "
                f"{int(kept.max())}; use the tokenizer that belongs to this model"
            ]
        return []
