"""Packages that only some backends and formats need."""

from importlib import import_module
from typing import Any

from gradleak.errors import BadInput, missing_extra


def optional(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: its dotted name.
        extra: of gradleak, which brings the package.
        purpose: what needs it, for the message.

    Returns:
        The module.

    Raises:
        BadInput: when it is not installed, naming the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise BadInput(missing_extra(module.partition(".")[0], extra, purpose).problems) from error
