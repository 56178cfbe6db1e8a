"""Specs with mistakes: all of them in one go, each with its place; and specs without."""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from gradleak.audits.reading import read_spec, shipped_specs
from gradleak.errors import BadInput
from tests.audits.factories import net

OK: dict[str, Any] = {"model": "tests.audits.factories:net", "data": "tests.audits.factories:noise"}

TEN = """\
# Ten mistakes
name: ten
trails: 5
model:
  - {name: lenet, settings: {activation: sigmod}}
  - {name: mlp, weights: nowhere.safetensors}
data:
  name: photgraphs
  size: 16
batch_size: [1, x]
client: {name: Gradient, mode: trian}
defense:
  - none
  - {name: GaussianNoise, std: -1}
attack:
  - auto
  - {name: dlg,
     outer_stps: 4}
threat: {labels_known: maybe}
threshold: [20, 30]
limit:
  - {success_rate_at: 25,
     below: 0.05}
"""


def problems(spec: object, *overrides: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        read_spec(spec, overrides)  # type: ignore[arg-type]
    return list(caught.value.problems)


TWO = {"name": "Aggregate", "clients": ["Gradient"], "count": 2}


def problem(**changes: object) -> str:
    (only,) = problems({**OK, **changes})
    return only


def test_ten_mistakes_are_ten_messages_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "ten.yaml"
    file.write_text(TEN, encoding="utf-8")
    found = problems(str(file))
    expected = [
        (3, "trails", "did you mean 'trials'?"),
        (5, "model.0.settings.activation", "did you mean 'sigmoid'?"),
        (6, "model.1.weights", "nowhere.safetensors"),
        (8, "data.name", "did you mean 'photographs'?"),
        (10, "batch_size.1", "expected a whole number, got 'x'"),
        (11, "client.mode", "expected one of eval, train, got 'trian'"),
        (14, "defense.1.std", "expected a finite value of at least 0, got -1"),
        (18, "attack.1.outer_stps", "did you mean 'outer_steps'?"),
        (19, "threat.labels_known", "expected true or false, got 'maybe'"),
        (22, "limit.0.success_rate_at", "expected one of the thresholds 20, 30, got 25"),
    ]
    assert len(found) == 10, found
    for text, (line, path, words) in zip(found, expected, strict=True):
        assert text.startswith(f"{file}:{line} {path}: "), text
        assert words in text
        assert "expected" in text
        assert ", got " in text
        assert ";" in text


def test_mistakes_of_the_command_line_come_with_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ten.yaml"
    file.write_text(TEN, encoding="utf-8")
    found = problems(file, "trials=0", "attack.7.restarts=2", "seed")
    assert len(found) == 13
    assert [text for text in found if text.startswith("--set trials: expected at least 1, got 0")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attack": "dgl"}, "spec attack.name: expected one of auto, "),
        ({"attack": "dgl"}, "did you mean 'dlg'?"),
        ({"attack": {"name": "dlg", "max_seconds": -1}}, "attack.max_seconds: expected more than 0, got -1"),
        ({"attack": {"name": "dlg", "restarts": 1.5}}, "attack.restarts: expected a whole number, got 1.5"),
        ({"attack": {"name": "dlg", "restarts": "2"}}, "attack.restarts: expected a whole number, got '2'"),
        ({"attack": {"nme": "dlg"}}, "attack.name: expected a value, got none"),
        ({"attack": ["auto", "auto"]}, "attack.1: expected an entry that differs from the others"),
        ({"attack": []}, "attack: expected at least one entry, got []"),
        ({"attack": 3}, "attack: expected a name or a mapping, got 3"),
        ({"client": "gradient"}, "did you mean 'Gradient'?"),
        ({"defense": "GaussianNoise"}, "defense.std: expected a value, got none"),
        ({"defense": {"name": "GaussianNoise", "sdt": 1}}, "defense.sdt: expected one of std, got the unknown key"),
        ({"threat": {"label_known": True}}, "did you mean 'labels_known'?"),
        ({"batch_size": 12}, "batch_size: expected at most 11 (one less than the examples of 'noise'"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": {"per_client": 0}}, "batch_size.per_client: expected at least 1, got 0"),
        ({"batch_size": [1, {"per_clint": 1}]}, "batch_size.1.per_clint: expected one of per_client"),
        ({"batch_size": {"per_client": 6}, "client": TWO}, "batch_size: expected at most 11 (one less than"),
        (
            {"attack": {"name": "using_layers", "layers": "conv9.*"}},
            "attack.layers: expected all, first, last or patterns",
        ),
        ({"attack": {"name": "using_layers", "attack": "outo"}}, "did you mean 'auto'?"),
        ({"trials": True}, "trials: expected a whole number, got True"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"model": "lenett"}, "did you mean 'lenet'?"),
        ({"model": "tests.audits.factories:fails"}, "got FileNotFoundError: no checkpoint at epoch 9"),
        ({"model": "tests.audits.factories:nothing"}, "got AttributeError"),
        ({"model": "tests.audits.factories:not_a_model"}, "expected a model, got dict"),
        ({"model": "tests.audits.factories:fickle"}, "expected the same weights at each call"),
        ({"model": {"factory": "tests.audits.factories:net", "settings": {"hiden": 3}}}, "did you mean 'hidden'?"),
        ({"model": {"factory": "tests.audits.factories:net", "settings": {"classes": 2}}}, "at least 3 outputs"),
        ({"model": {"name": "lenet", "settings": {"num_classes": 3}}}, "it follows from the rest, remove it"),
        ({"model": {"name": "lenet", "settings": {"width": 0}}}, "model.settings.width: expected at least 1, got 0"),
        ({"model": {"name": "lenet-dlg", "settings": {"width": 3}}}, "expected no settings for 'lenet-dlg'"),
        ({"model": {"name": "lenet", "mean": [0.5, 0.5]}}, "model.mean: expected 1 or 1 values, got 2"),
        ({"data": "nowhere.npz"}, "data.name: data 'nowhere.npz': expected"),
        ({"data": {"name": "digits", "settings": {"count": 3}}}, "expected no settings for 'digits'"),
        (
            {"data": {"name": "tests.audits.factories:noise", "only": "kind 5"}},
            "data.only: expected a class of 'noise'",
        ),
        ({"data": {"name": "tests.audits.factories:noise", "classes": 2}}, "data.classes: expected at least 3"),
        ({"data": "tests.audits.factories:net"}, "expected a factory that returns a gradleak.zoo.data.Dataset"),
        ({"data": {"name": "tests.audits.factories:noise", "distinct_labels": True}, "batch_size": 4}, "at most 3"),
        ({"model": "lenet", "data": "tests.audits.factories:rows"}, "which takes images; use mlp"),
        ({"limit": {"success_rate_at": 20}}, "limit.below: expected a value, got none"),
        ({"limit": {"success_rate_at": 20, "below": 5}}, "limit.below: expected at most 1, got 5"),
        ({"run": {"backend": "loki"}}, "did you mean 'loky'?"),
        ({"run": {"wrokers": 3}}, "did you mean 'workers'?"),
    ],
)
def test_a_mistake_is_one_message(changes: dict[str, object], words: str) -> None:
    text = problem(**changes)
    assert words in text
    assert "expected" in text
    assert ";" in text


