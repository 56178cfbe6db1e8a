"""Models by name: factories and reference models of the zoo, factories of the user's own, plugins."""

import hashlib
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import nn

from gradleak.adapters.huggingface import CONFIGURED_MODELS, PRETRAINED
from gradleak.audits.by_name.references import code_digest
from gradleak.audits.by_name.resolving import ARTICLES, guarded, resolve
from gradleak.audits.by_name.settings import called, checked
from gradleak.audits.faults import BadSettings, Fault, nearest, shown
from gradleak.seeds import torch_seed
from gradleak.tokens import Objective, TokenSpace
from gradleak.zoo.models import REFERENCE_MODELS, TEXT_MODELS, TextModelCard, convnet, lenet, mlp, resnet

IMAGE_RANK = 3

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
"""Activations that a setting can name."""

_FACTORIES: dict[str, Callable[..., nn.Module]] = {"convnet": convnet, "lenet": lenet, "mlp": mlp, "resnet": resnet}
_CARDS = {card.name: card for card in REFERENCE_MODELS}
TEXT: dict[str, TextModelCard] = {card.name: card for card in (*TEXT_MODELS, *CONFIGURED_MODELS, PRETRAINED)}
"""Models of texts by name."""

ZOO: dict[str, Any] = {**_FACTORIES, **{name: card.factory for name, card in (*_CARDS.items(), *TEXT.items())}}
"""Everything of the zoo that has a name."""


def is_of_zoo(name: str) -> bool:
    """Whether a model comes with the package, so that it is built for the data at hand."""
    return name in ZOO


def is_drawn(name: str) -> bool:
    """Whether the weights of a model come from the seed alone, so that each batch can have its own network."""
    return name in ZOO and not (name in TEXT and TEXT[name].pretrained)


def model_factory(name: str) -> Any:
    """The function that makes a model; see `resolve`."""
    return resolve("models", name, ZOO)


def model_named(
    name: str,
    settings: Mapping[str, object],
    *,
    shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    tokens: TokenSpace | None = None,
    objective: Objective = "classification",
) -> nn.Module:
    """A model by name, with weights that depend on the seed alone as far as torch draws them.

    Args:
        name: of the zoo or a plugin, or `package.module:factory`.
        settings: keyword arguments of the factory, as plain data. What follows from the data (classes, channels, size)
            and the seed are not among them for a model of the zoo.
        shape: of one input, for a model of the zoo.
        num_classes: of the task, for a model of the zoo.
        seed: of the weights.
        tokens: the input space of texts, for a model of the zoo.
        objective: what a model of texts is to predict, for a model of the zoo.

    Returns:
        The model, in the mode in which the factory left it.

    Raises:
        BadSettings: when there is no such model, or its factory fails or does not take these settings.
    """
    if is_of_zoo(name):
        try:
            if tokens is not None:
                return guarded("models", lambda: _of_texts(name, settings, tokens, num_classes, objective, seed))
            return guarded("models", lambda: _of_zoo(name, settings, shape, num_classes, seed))
        except BadSettings as error:
            raise BadSettings("models", [_at_its_setting(fault, settings) for fault in error.faults]) from error
    factory = model_factory(name)
    with torch_seed(seed):
        model = guarded("models", lambda: called(factory, settings))
    if not isinstance(model, nn.Module):
        text = f"expected {ARTICLES['models']}, got {type(model).__name__}; return a torch.nn.Module from the factory"
        raise BadSettings("models", [Fault(("name",), text)])
    return model


def model_setting_faults(name: str, settings: Mapping[str, object]) -> list[Fault]:
    """What is wrong with the names and types of a model's settings, as far as it can be told without data."""
    if name in _CARDS:
        return [
            Fault(
                (key,),
                f"expected no settings for {name!r}, got {key!r}; remove it, or name one of {', '.join(_FACTORIES)}",
            )
            for key in settings
        ]
    if name in TEXT:
        return checked(TEXT[name].factory, settings, given=_from_texts(TEXT[name]))[1]
    if name in _FACTORIES:
        plain, faults = _without_activation(settings)
        return faults + checked(_FACTORIES[name], plain, given=_from_data(name))[1]
    return checked(model_factory(name), settings)[1]


