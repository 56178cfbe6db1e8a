"""Values from the command line."""

from typing import Any

import pytest

from gradleak.audits.overrides import Source, override


def changed(value: Any, *assignments: str) -> Any:
    source = Source("file", value)
    assert override(source, assignments) == []
    return source.value


@pytest.mark.parametrize(
    ("before", "assignment", "after"),
    [
        ({}, "trials=5", {"trials": 5}),
        ({"trials": 3}, "trials=5", {"trials": 5}),
        ({}, "batch_size=[1, 2]", {"batch_size": [1, 2]}),
        ({}, "run.workers=2", {"run": {"workers": 2}}),
        ({}, "client.mode=train", {"client": {"name": "Gradient", "mode": "train"}}),
        ({"client": "Gradient"}, "client.mode=train", {"client": {"name": "Gradient", "mode": "train"}}),
        ({"attack": ["auto", "dlg"]}, "attack.1.steps=5", {"attack": ["auto", {"name": "dlg", "steps": 5}]}),
        ({"attack": ["auto"]}, "attack=dlg", {"attack": "dlg"}),
        ({}, "data=images=1", {"data": "images=1"}),
        ({}, "defense={name: GaussianNoise, std: 1e-3}", {"defense": {"name": "GaussianNoise", "std": 1e-3}}),
        ({}, "limit=", {"limit": None}),
        (None, "trials=5", {"trials": 5}),
    ],
)
def test_an_override(before: Any, assignment: str, after: Any) -> None:
    assert changed(before, assignment) == after


def test_later_ones_win() -> None:
    assert changed({}, "trials=5", "trials=6") == {"trials": 6}


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("trials", "--set trials: expected path=value, got 'trials'; "),
        ("=3", "expected path=value"),
        ("a..b=3", "expected path=value"),
        ("attack.2.steps=3", "--set attack.2.steps: expected a position 0 to 1 in the list, got '2'; "),
        ("attack.steps=3", "expected a position 0 to 1 in the list, got 'steps'"),
        ("trials.x=3", "--set trials.x: expected a place inside trials, got trials = 3; "),
        ("trials=[1", "--set trials: expected YAML"),
        ("trials=!!python/name:os.system ", "--set trials: expected plain data"),
    ],
)
def test_an_override_that_cannot_be_made(assignment: str, words: str) -> None:
    source = Source("file", {"attack": ["auto", "dlg"], "trials": 3})
    (problem,) = override(source, [assignment])
    assert words in problem


def test_a_message_names_the_file_or_the_override() -> None:
    source = Source(
        "file", {"attack": ["auto"], "trials": 3}, {(): 1, ("trials",): 4, ("attack",): 2, ("attack", 0): 3}
    )
    override(source, ["client.mode=3"])
    assert source.located(("trials",), "wrong") == (4, "file:4 trials: wrong")
    assert source.located(("attack", 0, "steps"), "wrong") == (3, "file:3 attack.0.steps: wrong")
    assert source.located(("client", 0, "mode"), "wrong") == (0, "--set client.mode: wrong")
    assert source.located(("model",), "none") == (1, "file:1 model: none")
