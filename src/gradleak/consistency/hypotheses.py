"""Other ways in which a client may have made its update; each is recomputed and compared."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the only common base class

from gradleak.clients import Client
from gradleak.clients.stateless import dropout_layers
from gradleak.tasks import ImageSpace, InputSpace, ModelState, Task
from gradleak.updates import UpdateKind

# Normalizations in wide use, for clients that applied one which the task does not know of.
_NORMALIZATIONS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("to [-1, 1]", (0.5,), (0.5,)),
    ("with ImageNet's mean and std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("with CIFAR-10's mean and std", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("with MNIST's mean and std", (0.1307,), (0.3081,)),
)
_MASK_SEEDS = 3
_SMALL_BATCH = 4


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that determines an update of a task, defenses aside.

    Attributes:
        client: how it is made.
        state: the model's values before the step.
        variable: `[N, *variable_shape]`.
        probabilities: `[N, C]`.
    """

    client: Client
    state: ModelState
    variable: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class Hypothesis:
    """One thing that may differ between the client and what is believed of it.

    Attributes:
        name: the cause's name.
        explanation: what it is and what to do, one sentence.
        group: hypotheses of one group exclude each other.
        change: from the setting believed to the setting supposed.
        alone: whether it is too special to be tried together with others.
    """

    name: str
    explanation: str
    group: str
    change: Callable[[Setting], Setting]
    alone: bool = False


def with_option(client: Client, name: str, value: object) -> Client | None:
    """The client with one option changed; None if it has no such option or has this value already."""
    if not is_dataclass(client) or name not in {field.name for field in fields(client)}:
        return None
    return None if getattr(client, name) == value else cast(Client, replace(client, **{name: value}))


def hypotheses(task: Task, setting: Setting, update: Mapping[str, Tensor], kind: UpdateKind) -> list[Hypothesis]:
    """Everything worth recomputing except labels, the most frequent mistakes first.

    Args:
        task: the public task.
        setting: what is believed.
        update: the observed update under the model's names.
        kind: what its tensors are.

    Returns:
        Hypotheses that apply to this model, client and input space.
    """
    client = [*_modes(task, setting), *_dropout(task, setting), *_buffers(task, setting)]
    return [*client, *_inputs(task.space, setting), *_weights(setting, update, kind)]


def _client_change(name: str, value: object) -> Callable[[Setting], Setting]:
    def change(setting: Setting) -> Setting:
        client = with_option(setting.client, name, value)
        return setting if client is None else replace(setting, client=client)

    return change


def batch_norms(model: nn.Module) -> list[str]:
    """Names of the layers that normalize with batch statistics in training mode."""
    return [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]


def _modes(task: Task, setting: Setting) -> Iterator[Hypothesis]:
    used = getattr(setting.client, "mode", None)
    if used is None or not batch_norms(task.model):
        return
    other = "train" if used == "eval" else "eval"
    yield Hypothesis(
        "mode",
        f"the client ran its model in {other} mode, not {used} (BatchNorm normalizes otherwise); use mode={other!r}",
        "mode",
        _client_change("mode", other),
    )


def _dropout(task: Task, setting: Setting) -> Iterator[Hypothesis]:
    layers = dropout_layers(task.model)
    if not layers or getattr(setting.client, "dropout", None) is None:
        return
    names = ", ".join(layers)
    if with_option(setting.client, "dropout", "off") is not None:
        why = f"dropout was off on the client ({names}); use dropout='off'"
        yield Hypothesis("dropout", why, "dropout", _client_change("dropout", "off"))
    for seed in range(_MASK_SEEDS):
        fixed, seeded = _client_change("dropout", "fixed_mask"), _client_change("dropout_seed", seed)
        yield Hypothesis(
            "dropout",
            f"dropout was active on the client with the fixed masks of seed {seed} ({names}); use dropout='fixed_mask'",
            "dropout",
            lambda setting, fixed=fixed, seeded=seeded: seeded(fixed(setting)),
        )


def _buffers(task: Task, setting: Setting) -> Iterator[Hypothesis]:
    layers = batch_norms(task.model)
    if not layers:
        return
    fresh = {f"{layer}.running_mean".lstrip("."): torch.zeros_like for layer in layers}
    fresh |= {f"{layer}.running_var".lstrip("."): torch.ones_like for layer in layers}

    def forgotten(setting: Setting) -> Setting:
        constants = {name: fresh.get(name, torch.clone)(value) for name, value in setting.state.constants.items()}
        return replace(setting, state=ModelState(setting.state.parameters, constants))

    def advanced(setting: Setting) -> Setting:
        model = copy.deepcopy(task.model).train()
        state = {name: value.clone() for name, value in {**setting.state.parameters, **setting.state.constants}.items()}
        with torch.no_grad():
            task.space.forward(model, state, setting.variable)  # changes the running statistics in state
        constants = {name: state[name] for name in setting.state.constants}
        return replace(setting, state=ModelState(setting.state.parameters, constants))

    kept = "the client's BatchNorm had {}, not those of this model; give the client's buffers with the weights"
    yield Hypothesis("buffers", kept.format("fresh running statistics (mean 0, variance 1)"), "buffers", forgotten)
    if not dropout_layers(task.model) and len(setting.variable) > 1:
        yield Hypothesis("buffers", kept.format("running statistics updated with this batch"), "buffers", advanced)


