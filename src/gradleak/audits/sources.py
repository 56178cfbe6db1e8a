"""From a file, a mapping or a shipped name to checked settings, with every mistake told in one go."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from gradleak.audits.faults import Fault, structural_faults
from gradleak.audits.overrides import Source, override
from gradleak.audits.positions import read_yaml
from gradleak.errors import BadInput, refuse

P = TypeVar("P", bound=BaseModel)

SUFFIXES = (".yaml", ".yml")

Problems = list[tuple[int, str]]
"""What is wrong, each with its line in the file, 0 for the command line."""


def specs_in(room: str) -> dict[str, Traversable]:
    """The files of the specs that come with a room of the package, by name, in alphabetical order."""
    folder = files("gradleak") / room / "specs"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(SUFFIXES)] if folder.is_dir() else []
    return {entry.name.rpartition(".")[0]: entry for entry in sorted(found, key=lambda entry: entry.name)}


def first_comment(text: str) -> str:
    """What a spec file says that it is for: its first comment line; empty if it has none."""
    return next((line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")), "")


def source_of(
    spec: str | Path | Mapping[str, Any],
    overrides: Sequence[str],
    shipped: Mapping[str, Traversable],
    default_name: str,
) -> tuple[Source, Problems]:
    """The raw data of a spec, with values from the command line in place.

    Args:
        spec: a YAML file, a mapping, or the name of a shipped spec, which wins over a file of the same name.
        overrides: `path=value` each.
        shipped: the specs that have a name.
        default_name: of what a mapping without a name describes.

    Returns:
        The data, and what is wrong with file and overrides as such.

    Raises:
        BadInput: when there is no such file, or it is not YAML.
    """
    if isinstance(spec, Mapping):
        source, problems = Source("spec", deepcopy(dict(spec)), default_name=default_name), Problems()
    else:
        name, text = _text_of(spec, shipped)
        document = read_yaml(text, name)
        source = Source(name, document.value, document.lines, comment=first_comment(text), default_name=Path(name).stem)
        problems = [source.located(path, words) for path, words in document.problems]
    problems += [(0, problem) for problem in override(source, overrides)]
    return source, problems


def raw_of(source: Source, problems: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """The keys and values at the top of a spec, which gets a name if it has none.

    Returns:
        The mapping, which is that of the source.

    Raises:
        BadInput: when there are none, with what was wrong already.
    """
    if not isinstance(source.value, dict):
        got = "nothing" if source.value is None else repr(source.value)[:60]
        raise BadInput(
            [*(text for _, text in problems), f"{source.name}: expected keys and values, got {got}; see the guide"]
        )
    raw = cast("dict[str, Any]", source.value)
    raw.setdefault("name", source.default_name)
    return raw


def checked(
    source: Source,
    problems: Sequence[tuple[int, str]],
    root: type[P],
    semantic_faults: Callable[[Mapping[str, Any]], list[Fault]],
) -> P:
    """The settings that raw data describe.

    Args:
        source: the data.
        problems: what is wrong already, told with the rest.
        root: the settings.
        semantic_faults: finds what is wrong beyond the shape.

    Returns:
        The settings.

    Raises:
        BadInput: with every mistake, in the order of the file.
    """
    raw = raw_of(source, problems)
    faults: list[Fault] = []
    spec = None
    try:
        spec = root.model_validate(raw)
    except ValidationError as error:
        faults = structural_faults(error, root)
    faults += [fault for fault in semantic_faults(raw) if fault.path not in {known.path for known in faults}]
    told = [*problems, *(source.located(fault.path, fault.text) for fault in faults)]
    refuse(text for _, text in sorted(told, key=lambda entry: entry[0]))
    assert spec is not None  # it is refused above otherwise; said again for the type checker
    return spec


def _text_of(spec: str | Path, shipped: Mapping[str, Traversable]) -> tuple[str, str]:
    """Name and text of a file or of a shipped spec.

    Returns:
        The name for messages, and the text.

    Raises:
        BadInput: when there is none, or it is not text.
    """
    if str(spec) in shipped:
        file = shipped[str(spec)]
        return file.name, file.read_text(encoding="utf-8")
    try:
        return str(spec), Path(spec).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput([f"{spec}: expected a YAML file in UTF-8, got other bytes; save it as UTF-8"]) from None
    except (OSError, ValueError) as error:
        close = get_close_matches(str(spec), list(shipped), n=1)
        advice = f"did you mean {close[0]!r}?" if close else "check the path"
        reason = getattr(error, "strerror", None) or str(error)
        known = ", ".join(shipped)
        raise BadInput([f"{spec}: expected a YAML file or one of {known}, got {reason.lower()}; {advice}"]) from None
