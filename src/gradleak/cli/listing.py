"""`gradleak list`: what there is to choose from."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources.abc import Traversable
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from gradleak.attacks import ATTACKS
from gradleak.audits.by_name import plugins
from gradleak.audits.by_name.models import TEXT
from gradleak.audits.reading import shipped_specs
from gradleak.audits.sources import first_comment, specs_in
from gradleak.cli.console import console, print_json
from gradleak.cli.loading import AsJson
from gradleak.clients import CLIENTS
from gradleak.defenses import DEFENSES
from gradleak.errors import BadInput
from gradleak.zoo.data import BUNDLED
from gradleak.zoo.models import REFERENCE_MODELS, ModelCard, TextModelCard

Entry = dict[str, object]


def listing(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[attacks|defenses|clients|models|data|specs|trainings]", help="What to list."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List attacks, defenses, clients, models, data, audit specs or trainings; without a kind, how many of each."""
    if kind is None:
        entries: list[Entry] = [{"name": name, "count": len(entries())} for name, entries in KINDS.items()]
    elif kind in KINDS:
        entries = KINDS[kind]()
    else:
        raise BadInput([f"list: expected one of {', '.join(KINDS)}, got {kind!r}; choose one"])
    if as_json:
        print_json(entries)
    elif not entries:
        console.print(Text(f"no {kind} come with this version"))
    else:
        _print_table(entries)


def _print_table(entries: list[Entry]) -> None:
    table = Table(box=None, pad_edge=False)
    columns = list(entries[0])
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=False)
    for entry in entries:
        table.add_row(*(Text(_words(entry[column])) for column in columns))
    console.print(table)


def _words(value: object) -> str:
    """A cell of the table; options as `name=default`, or the name alone where a value is required."""
    if not isinstance(value, list):
        return str(value)
    options: list[Entry] = value
    return ", ".join(
        str(option["name"]) + ("" if option["required"] else f"={option['default']}") for option in options
    )


def _summary(documented: object) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".")


def _about(documented: type) -> dict[str, str]:
    """What the docstring of a class and of those that it builds on says about each argument, its first clause."""
    found: dict[str, str] = {}
    for kind in reversed(documented.__mro__):
        _, _, arguments = inspect.cleandoc(kind.__doc__ or "").partition("\nArgs:\n")
        for line in re.split(r"\n(?=    \w)", arguments.partition("\n\n")[0]):
            name, colon, text = " ".join(line.split()).partition(": ")
            if colon and name.isidentifier():
                found[name] = text.partition("; ")[0].rstrip(".")
    return found


def _option(name: str, default: object, *, required: bool) -> Entry:
    # Defaults are numbers and words; anything else is shown as it is written in Python.
    plain = default if isinstance(default, str | int | float | None) else repr(default)
    return {"name": name, "default": None if required else plain, "required": required}


def _attacks() -> list[Entry]:
    own: list[Entry] = [
        {
            "name": factory.__name__,
            "summary": _summary(factory),
            "options": [
                _option(name, parameter.default, required=parameter.default is inspect.Parameter.empty)
                for name, parameter in inspect.signature(factory).parameters.items()
            ],
        }
        for factory in ATTACKS
    ]
    return own + _plugins("attacks", options=[])


def _plugins(kind: str, **others: object) -> list[Entry]:
    """What installed distributions announce, which is not loaded to be listed; `others` fills the other columns."""
    return [
        {"name": plugin.name, "summary": f"plugin of {plugin.distribution}: {plugin.value}", **others}
        for plugin in plugins(kind)
    ]


def _components(kind: str, classes: tuple[type, ...]) -> list[Entry]:
    own: list[Entry] = [
        {"name": entry.__name__, "summary": _summary(entry), "options": list(_fields(entry))} for entry in classes
    ]
    return own + _plugins(kind, options=[])


def _fields(kind: type) -> Iterator[Entry]:
    if is_dataclass(kind):
        about = _about(kind)
        for field in fields(kind):
            if field.init:
                default = field.default_factory() if field.default_factory is not MISSING else field.default
                option = _option(field.name, default, required=default is MISSING)
                yield {**option, "summary": about.get(field.name, "")}


def _models() -> list[Entry]:
    cards: list[ModelCard | TextModelCard] = [*REFERENCE_MODELS, *TEXT.values()]
    own: list[Entry] = [{"name": card.name, "summary": card.description, "source": card.source} for card in cards]
    return own + _plugins("models", source="plugin")


def _data() -> list[Entry]:
    own: list[Entry] = [
        {
            "name": card.name,
            "summary": card.description,
            "source": card.source,
            "shape": "x".join(map(str, card.input_shape)),
            "examples": card.count,
            "classes": card.num_classes,
        }
        for card in BUNDLED
    ]
    return own + _plugins("data", source="plugin", shape="", examples="", classes="")


def _shipped(specs: Mapping[str, Traversable]) -> list[Entry]:
    """Specs that come with the package; the summary is the first comment line."""
    return [{"name": name, "summary": first_comment(file.read_text(encoding="utf-8"))} for name, file in specs.items()]


KINDS: dict[str, Callable[[], list[Entry]]] = {
    "attacks": _attacks,
    "defenses": lambda: _components("defenses", DEFENSES),
    "clients": lambda: _components("clients", CLIENTS),
    "models": _models,
    "data": _data,
    "specs": lambda: _shipped(shipped_specs()),
    "trainings": lambda: _shipped(specs_in("training")),
}
"""What can be listed, in the order of the overview."""
