"""Attacks, defenses, clients, data and models of other distributions, announced by entry points.

A distribution announces an attack in its `pyproject.toml` like this::

    [project.entry-points."gradleak.attacks"]
    my_attack = "my_package.attacks:my_attack"

It is found when it is installed, and loaded when a spec names it.
"""

from dataclasses import dataclass
from importlib import metadata
from typing import Any

from gradleak.errors import BadInput

KINDS = ("attacks", "defenses", "clients", "data", "models")
"""The entry-point groups are `gradleak.<kind>`."""


@dataclass(frozen=True)
class Plugin:
    """What a distribution announces.

    Attributes:
        name: how specs call it.
        kind: one of `KINDS`.
        value: `package.module:attribute`.
        distribution: name and version of who announces it.
        entry: the entry point.
    """

    name: str
    kind: str
    value: str
    distribution: str
    entry: metadata.EntryPoint

    def load(self) -> Any:
        """Import it.

        Returns:
            The attribute.

        Raises:
            BadInput: when importing it fails.
        """
        try:
            return self.entry.load()
        # A plugin is foreign code, which may raise anything when it is imported.
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise BadInput(
                [
                    f"expected the plugin {self.name!r} of {self.distribution} to load from {self.value}, "
                    f"got {reason}; update or uninstall that distribution"
                ]
            ) from error


def plugins(kind: str) -> tuple[Plugin, ...]:
    """Everything of a kind that installed distributions announce, by name; nothing is loaded.

    Args:
        kind: one of `KINDS`.

    Returns:
        In alphabetical order of the names; where two distributions announce the same name, the one that Python finds
        first.
    """
    found: dict[str, Plugin] = {}
    for entry in metadata.entry_points(group=f"gradleak.{kind}"):
        announced_by = entry.dist
        distribution = (
            "an unknown distribution" if announced_by is None else f"{announced_by.name} {announced_by.version}"
        )
        found.setdefault(entry.name, Plugin(entry.name, kind, entry.value, distribution, entry))
    return tuple(found[name] for name in sorted(found))
