"""Plain settings checked against what a function or a class takes, and converted to it."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from gradleak.audits.faults import BadSettings, Fault, expected_words, shown, unknown_key

AT_LEAST_ONE = frozenset({"restarts", "max_evaluations", "outer_steps", "steps", "max_steps", "max_samples"})
"""Settings by whose name it is clear what numbers make sense."""

POSITIVE = frozenset({"max_seconds", "lr"})


@dataclass(frozen=True, eq=False)
class Parameter:
    """One keyword argument.

    Attributes:
        adapter: of its type; None if any value is taken.
        required: whether it has no default.
        default: its default.
    """

    adapter: TypeAdapter[Any] | None
    required: bool
    default: object


@lru_cache(maxsize=512)
def parameters(target: Callable[..., object]) -> tuple[dict[str, Parameter], bool]:
    """The keyword arguments of a function or a class.

    Args:
        target: a function, or a class that is called to make an object.

    Returns:
        Them by name, and whether any other name is accepted too.
    """
    signature = inspect.signature(target)
    described = target if is_dataclass(target) or not isinstance(target, type) else target.__init__
    try:
        hints = get_type_hints(described)
    except (NameError, TypeError, AttributeError):
        hints = {}
    found: dict[str, Parameter] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            required = parameter.default is parameter.empty
            found[name] = Parameter(_adapter(hints.get(name, Any)), required, None if required else parameter.default)
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    return found, anything


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    if hint is Any:
        return None
    try:
        return TypeAdapter(hint)
    except PydanticUserError:
        return None  # a type that only its own package can check


def called(
    target: Callable[..., Any], settings: Mapping[str, object], *, given: Mapping[str, object] | None = None
) -> Any:
    """Call with settings that are plain data.

    Args:
        target: a function or a class.
        settings: keyword arguments as JSON can hold them.
        given: further keyword arguments, used as they are.

    Returns:
        What the call returns.

    Raises:
        BadSettings: when a name is unknown, a required one missing, or a value of a wrong type or out of range.
    """
    given = {} if given is None else given
    converted, faults = checked(target, settings, given=frozenset(given))
    if faults:
        raise BadSettings(getattr(target, "__name__", "settings"), faults)
    return target(**converted, **given)


def checked(
    target: Callable[..., Any], settings: Mapping[str, object], *, given: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], list[Fault]]:
    """Settings in the types that a function or a class takes.

    Args:
        target: a function or a class.
        settings: plain data.
        given: names that the caller provides, and that settings may not.

    Returns:
        The converted settings, and every fault with the path of its setting.
    """
    known, anything = parameters(target)
    names = [name for name in known if name not in given]
    converted: dict[str, Any] = {}
    faults: list[Fault] = []
    for key, value in settings.items():
        if key in given:
            faults.append(
                Fault((key,), f"expected no value here, got {shown(value)}; it follows from the rest, remove it")
            )
        elif key not in known:
            if anything:
                converted[key] = value
            else:
                faults.append(Fault((key,), unknown_key(key, names)))
        else:
            # Clients and defenses tell themselves what is out of range, all of it at once.
            range_fault = [] if hasattr(target, "problems") else _range_fault(key, value)
            faults += range_fault or _convert(key, value, known[key].adapter, converted)
    near = " ".join(fault.text for fault in faults)
    for name in names:
        if known[name].required and name not in settings and f"did you mean {name!r}" not in near:
            faults.append(Fault((name,), "expected a value, got none; add it"))
    return converted, faults


def _range_fault(key: str, value: object) -> list[Fault]:
    """What is wrong with a number whose name says what makes sense, if anything."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 1.0
    if (key in AT_LEAST_ONE and number < 1) or (key in POSITIVE and number <= 0):
        wanted = "at least 1" if key in AT_LEAST_ONE else "more than 0"
        return [Fault((key,), f"expected {wanted}, got {shown(value)}; correct it")]
    return []


def _convert(key: str, value: object, adapter: TypeAdapter[Any] | None, converted: dict[str, Any]) -> list[Fault]:
    """Put one converted value in place, or tell what is wrong with it."""
    try:
        # As JSON, strictly: a list is a tuple's only form there, and text is never a number.
        converted[key] = value if adapter is None else adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        wanted = list(dict.fromkeys(expected_words(entry) for entry in found))
        return [Fault((key,), f"expected {' or '.join(wanted)}, got {shown(value)}; correct it")]
    return []