def _inputs(space: InputSpace, setting: Setting) -> Iterator[Hypothesis]:
    if not isinstance(space, ImageSpace):
        return
    like = setting.variable
    mean, std = (
        torch.tensor(value, dtype=like.dtype, device=like.device).view(-1, 1, 1) for value in (space.mean, space.std)
    )

    def entering(model_input: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: model_input(x) * std + mean  # the space will subtract mean and divide by std again

    if space.mean != (0.0,) or space.std != (1.0,):
        yield _pixels("the client fed pixels without normalization; set mean 0 and std 1", entering(lambda x: x))
        yield _pixels("the client normalized twice", lambda x: (x - mean) / std)
    yield _pixels("the client fed pixels in 0..255 instead of 0..1; divide by 255", lambda x: 255 * x)
    yield _pixels("the client fed 0..255 pixels without normalization", entering(lambda x: 255 * x))
    yield _pixels("the client divided by 255 twice", lambda x: x / 255)
    for name, center, width in _NORMALIZATIONS:
        if len(center) in {1, space.shape[0]}:
            m, s = (
                torch.tensor(value, dtype=like.dtype, device=like.device).view(-1, 1, 1) for value in (center, width)
            )
            why = f"the client normalized {name}; give --mean and --std of the client"
            yield _pixels(why, entering(lambda x, m=m, s=s: (x - m) / s))
    yield _pixels("the client fed negatives (1 - pixel)", lambda x: 1 - x)
    if space.shape[0] == 3:
        yield Hypothesis(
            "channels",
            "the client's channels are in the order BGR, not RGB; flip them",
            "channels",
            _moved(lambda x: x.flip(1)),
        )
    yield from _flips(setting)
    if space.shape[1] == space.shape[2]:
        why = "the client's images have height and width exchanged; transpose them"
        yield Hypothesis("augmentation", why, "geometry", _moved(lambda x: x.transpose(2, 3)))


def _flips(setting: Setting) -> Iterator[Hypothesis]:
    """All images flipped; in a small batch every choice of them, as a random augmentation makes it."""
    count = len(setting.variable)
    choices = [tuple(range(count))]
    if count <= _SMALL_BATCH:
        choices += [chosen for size in range(1, count) for chosen in combinations(range(count), size)]
    for chosen in choices:
        which = "all images" if len(chosen) == count else f"images {', '.join(map(str, chosen))}"
        yield Hypothesis(
            "augmentation",
            f"the client flipped {which} left to right (a random augmentation?); give the inputs after augmentation",
            "geometry",
            _moved(
                lambda x, chosen=chosen: torch.stack([row.flip(-1) if n in chosen else row for n, row in enumerate(x)])
            ),
            alone=len(chosen) < count,
        )
    vertically = "the client flipped all images upside down; give the inputs as the model saw them"
    yield Hypothesis("augmentation", vertically, "geometry", _moved(lambda x: x.flip(2)))


def _moved(transform: Callable[[Tensor], Tensor]) -> Callable[[Setting], Setting]:
    return lambda setting: replace(setting, variable=transform(setting.variable))


def _pixels(explanation: str, transform: Callable[[Tensor], Tensor]) -> Hypothesis:
    return Hypothesis("pixels", explanation, "pixels", _moved(transform))


def _weights(setting: Setting, update: Mapping[str, Tensor], kind: UpdateKind) -> Iterator[Hypothesis]:
    def rounded(setting: Setting, dtype: torch.dtype) -> Setting:
        parameters = {name: value.to(dtype).to(value.dtype) for name, value in setting.state.parameters.items()}
        return replace(setting, state=ModelState(parameters, setting.state.constants))

    for dtype in (torch.float16, torch.bfloat16):
        short = str(dtype).removeprefix("torch.")
        why = f"the client's weights were rounded to {short}; give the rounded ones"
        yield Hypothesis(
            "weights_rounded", why, "weights", lambda setting, dtype=dtype: rounded(setting, dtype), alone=True
        )

    def before(setting: Setting) -> Setting:
        parameters = {
            name: value - update[name].to(value) if name in update else value
            for name, value in setting.state.parameters.items()
        }
        return replace(setting, state=ModelState(parameters, setting.state.constants))

    if kind == "delta":
        why = "the model holds the weights after the client's step; give those from before it"
        yield Hypothesis("weights_after", why, "weights", before)
