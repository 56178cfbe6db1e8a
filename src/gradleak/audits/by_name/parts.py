"""What clients and defenses by name have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NoReturn

from gradleak.audits.by_name.resolving import ARTICLES, guarded, resolve
from gradleak.audits.by_name.settings import called
from gradleak.audits.faults import BadSettings, Fault


def component(kind: str, name: str, settings: Mapping[str, object], own: Sequence[type], methods: Sequence[str]) -> Any:
    """A client or a defense by name.

    Args:
        kind: as in `ARTICLES`.
        name: of the package, of a plugin, or `package.module:factory`.
        settings: keyword arguments, as plain data.
        own: classes that come with the package.
        methods: that it must have.

    Returns:
        A frozen dataclass with those methods.

    Raises:
        BadSettings: when there is none of that name, or it does not take these settings.
    """
    made_by = resolve(kind, name, {entry.__name__: entry for entry in own})
    made = guarded(kind, lambda: called(made_by, settings))
    if not is_dataclass(made) or isinstance(made, type):
        refuse_component(kind, made, "decorate the class with @dataclass(frozen=True)")
    missing = [method for method in methods if not callable(getattr(made, method, None))]
    if missing:
        refuse_component(kind, made, f"give it the method {' and '.join(missing)}")
    return made


def refuse_component(kind: str, got: object, advice: str) -> NoReturn:
    """Say that a factory made something else.

    Raises:
        BadSettings: always.
    """
    text = f"expected {ARTICLES[kind]}, got {type(got).__name__}; {advice}"
    raise BadSettings(kind, [Fault(("name",), text)])
