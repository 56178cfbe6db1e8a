"""`package.module:factory`: something of the user's own, importable from the current directory too."""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from gradleak.errors import BadInput

OURS_AND_TORCH = ("gradleak", "torch")
"""Packages whose versions are recorded, so that their source need not be."""


def is_reference(name: str) -> bool:
    """Whether a name is `package.module:factory` rather than a name of the package or a plugin.

    Returns:
        True for a name with a colon that is no path.

    >>> is_reference("my_package.models:make"), is_reference("lenet")
    (True, False)
    """
    return ":" in name and not name.startswith(("/", "."))


def import_reference(reference: str, what: str) -> Any:
    """Import what `package.module:factory` names, without calling it.

    Args:
        reference: module and attribute with a colon between them.
        what: what it should return, for the message, such as `a model`.

    Returns:
        The attribute.

    Raises:
        BadInput: when there is no such module or attribute, or importing it fails.
    """
    name, _, attribute = reference.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(name), attribute)
    # Foreign code may raise anything, and all of it means the same here: this cannot be had.
    except (Exception, SystemExit) as error:
        raise BadInput([failed(what, error)]) from error


def failed(what: str, error: BaseException) -> str:
    """The problem of a factory that raised an exception, or that cannot be imported."""
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return f"expected a factory that returns {what}, got {reason}; correct module, name or code"


def code_digest(objects: Iterable[object]) -> str | None:
    """A digest of the source files that define the given functions and classes.

    Files of this package and of torch are left out, since their versions are recorded. So a changed attack, model or
    data set of the user's own gives other trials.

    Args:
        objects: functions and classes.

    Returns:
        16 hexadecimal digits of SHA-256; None if no file of anybody else is involved.
    """
    modules = {getattr(entry, "__module__", None) for entry in objects}
    foreign = sorted(name for name in modules if name and name.split(".")[0] not in OURS_AND_TORCH)
    files = [digest for name in foreign if (digest := _module_digest(name)) is not None]
    return hashlib.sha256("".join(files).encode()).hexdigest()[:16] if files else None


@lru_cache(maxsize=256)
def _module_digest(name: str) -> str | None:
    module = sys.modules.get(name)
    try:
        source = inspect.getsourcefile(module) if module is not None else None
        return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source is not None else None
    except (OSError, TypeError):
        return None
