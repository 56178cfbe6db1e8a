"""Attacks, clients and threat models by name."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

from gradleak.attacks import ATTACKS, Attack, using_layers
from gradleak.audits.by_name.parts import component, refuse_component
from gradleak.audits.by_name.resolving import guarded, resolve
from gradleak.audits.by_name.settings import called
from gradleak.audits.faults import BadSettings, Fault
from gradleak.clients import CLIENTS, Client
from gradleak.threat import ThreatModel

_ATTACKS = {factory.__name__: factory for factory in ATTACKS}


def attack_factory(name: str) -> Any:
    """The function that makes an attack; see `resolve`."""
    return resolve("attacks", name, _ATTACKS)


def attack_named(name: str, settings: Mapping[str, object]) -> Attack:
    """An attack by the name of its factory.

    Args:
        name: of the package, of a plugin, or `package.module:factory`.
        settings: keyword arguments of the factory, as plain data.

    Returns:
        The attack.

    Raises:
        BadSettings: when there is no such attack, or it does not take these settings.
    """
    factory = attack_factory(name)
    given: dict[str, object] = {}
    inner = settings.get("attack")
    if factory is using_layers and isinstance(inner, str):  # an attack around another one, which may be anybody's
        given["attack"] = attack_factory(inner)
        settings = {key: value for key, value in settings.items() if key != "attack"}
    attack = guarded("attacks", lambda: called(factory, settings, given=given))
    if not callable(attack) or not isinstance(getattr(attack, "name", None), str):
        refuse_component("attacks", attack, "return something with a name that can be called with an observation")
    return cast(Attack, attack)


def client_named(name: str, settings: Mapping[str, object]) -> Client:
    """A client by the name of its class; arguments and errors as for `attack_named`.

    A setting `clients` is a list of clients, each a name or a mapping with `name` and settings.

    Returns:
        The client.
    """
    members = settings.get("clients")
    if isinstance(members, Sequence) and not isinstance(members, str):
        settings = {**settings, "clients": tuple(map(_member, cast("Sequence[object]", members)))}
    return component("clients", name, settings, CLIENTS, ("problems", "bind"))


def _member(entry: object) -> object:
    """A client within another one.

    Returns:
        The client; what cannot be one as it is, for its owner to refuse.

    Raises:
        BadSettings: when it has no name, or cannot be made.
    """
    if isinstance(entry, str):
        return client_named(entry, {})
    if not isinstance(entry, Mapping):
        return entry
    plain = {str(key): value for key, value in cast("Mapping[object, object]", entry).items()}
    settings = plain.pop("settings", {})
    name = plain.pop("name", None)
    if not isinstance(name, str):
        raise BadSettings("clients", [Fault(("clients",), f"expected a name in each client, got {entry}; add one")])
    return client_named(name, {**plain, **(cast("dict[str, object]", settings) if settings else {})})


def threat_named(settings: Mapping[str, object]) -> ThreatModel:
    """A threat model.

    Args:
        settings: its facts.

    Returns:
        The threat model.

    Raises:
        BadSettings: when a fact is unknown, or is not true or false.
    """
    return called(ThreatModel, settings)


def described(name: str, component: object) -> dict[str, Any]:
    """A client or a defense as plain data from which it can be made again: its name with every setting."""
    if not is_dataclass(component):
        return {"name": name}
    return {"name": name, **{field.name: getattr(component, field.name) for field in fields(component) if field.init}}
