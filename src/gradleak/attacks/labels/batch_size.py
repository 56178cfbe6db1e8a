"""How many examples an update was made from: the rank of the gradients of its linear layers."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradleak.attacks.labels.dummies import dummy_variables
from gradleak.clients import Gradient
from gradleak.linalg import singular_values_above_rounding
from gradleak.seeds import stage_generator
from gradleak.threat import Observation

_PROBES = 3
# Where the singular values fall gradually into the rounding, some examples are below it.
_CLEAR = 1e4
_VISIBLE = 100.0
_DUMMY_BATCHES = 4


@dataclass(frozen=True)
class BatchSize:
    """How many examples an update was made from.

    Attributes:
        size: at least so many; examples that are equal, or leave no trace, are not counted.
        certain: whether it is exactly so many: the layer would have shown more.
        layer: name of the weight whose gradient has this rank; None if the threat model gives the size.
        limit: the largest rank that this gradient's shape allows.
    """

    size: int
    certain: bool
    layer: str | None
    limit: int


@dataclass(frozen=True)
class NoBatchSize:
    """Why the batch size cannot be recovered.

    Attributes:
        reason: one sentence for people.
    """

    reason: str


def recover_batch_size(observation: Observation) -> BatchSize | NoBatchSize:
    """Count the examples of one gradient step by the rank of linear layers' weight gradients.

    A layer that receives one row for each example has the gradient `sum_n d_n x_n^T`, of rank N at most. Singular
    values count that exceed the rounding of the update's own precision, and the size is the largest rank of any layer.

    It is certain if it is below the shape's limit, the next singular value is far below the last that counts, and
    batches of one dummy input more, two of them with the same label, show one rank more as clearly. This excludes a
    classifier whose rows sum to zero, a bottleneck, and a saturated network that makes examples of a class look equal.

    Args:
        observation: what the attacker holds. Local steps and defenses may raise the rank; nothing is certain then.

    Returns:
        The size, or why there is none. Convolutions and layers on tokens are not usable, since every position adds to
        the rank.
    """
    if observation.batch_size is not None:
        return BatchSize(observation.batch_size, True, None, observation.batch_size)
    layers = _layers_with_a_row_per_example(observation)
    update = observation.update.tensors
    if not layers:
        kernels = sum(tensor.dim() > 2 for tensor in update.values())
        return NoBatchSize(
            "no linear layer with a trained weight receives one row for each example; the gradients of "
            f"{kernels} convolutions are not usable, whose rank counts positions as well"
        )
    ranks = {name: singular_values_above_rounding(update[name]) for name in layers if bool(update[name].any())}
    if not ranks:
        return NoBatchSize(f"the gradients of all {len(layers)} linear layers are zero")
    size = max(ranks.values())
    best = [name for name, rank in ranks.items() if rank == size]
    certain: list[str] = []
    if not observation.defenses and _is_one_step(observation):
        certain = [name for name in best if size < min(update[name].shape) and _gap(update[name], size) > _CLEAR]
        for seed in range(_DUMMY_BATCHES if certain else 0):
            more = _dummy_gradient(observation, size + 1, seed)
            certain = [
                name
                for name in certain
                if singular_values_above_rounding(more[name].to(update[name].dtype)) == size + 1
                and _gap(more[name], size + 1) > _VISIBLE
            ]
    layer = (certain or sorted(best, key=lambda name: -min(update[name].shape)))[0]
    return BatchSize(size, bool(certain), layer, min(update[layer].shape))


def _gap(matrix: Tensor, rank: int) -> float:
    """Ratio of the last singular value that counts to the first that does not; infinite if there is none."""
    values = torch.linalg.svdvals(matrix.double())
    return float(values[rank - 1] / values[rank]) if rank < len(values) else torch.inf


def _layers_with_a_row_per_example(observation: Observation) -> list[str]:
    """Names of trained weights of linear layers that receive `[N, n]` once, for every N."""
    task, state = observation.task, observation.state
    module = copy.deepcopy(task.model).eval()
    calls: Counter[str] = Counter()
    fitting: set[str] = set()

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            if inputs and inputs[0].dim() == 2 and len(inputs[0]) == _PROBES:
                fitting.add(name)

        return hook

    for name, layer in module.named_modules():
        weight = f"{name}.weight".lstrip(".")
        if isinstance(layer, nn.Linear) and weight in state.parameters:
            layer.register_forward_pre_hook(record(weight))
    probes = torch.zeros((_PROBES, *task.space.variable_shape), dtype=task.dtype, device=task.device)
    with torch.no_grad():
        task.space.forward(module, {**state.parameters, **state.constants}, probes)
    return [name for name in calls if calls[name] == 1 and name in fitting]


def _is_one_step(observation: Observation) -> bool:
    """Whether the update is one gradient; of an unknown client, only if it shares gradients."""
    return isinstance(observation.client, Gradient) or (
        observation.client is None and observation.update.kind == "gradient"
    )


def _dummy_gradient(observation: Observation, count: int, seed: int) -> dict[str, Tensor]:
    """The gradient of dummy inputs of which two have the same class, and the others different ones if possible.

    Returns:
        The gradient, by name.
    """
    task = observation.task
    client = observation.client if isinstance(observation.client, Gradient) else Gradient(dropout="off")
    variable = dummy_variables(task.space, count, seed).to(task.device, task.dtype)
    order = torch.randperm(task.num_classes, generator=stage_generator(seed, "labels/batch_size"))
    # Examples of one class are hardest to tell apart, and a batch may well hold two.
    targets = order[(torch.arange(count) - 1).clamp_min(0) % task.num_classes]
    return client.bind(task, observation.state)(variable, task.target_probabilities(targets))
