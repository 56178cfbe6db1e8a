"""From the words on the command line to the client that made an update."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, cast

import typer

from gradleak.audits.by_name.components import client_named
from gradleak.audits.faults import BadSettings, Fault, unknown_key
from gradleak.audits.positions import read_yaml
from gradleak.clients import Client, Gradient
from gradleak.components import to_plain
from gradleak.errors import BadInput, refuse

ClientName = Annotated[
    str | None, typer.Option("--client", metavar="LocalSGD", help="What made the update: a name of list clients.")
]
ClientSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--client-set",
        metavar="lr=0.1",
        help="A setting of the client, its value in YAML; may be repeated. Without --client, of the file's client.",
    ),
]

# What a client is taken for where neither the file nor the command line names one.
_ASSUMED = Gradient(dropout="off")


def settings_of(assignments: Sequence[str], **options: str | None) -> dict[str, object]:
    """Settings from `--client-set` and from options of their own.

    Args:
        assignments: `key=value` each.
        options: settings that have an option, by name; None where it was not given.

    Returns:
        The settings as plain data.

    Raises:
        BadInput: with every assignment that cannot be read, or that is made twice.
    """
    settings: dict[str, object] = {name: value for name, value in options.items() if value is not None}
    problems: list[str] = []
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            problems.append(f"--client-set: expected key=value, got {text!r}; write for instance lr=0.1")
            continue
        if key in settings:
            problems.append(f"--client-set {key}: expected one value, got a second one in {text!r}; leave one out")
            continue
        try:
            settings[key] = _value(value)
        except BadInput:
            problems.append(f"--client-set {key}: expected a value in YAML, got {value!r}; correct it")
    refuse(problems)
    return settings


def _value(text: str) -> object:
    """A value in YAML as specs of audits have them.

    Returns:
        Plain data.

    Raises:
        BadInput: when it cannot be read.
    """
    document = read_yaml(text, "--client-set")
    refuse(problem for _, problem in document.problems)
    return document.value


def client_from_words(name: str | None, settings: Mapping[str, object], stored: Client | None) -> Client | None:
    """The client of an update.

    Args:
        name: as on the command line; None leaves the file's client, or else a gradient without dropout.
        settings: in place of that client's own.
        stored: the client that the file states.

    Returns:
        The client; None if nothing is known about it.

    Raises:
        BadInput: with every setting that the client does not take.
    """
    if name is None and not settings:
        return stored
    try:
        if name is not None:
            return client_named(name, settings)
        return _changed(stored if stored is not None else _ASSUMED, settings)
    except BadSettings as error:
        raise BadInput(_line(fault, name) for fault in error.faults) from None


def _changed(client: Client, settings: Mapping[str, object]) -> Client:
    """The client with some settings changed, each checked as if it had been given from the start.

    Returns:
        The new client.

    Raises:
        BadSettings: when it does not have them, or does not take their values.
    """
    name = type(client).__name__
    known = [field.name for field in fields(client)] if is_dataclass(client) else []
    faults = [Fault((key,), unknown_key(key, known)) for key in settings if key not in known]
    if faults:
        raise BadSettings("clients", faults)
    plain: dict[str, Any] = _as_read(to_plain(client))
    del plain["name"]
    return client_named(name, {**plain, **settings})


def _as_read(value: Any) -> Any:
    """Plain data as a file would give them, with lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: _as_read(entry) for key, entry in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_as_read(entry) for entry in cast("Sequence[Any]", value)]
    return value


def _line(fault: Fault, name: str | None) -> str:
    if fault.path == ("name",):
        return f"--client: {fault.text}"
    what = f"--client {name}" if name is not None else "--client-set"
    return f"{what} {'.'.join(map(str, fault.path))}: {fault.text}".replace("; add it", "; add it by --client-set")
