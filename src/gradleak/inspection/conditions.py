"""Parameters without gradients, normalization, dropout, in-place operations and precision of a model."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from gradleak.clients.stateless import Mode, dropout_layers
from gradleak.inspection.bound import Bound, Probe, chosen_kernels
from gradleak.inspection.derivatives import agree, coupling, difference
from gradleak.inspection.recording import Record
from gradleak.inspection.result import Conditions, Parameters

# Below, one example's derivative by another is rounding.
_COUPLED = 1e-9


def read_parameters(probe: Probe) -> Parameters:
    """Which parameters get a gradient at the batch, in evaluation mode.

    Args:
        probe: task and batch.

    Returns:
        The names by group.
    """
    bound = Bound.of(probe, "eval")
    leaves = bound.leaves()
    with chosen_kernels("math attention"), torch.enable_grad():
        loss = bound.loss(leaves, probe.variable)
        gradients = (
            torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            if loss.requires_grad
            else [None] * len(leaves)
        )
    named = list(zip(leaves, gradients, strict=True))
    model = probe.task.model
    first_names: dict[int, str] = {}
    tied: list[tuple[str, str]] = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = first_names.setdefault(id(parameter), name)
        if first != name:
            tied.append((name, first))
    return Parameters(
        total=len(leaves),
        without_gradient=tuple(name for name, gradient in named if gradient is None),
        zero_gradient=tuple(name for name, gradient in named if gradient is not None and not bool(gradient.any())),
        frozen=tuple(name for name, parameter in model.named_parameters() if not parameter.requires_grad),
        tied=tuple(tied),
    )


def read_conditions(probe: Probe, records: Sequence[tuple[Mode, Record]]) -> Conditions:
    """Normalization, dropout, randomness, in-place operations, precision.

    Args:
        probe: task and batch.
        records: what the model ran in each mode.

    Returns:
        What was found.
    """
    model = probe.task.model
    norms = [
        (name or type(module).__name__, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)  # pyright: ignore[reportPrivateUsage]  # the common base
        and not isinstance(module, nn.modules.instancenorm._InstanceNorm)  # pyright: ignore[reportPrivateUsage]
    ]
    coupled: list[Mode] = []
    random: list[Mode] = []
    for mode, _ in records:
        with chosen_kernels("math attention"):
            if len(probe.variable) > 1 and coupling(Bound.of(probe, mode)) > _COUPLED:
                coupled.append(mode)
            as_trained = Bound.of(probe, mode, as_attacks_do=False, fixed_draws=False)
            if not agree(lambda bound=as_trained: bound.outputs(bound.weights, probe.variable)):
                random.append(mode)
    return Conditions(
        batch_norm=tuple(name for name, _ in norms),
        without_running_statistics=tuple(name for name, module in norms if module.running_mean is None),
        coupled=tuple(coupled),
        dropout=tuple(dropout_layers(model)),
        random=tuple(random),
        in_place=tuple(dict.fromkeys(place for _, record in records for place in record.in_place)),
        inside=tuple(sorted({str(d).removeprefix("torch.") for _, record in records for d in record.dtypes})),
        precision=tuple(Counter(str(p.dtype).removeprefix("torch.") for p in model.parameters()).most_common()),
        mode_difference=_mode_difference(probe, [mode for mode, _ in records]),
    )


def _mode_difference(probe: Probe, modes: Sequence[Mode]) -> float:
    """Between the updates of the two modes, without dropout; NaN if one of them does not run."""
    if len(modes) < 2:
        return math.nan
    with chosen_kernels("math attention"):
        train, evaluation = (Bound.of(probe, mode).update(probe.variable) for mode in ("train", "eval"))
    return difference(train, evaluation)
