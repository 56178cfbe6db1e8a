"""Mistakes with their places, and pydantic's errors in the words that all messages share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from gradleak.audits.positions import CHOICE, Path
from gradleak.errors import BadInput

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping of settings",
    "model_type": "a name or a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "at least one entry",
    "string_too_short": "at least one letter",
    "none_required": "null",
}


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        path: from the top of the spec, or of the part that is looked at.
        text: expected, got, what to do.
    """

    path: Path
    text: str

    def under(self, *prefix: str | int) -> "Fault":
        """The same mistake, seen from further up."""
        return Fault((*prefix, *self.path), self.text)


def about_setting(path: Path, problem: str) -> Fault:
    """A problem such as `GaussianNoise.std: expected ...` at the setting that it names."""
    place, colon, text = problem.partition(": ")
    _, dot, setting = place.partition(".")
    return Fault((*path, setting), text) if colon and dot and setting.isidentifier() else Fault(path, problem)


def faults_of(error: BadInput) -> list[Fault]:
    """The problems of an exception, which carries faults where it comes from a check of settings."""
    return list(error.faults) if isinstance(error, BadSettings) else [Fault((), text) for text in error.problems]


class BadSettings(BadInput):
    """Settings that cannot be used, each with its place.

    Attributes:
        faults: never empty.
    """

    def __init__(self, what: str, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        places = [".".join(map(str, (what, *fault.path))) for fault in self.faults]
        super().__init__(f"{place}: {fault.text}" for place, fault in zip(places, self.faults, strict=True))


def nearest(name: object, known: Iterable[str], otherwise: str) -> str:
    """What to do about an unknown name: the nearest known one, if there is one that is near."""
    names = list(known)
    lowered = {entry.lower(): entry for entry in reversed(names)}
    close = get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.6)
    return f"did you mean {lowered[close[0]]!r}?" if close else otherwise


def unknown_key(key: str, known: Sequence[str]) -> str:
    """The text about a key that nobody reads."""
    expected = f"one of {', '.join(known)}" if known else "no settings"
    return f"expected {expected}, got the unknown key {key!r}; {nearest(key, known, 'remove it')}"


def shown(value: object) -> str:
    """A value in a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def structural_faults(error: ValidationError, root: type[BaseModel]) -> list[Fault]:
    """What pydantic found, one fault for each mistake.

    A misspelt key that is required is one mistake and not two.

    Args:
        error: of the validation of `root`.
        root: knows the keys.

    Returns:
        Faults with paths into the normalized spec.
    """
    errors = error.errors(include_url=False)
    unknown = {_place(entry["loc"]) for entry in errors if entry["type"] == "extra_forbidden"}
    explained: set[Path] = set()
    faults: list[Fault] = []
    for entry in errors:
        path = _place(entry["loc"])
        if path in unknown:
            known = _keys(root, path[:-1])
            close = get_close_matches(str(path[-1]).lower(), known, n=1, cutoff=0.6)
            explained.update((*path[:-1], name) for name in close)
            faults.append(Fault(path, unknown_key(str(path[-1]), known)))
        elif entry["type"] != "missing":
            faults.append(Fault(path, _text(entry)))
    for entry in errors:
        path = _place(entry["loc"])
        if entry["type"] == "missing" and path not in explained:
            faults.append(Fault(path, "expected a value, got none; add it"))
    return faults


def expected_words(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says was expected, such as `a whole number`."""
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind]
    bounds = (("ge", "at least {:g}"), ("gt", "more than {:g}"), ("le", "at most {:g}"), ("lt", "less than {:g}"))
    for name, words in bounds:
        if name in context:
            return words.format(context[name])
    if kind == "literal_error":
        return f"one of {', '.join(_choices(error))}"
    return str(error["msg"]).lower()


def _place(path: Path) -> Path:
    return tuple(step for step in path if not str(step).startswith(CHOICE))


def _choices(error: Mapping[str, Any]) -> list[str]:
    """The words that a literal allows."""
    return [name.strip(" '") for name in str(error["ctx"]["expected"]).replace(" or ", ",").split(",")]


def _text(error: Mapping[str, Any]) -> str:
    advice = (
        nearest(error["input"], _choices(error), "choose one") if error["type"] == "literal_error" else "correct it"
    )
    return f"expected {expected_words(error)}, got {shown(error['input'])}; {advice}"


def _keys(root: type[BaseModel], path: Path) -> list[str]:
    """The keys that the part at a path has."""
    kind: Any = root
    for step in path:
        if isinstance(step, str) and isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(step)
            kind = _part_in(field.annotation) if field is not None else None
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _part_in(annotation: Any) -> Any:
    """The part of a spec that an annotation such as `tuple[ModelSpec, ...]` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((part for inner in getattr(annotation, "__args__", ()) if (part := _part_in(inner)) is not None), None)
