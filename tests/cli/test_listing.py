"""`gradleak list`."""

import json

import pytest
from typer.main import get_command

import gradleak as gl
from gradleak.audits.by_name.models import TEXT
from gradleak.cli import app
from gradleak.cli.listing import KINDS
from gradleak.zoo.data import BUNDLED
from gradleak.zoo.models import REFERENCE_MODELS
from tests.cli.running import run


@pytest.mark.parametrize("kind", KINDS)
def test_json_is_a_list_of_objects_with_names(kind: str) -> None:
    done = run("list", kind, "--json")
    assert done.code == 0
    entries = json.loads(done.out)
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    assert all(entry["summary"] for entry in entries)
    assert all("\n" not in entry["summary"] for entry in entries)


def test_names_are_those_of_the_library() -> None:
    def names(kind: str) -> list[str]:
        return [entry["name"] for entry in json.loads(run("list", kind, "--json").out)]

    assert {"dlg", "idlg"} <= set(names("attacks"))
    assert all(callable(getattr(gl.attacks, name)) for name in names("attacks"))
    assert all(isinstance(getattr(gl.clients, name), type) for name in names("clients"))
    assert all(isinstance(getattr(gl.defenses, name), type) for name in names("defenses"))
    assert names("models") == [*(card.name for card in REFERENCE_MODELS), *TEXT]
    assert names("data") == [card.name for card in BUNDLED]


def test_options_say_what_is_required_and_what_is_the_default() -> None:
    attacks = {entry["name"]: entry["options"] for entry in json.loads(run("list", "attacks", "--json").out)}
    assert {"name": "restarts", "default": 1, "required": False} in attacks["dlg"]
    for options in attacks.values():
        assert {"max_seconds", "max_evaluations", "restarts"} <= {option["name"] for option in options}
    defenses = {entry["name"]: entry["options"] for entry in json.loads(run("list", "defenses", "--json").out)}
    (std,) = defenses["GaussianNoise"]
    assert (std["name"], std["default"], std["required"]) == ("std", None, True)
    assert "standard deviation" in std["summary"]


def test_table_names_everything() -> None:
    done = run("list", "models")
    assert done.code == 0
    assert all(card.name in done.out for card in REFERENCE_MODELS)


def test_overview_counts_every_kind() -> None:
    counts = {entry["name"]: entry["count"] for entry in json.loads(run("list", "--json").out)}
    assert list(counts) == list(KINDS)
    assert counts["models"] == len(REFERENCE_MODELS) + len(TEXT)
    table = run("list").out
    assert all(kind in table for kind in KINDS)


def test_unknown_kind_names_the_known_ones() -> None:
    done = run("list", "attack")
    assert done.code == 2
    assert done.out == ""
    assert done.problems == [
        "error: list: expected one of attacks, defenses, clients, models, data, specs, trainings, got 'attack'; "
        "choose one"
    ]


def test_no_flag_switches_off_what_it_names() -> None:
    """A flag whose default is on must have a spelling for off, and one without it must be off by default."""
    flags = 0
    for name, command in get_command(app).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        for option in command.params:
            if getattr(option, "is_flag", False):
                flags += 1
                assert option.default in {False, None} or option.secondary_opts, f"{name} {option.opts}"
                assert not any(spelling.startswith("--no-") for spelling in option.opts), f"{name} {option.opts}"
    assert flags > 3
