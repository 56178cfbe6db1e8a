"""YAML as 1.2 reads it, with lines."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradleak.audits.positions import MOST_VALUES, read_yaml, write_yaml
from gradleak.errors import BadInput


def value(text: str) -> Any:
    document = read_yaml(text, "file")
    assert document.problems == []
    return document.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("1.0e-3", 1e-3),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("off", "off"),
        ("no", "no"),
        ("true", True),
        ("'true'", "true"),
        ("null", None),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
        ("2024-01-01", "2024-01-01"),
        ("package.module:factory", "package.module:factory"),
        ("12:30", "12:30"),
        ("[1, a, {b: 2}]", [1, "a", {"b": 2}]),
    ],
)
def test_scalars(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_lines_of_keys_and_entries() -> None:
    document = read_yaml("# comment\na: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n", "file")
    lines = document.lines
    assert [lines[path] for path in [("a",), ("b",), ("b", 0), ("b", 1), ("b", 1, "c"), ("b", 1, "d")]] == [
        2,
        3,
        4,
        5,
        5,
        6,
    ]


def test_a_fault_of_the_syntax_has_its_line() -> None:
    with pytest.raises(BadInput) as caught:
        read_yaml("a: 1\nb: [1, 2\nc: 3\n", "spec.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith("spec.yaml:3: expected YAML")


@pytest.mark.parametrize("text", ["a: \x01", "\t- a", "a: 'b", "a: 1\n---\nb: 2", "*nothing"])
def test_what_is_no_yaml_is_one_message(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_yaml(text, "spec.yaml")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("spec.yaml:")


def test_a_key_twice_and_a_tag_are_told() -> None:
    document = read_yaml("a: 1\nb: !!python/object/apply:os.system [ls]\na: 2\n", "file")
    assert [path for path, _ in document.problems] == [("b",), ("a",)]
    assert document.value == {"a": 1, "b": None}


def test_nothing_is_built_from_a_tag(tmp_path: Path) -> None:
    marker = tmp_path / "made"
    document = read_yaml(f"a: !!python/object/apply:os.mkdir ['{marker}']", "file")
    assert len(document.problems) == 1
    assert not marker.exists()


def test_aliases_of_aliases_end() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    document = read_yaml("\n".join(lines), "file")
    assert len(document.problems) == 1
    assert str(MOST_VALUES) in document.problems[0][1]


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(plain_data)
def test_what_is_written_reads_back(data: object) -> None:
    assert value(write_yaml(data)) == data