def test_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# Nothing\ntrials: 3\n", encoding="utf-8")
    assert problems(file) == [
        f"{file}:2 model: expected a value, got none; add it",
        f"{file}:2 data: expected a value, got none; add it",
    ]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n- b\n", "word"])
def test_what_is_no_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")
    (only,) = problems(tmp_path / "spec.yaml")
    assert "expected keys and values, got" in only


def test_files_that_are_no_specs(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9t\xe9")
    (only,) = problems(tmp_path / "latin.yaml")
    assert "UTF-8" in only
    (only,) = problems("quik")
    assert "did you mean 'quick'?" in only
    (only,) = problems(tmp_path)
    assert "directory" in only


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    good, bad = str(tmp_path / "good.safetensors"), str(tmp_path / "bad.safetensors")
    save_file(net().state_dict(), good)
    save_file({"linear.bias": torch.zeros(3)}, bad)
    model = {"name": "mlp", "settings": {"hidden": [4]}}
    read_spec({**OK, "model": {**model, "weights": good}})
    found = problems({**OK, "model": {**model, "weights": bad}})
    assert len(found) == 3
    assert all("bad.safetensors: expected a tensor" in text for text in found)
    assert "with weights" in problem(model={**model, "weights": good, "redraw": True})


def test_a_spec_may_be_a_mapping_a_file_or_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(json.dumps(OK), encoding="utf-8")
    assert read_spec(tmp_path / "mine.yaml").name == "mine"
    assert read_spec(OK).name == "audit"
    assert read_spec(OK, ["name=other"]).name == "other"
    assert read_spec("quick").name == "quick"
    assert list(OK) == ["model", "data"]  # the caller's mapping is left alone


@pytest.mark.parametrize("name", shipped_specs())
def test_the_effective_spec_reads_back(tmp_path: Path, name: str) -> None:
    spec = read_spec(name)
    (tmp_path / "spec.yaml").write_text(spec.to_yaml("What?"), encoding="utf-8")
    assert read_spec(tmp_path / "spec.yaml") == spec


def test_one_entry_is_a_list_of_one_and_a_word_is_a_name() -> None:
    noise = {"name": "GaussianNoise", "std": 1e-3}
    spec = read_spec({**OK, "attack": "dlg", "defense": noise, "batch_size": 2})
    longer = read_spec({**OK, "attack": [{"name": "dlg"}], "defense": [[noise]], "batch_size": [2]})
    assert spec == longer
    assert read_spec({**OK, "defense": [None, "none", []][0]}).defense == ((),)


@given(
    st.dictionaries(
        st.sampled_from(["trials", "seed", "model", "attack", "run", "limit", "data", "x"]),
        st.text() | st.integers() | st.lists(st.none()),
    )
)
def test_anything_is_read_or_refused(raw: dict[str, Any]) -> None:
    with suppress(BadInput):  # any other exception fails
        read_spec(raw)


def test_a_folder_of_images_without_classes_gets_the_labels_of_the_model(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(8):
        Image.new("L", (4, 4), 20 * number).save(tmp_path / f"{number}.png")
    read_spec({"model": "tests.audits.factories:net", "data": str(tmp_path)})
    (only,) = problems({"model": "lenet", "data": str(tmp_path)})
    assert "data.classes: expected a number" in only
    read_spec({"model": "lenet", "data": {"name": str(tmp_path), "classes": 5}})
    shutil.rmtree(tmp_path)


def test_the_spec_of_the_guide_is_one(tmp_path: Path) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "audits.md"
    (block,) = re.findall(r"^```yaml\n(.*?)^```", guide.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "noise.yaml").write_text(block, encoding="utf-8")
    spec = read_spec(tmp_path / "noise.yaml")
    assert (spec.name, len(spec.defense), len(spec.attack)) == ("noise", 3, 2)
