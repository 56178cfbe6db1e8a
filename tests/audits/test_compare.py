"""Two audits side by side."""

import math

from gradleak.audits.compare import compare
from gradleak.audits.records import TrialRecord
from tests.audits.examples import record


def audit(offset: float, count: int = 6, attack: str = "dlg", data: str = "faces") -> list[TrialRecord]:
    return [record([10.0 + k + offset], seed=k, examples=(k,), attack=attack, data=data) for k in range(count)]


def test_the_same_audit_is_identical() -> None:
    found = compare(audit(0.0), audit(0.0))
    (change,) = found.changes
    assert change.identical
    assert (change.median, change.direction, change.captures) == (0.0, "same", 6)
    assert not found.only_before
    assert not found.only_after
    assert not found.environments


def test_a_change_is_paired_image_by_image() -> None:
    (change,) = compare(audit(0.0), audit(4.0, count=4)).changes
    assert (change.median, change.low, change.high) == (4.0, 4.0, 4.0)
    assert (change.captures, change.direction, change.identical) == (4, "more", False)
    (back,) = compare(audit(4.0), audit(0.0)).changes
    assert back.direction == "less"


def test_settings_of_one_alone_are_named() -> None:
    found = compare([*audit(0.0), *audit(0.0, attack="idlg")], audit(0.0, data="digits"))
    assert not found.changes
    assert [group.attack for group in found.only_before] == ["dlg", "idlg"]
    assert [group.data for group in found.only_after] == ["digits"]


def test_nothing_scored_is_no_change() -> None:
    (change,) = compare(audit(math.nan), audit(0.0)).changes
    assert change.direction == "same"
    assert math.isnan(change.median)
