"""What is shipped agrees with itself, and says nothing about the machines it was made on."""

import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

import gradleak

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = [
    line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
]

# ---- versions and requirements -----------------------------------------------------------------------------------


def test_every_place_names_the_same_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert {
        "pyproject.toml": PROJECT["project"]["version"],
        "CITATION.cff": str(citation["version"]),
        "CHANGELOG.md": newest[1],
    } == dict.fromkeys(["pyproject.toml", "CITATION.cff", "CHANGELOG.md"], gradleak.__version__)


def test_the_license_is_the_one_that_is_named() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("gradleak").joinpath("py.typed").is_file()


def named(requirement: str) -> str:
    """The normalized project name at the head of a requirement."""
    head = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert head is not None
    return re.sub(r"[-_.]+", "-", head[0]).lower()


def test_every_pin_is_exact_and_holds_for_any_build() -> None:
    assert [pin for pin in PINS if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9A-Za-z.]+", pin)] == []
    assert "torch==2.13.0" in PINS


def test_every_requirement_has_a_pin() -> None:
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    assert {named(line) for line in wanted} - {named(pin) for pin in PINS} == set()


def test_torch_is_a_range_and_never_needed_to_build() -> None:
    assert "torch>=2.8" in PROJECT["project"]["dependencies"]
    assert "torch" not in {named(line) for line in PROJECT["build-system"]["requires"]}


def test_the_command_points_into_the_package() -> None:
    assert PROJECT["project"]["scripts"] == {"gradleak": "gradleak.cli:main"}


# ---- nothing about the machines ----------------------------------------------------------------------------------

PLACES = ["src", "tests", "docs", "benchmarks", "examples", ".ci"]
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".j2", ".css", ".cff", ".json", ".jsonl", ".html", ".svg"}
# The brackets keep each pattern from finding itself here.
PRIVATE = re.compile(
    r"/wor[k]/|/roo[t]/|/far[m]/|/hom[e]/\w|/Use[r]s/\w|/tm[p]/bash"
    r"|files\.pythonhoste[d]|pyp[i]\.org|download\.pytorc[h]|deb\.debia[n]|registry\.npmj[s]"
)


def text_files() -> Iterator[Path]:
    """Every file of the project that holds text, read or written by people."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and (path.suffix in TEXT or path.name == "Makefile"))
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*")):
            if path.is_file() and (path.suffix in TEXT or path.parent.name == ".ci"):
                yield path


def test_no_file_names_a_registry_host_or_a_path_of_somebodys_machine() -> None:
    files = list(text_files())
    assert {ROOT / "Makefile", ROOT / ".ci" / "run", Path(__file__)} <= set(files)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for match in PRIVATE.finditer(line)
    ]
    assert found == []


@pytest.mark.parametrize("line", ["see /wor" + "k/main", "cd /hom" + "e/ada", "https://pyp" + "i.org/simple"])
def test_such_a_name_would_be_found(line: str) -> None:
    assert PRIVATE.search(line)
