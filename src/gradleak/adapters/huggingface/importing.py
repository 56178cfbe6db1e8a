"""The packages of the extra `text`, imported when something of them is used."""

from importlib import import_module
from typing import Any

from gradleak.errors import missing_extra


def library(name: str, purpose: str) -> Any:
    """A package of the extra.

    Args:
        name: `transformers`, `tokenizers` or `huggingface_hub`.
        purpose: what needs it, for the message.

    Returns:
        The module.

    Raises:
        missing_extra: a `BadInput`, when it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise missing_extra(name, "text", purpose) from error
