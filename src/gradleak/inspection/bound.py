"""A task at one batch, and its loss and update as functions of weights and input."""

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradleak.bottleneck import auxiliary_loss
from gradleak.clients.stateless import Mode, stateless_copy
from gradleak.tasks import Task

Kernels = Literal["own", "math attention", "plain"]


@dataclass(frozen=True, eq=False)
class Probe:
    """A task at one batch.

    Attributes:
        task: the task, with a model of one's own.
        variable: `[N, *variable_shape]` in the model's precision.
        targets: probabilities `[N, C]`.
    """

    task: Task
    variable: Tensor
    targets: Tensor

    def in_float64(self) -> "Probe":
        """The same in float64."""
        model = copy.deepcopy(self.task.model).double()
        task = replace(self.task, model=model)
        return Probe(task, self.variable.double(), self.targets.double())


@dataclass(frozen=True, eq=False)
class Bound:
    """Loss and outputs as functions of weights and variable, on a private copy of the model.

    Attributes:
        probe: task and batch.
        module: the copy.
        weights: the trained values.
        constants: all other values.
        fixed_draws: reseed torch's generators before each run, so that a model that draws in any mode is one function;
            for use inside `torch.random.fork_rng`.
    """

    probe: Probe
    module: nn.Module
    weights: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]
    fixed_draws: bool = True

    @staticmethod
    def of(probe: Probe, mode: Mode, *, as_attacks_do: bool = True, fixed_draws: bool = True) -> "Bound":
        """Bind in a mode; without dropout and with frozen buffers as attacks do, or as training does."""
        model = probe.task.model
        if as_attacks_do:
            module = stateless_copy(model, mode=mode, dropout="off").module
        else:
            module = copy.deepcopy(model).train(mode == "train")
        state = probe.task.state()
        known = {name for name, _ in [*module.named_buffers(), *module.named_parameters()]}
        constants = {name: value for name, value in state.constants.items() if name in known}
        return Bound(probe, module, state.parameters, constants, fixed_draws)

    def leaves(self) -> dict[str, Tensor]:
        """Fresh copies of the weights that ask for gradients."""
        return {name: value.detach().clone().requires_grad_() for name, value in self.weights.items()}

    def outputs(self, weights: Mapping[str, Tensor], variable: Tensor) -> Tensor:
        """Outputs `[N, C]`."""
        # Training mode overwrites buffers, which must not carry over to the next call.
        constants = {name: value.clone() for name, value in self.constants.items()}
        if self.fixed_draws:
            torch.default_generator.manual_seed(0)
            if variable.device.type == "cuda":
                torch.cuda.manual_seed(0)
        return self.probe.task.space.forward(self.module, {**weights, **constants}, variable)

    def loss(self, weights: Mapping[str, Tensor], variable: Tensor) -> Tensor:
        """The task's loss, with what the model's bottlenecks add."""
        value = self.probe.task.loss(self.outputs(weights, variable), self.probe.targets)
        added = auxiliary_loss(self.module)
        return value if added is None else value + added

    def update(self, variable: Tensor, *, create_graph: bool = False) -> list[Tensor]:
        """Gradients by the weights, zeros where there is none."""
        leaves = self.leaves()
        with torch.enable_grad():
            value = self.loss(leaves, variable)
            return list(
                torch.autograd.grad(value, list(leaves.values()), create_graph=create_graph, materialize_grads=True)
            )


@contextmanager
def chosen_kernels(kernels: Kernels) -> Generator[None]:
    """Kernels that compute the same function and can be differentiated more often.

    Yields:
        Nothing.
    """
    plain = kernels == "plain"
    with (
        nullcontext() if kernels == "own" else sdpa_kernel(SDPBackend.MATH),
        torch.backends.cudnn.flags(enabled=False) if plain else nullcontext(),
    ):
        yield
