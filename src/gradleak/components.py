"""Frozen configuration objects to and from plain data, for files: `{"name": "Gradient", "mode": "train"}`."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from gradleak.errors import BadInput

T = TypeVar("T")


def to_plain(component: object) -> dict[str, Any]:
    """The name and settings of a configuration object, as JSON can hold them.

    Args:
        component: a frozen dataclass instance.

    Returns:
        A mapping with `name` (the class) and one entry for each field.

    Raises:
        BadInput: when the object is no dataclass, so that its settings cannot be told.

    >>> from gradleak.clients import Gradient
    >>> to_plain(Gradient(mode="train"))
    {'name': 'Gradient', 'mode': 'train', 'dropout': None, ...}
    """
    name = type(component).__name__
    if not is_dataclass(component):
        raise BadInput(
            [f"{name}: expected a dataclass, got {type(component)}; decorate it with @dataclass(frozen=True)"]
        )
    # What two equal components may differ in is no setting.
    settings = [field.name for field in fields(component) if field.compare]
    return {"name": name, **{setting: _setting(getattr(component, setting)) for setting in settings}}


def _setting(value: object) -> object:
    """A setting as plain data; components within it are described in turn."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(value)
    if isinstance(value, tuple | list):
        entries = cast("Sequence[object]", value)
        if any(is_dataclass(entry) for entry in entries):
            return [_setting(entry) for entry in entries]
    return value


def from_plain(where: str, plain: object, choices: Sequence[type[T]]) -> T:
    """The configuration object that plain data describe.

    Args:
        where: what the data are, for messages (for instance `client`).
        plain: a mapping with `name` and settings.
        choices: the classes allowed.

    Returns:
        An instance of the class named.

    Raises:
        BadInput: with every unknown name, unknown setting and value of a wrong type.
    """
    names = {choice.__name__: choice for choice in choices}
    if not isinstance(plain, Mapping) or plain.get("name") not in names:
        got = plain.get("name") if isinstance(plain, Mapping) else plain
        raise BadInput([f"{where}: expected a name among {', '.join(names)}, got {got!r}; see gradleak list"])
    choice = names[str(plain["name"])]
    settings = {str(key): value for key, value in plain.items() if key != "name"}
    settings = {key: _nested(f"{where}.{key}", value, choices) for key, value in settings.items()}
    known = [field.name for field in fields(choice)]  # pyright: ignore[reportArgumentType]  # choices are dataclasses
    problems = [
        f"{where}.{key}: expected one of {', '.join(known) or 'no settings'}, got this unknown name; remove it"
        for key in settings
        if key not in known
    ]
    try:
        component = TypeAdapter(choice).validate_python({key: settings[key] for key in settings if key in known})
    except ValidationError as error:
        problems += [
            f"{where}.{'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}, got {fault['input']!r}; correct it"
            for fault in error.errors()
        ]
        raise BadInput(problems) from None
    if problems:
        raise BadInput(problems)
    return component


def _nested(where: str, value: object, choices: Sequence[type[T]]) -> object:
    """A setting in which plain data that name a component have become that component."""
    if isinstance(value, Mapping) and "name" in value:
        return from_plain(where, value, choices)
    if isinstance(value, list):
        entries = cast("list[object]", value)
        return [_nested(f"{where}.{position}", entry, choices) for position, entry in enumerate(entries)]
    return value
