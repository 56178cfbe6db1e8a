"""One step of training as a pure function of parameters, buffers and batch: what every client with gradients shares."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level  # no public function tells whether a transform is active
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradleak.bottleneck import auxiliary_loss
from gradleak.clients.second_backward import ConstantWeights, worthwhile
from gradleak.clients.settings import AUTOCAST_TYPES, StepSettings
from gradleak.clients.stateless import Given, StatelessCopy, stateless_copy
from gradleak.tasks import ModelState, Task

Draws = Mapping[str, Tensor]
"""A client's private draws, dropout masks and latent noise: by the name of the buffer that takes them, each of the
shape of what enters its layer."""


@dataclass(frozen=True, eq=False)
class Draw:
    """What one layer needs at a batch.

    Attributes:
        shape: `[N, ...]`.
        layer: which draws it, a `GivenMask` or `GivenNoise`.
    """

    shape: torch.Size
    layer: Given


@dataclass(frozen=True, eq=False)
class StepResult:
    """What one step computes.

    Attributes:
        gradients: of the mean loss, by name.
        buffers: all buffers after the step, by name.
    """

    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class BoundStep:
    """One step of a client on one task, prepared by `bound_step`.

    Attributes:
        settings: how it is made.
        task: the public task.
        copied: the private copy of the model.
        parameters: the trained parameters before the first step, by name.
        constants: frozen parameters, by name.
        buffers: before the first step, by name.
        large: whether `ConstantWeights` saves time, by the shape of the variable, as found so far.
    """

    settings: StepSettings
    task: Task
    copied: StatelessCopy
    parameters: dict[str, Tensor]
    constants: dict[str, Tensor]
    buffers: dict[str, Tensor]
    large: dict[torch.Size, bool] = field(default_factory=dict[torch.Size, bool])

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        variable: Tensor,
        target_probabilities: Tensor,
        draws: Draws | None = None,
        *,
        constant_weights: bool = False,
    ) -> StepResult:
        """Gradients by `parameters` at one batch, differentiable by everything given.

        Args:
            parameters: values of the trained parameters; the gradient has exactly these names.
            buffers: their values before the step.
            variable: `[N, *variable_shape]`.
            target_probabilities: `[N, C]`.
            draws: masks of random dropout and latent noise, `[N, ...]` each; none means no dropout and no noise.
            constant_weights: nothing is differentiated by `parameters`, which saves time.

        Returns:
            The gradients and the buffers after the step.
        """
        size = self.settings.micro_batch or len(variable)
        if size >= len(variable):
            return self._pass(parameters, buffers, variable, target_probabilities, draws or {}, constant_weights)
        total: dict[str, Tensor] = {}
        now = dict(buffers)
        for first in range(0, len(variable), size):
            part = slice(first, first + size)
            chosen = {name: draw[part] for name, draw in (draws or {}).items()}
            result = self._pass(parameters, now, variable[part], target_probabilities[part], chosen, constant_weights)
            now = result.buffers
            share = len(variable[part]) / len(variable)
            for name, gradient in result.gradients.items():
                total[name] = share * gradient + total[name] if name in total else share * gradient
        return StepResult(total, now)

    def loss(
        self, parameters: Mapping[str, Tensor], variable: Tensor, target_probabilities: Tensor, draws: Draws
    ) -> Tensor:
        """The mean loss of one forward pass, with what the model's bottlenecks add."""
        state = {**self.constants, **self._known(self.buffers), **parameters, **draws}
        with self._precision():
            outputs = self.task.space.forward(self.copied.module, state, variable)
        # Losses are computed in full precision, as under autocast in a training script.
        loss = self.task.loss(outputs.to(self.task.dtype), target_probabilities)
        added = auxiliary_loss(self.copied.module)
        return loss if added is None else loss + added.to(loss.dtype)

    def _pass(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        variable: Tensor,
        target_probabilities: Tensor,
        draws: Draws,
        constant_weights: bool,
    ) -> StepResult:
        """One forward and backward pass."""
        scale = self.settings.loss_scale

        def scaled(trained: Mapping[str, Tensor], at: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            self.copied.entered.clear()
            value = self.loss(trained, at, targets, draws)
            after = {**buffers, **self.copied.running_statistics(buffers)}
            self.copied.entered.clear()
            return value if scale == 1.0 else scale * value, after

        # The fused attention kernels have no second derivative; the plain one has.
        with sdpa_kernel(SDPBackend.MATH):
            if torch.compiler.is_compiling() or maybe_current_level() is not None:
                gradients, after = torch.func.grad(scaled, has_aux=True)(
                    dict(parameters), variable, target_probabilities
                )
            else:
                gradients, after = self._autograd(scaled, parameters, variable, target_probabilities, constant_weights)
        if scale != 1.0:
            gradients = {name: gradient / scale for name, gradient in gradients.items()}
        return StepResult(gradients, after)

    def _autograd(
        self,
        scaled: Callable[[Mapping[str, Tensor], Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]],
        parameters: Mapping[str, Tensor],
        variable: Tensor,
        target_probabilities: Tensor,
        constant_weights: bool,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outside every function transform, plain autograd does the same operations in two thirds of the time."""
        leaves = {
            name: value if value.requires_grad and not constant_weights else value.detach().requires_grad_()
            for name, value in parameters.items()
        }
        followed = [variable, target_probabilities, *(() if constant_weights else parameters.values())]
        differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in followed)
        sparing: AbstractContextManager[object] = nullcontext()
        if constant_weights and differentiable and self._worthwhile(leaves, variable, target_probabilities):
            sparing = ConstantWeights(leaves.values())
        with sparing, torch.enable_grad():
            value, after = scaled(leaves, variable, target_probabilities)
            gradients = torch.autograd.grad(
                value, list(leaves.values()), create_graph=differentiable, materialize_grads=True
            )
        if not differentiable:
            after = {name: buffer.detach() for name, buffer in after.items()}
        return dict(zip(leaves, gradients, strict=True)), after

    def _worthwhile(self, leaves: Mapping[str, Tensor], variable: Tensor, targets: Tensor) -> bool:
        if variable.shape not in self.large:
            self.large[variable.shape] = worthwhile(lambda: self.loss(leaves, variable, targets, {}))
            self.copied.entered.clear()
        return self.large[variable.shape]

    def _precision(self) -> AbstractContextManager[object]:
        dtype = None if self.settings.autocast is None else AUTOCAST_TYPES[self.settings.autocast]
        # Values in float64, in which an attack may compute, are left alone by autocast.
        return nullcontext() if dtype is None else torch.autocast(self.task.device.type, dtype)

    def _known(self, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The buffers that the copy has; in training mode it has no running statistics."""
        names = {name for name, _ in self.copied.module.named_buffers()}
        return {name: value for name, value in buffers.items() if name in names}

    def draws(self, variable: Tensor) -> dict[str, Draw]:
        """What random dropout and bottlenecks need at a batch.

        Args:
            variable: `[N, *variable_shape]`, of which only the shape matters.

        Returns:
            By the name of the buffer that takes it.
        """
        found: dict[str, Draw] = {}
        handles: list[torch.utils.hooks.RemovableHandle] = []

        def recorder(name: str, drawing: Given) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def record(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                found[name] = Draw(inputs[0].shape, drawing)

            return record

        for name, layer in self.copied.module.named_modules():
            if isinstance(layer, Given):
                full = f"{name}.{layer.buffer}" if name else layer.buffer
                handles.append(layer.register_forward_pre_hook(recorder(full, layer)))
        if handles:
            targets = torch.full((len(variable), *self.task.target_shape), 1 / self.task.num_classes)
            with torch.no_grad():
                self.loss(self.parameters, variable.detach(), targets.to(variable), {})
            self.copied.entered.clear()
        for handle in handles:
            handle.remove()
        return found

    def draw(self, variable: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Private draws for one batch, by name; none without a generator: no dropout, and no latent noise."""
        if generator is None:
            return {}
        return {
            name: draw.layer.draw(draw.shape, generator).to(variable.device, variable.dtype)
            for name, draw in self.draws(variable).items()
        }


def bound_step(settings: StepSettings, task: Task, state: ModelState, *, all_trained: bool) -> BoundStep:
    """Copy the model in the chosen mode once.

    Args:
        settings: how the step is made.
        task: the public task.
        state: the model's values before it; parameters that are not sent may stand among the constants.
        all_trained: whether parameters that are not sent are trained nevertheless; a single gradient need not know
            theirs.

    Returns:
        The step.
    """
    copied = stateless_copy(
        task.model, mode=settings.mode, dropout=settings.dropout, dropout_seed=settings.dropout_seed
    )
    parameters, constants = dict(state.parameters), dict(state.constants)
    if all_trained:
        everything = {**constants, **parameters}
        trained = [name for name, parameter in task.model.named_parameters() if parameter.requires_grad]
        parameters = {name: everything[name] for name in trained}
        constants = {name: value for name, value in constants.items() if name not in parameters}
    buffers = {name for name, _ in task.model.named_buffers()}
    return BoundStep(
        settings,
        task,
        copied,
        parameters,
        {name: value for name, value in constants.items() if name not in buffers},
        {name: value for name, value in constants.items() if name in buffers},
    )
