"""Figures from a small store written by hand."""

import math

import pytest

from gradleak.audits.summarizing import summarize
from tests.audits.examples import record

NAN = math.nan


def test_figures_of_one_group() -> None:
    (group,) = summarize(
        [
            record([10.0], examples=(1,), correct=[True], evaluations=100),
            record([25.0], examples=(2,), correct=[False], evaluations=300, seed=1),
            record([40.0], examples=(3,), correct=[True], evaluations=200, status="budget"),
        ]
    ).groups
    assert (group.trials, group.images, group.batch_size) == (3, 3, 1)
    assert (group.psnr.median, group.psnr.worst, group.psnr.scored) == (25.0, 40.0, 3)
    assert group.statuses == {"converged": 2, "budget": 1}
    recognizable, close = group.leaks
    assert (recognizable.threshold, recognizable.images, recognizable.of) == (20.0, 2, 3)
    assert (close.images, close.batches.successes, close.batches.trials) == (1, 1, 3)
    # Wilson by hand, z = 1.959964: center 0.42692, half width 0.36542
    assert close.batches.low == pytest.approx(0.0615, abs=1e-4)
    assert close.batches.high == pytest.approx(0.7923, abs=1e-4)
    assert group.targets_correct is not None
    assert (group.targets_correct.successes, group.targets_correct.trials) == (2, 3)
    assert group.evaluations == 200
    assert [(row.name, row.psnr.median) for row in group.baselines] == [("grey", 12.0)]


def test_attacks_and_data_are_kept_apart() -> None:
    summary = summarize([record([10.0]), record([30.0], attack="idlg"), record([50.0], data="photographs")])
    assert [(group.data, group.attack) for group in summary.groups] == [
        ("faces", "dlg"),
        ("faces", "idlg"),
        ("photographs", "dlg"),
    ]
    # Two attacks on one face make one private image, judged by the better of them.
    assert [(image.data, image.psnr, image.attack) for image in summary.images] == [
        ("faces", 30.0, "idlg"),
        ("photographs", 50.0, "dlg"),
    ]


def test_targets_that_were_given_are_not_counted_as_found() -> None:
    (group,) = summarize([record([30.0], targets_given=True)]).groups
    assert group.targets_correct is None


def test_what_was_not_scored_counts_as_not_reconstructed() -> None:
    (group,) = summarize([record([NAN], status="error"), record([35.0], examples=(2,))]).groups
    assert (group.psnr.median, group.psnr.scored, group.images) == (35.0, 1, 2)
    assert (group.leaks[1].images, group.leaks[1].of) == (1, 2)


@pytest.mark.parametrize(
    ("records", "level"),
    [
        ([record([30.0])], "leak"),
        ([record([29.9]), record([5.0], examples=(2,))], "partial"),
        ([record([10.0])], "none"),
        ([record([10.0], status="budget")], "unknown"),
        ([record([10.0], status="nonfinite"), record([NAN], status="error", examples=(2,))], "unknown"),
        ([record([NAN], status="not_applicable")], "unknown"),
        ([], "unknown"),
        # one leaked face is a leak, however many others are safe
        ([*(record([8.0], examples=(position,)) for position in range(9)), record([31.0], examples=(9,))], "leak"),
        # a flat image that a gray card matches as well was not reconstructed
        ([record([32.0], baseline=33.0)], "none"),
        ([record([34.0], baseline=33.0)], "leak"),
        ([record([math.inf])], "leak"),
    ],
)
def test_the_verdict(records: list[object], level: str) -> None:
    assert summarize(records).level == level  # pyright: ignore[reportArgumentType]


def test_worst_case_and_median_over_images() -> None:
    summary = summarize([record([10.0, 20.0, 60.0], examples=(4, 5, 6))])
    assert summary.best.median == 20.0
    assert summary.worst is not None
    assert (summary.worst.example, summary.worst.psnr, summary.worst.row) == (6, 60.0, 2)
    assert summary.above(20.0) == 2
    assert summarize([]).worst is None


def test_a_batch_leaks_when_one_of_its_images_does() -> None:
    batches = [record([35.0, 5.0], examples=(1, 2)), record([31.0, 32.0], examples=(3, 4), seed=1)]
    (group,) = summarize([*batches, record([1.0, NAN], examples=(5, 6), seed=2)]).groups
    close = group.leaks[1]
    assert (close.batches.successes, close.batches.trials) == (2, 3)
    assert (close.images, close.of) == (3, 6)


def test_thresholds_are_those_declared() -> None:
    (group,) = summarize([record([26.0])], thresholds=(25.0,)).groups
    assert [(leak.threshold, leak.images) for leak in group.leaks] == [(25.0, 1)]


def test_draws_of_network_and_examples_make_no_new_group() -> None:
    assert len(summarize([record([10.0], seed=seed, examples=(seed,)) for seed in range(4)]).groups) == 1


def test_attacks_are_compared_on_the_same_updates() -> None:
    ours = [record([20.0 + k], attack="auto", seed=k, examples=(k,)) for k in range(6)]
    theirs = [record([17.0 + k], seed=k, examples=(k,)) for k in range(5)]
    first, second = summarize([*ours, *theirs]).groups
    (difference,) = first.differences
    assert (difference.attack, difference.other, difference.captures) == ("auto", "dlg", 5)
    assert (difference.median, difference.low, difference.high) == (3.0, 3.0, 3.0)
    assert second.differences[0].median == -3.0


def test_two_exact_answers_are_equally_good() -> None:
    pair = [record([math.inf], attack=attack, seed=k) for attack in ("auto", "dlg") for k in range(2)]
    assert summarize(pair).groups[0].differences[0].median == 0.0


def test_the_interval_of_a_median_resamples_batches() -> None:
    alike = [record([10.0, 10.0, 10.0], examples=(1, 2, 3)), record([30.0, 30.0, 30.0], examples=(4, 5, 6), seed=1)]
    (group,) = summarize(alike).groups
    assert group.psnr_interval == (10.0, 30.0)
    assert all(math.isnan(end) for end in summarize(alike[:1]).groups[0].psnr_interval)
