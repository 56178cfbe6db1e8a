"""How a client makes one step of training: the settings that every client with gradients shares."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from gradleak.clients.stateless import DropoutChoice, Mode, dropout_layers, hidden_dropout_layers
from gradleak.tasks import ModelState, Task

Autocast = Literal["bf16", "fp16"]

AUTOCAST_TYPES: Mapping[Autocast, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How a client computes a gradient.

    Args:
        mode: `"eval"`: BatchNorm normalizes with its running statistics; `"train"`: with those of the batch.
        dropout: how masks are handled in a model that has dropout: `"off"` if the client trained without it,
            `"fixed_mask"` if each layer's mask is drawn once from `dropout_seed`, which the attacker then knows,
            `"random"` if every step draws masks for every example, which nobody else knows. A model with dropout is
            refused until one of them is chosen.
        dropout_seed: seed of the fixed masks.
        autocast: mixed precision: the forward pass runs under `torch.autocast` in this type; None for none.
        loss_scale: the loss is multiplied by it before the backward pass and the gradients are divided by it after,
            as gradient scalers do; above 0, and 1 for none.
        micro_batch: gradient accumulation: examples that pass together; their gradients are averaged in proportion to
            their numbers, which differs from one pass only where BatchNorm sees batches. None for all at once.
        send_buffers: in training mode, also send BatchNorm's running statistics after the step.
        sent: shell patterns of the names of trained parameters that are sent, `("head.*",)`; None for all. What is not
            sent stays on the client; its values before the step count as public.
    """

    mode: Mode = "eval"
    dropout: DropoutChoice | None = None
    dropout_seed: int = 0
    autocast: Autocast | None = None
    loss_scale: float = 1.0
    micro_batch: int | None = None
    send_buffers: bool = False
    sent: tuple[str, ...] | None = None

    def problems(self, task: Task) -> list[str]:
        """Settings outside their range or against each other, and dropout without a choice of its masks."""
        problems = _choices(self)
        if not 0 < self.loss_scale < float("inf"):
            problems.append(f"client.loss_scale: expected a finite number above 0, got {self.loss_scale}; 1 is none")
        if self.micro_batch is not None and self.micro_batch < 1:
            problems.append(f"client.micro_batch: expected at least 1, got {self.micro_batch}; None passes all at once")
        return problems + self._dropout_problems(task) + self._model_problems(task)

    def _dropout_problems(self, task: Task) -> list[str]:
        layers, hidden = dropout_layers(task.model), hidden_dropout_layers(task.model)
        if layers and self.dropout is None:
            return [
                f"client.dropout: expected a choice for the dropout layers {', '.join(layers)}, got none; "
                "use dropout='off' if the client trained without, dropout='fixed_mask' for known masks, or "
                "dropout='random' for masks that nobody knows"
            ]
        if hidden and self.dropout in {"fixed_mask", "random"}:
            return [
                f"client.dropout: expected dropout layers whose mask can be set, got {', '.join(hidden)}, "
                "which draw masks internally; use dropout='off'"
            ]
        return []

    def _model_problems(self, task: Task) -> list[str]:
        problems: list[str] = []
        if self.send_buffers and self.mode != "train":
            problems.append(
                "client.send_buffers: expected mode='train', in which running statistics change, got mode='eval'; "
                "set one of them"
            )
        elif self.send_buffers and not stateful_layers(task.model):
            problems.append("client.send_buffers: expected a model with running statistics, got none; leave it out")
        if self.autocast is not None and task.dtype != torch.float32:
            problems.append(f"client.autocast: expected a float32 model, got {task.dtype}; convert it or leave it out")
        trained = [name for name, parameter in task.model.named_parameters() if parameter.requires_grad]
        for pattern in self.sent or ():
            if not fnmatch.filter(trained, pattern):
                problems.append(
                    f"client.sent: expected patterns of trained parameters ({', '.join(trained[:3])}, ...), got "
                    f"{pattern!r}, which fits none; correct it"
                )
        if self.sent is not None and not self.sent:
            problems.append("client.sent: expected at least one pattern, got none; None sends every parameter")
        return problems


def _choices(settings: StepSettings) -> list[str]:
    """Words that are none of those known."""
    found: list[str] = []
    for name, value, known in (
        ("mode", settings.mode, ("eval", "train")),
        ("dropout", settings.dropout, (None, "off", "fixed_mask", "random")),
        ("autocast", settings.autocast, (None, *AUTOCAST_TYPES)),
    ):
        if value not in known:
            words = " or ".join(repr(word) for word in known if word is not None)
            found.append(f"client.{name}: expected {words}, got {value!r}; choose one")
    return found


def stateful_layers(model: nn.Module) -> list[str]:
    """Names of the layers with running statistics."""
    return [name for name, layer in model.named_modules() if getattr(layer, "running_mean", None) is not None]


def sent_names(client: object, names: Sequence[str]) -> list[str]:
    """Those of the trained parameters that this client sends, in order; all where it does not say."""
    patterns: tuple[str, ...] | None = getattr(client, "sent", None)
    if patterns is None:
        return list(names)
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def sent_state(client: object, state: ModelState) -> ModelState:
    """The state as an observation of this client's update has it: what is not sent counts as constant."""
    sent = set(sent_names(client, list(state.parameters)))
    if len(sent) == len(state.parameters):
        return state
    kept = {name: value for name, value in state.parameters.items() if name not in sent}
    return ModelState(
        {name: value for name, value in state.parameters.items() if name in sent}, {**kept, **state.constants}
    )
