"""Fractions of training: names, words, and the steps on which they fall."""

import pytest

from gradleak.training.stages import Stage, stages_of


def test_names_of_checkpoints_sort_as_training_goes_and_need_no_quotes() -> None:
    fractions = [0.0, 0.00001, 0.01, 0.1, 0.15, 0.5, 1.0]
    names = [Stage(fraction, 0).file for fraction in fractions]
    assert names == sorted(names)
    assert names[2] == "stage-0.01.safetensors"
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for name in names)


def test_stages_in_words() -> None:
    assert [Stage(fraction, 0).words for fraction in (0, 0.01, 0.125, 1)] == [
        "0 % of training",
        "1 % of training",
        "12.5 % of training",
        "100 % of training",
    ]


def test_default_stages_are_those_that_fall_on_a_round_of_their_own() -> None:
    assert [(stage.fraction, stage.unit) for stage in stages_of(None, 1000)[0]] == [
        (0, 0),
        (0.01, 10),
        (0.1, 100),
        (1, 1000),
    ]
    assert [(stage.fraction, stage.unit) for stage in stages_of(None, 20)[0]] == [(0, 0), (0.1, 2), (1, 20)]


@pytest.mark.parametrize(
    ("fractions", "total", "problem"),
    [
        ((0, 0.01), 20, "at least one of 20 steps or rounds (0.05), got 0.01"),
        ((0.5, 0.51), 20, "got 0.5 and 0.51, both number 10 of 20"),
        ((1, 1), 20, "got 1 and 1, both number 20 of 20"),
    ],
)
def test_fractions_that_no_step_can_keep_are_refused(fractions: tuple[float, ...], total: int, problem: str) -> None:
    problems = stages_of(fractions, total)[1]
    assert len(problems) == 1
    assert problem in problems[0]
