"""YAML with the line of every value, so that a mistake can be told with its place in the file.

Read as YAML 1.2: only `true` and `false` are truth values (`off` is a word, as `dropout: off` means it), and `1e-3` is
a number. Nothing but plain data is ever built, whatever tags a file holds.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from gradleak.errors import BadInput

Path = tuple[str | int, ...]
"""Keys and positions from the top of a document to a value, such as `("attack", 1, "max_seconds")`."""

CHOICE = "one of two: "
"""Where one of two forms is meant, pydantic puts its name in the path; names that begin so are left out again."""

MOST_VALUES = 100_000
"""A file of a few lines can name billions of values by aliases of aliases."""

DEEPEST = 30

_CORE = "tag:yaml.org,2002:"
_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], object]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
"""The core schema of YAML 1.2, without numbers of other bases."""

_WORDS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")
_PLAIN_TAGS = frozenset(_CORE + word for word in _WORDS)
"""What PyYAML calls data that have no tag; what a plain word means is decided here, since it would read YAML 1.1."""


@dataclass
class Document:
    """Plain data with the lines that they stand on.

    Attributes:
        value: mappings, lists, text, numbers, truth values, None.
        lines: line of each key and entry, counted from 1.
        problems: duplicate keys and values that are no plain data, with their paths.
    """

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict[Path, int])
    problems: list[tuple[Path, str]] = field(default_factory=list[tuple[Path, str]])


def read_yaml(text: str, name: str) -> Document:
    """Read one YAML document.

    Args:
        text: the document.
        name: of the file, for the message.

    Returns:
        The data with their lines.

    Raises:
        BadInput: when the text is not YAML; one message with the line.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise BadInput(
            [f"{name}:{line}: expected YAML, got a fault: {error.problem or error.context}; correct it"]
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "values too deep inside each other"
        raise BadInput([f"{name}:1: expected YAML, got a fault: {reason}; correct it"]) from None
    document = Document()
    document.value = _Reader(document).plain(node, ()) if node is not None else None
    return document


class _Reader:
    """Turns nodes into data, and notes lines and problems."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0
        self.full = False

    def plain(self, node: yaml.Node, path: Path) -> Any:
        """The data of a node; None with a problem where there are none."""
        self.count += 1
        line = node.start_mark.line + 1
        self.document.lines.setdefault(path, line)
        if len(path) > DEEPEST or self.count > MOST_VALUES:
            if not self.full:
                self.problem(path[:1], f"expected at most {MOST_VALUES} values, {DEEPEST} deep, got more; shorten it")
            self.full = True
            return None
        if node.tag not in _PLAIN_TAGS:
            self.problem(path, f"expected plain data, got the tag {node.tag!r}; remove the tag")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(entry, (*path, position)) for position, entry in enumerate(node.value)]
        return _scalar(node)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        """A mapping with text as keys, each of them once."""
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            own = (*path, key)
            line = key_node.start_mark.line + 1
            if key in found:
                text = f"expected each key once, got it again on line {line}; remove one of them"
                self.problem(own, text)
                continue
            self.document.lines[own] = line
            found[key] = self.plain(value_node, own)
        return found

    def problem(self, path: Path, text: str) -> None:
        """Note one."""
        self.document.problems.append((path, text))


def _scalar(node: yaml.Node) -> Any:
    """What a word, a number or a quoted text says."""
    text = str(node.value)
    if getattr(node, "style", None) is None:
        for pattern, convert in _SCALARS:
            if pattern.fullmatch(text):
                return convert(text)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes text that `read_yaml` would take for a number or a truth value."""

    def ignore_aliases(self, data: Any) -> bool:
        """Equal parts are written out."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    quoted = any(pattern.fullmatch(text) for pattern, _ in _SCALARS)
    # Only double quotes can write what a line break or a control character would otherwise become.
    style = "'" if quoted else None if text.isprintable() else '"'
    return dumper.represent_scalar(f"{_CORE}str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write_yaml(value: Any) -> str:
    """Plain data as YAML that `read_yaml` reads back as the same data, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
