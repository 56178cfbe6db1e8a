"""The client of FedSGD: one gradient of the loss averaged over the private batch."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._C._functorch import maybe_current_level  # no public function tells whether a transform is active
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradleak.clients.protocol import Simulate
from gradleak.clients.second_backward import ConstantWeights, worthwhile
from gradleak.clients.stateless import DropoutChoice, Mode, dropout_layers, stateless_copy
from gradleak.tasks import ModelState, Task
from gradleak.updates import UpdateKind


@dataclass(frozen=True)
class Gradient:
    """Share `dL/dw` of the mean loss over the private batch (Zhu, Liu, Han 2019, equation 3).

    Args:
        mode: `"eval"`: BatchNorm normalizes with its running statistics; `"train"`: with those of the batch.
        dropout: how masks are handled in a model that has dropout: `"off"` if the client trained without it,
            `"fixed_mask"` if each layer's mask is drawn once from `dropout_seed`, which the attacker then knows.
            A model with dropout is refused until one of them is chosen.
        dropout_seed: seed of the fixed masks.
    """

    mode: Mode = "eval"
    dropout: DropoutChoice | None = None
    dropout_seed: int = 0

    @property
    def kind(self) -> UpdateKind:
        """A gradient."""
        return "gradient"

    def problems(self, task: Task) -> list[str]:
        """Settings outside their range, and dropout without a choice of its masks."""
        problems: list[str] = []
        if self.mode not in {"eval", "train"}:
            problems.append(f"client.mode: expected 'eval' or 'train', got {self.mode!r}; choose one")
        if self.dropout not in {None, "off", "fixed_mask"}:
            problems.append(f"client.dropout: expected 'off' or 'fixed_mask', got {self.dropout!r}; choose one")
        layers = dropout_layers(task.model)
        if layers and self.dropout is None:
            problems.append(
                f"client.dropout: expected a choice for the dropout layers {', '.join(layers)}, got none; "
                "use dropout='off' if the client trained without, or dropout='fixed_mask' for known masks"
            )
        heads = [
            name
            for name in layers
            if self.dropout == "fixed_mask"
            and isinstance(getattr(task.model.get_submodule(name), "dropout", None), float)
        ]
        if heads:
            problems.append(
                f"client.dropout: expected dropout layers whose mask can be fixed, got {', '.join(heads)}, "
                "which draw masks internally; use dropout='off'"
            )
        return problems

    def bind(self, task: Task, state: ModelState, generator: torch.Generator | None = None) -> Simulate:
        """Copy the model in the chosen mode once; see `Client.bind`. This client uses no randomness."""
        del generator
        module = stateless_copy(task.model, mode=self.mode, dropout=self.dropout, dropout_seed=self.dropout_seed)
        buffers = {name for name, _ in module.named_buffers()} | {name for name, _ in module.named_parameters()}
        constants = {name: value for name, value in state.constants.items() if name in buffers}
        parameters = dict(state.parameters)

        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        large: dict[torch.Size, bool] = {}  # by the shape of the variable

        def loss(trained: Mapping[str, Tensor], variable: Tensor, target_probabilities: Tensor) -> Tensor:
            outputs = task.space.forward(module, {**trained, **constants}, variable)
            return task.loss(outputs, target_probabilities)

        def simulate(variable: Tensor, target_probabilities: Tensor) -> dict[str, Tensor]:
            # The fused attention kernels have no second derivative; the plain one has.
            with sdpa_kernel(SDPBackend.MATH):
                if torch.compiler.is_compiling() or maybe_current_level() is not None:
                    return torch.func.grad(loss)(parameters, variable, target_probabilities)
                # Outside every function transform, plain autograd does the same operations in two thirds of the time.
                differentiable = torch.is_grad_enabled() and (
                    variable.requires_grad or target_probabilities.requires_grad
                )
                if differentiable and variable.shape not in large:
                    large[variable.shape] = worthwhile(lambda: loss(leaves, variable, target_probabilities))
                sparing = (
                    ConstantWeights(leaves.values()) if differentiable and large[variable.shape] else nullcontext()
                )
                with sparing, torch.enable_grad():
                    value = loss(leaves, variable, target_probabilities)
                    gradients = torch.autograd.grad(
                        value, list(leaves.values()), create_graph=differentiable, materialize_grads=True
                    )
            return dict(zip(leaves, gradients, strict=True))

        return simulate
