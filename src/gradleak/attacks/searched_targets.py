"""Which targets a search has: given, recovered by a rule, following from the candidate, or searched as well."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from gradleak.attacks.head import find_head
from gradleak.attacks.labels import bias_sign, row_minimum, row_sum_sign
from gradleak.attacks.labels.tokens import target_tokens
from gradleak.attacks.layout import Layout
from gradleak.attacks.mixed_targets import WHY_NOT, mixes_targets
from gradleak.threat import Observation

LabelPart = Literal["joint", "row_sum_sign", "bias_sign", "row_minimum", "evidence", "next_tokens"]


@runtime_checkable
class DerivesTargets(Protocol):
    """An input space whose inputs are their own targets."""

    def next_tokens(self, variable: Tensor) -> Tensor:
        """Target probabilities `[N, T, C]` from a variable `[N, ...]`, differentiable."""
        ...

    @property
    def target_gate(self) -> Callable[[Tensor], Tensor] | None:
        """From a variable how probable it is that each position has a target, `[N, T]`; None where nothing tells."""
        ...


def searched_layout(observation: Observation, batch_size: int, rule: LabelPart) -> Layout | str:
    """What is searched where the rule says how targets are had, or why they cannot be had.

    Args:
        observation: what the attacker holds.
        batch_size: N.
        rule: how labels are recovered where they are not given.

    Returns:
        The layout.
    """
    task = observation.task
    if rule == "evidence":
        found = recovered_targets(observation, batch_size, "bias_sign" if batch_size == 1 else "joint")
        layout = Layout.of(observation, batch_size, None if isinstance(found, str) else found)
        if layout.fixed_targets is None and task.classified == "token":
            gate = task.space.target_gate if isinstance(task.space, DerivesTargets) else None
            return replace(layout, classes=target_tokens(observation), gate=gate)
        return layout
    fixed_targets = recovered_targets(observation, batch_size, rule)
    if isinstance(fixed_targets, str):
        return fixed_targets
    layout = Layout.of(observation, batch_size, fixed_targets)
    if rule != "next_tokens" or fixed_targets is not None:
        return layout
    if not isinstance(task.space, DerivesTargets) or task.classified != "token":
        return "targets do not follow from inputs of this kind"
    return replace(layout, derived=task.space.next_tokens)


def recovered_targets(observation: Observation, batch_size: int, rule: LabelPart) -> Tensor | None | str:
    """Target probabilities `[N, C]` that are not searched, None if they are, or why they cannot be had.

    Args:
        observation: what the attacker holds.
        batch_size: N.
        rule: how labels are recovered where they are not given.

    Returns:
        The given targets if there are any, whatever the rule; not where a known defense mixed them.
    """
    task = observation.task
    if mixes_targets(observation):
        return None if rule == "joint" else WHY_NOT
    if observation.targets is not None:
        return task.target_probabilities(observation.targets)
    if rule in {"joint", "next_tokens"}:
        return None
    if task.classified == "token":
        return "the rules for labels find those of whole examples, and every token has one"
    if batch_size != 1 and rule != "row_minimum":
        return f"the sign rule finds the label of one example, and the batch has {batch_size}"
    if batch_size > task.num_classes:
        return f"the row-minimum rule needs distinct labels, and {batch_size} examples have {task.num_classes} classes"
    head = find_head(task, observation.state)
    if head is None:
        return "label recovery needs a linear classifier at the model's output, and there is none"
    tensors = observation.update.in_gradient_direction()
    if rule == "row_minimum":
        return task.target_probabilities(row_minimum(tensors[head.weight], batch_size))
    if rule == "bias_sign" and head.bias is not None:
        return task.target_probabilities(torch.tensor([bias_sign(tensors[head.bias])]))
    return task.target_probabilities(torch.tensor([row_sum_sign(tensors[head.weight])]))
