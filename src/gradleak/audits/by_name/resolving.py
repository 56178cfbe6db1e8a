"""One name to one object: the package's own, `package.module:factory`, or a plugin's."""

from collections.abc import Callable, Mapping
from typing import Any

from gradleak.audits.by_name.plugins import plugins
from gradleak.audits.by_name.references import import_reference, is_reference
from gradleak.audits.faults import BadSettings, Fault, nearest, shown
from gradleak.errors import BadInput

ARTICLES = {
    "attacks": "an attack",
    "defenses": "a defense",
    "clients": "a client",
    "data": "a data set",
    "models": "a model",
}


def resolve(kind: str, name: str, own: Mapping[str, Any]) -> Any:
    """What a name stands for; nothing is called.

    Args:
        kind: one of `KINDS`.
        name: the name in the spec.
        own: what comes with the package, by name.

    Returns:
        A function or a class.

    Raises:
        BadSettings: when there is none, or it cannot be imported.
    """
    if name in own:
        return own[name]
    try:
        if is_reference(name):
            return import_reference(name, ARTICLES[kind])
        announced = {plugin.name: plugin for plugin in plugins(kind)}
        if name in announced:
            return announced[name].load()
    except BadInput as error:
        raise BadSettings(kind, [Fault(("name",), problem) for problem in error.problems]) from error
    known = [*own, *announced]
    raise BadSettings(
        kind,
        [
            Fault(
                ("name",),
                f"expected one of {', '.join(known)}, or package.module:factory, got {shown(name)}; "
                f"{nearest(name, known, f'see gradleak list {kind}')}",
            )
        ],
    )


def guarded(kind: str, make: Callable[[], Any]) -> Any:
    """Call foreign code; whatever it raises becomes a problem of the spec.

    Returns:
        What `make` returns.

    Raises:
        BadSettings: when it raises anything.
    """
    try:
        return make()
    except BadSettings:
        raise
    except BadInput as error:
        raise BadSettings(kind, [Fault((), problem) for problem in error.problems]) from error
    # A factory may be foreign code, which may raise anything.
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        text = f"expected a factory that returns {ARTICLES[kind]}, got {reason}; correct its settings or its code"
        raise BadSettings(kind, [Fault((), text)]) from error
