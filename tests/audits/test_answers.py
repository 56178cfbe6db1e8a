"""What a curve says about protection: never more than the trials show."""

from pathlib import Path
from typing import Any

import pytest

from gradleak.audits.records import TrialRecord, TrialStatus, record_id
from gradleak.audits.report import write_report
from gradleak.audits.report.answers import answer, state_of
from gradleak.audits.report.axes import axes_of
from gradleak.audits.report.tables import axis_table
from gradleak.audits.store import Store
from gradleak.audits.summarizing import summarize
from tests.audits.examples import columns, images, record

TRIALS = 20


def changed(old: TrialRecord, **parts: object) -> TrialRecord:
    spec: dict[str, Any] = {**old.spec, **parts}
    return old.model_copy(update={"spec": spec, "id": record_id(spec)})


def batches(size: int, leaking: int, status: TrialStatus = "converged", baseline: float = 12.0) -> list[TrialRecord]:
    """So many captured batches, some of which leak their first image."""
    return [
        record(
            [40.0 if number < leaking else 9.0] + [8.0] * (size - 1),
            attack="auto",
            examples=tuple(range(number, number + size)),
            seed=number,
            status="converged" if number < leaking else status,
            baseline=baseline,
        )
        for number in range(TRIALS)
    ]


def said(*records: TrialRecord) -> str:
    (axis,) = axes_of(summarize(records, (20.0,)).groups)
    (line,) = axis.lines
    return answer(axis, line, 20.0)


def test_where_every_place_leaks_nothing_protects() -> None:
    text = said(*batches(1, 20), *batches(4, 5))
    assert text == (
        "auto: success at 20 dB falls from 1.00 [0.84, 1.00] at batch size 1 to 0.25 [0.11, 0.47] at 4; "
        "it does not protect."
    )


def test_a_flat_curve_is_said_once() -> None:
    assert said(*batches(1, 20), *batches(2, 5), *batches(4, 20)).startswith(
        "auto: success at 20 dB is 1.00 [0.84, 1.00] at batch size 1 as at 4; "
    )


def test_protection_needs_a_small_upper_end() -> None:
    text = said(*batches(1, 20), *batches(4, 3), *batches(64, 0))
    assert "it does not protect at 1 and 4; it protects at 64 against this attack." in text


def test_an_attack_that_ran_out_of_time_is_no_protection() -> None:
    text = said(*batches(1, 20), *batches(64, 0, status="budget"))
    assert "protects at" not in text.replace("does not protect at", "")
    assert "inconclusive at 64: the attack ended before it reproduced the update in 20 of 20 trials." in text


@pytest.mark.parametrize("status", ["budget", "nonfinite", "not_applicable", "error"])
def test_one_unfinished_trial_counts_as_a_leak(status: TrialStatus) -> None:
    unfinished = [*batches(1, 0)[:-1], *batches(1, 0, status=status)[-1:]]
    (group,) = summarize(unfinished, (20.0,)).groups
    assert group.leaks[0].unsettled == 1
    assert state_of(group, 20.0) == "open"  # 1 of 20 has an upper end of 0.24
    (group,) = summarize(batches(1, 0), (20.0,)).groups
    assert state_of(group, 20.0) == "protects"


def test_few_trials_tell_nothing() -> None:
    assert "inconclusive at 64: 4 trials are too few" in said(*batches(1, 20), *batches(64, 0)[:4])


def test_what_an_answer_without_the_update_reaches_too_is_no_success() -> None:
    chance = batches(64, 20, baseline=45.0)
    assert summarize(chance, (20.0,)).groups[0].leaks[0].batches.successes == 20
    assert "to 0.00 [0.00, 0.16] at 64" in said(*batches(1, 20), *chance)
    # One image of a batch that is like another one hides no other image.
    alike = [one.model_copy(update={"baselines": {"random_other": columns([9.0, 45.0])}}) for one in batches(2, 20)]
    assert state_of(summarize(alike, (20.0,)).groups[0], 20.0) == "leaks"


def test_clients_of_an_aggregate_bring_their_own_examples() -> None:
    def aggregate(count: int) -> list[TrialRecord]:
        return [
            changed(one, client={"name": "Aggregate", "count": count, "clients": [{"name": "Gradient"}]})
            for one in batches(2 * count, 20 // count)
        ]

    (axis,) = axes_of(summarize([*aggregate(1), *aggregate(2), *aggregate(4)], (20.0,)).groups)
    assert axis.title == "clients in the aggregate"
    assert axis.lines[0].places == (1.0, 2.0, 4.0)


def test_layers_are_an_axis_of_words(tmp_path: Path) -> None:
    def seeing(layers: object, leaking: int) -> list[TrialRecord]:
        attack = {"name": "using_layers", "attack": "auto", "layers": layers}
        return [changed(one, attack=attack) for one in batches(1, leaking)]

    records = [*seeing("all", 20), *seeing("first", 0), *seeing(["conv2.*", "last"], 10)]
    (axis,) = axes_of(summarize(records, (20.0,)).groups)
    assert axis.words == ("all", "first", "conv2.* + last")
    text = said(*records)
    assert text.startswith("auto: by layers that the attack sees, success at 20 dB is 1.00 [0.84, 1.00] at all, 0.00")
    assert "it protects at first against this attack" in text
    store = Store.open(tmp_path)
    for one in records:
        store.append(one, images(1))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "auto, layers conv2.* + last" in page
    assert page.count(text.replace("'", "&#39;")) == 2  # with the verdict, and with the curve


def test_width_and_depth_are_axes_although_the_weights_differ() -> None:
    def network(width: int, depth: int) -> list[TrialRecord]:
        model = {"name": "resnet", "settings": {"width_multiplier": width, "depth": depth}, "digest": f"{width}{depth}"}
        return [changed(one, model=model) for one in batches(1, 10)]

    groups = summarize([*network(1, 8), *network(2, 8), *network(1, 20)], (20.0,)).groups
    assert [(axis.title, len(axis.lines)) for axis in axes_of(groups)] == [("width multiplier", 1), ("depth", 1)]


def test_lines_of_trained_models_are_told_apart_by_their_stage() -> None:
    def stage(words: str | None, size: int, file: str) -> list[TrialRecord]:
        model = {"name": "lenet", "weights": file, "digest": file, "trained": {"test_accuracy": len(file)}}
        return [changed(one, model=model, stage=words) for one in batches(size, 10)]

    def lines(one: str | None, other: str | None) -> list[str]:
        records = [*stage(one, 1, "a"), *stage(one, 2, "a"), *stage(other, 1, "bb"), *stage(other, 2, "bb")]
        axes = {axis.path: axis for axis in axes_of(summarize(records, (20.0,)).groups)}
        return [line.title for line in axes["batch_size"].lines]

    assert lines("early", "late") == ["auto, training stage early", "auto, training stage late"]
    assert [title.split(", ")[1] for title in lines(None, None)] == ["weights a", "weights bb"]


def test_a_table_has_the_cost_and_what_needs_no_update() -> None:
    (axis,) = axes_of(summarize([*batches(1, 20), *batches(4, 5)], (20.0,)).groups)
    table = axis_table(axis, 20.0)
    assert table.rows[1] == (
        "4", "0.25 [0.11, 0.47]", "5 of 80", "8.0 [8.0, 8.0]", "12.0", "20 of 20", "1.5", "100",
    )  # fmt: skip
    assert len(table.markdown().splitlines()) == 4
