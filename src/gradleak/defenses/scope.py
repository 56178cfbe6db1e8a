"""Over which entries a defense measures: those of the whole update, or of each tensor."""

from typing import Literal, get_args

Scope = Literal["global", "layer"]
"""`"global"`: all entries of the update together; `"layer"`: those of each tensor by itself."""


def scope_problems(defense: str, scope: str) -> list[str]:
    """What is wrong with the scope of a defense of that name, one line or none."""
    if scope in get_args(Scope):
        return []
    return [f"{defense}.scope: expected 'global' or 'layer', got {scope!r}; choose one"]