def model_digest(model: nn.Module) -> str:
    """16 hexadecimal digits of SHA-256 of a model's architecture as it prints itself, parameters and buffers."""
    digest = hashlib.sha256(str(model).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def model_code(name: str, model: nn.Module) -> str | None:
    """The digest of the source files of a model that is not of the zoo, see `code_digest`."""
    if is_of_zoo(name):
        return None
    return code_digest([model_factory(name), *{type(module) for module in model.modules()}])


def _of_texts(
    name: str, settings: Mapping[str, object], tokens: TokenSpace, classes: int, objective: Objective, seed: int
) -> nn.Module:
    """A model of the zoo for texts.

    Returns:
        The model.

    Raises:
        BadSettings: when it takes other inputs, or does not predict this.
    """
    card = TEXT.get(name)
    fitting = [own.name for own in TEXT.values() if objective in own.objectives]
    if card is None or objective not in card.objectives:
        got = f"{name!r}, which takes {'images' if name != 'mlp' else 'numbers'}" if card is None else repr(name)
        what = "texts" if objective == "classification" else f"texts with objective {objective}"
        text = f"expected a model of {what}, got {got}; use {', '.join(fitting)}"
        raise BadSettings("models", [Fault(("name",), text)])
    given: dict[str, object] = {
        "vocabulary": tokens.vocabulary,
        "num_classes": classes if objective == "classification" else None,
        "padding": tokens.padding,
        "seed": seed,
        "length": tokens.length,
        "objective": objective,
    }
    return called(card.factory, settings, given={key: given[key] for key in _from_texts(card)})


def _from_texts(card: TextModelCard) -> frozenset[str]:
    """Arguments that follow from the data and the audit's seed."""
    names = {"vocabulary", "num_classes", "padding", "seed"}
    return frozenset(names | ({"length"} if card.positions else set()) | ({"objective"} if card.pretrained else set()))


def _of_zoo(name: str, settings: Mapping[str, object], shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    if name in TEXT:
        text = f"expected a model for inputs of shape {list(shape)}, got {name!r}, which takes texts; use data of texts"
        raise BadSettings("models", [Fault(("name",), text)])
    if len(shape) != IMAGE_RANK and name != "mlp":
        text = f"expected a model for inputs of shape {list(shape)}, got {name!r}, which takes images; use mlp"
        raise BadSettings("models", [Fault(("name",), text)])
    if name in _CARDS:
        channels, height, width = shape
        return _CARDS[name].factory((channels, height, width), classes, seed)
    plain, faults = _without_activation(settings)
    given: dict[str, object] = {"num_classes": classes, "seed": seed}
    if name == "mlp":
        given["in_features"] = prod(shape)
    elif name == "resnet":
        given["in_channels"] = shape[0]
    else:
        given.update(channels=shape[0], input_size=shape[1:])
    if "activation" in settings and not faults:
        given["activation"] = ACTIVATIONS[str(settings["activation"])]
    if faults:
        raise BadSettings("models", [fault.under("settings") for fault in faults])
    return called(_FACTORIES[name], plain, given=given)


def _at_its_setting(fault: Fault, settings: Mapping[str, object]) -> Fault:
    """A problem of a factory of the zoo, such as `width: expected ...`, at the setting that it names."""
    name, _, text = fault.text.partition(": ")
    return Fault(("settings", name), text) if not fault.path and name in settings else fault


def _from_data(name: str) -> frozenset[str]:
    """Arguments that follow from the data and the audit's seed."""
    own = {"mlp": {"in_features"}, "resnet": {"in_channels"}}.get(name, {"channels", "input_size"})
    return frozenset({"num_classes", "seed", *own})


def _without_activation(settings: Mapping[str, object]) -> tuple[dict[str, object], list[Fault]]:
    """The other settings, and what is wrong with the activation."""
    rest = {key: value for key, value in settings.items() if key != "activation"}
    word = settings.get("activation", "relu")
    if word in ACTIVATIONS:
        return rest, []
    text = f"expected one of {', '.join(ACTIVATIONS)}, got {shown(word)}; {nearest(word, ACTIVATIONS, 'choose one')}"
    return rest, [Fault(("activation",), text)]
