"""Records: strict JSON that reads back exactly."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradleak.audits.records import Course, TrialRecord, plain, read_line, record_id, settings_text
from gradleak.clients import Aggregate, Gradient, LocalSGD
from gradleak.defenses import GaussianNoise
from gradleak.errors import BadInput
from gradleak.threat import ThreatModel
from tests.audits.examples import columns, record

numbers = st.floats(allow_nan=True, allow_infinity=True)
cells = st.one_of(numbers, st.integers(-(2**53), 2**53), st.booleans(), st.none())
column_sets = st.dictionaries(st.text(max_size=8), st.lists(cells, max_size=4).map(tuple), max_size=3)
# "nan" and "inf" as text: in a setting or a message they must stay text.
texts = st.one_of(st.text(max_size=20), st.sampled_from(["nan", "inf", "-inf", "null", "\n", "\u2028"]))
settings = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
courses = st.builds(
    Course,
    evaluations=st.lists(st.integers(1, 999), max_size=3).map(tuple),
    objective=st.lists(numbers, max_size=3).map(tuple),
    snapshot_evaluations=st.lists(st.integers(1, 999), max_size=3).map(tuple),
    psnr=st.lists(st.lists(numbers, max_size=2).map(tuple), max_size=2).map(tuple),
)
records = st.builds(
    TrialRecord,
    version=st.just(1),
    id=st.text("0123456789abcdef", min_size=16, max_size=16),
    status=st.sampled_from(["converged", "budget", "nonfinite", "not_applicable", "error"]),
    spec=st.dictionaries(st.text(max_size=8), settings, max_size=3).map(lambda spec: plain(spec, "spec")),
    threat=texts,
    scores=column_sets,
    targets_given=st.booleans(),
    baselines=st.dictionaries(st.text(max_size=5), column_sets, max_size=2),
    objective=numbers,
    evaluations=st.integers(0, 10**6),
    seconds=numbers,
    message=texts,
    traceback=texts,
    course=courses,
    environment=st.dictionaries(st.text(max_size=5), st.one_of(texts, st.integers(), st.none()), max_size=2),
)


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is not strict JSON")


@given(records)
def test_a_record_reads_back_exactly(written: TrialRecord) -> None:
    line = written.to_line()
    assert "\n" not in line
    json.loads(line, parse_constant=refuse_constant)
    read = read_line(line)
    assert read == written
    assert read.to_line() == line


def test_numbers_come_back_with_value_and_type() -> None:
    scores = {"psnr": (math.nan, math.inf, -math.inf, 20.0), "paired_with": (3, -1), "target_correct": (True, None)}
    read = read_line(record([1.0]).model_copy(update={"scores": scores}).to_line())
    assert math.isnan(read.numbers("psnr")[0])
    assert read.scores["psnr"][1:] == (math.inf, -math.inf, 20.0)
    assert [type(cell) for cell in read.scores["paired_with"]] == [int, int]
    assert read.scores["target_correct"] == (True, None)
    assert type(read.scores["psnr"][3]) is float


def test_records_that_differ_are_not_equal() -> None:
    assert record([20.0]) != record([20.1])
    assert record([math.nan]) == record([math.nan])
    assert record([20.0]) != "something else"


def test_the_id_depends_on_content_and_not_on_order() -> None:
    assert record_id({"a": 1, "b": [2.5]}) == record_id({"b": [2.5], "a": 1})
    assert len({record_id({"seed": seed}) for seed in range(50)}) == 50
    # sha256 of {"spec":{},"version":1}, computed with sha256sum
    assert record_id({}) == "fb7389db572dcc95"


def test_configuration_objects_become_plain_data() -> None:
    settings = {"client": Gradient(mode="train"), "defenses": (GaussianNoise(1e-3),), "limit": math.inf}
    found = plain(settings, "spec")
    assert found["client"].items() >= {"name": "Gradient", "mode": "train", "dropout": None, "sent": None}.items()
    assert {key: value for key, value in found.items() if key != "client"} == {
        "defenses": [{"name": "GaussianNoise", "std": 0.001}],
        "limit": "inf",
    }
    assert plain(ThreatModel(), "threat")["labels_known"] is False


def test_words_leave_defaults_out_but_not_the_mode() -> None:
    assert settings_text(plain(Gradient(), "client")) == "Gradient(mode=eval)"
    assert settings_text({"name": "Gradient", "mode": "train", "dropout": "off"}) == "Gradient(mode=train, dropout=off)"
    many = Aggregate([LocalSGD(lr=0.1, epochs=5)], count=4)
    assert settings_text(plain(many, "client")) == (
        "Aggregate(clients=[LocalSGD(mode=eval, lr=0.1, epochs=5)], count=4)"
    )


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(BadInput, match=r"spec\.model\.hook: expected plain data, got function"):
        plain({"model": {"hook": refuse_constant}}, "spec")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected one JSON object"),
        ('{"id": "0', "expected one JSON object"),
        ('{"objective": NaN}', "not strict JSON"),
        ("[1]", "record: "),
        ('{"version": 2}', "version: "),
    ],
)
def test_a_damaged_line_is_refused_in_words(line: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_line(line)


def test_an_unknown_field_is_refused() -> None:
    line = json.dumps({**json.loads(record([1.0]).to_line()), "psnr": 99})
    with pytest.raises(BadInput, match="psnr: extra inputs are not permitted"):
        read_line(line)


def test_missing_columns_are_nan() -> None:
    short = record([1.0, 2.0], examples=(1, 2)).model_copy(update={"scores": {**columns([1.0, 2.0]), "ssim": (0.5,)}})
    assert short.numbers("ssim")[0] == 0.5
    assert math.isnan(short.numbers("ssim")[1])
    assert all(math.isnan(value) for value in short.numbers("rouge1"))
