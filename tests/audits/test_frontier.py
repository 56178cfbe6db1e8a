"""The frontier: what dominates what, what is recommended, and trainings that survive an interrupt."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gradleak as gl
from gradleak.audits.audit import declare
from gradleak.audits.frontier import Interval, Point, mean_interval, state_of, with_dominated
from gradleak.audits.prices import FILE, read_prices, run_prices
from gradleak.audits.recommending import recommendation
from gradleak.audits.report import write_report
from gradleak.audits.store import Store
from gradleak.audits.summarizing import leaks_of, summarize
from tests.audits.examples import record

SPEC: dict[str, Any] = {
    "trials": 2,
    "model": {"name": "mlp", "settings": {"hidden": [16]}},
    "data": "digits",
    "defense": ["none", {"name": "TopK", "keep": 0.1}],
    "attack": "linear_layer",
    "price": {"epochs": 1, "examples": 200, "batch_size": 32, "seeds": 2},
    "run": {"backend": "inprocess"},
}


def point(
    label: str,
    leaked: int,
    accuracy: float,
    *,
    of: int = 20,
    reach: float = 0.01,
    settled: bool = True,
    below: float = 0.2,
    chance: float = math.nan,
) -> Point:
    psnr = [[30.0 if number < leaked else 5.0] for number in range(of)]
    (leak,) = leaks_of(psnr, [20.0], reproduced=[settled] * of)
    found = Interval(accuracy, accuracy - reach, accuracy + reach)
    judged = summarize([record([5.0])]).groups[0]
    state = state_of(leak, below, chance)
    return Point(label, label, label != "none", judged, leak, state, None, None, found, prior_bound=15.0)


def dominated(*points: Point) -> dict[str, tuple[str, bool]]:
    return {one.label: (one.dominated, one.clearly) for one in with_dominated(points)}


def test_worse_in_one_and_no_better_in_the_other_is_dominated() -> None:
    found = dominated(point("none", 20, 0.9), point("a", 20, 0.5), point("b", 0, 0.8))
    assert found == {"none": ("", False), "a": ("none", True), "b": ("", False)}


def test_ties_and_missing_figures_are_not_dominated() -> None:
    twins = point("a", 3, 0.5), point("b", 3, 0.5)
    unknown = replace(point("c", 20, 0.1), accuracy=Interval(math.nan, math.nan, math.nan))
    assert set(dominated(*twins, unknown).values()) == {("", False)}


def test_overlapping_intervals_dominate_by_point_estimates_only() -> None:
    found = dominated(point("a", 2, 0.80, reach=0.1), point("b", 2, 0.79, reach=0.1))
    assert found["b"] == ("a", False)
    single = replace(point("a", 2, 0.80), accuracy=Interval(0.8, math.nan, math.nan))
    assert dominated(single, point("b", 2, 0.1))["b"] == ("a", False)


def test_an_attack_that_ended_early_dominates_nothing_that_was_shown() -> None:
    early = point("early", 0, 0.95, settled=False)
    assert early.state == "open"
    assert dominated(early, point("b", 20, 0.9))["b"] == ("", False)


def test_the_mean_has_students_interval() -> None:
    found = mean_interval([0.1, 0.2, 0.3])
    assert found.value == pytest.approx(0.2)
    assert found.high - found.value == pytest.approx(4.302652729911275 * 0.1 / math.sqrt(3))
    assert math.isnan(mean_interval([0.5]).low)
    assert math.isnan(mean_interval([]).value)


def test_the_recommendation_is_the_most_accurate_setting_that_stops_the_attack() -> None:
    points = (
        point("none", 20, 0.9),
        point("strong", 0, 0.3),
        point("mild", 0, 0.7),
        point("early", 0, 0.8, settled=False),
    )
    first, others, unclear, leaking, assumptions = recommendation(points, 20.0, 0.2)
    assert "mild stops this attack (0 of 20 leaked, at most 16 % at 95 %) with a test accuracy of 70.0 %" in first
    assert "strong" in others
    assert "early with a test accuracy of 80.0 % (nothing leaked, but 20 of 20 attacks ended before" in unclear
    assert "none (20 of 20 leaked" in leaking
    assert assumptions.startswith("Assumptions: ")
    assert "none of the settings tried is shown to stop" in recommendation(points[:1], 20.0, 0.2)[0]


def test_what_no_attack_settled_is_stopped_by_a_bound_that_leaves_too_little() -> None:
    early = point("early", 0, 0.8, settled=False, chance=0.19)
    assert early.state == "bounded"
    assert point("early", 0, 0.8, settled=False, chance=0.21).state == "open"
    # What was seen counts for more.
    assert point("early", 1, 0.8, chance=0.01).state == "leaks"
    assert point("early", 0, 0.8, chance=0.99).state == "stops"
    first, others, assumptions = recommendation((early, point("mild", 0, 0.7)), 20.0, 0.2)
    assert "early stops, by its bound, attackers who know of images no more than auto does (0 of 20 leaked" in first
    assert "exceeds 15.0 dB on average) with a test accuracy of 80.0 %" in first
    assert "mild with a test accuracy" in others
    assert "A bound is no proof" in assumptions
    _, others, _ = recommendation((point("mild", 0, 0.9), early), 20.0, 0.2)
    assert "early by its bound (15.0 dB) with" in others
    assert "A bound" not in recommendation((point("mild", 0, 0.9),), 20.0, 0.2)[-1]


def test_an_audit_with_prices_says_what_settings_cost_and_shows_it(tmp_path: Path) -> None:
    assert gl.audit(SPEC, out=tmp_path).complete
    (found,) = Store.open(tmp_path).contents().frontiers
    assert [one.label for one in found.points] == ["no defense", "TopK(keep=0.1)"]
    assert all(one.seeds == 2 and 0 < one.accuracy.value < 1 for one in found.points)
    assert math.isnan(found.points[0].price.value)
    lost = found.points[0].accuracy.value - found.points[1].accuracy.value
    assert found.points[1].price.value == pytest.approx(lost)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="frontier"' in page
    assert found.recommendation[0] in page


def test_interrupted_trainings_go_on_and_end_alike(tmp_path: Path) -> None:
    planned = declare(SPEC).prices
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert run_prices(planned, tmp_path / "a").done == 4
    calls = 0

    def interrupt(progress: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt

    first = run_prices(planned, tmp_path / "b", notify=interrupt)
    assert first.interrupted
    assert first.done < 4
    path = tmp_path / "b" / FILE
    if path.exists():
        path.write_bytes(path.read_bytes()[:-20])  # a kill tore the last line
    assert run_prices(planned, tmp_path / "b").done == 4
    accuracies = [{one.id: one.accuracy for one in read_prices(tmp_path / name)} for name in ("a", "b")]
    assert accuracies[0] == accuracies[1]


def test_data_without_labels_have_no_price(tmp_path: Path) -> None:
    spec = {**SPEC, "data": {"name": "digits", "only": ["3"], "classes": 10}}
    reasons = {one.reason for one in declare(spec).prices}
    assert reasons == {"the data have no labels to be right about"}
