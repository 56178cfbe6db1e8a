"""Values from the command line in place of those of a file: `--set client.lr=0.1`, `--set attack.1.max_seconds=5`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gradleak.audits.positions import Path, read_yaml
from gradleak.errors import BadInput

DEFAULT_NAMES = {"client": "Gradient", "attack": "auto"}
"""What a setting belongs to under a key that the file leaves out."""

NAMED = ("model", "data", "test", "client", "defense", "attack")
"""Keys under which a word is short for a mapping with that name."""


@dataclass
class Source:
    """Where each value of a spec comes from, for messages.

    Attributes:
        name: the file, or what the mapping is called.
        value: the raw data.
        lines: line of each path in the file; empty for a mapping.
        overridden: paths that were set on the command line.
        comment: the first comment line of the file.
        default_name: of an audit whose spec gives none.
    """

    name: str
    value: Any
    lines: dict[Path, int] = field(default_factory=dict[Path, int])
    overridden: set[Path] = field(default_factory=set[Path])
    comment: str = ""
    default_name: str = "audit"

    def located(self, path: Path, text: str) -> tuple[int, str]:
        """One problem with its place: `FILE:LINE path: text`, or `--set path: text`.

        Args:
            path: into the raw or the normalized spec.
            text: what is wrong.

        Returns:
            The line, 0 for the command line, and the message.
        """
        path = self.raw(path)
        dotted = ".".join(map(str, path))
        if any(path[: len(known)] == known for known in self.overridden):
            return 0, f"--set {dotted}: {text}"
        line = next((self.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.lines), None)
        place = self.name if line is None else f"{self.name}:{line}"
        return line or 0, f"{place} {dotted}: {text}" if dotted else f"{place}: {text}"

    def raw(self, path: Path) -> Path:
        """A path into the normalized spec as it is in the raw data, where a single entry need not be a list."""
        value, kept = self.value, list[str | int]()
        for step in path:
            if isinstance(step, int):
                if not isinstance(value, list):
                    continue
                value = value[step] if step < len(value) else None
            else:
                value = value.get(step) if isinstance(value, dict) else None
            kept.append(step)
        return tuple(kept)


def override(source: Source, assignments: Sequence[str]) -> list[str]:
    """Put values in place, in order; later ones win.

    Args:
        source: is changed.
        assignments: `path=value` each, the value in YAML.

    Returns:
        A message for each assignment that cannot be made.
    """
    problems: list[str] = []
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        keys = [key.strip() for key in dotted.split(".")]
        if not equals or not all(keys):
            problems.append(f"--set {assignment}: expected path=value, got {assignment!r}; for instance seed=5")
            continue
        try:
            document = read_yaml(text, f"--set {dotted}")
        except BadInput as error:
            problems += [problem.replace(f"--set {dotted}:1:", f"--set {dotted}:", 1) for problem in error.problems]
            continue
        problems += [f"--set {dotted}: {problem}" for _, problem in document.problems]
        try:
            source.overridden.add(_put(source, keys, document.value))
        except LookupError as error:
            problems.append(f"--set {dotted}: {error.args[0]}")
    return problems


def _put(source: Source, keys: Sequence[str], value: Any) -> Path:
    """Change one value and return its path.

    Returns:
        The path.

    Raises:
        LookupError: with the message, when there is no such place.
    """
    if not isinstance(source.value, dict):
        source.value = {}
    place: Any = source.value
    path: list[str | int] = []
    for depth, key in enumerate(keys[:-1]):
        step: Any = _step(place, key)
        inside: Any = place[step] if isinstance(place, list) else place.get(step)
        if isinstance(inside, str) and keys[0] in NAMED:
            inside = {"name": inside}
        elif inside is None:
            inside = {"name": DEFAULT_NAMES[key]} if not path and key in DEFAULT_NAMES else {}
        elif not isinstance(inside, dict | list):
            got = ".".join(keys[: depth + 1])
            raise LookupError(f"expected a place inside {got}, got {got} = {inside!r}; give the whole of {got}")
        place[step] = inside
        path.append(step)
        place = inside
    last: Any = _step(place, keys[-1])
    place[last] = value
    return (*path, last)


def _step(place: Any, key: str) -> str | int:
    """A key of a mapping, or a position in a list.

    Returns:
        The key or the position.

    Raises:
        LookupError: when a list has no such position.
    """
    if not isinstance(place, list):
        return key
    if not key.isdecimal() or int(key) >= len(place):
        raise LookupError(f"expected a position 0 to {len(place) - 1} in the list, got {key!r}; or give the whole list")
    return int(key)
