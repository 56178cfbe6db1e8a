"""Limits act on captured batches and on the upper end of the interval; JUnit XML says the same."""

import math
from dataclasses import dataclass
from xml.etree import ElementTree

import pytest

from gradleak.audits.junit import junit_xml
from gradleak.audits.limits import batches_to_show, check_limits
from gradleak.audits.records import TrialRecord
from gradleak.scoring.statistics import wilson_interval
from tests.audits.examples import record


@dataclass(frozen=True)
class At:
    success_rate_at: float
    below: float
    score: str | None = None


def trials(count: int, leaked: int = 0) -> list[TrialRecord]:
    return [record([40.0 if k < leaked else 8.0], seed=k, examples=(k,)) for k in range(count)]


def test_a_clean_cell_keeps_its_limit_only_with_enough_batches() -> None:
    needed = batches_to_show(0.05)
    assert wilson_interval(0, needed)[1] < 0.05 <= wilson_interval(0, needed - 1)[1]
    (kept,) = check_limits(trials(needed), [At(20.0, 0.05)])
    assert kept.state == "kept"
    (few,) = check_limits(trials(10), [At(20.0, 0.05)])
    assert few.state == "exceeded"
    assert f"takes {needed} clean batches" in few.describe()


def test_any_attack_on_any_image_makes_a_batch_leak() -> None:
    records = [
        record([5.0, 6.0], attack="dlg", examples=(1, 2)),
        record([5.0, 25.0], attack="auto", examples=(1, 2)),
        record([5.0, 6.0], attack="dlg", examples=(3, 4), seed=1),
        record([5.0, 6.0], attack="auto", examples=(3, 4), seed=1),
    ]
    (checked,) = check_limits(records, [At(20.0, 0.9)])
    assert (checked.leaked.successes, checked.leaked.trials) == (1, 2)


def test_a_crash_hides_no_leak_and_counts_as_no_safety() -> None:
    records = [
        record([math.nan], attack="dlg", status="error"),
        record([30.0], attack="auto"),
        record([math.nan], attack="dlg", status="error", seed=1, examples=(8,)),
        record([3.0], attack="auto", seed=1, examples=(8,)),
    ]
    (checked,) = check_limits(records, [At(20.0, 1.0)])
    assert (checked.leaked.successes, checked.leaked.trials, checked.unfinished) == (1, 1, 1)
    (nothing,) = check_limits(records[2:], [At(20.0, 1.0)])
    assert nothing.state == "missing"


def test_cells_and_limits_are_checked_each() -> None:
    records = [record([10.0], seed=k, data=data) for data in ("faces", "digits") for k in range(3)]
    checked = check_limits(records, [At(20.0, 0.9), At(30.0, 0.95)])
    assert [(one.threshold, one.cell["data.name"]) for one in checked] == [
        (20.0, "faces"),
        (20.0, "digits"),
        (30.0, "faces"),
        (30.0, "digits"),
    ]


def test_junit_counts_failures_crashes_and_missing_trials() -> None:
    evil = "<b>\x00&\ud800"
    records = [
        record([40.0], data=evil),
        record([math.nan], status="error", message=evil, traceback=evil, seed=1, data="other"),
    ]
    suite = ElementTree.fromstring(junit_xml(evil, check_limits(records, [At(20.0, 0.5)]), records, missing=3))
    assert suite.tag == "testsuite"
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "4",
        "failures": "1",
        "errors": "3",
    }
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "1 of 1 captured batches" in str(failure.get("message"))


@pytest.mark.parametrize("below", [0.5, 0.2, 0.01])
def test_the_number_of_clean_batches_is_the_least(below: float) -> None:
    needed = batches_to_show(below)
    assert wilson_interval(0, needed)[1] < below <= wilson_interval(0, needed - 1)[1]
