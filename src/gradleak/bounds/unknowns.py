"""The deterministic part of a defended client as a function of what the attacker does not know."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from gradleak.bounds.batch_changes import linear_changes
from gradleak.bounds.noise import NoiseStage, Placed
from gradleak.bounds.rounding import defense_variance, type_variance
from gradleak.captures import in_drawn_order
from gradleak.clients import Aggregate, Client
from gradleak.clients.settings import StepSettings, sent_state
from gradleak.defenses import (
    QSGD,
    AddsNoise,
    Defense,
    LooksAtStep,
    PrivateStep,
    Quantize,
    RandomK,
    Sign,
)
from gradleak.errors import BadInput
from gradleak.linalg import JacobianOperator, RecordedJacobian
from gradleak.seeds import stage_generator
from gradleak.tasks import Task
from gradleak.updates import parted

Named = dict[str, Tensor]
_Products = TypeVar("_Products", bound=JacobianOperator)


@dataclass(frozen=True, eq=False)
class Unknowns:
    """What a bound differentiates: flat inputs and, where they are unknown, probabilities, to a flat update.

    Everything is in float64. Buffers that the client sends come after the update's tensors.

    Attributes:
        by_inputs: J by the inputs `[N * size]`, in the input space's own units.
        by_targets: J by the targets, in orthonormal coordinates of rows that sum to zero; None where they are known.
        sent: the update before noise at the true batch, by name.
        names: of what is flattened, in order, those of sent buffers at the end.
        mask: 0 for entries that are withheld after the noise, else 1, `[P]`.
        variance: of the rounding before the noise, by an entry, `[P]`.
        precision: variance of all rounding, that of the type in which the client computes included, `[P]`.
        buffers: entries at the end that no defense touched.
    """

    by_inputs: JacobianOperator
    by_targets: JacobianOperator | None
    sent: Named
    names: tuple[str, ...]
    mask: Tensor
    variance: Tensor
    precision: Tensor
    buffers: int


def unknowns(
    task: Task,
    inputs: Tensor,
    targets: Tensor,
    client: Client,
    defenses: Sequence[Defense],
    stage: NoiseStage,
    *,
    targets_unknown: bool,
    seed: int,
) -> Unknowns:
    """Differentiate a defended client.

    Args:
        task: with the defenses that are parts of the model built in.
        inputs: private inputs `[N, *shape]`.
        targets: class indices `[N]`, or probabilities `[N, C]`.
        client: how the update is made.
        defenses: all of them, for their changes to the batch.
        stage: which of them lie before the noise.
        targets_unknown: whether the probabilities are among the unknowns.
        seed: of private choices such as masks and orders, which count as they fall.

    Returns:
        The operators, which compute nothing yet.

    Raises:
        BadInput: where the client cannot be differentiated.
    """
    exact = _in_double(task)
    acting = _without_autocast(in_drawn_order(client, len(inputs), seed))
    state = sent_state(client, exact.state())
    step = acting.bind(exact, state)
    variable, probabilities = exact.encode(inputs), exact.target_probabilities(targets)
    change_inputs, change_targets = linear_changes(defenses, variable, probabilities, exact, seed)

    def client_step(variable: Tensor, probabilities: Tensor) -> tuple[Named, Named]:
        tensors, buffers = parted(step(change_inputs(variable), change_targets(probabilities)), state.parameters)
        return tensors, {name: buffer for name, buffer in buffers.items() if buffer.is_floating_point()}

    with torch.no_grad():
        tensors, buffers = client_step(variable, probabilities)
    private = PrivateStep(exact, state, change_inputs(variable), change_targets(probabilities))
    transforms = [_transform(placed, tensors, client, private, seed) for placed in stage.before]

    def flat(variable: Tensor, probabilities: Tensor) -> Tensor:
        tensors, buffers = client_step(variable.view(len(inputs), *task.space.shape), probabilities)
        for transform in transforms:
            tensors = transform(tensors)
        return _flat({**tensors, **buffers})

    coarse = type_variance({**tensors, **buffers}, state.parameters, client.kind, task.dtype)
    rounding = {name: torch.zeros_like(tensor) for name, tensor in {**tensors, **buffers}.items()}
    mask = {name: torch.ones_like(tensor) for name, tensor in {**tensors, **buffers}.items()}
    with torch.no_grad():
        for (_, defense), transform in zip(stage.before, transforms, strict=True):
            for name, added in defense_variance(defense, tensors).items():
                rounding[name] = rounding[name] + added
            tensors = transform(tensors)
        for placed in stage.masks:
            mask.update(_realized(placed, {name: mask[name] for name in tensors}, client, seed))
    by_targets = None
    if targets_unknown:
        tangent = _tangent(exact.num_classes).to(variable)
        by_targets = _operator(
            lambda y: flat(variable, probabilities + y.view(len(inputs), -1) @ tangent),
            torch.zeros(len(inputs) * len(tangent)).to(variable),
        )
    return Unknowns(
        by_inputs=_operator(lambda x: flat(x, probabilities), variable.flatten()),
        by_targets=by_targets,
        sent={**tensors, **buffers},
        names=(*tensors, *buffers),
        mask=_flat(mask).sign().abs(),
        variance=_flat(rounding),
        precision=_flat(rounding) + _flat(coarse),
        buffers=sum(buffer.numel() for buffer in buffers.values()),
    )


def _operator(function: Callable[[Tensor], Tensor], at: Tensor) -> JacobianOperator:
    """The operator after one trial of each product, so that a model that lacks derivatives is refused at the door.

    One that lacks rules for forward mode or for `torch.func`, as most operations of one's own do, is differentiated by
    reverse mode alone.

    Returns:
        J.

    Raises:
        BadInput: where neither runs, or the second is not the derivative.
    """
    try:
        return _tried(JacobianOperator(function, at))
    # The model is foreign code, and any exception of it means the same.
    except Exception:  # noqa: BLE001
        pass
    try:
        recorded = _tried(RecordedJacobian(function, at))
    except Exception as error:  # noqa: BLE001
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    else:
        if recorded.agrees_with_differences():
            return recorded
        reason = "one with an operation whose backward pass is not its derivative, or cannot be differentiated again"
    raise BadInput(
        [
            f"model: expected one whose gradient can be differentiated by its inputs, got {reason}; replace the "
            "operation, `gradleak inspect` names it"
        ]
    )


def _tried(operator: _Products) -> _Products:
    operator.matmat(torch.ones(operator.shape[1], 1).to(operator.at))
    operator.rmatmat(torch.ones(operator.shape[0], 1).to(operator.at))
    return operator


def _transform(
    placed: Placed, base: Mapping[str, Tensor], client: Client, private: PrivateStep, seed: int
) -> Callable[[Named], Named]:
    """What a defense before the noise does, as a differentiable function with its private choices as they fell."""
    defense = placed[1]
    if isinstance(defense, AddsNoise | Quantize | QSGD | Sign):
        return dict
    if isinstance(defense, RandomK | LooksAtStep):
        ones = {name: torch.ones_like(tensor) for name, tensor in base.items()}
        factors = _realized(placed, ones, client, seed, private)
        return lambda tensors: {name: factors[name] * tensor for name, tensor in tensors.items()}
    return lambda tensors: defense.apply(tensors, client.kind, None)


def _realized(placed: Placed, ones: Named, client: Client, seed: int, private: PrivateStep | None = None) -> Named:
    """By what a defense multiplies each entry, from what it makes of ones."""
    position, defense = placed
    generator = stage_generator(seed, f"defense/{position}")
    if isinstance(defense, LooksAtStep) and private is not None:
        return {
            name: factor.detach()
            for name, factor in defense.apply_to_step(ones, client.kind, private, generator).items()
        }
    return defense.apply(ones, client.kind, generator)


def _in_double(task: Task) -> Task:
    loss = copy.deepcopy(task.loss).double() if isinstance(task.loss, nn.Module) else task.loss
    return Task(copy.deepcopy(task.model).double(), task.space, task.num_classes, loss)


def _without_autocast(client: Client) -> Client:
    if isinstance(client, Aggregate):
        return replace(client, clients=tuple(_without_autocast(member) for member in client.clients))
    return replace(client, autocast=None) if isinstance(client, StepSettings) else client


def _tangent(classes: int) -> Tensor:
    """Orthonormal rows `[C - 1, C]` whose entries sum to zero."""
    full = torch.linalg.qr(torch.cat([torch.ones(classes, 1), torch.eye(classes)[:, 1:]], dim=1).double()).Q
    return full[:, 1:].T.contiguous()


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
