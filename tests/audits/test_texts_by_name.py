"""Texts in audits and trainings: plans, records, kills, checkpoints, and mistakes with their places."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gradleak.adapters.huggingface import gpt2, train_subwords
from gradleak.audits.audit import audit
from gradleak.audits.building import build
from gradleak.audits.plan import plan
from gradleak.audits.reading import read_spec
from gradleak.audits.store import Store
from gradleak.errors import BadInput
from gradleak.tokens import TokenSpace
from gradleak.training.train import train
from gradleak.zoo.data import load, messages
from tests.cli.running import run

ROOT = Path(__file__).parents[2]
DECODER: dict[str, Any] = {"name": "decoder", "settings": {"width": 8, "layers": 1}}
CAUSAL: dict[str, Any] = {"name": "messages", "objective": "causal", "settings": {"length": 6, "vocabulary": 100}}
SPEC: dict[str, Any] = {
    "trials": 2,
    "model": DECODER,
    "data": CAUSAL,
    "batch_size": [1, 2],
    "attack": {"name": "dlg", "outer_steps": 1},
    "run": {"backend": "inprocess"},
}


def outcomes(folder: Path) -> dict[str, tuple[object, ...]]:
    """What must be the same however often a run was disturbed."""
    records = Store.open(folder).contents().records
    return {record.id: (record.status, record.scores, record.objective, record.evaluations) for record in records}


def test_a_plan_holds_what_is_needed_to_build_its_trials_again() -> None:
    planned = plan(read_spec(SPEC))
    assert len(planned) == 4
    trial = build(json.loads(json.dumps(planned[1].spec)))
    assert trial.id == planned[1].id
    space = trial.task.space
    assert isinstance(space, TokenSpace)
    assert space.to_text is not None
    assert trial.inputs.dtype == torch.int64
    assert trial.targets.shape == trial.inputs.shape == (2, 6)
    assert trial.task.classified == "token"
    # Nothing else may come out under the same id.
    for key, value in (("objective", "masked"), ("settings", {"length": 5, "vocabulary": 100})):
        other = {**SPEC, "data": {**CAUSAL, key: value}}
        other["model"] = "encoder" if value == "masked" else DECODER
        assert {one.id for one in plan(read_spec(other))}.isdisjoint(one.id for one in planned)


def test_hidden_words_follow_the_seed_of_the_audit() -> None:
    masked = {**SPEC, "model": {"name": "encoder", "settings": {"width": 8}}, "data": {**CAUSAL, "objective": "masked"}}
    first, again, other = (build(plan(read_spec(masked, [f"seed={seed}"]))[0].spec) for seed in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert bool((first.inputs == 2).any())
    assert not torch.equal(first.inputs, other.inputs)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_killed_audit_of_texts_goes_on_with_the_same_outcomes(tmp_path: Path) -> None:
    spec, whole, parts = tmp_path / "spec.json", tmp_path / "whole", tmp_path / "parts"
    spec.write_text(json.dumps({**SPEC, "trials": 4}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "gradleak", "audit", str(spec), "--out", str(parts)]
    process = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    lines, end = parts / "trials.jsonl", time.monotonic() + 60
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = outcomes(parts)
    assert 2 <= len(before) < 8
    for out in (parts, whole):
        assert audit(spec, out=out).finished == 8
    assert outcomes(parts) == outcomes(whole)
    assert before.items() <= outcomes(whole).items()
    assert lines.read_bytes().count(b"\n") == 8


def test_records_hold_the_scores_of_texts(tmp_path: Path) -> None:
    classes = {"name": "messages", "settings": {"length": 6}}
    models = [{"name": name, "settings": {"width": 8}} for name in ("lstm", "embedding_bag", "encoder")]
    outcome = audit({**SPEC, "trials": 1, "model": models, "data": classes}, out=tmp_path / "out")
    assert outcome.finished == outcome.planned == 6
    for record in Store.open(tmp_path / "out").contents().records:
        assert {"token_accuracy", "token_recall", "rouge1", "exact"} <= set(record.scores)
        assert 0 <= float(record.scores["token_accuracy"][0] or 0) <= 1
        assert record.spec["num_classes"] == 4


def test_texts_of_ones_own_with_a_trained_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "mine.txt").write_text("\n".join(f"line number {number} of my text" for number in range(30)))
    data = {"name": str(tmp_path / "mine.txt"), "objective": "causal"}
    for settings in ({"tokenizer": "bpe", "vocabulary": 280, "length": 8}, {"shortest": 2}):
        trial = build(plan(read_spec({**SPEC, "data": {**data, "settings": settings}}))[0].spec)
        assert isinstance(trial.task.space, TokenSpace)
        assert trial.task.num_classes == trial.task.space.vocabulary
    with pytest.raises(BadInput, match="mine' has texts of one class only"):
        read_spec({**SPEC, "data": data["name"]})


def test_a_model_from_a_folder_with_spare_rows_in_its_embedding(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    words = train_subwords(messages().lines, 300)
    words.inner.save(str(tmp_path / "words.json"))
    saved: Any = gpt2(320, 8, width=8, layers=1, padding=0)
    saved.save_pretrained(tmp_path / "model")
    data = {**CAUSAL, "settings": {"length": 6, "tokenizer": str(tmp_path / "words.json")}}
    spec = {**SPEC, "model": {"name": "hugging_face", "settings": {"source": str(tmp_path / "model")}}, "data": data}
    planned = plan(read_spec(spec))
    assert {one.spec["model"]["redraw"] for one in planned} == {False}
    trial = build(planned[0].spec)
    assert trial.task.num_classes == 320
    assert torch.equal(trial.task.model.get_parameter("transformer.wte.weight"), saved.transformer.wte.weight)
    with pytest.raises(BadInput, match="expected an embedding of at least 1210 tokens .*, got 320; add settings"):
        read_spec({**spec, "data": {"name": "messages", "objective": "causal"}})


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"data": {**CAUSAL, "size": 8}}, "data.size: expected none for texts"),
    ({"data": {**CAUSAL, "classes": 8}}, "data.classes: expected none where tokens are predicted"),
    ({"data": {**CAUSAL, "distinct_labels": True}}, "data.distinct_labels: expected false where tokens"),
    ({"data": {**CAUSAL, "objective": "causl"}}, "data.objective: .*did you mean 'causal'"),
    ({"data": {**CAUSAL, "settings": {"lenght": 6}}}, "data.settings.lenght: .*did you mean 'length'"),
    ({"data": {**CAUSAL, "settings": {"length": 0}}}, "data.settings.length: expected at least 1"),
    ({"data": {**CAUSAL, "settings": {"tokenizer": "./gone"}}}, "data.settings.tokenizer: ./gone: expected a folder"),
    ({"data": {"name": "digits", "objective": "causal"}}, "data.objective: expected texts with classes"),
    ({"model": "encoder"}, "model.name: expected a model of texts with objective causal, got 'encoder'; use decoder"),
    ({"model": "lenet-relu"}, "model.name: .*got 'lenet-relu', which takes images"),
    ({"data": "digits"}, "model.name: .*got 'decoder', which takes texts"),
    ({"model": {**DECODER, "settings": {"layers": 0}}}, "model.settings.layers: expected at least 1"),
    ({"model": {**DECODER, "settings": {"length": 4}}}, "model.settings.length: .*follows from the rest"),
    ({"model": {**DECODER, "mean": 0.5}}, "model.mean: expected images to normalize, got texts"),
]


@pytest.mark.parametrize(("change", "text"), MISTAKES)
def test_mistakes_are_told_where_they_are(change: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        read_spec({**SPEC, **change})


def test_a_trained_model_brings_its_texts_along(tmp_path: Path) -> None:
    small = ["epochs=1", "checkpoints=[0, 1]", "model.settings={width: 8, layers: 1}", "data.settings.vocabulary=100"]
    outcome = train("messages", out=tmp_path / "models", overrides=[*small, "examples=64"])
    assert outcome.status == "finished"
    data = {**CAUSAL, "settings": {"length": 12, "vocabulary": 100}}
    spec = {**SPEC, "model": [{"weights": str(path)} for path in outcome.checkpoints], "data": data}
    trials = [build(one.spec) for one in plan(read_spec(spec))]
    assert {trial.model["trained"]["data"] for trial in trials} == {"messages"}  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
    for change, text in (
        ({"objective": "classification"}, "expected data with objective causal"),
        ({"settings": {"length": 12}}, "expected the tokenizer of the training"),
        ({"settings": {"length": 9, "vocabulary": 100}}, "expected texts of 12 tokens"),
    ):
        with pytest.raises(BadInput, match=text):
            read_spec({**spec, "data": {**data, **change}})
    with pytest.raises(BadInput, match="expected data of texts"):
        read_spec({**spec, "data": "digits"})


TRAININGS = [
    ("data.objective=masked", "model={name: encoder, settings: {width: 8}}"),
    ("data.objective=classification", "model={name: lstm, settings: {width: 8, hidden: 8}}"),
    ("workers=2", "defense={name: GaussianNoise, std: 1e-3}"),
    ("dp={clip: 1.0, noise_multiplier: 1.0}",),
]


@pytest.mark.parametrize("changes", TRAININGS, ids=lambda changes: changes[0])
def test_trainings_of_texts(tmp_path: Path, changes: tuple[str, ...]) -> None:
    if changes[0].startswith("dp"):
        pytest.importorskip("opacus")
    small = ["epochs=1", "examples=16", "checkpoints=[1]", "model.settings={width: 8, layers: 1}"]
    outcome = train("messages", out=tmp_path, overrides=[*small, *changes])
    assert outcome.status == "finished"
    assert 0 <= outcome.row["test_accuracy"] <= 1


def test_what_texts_cannot_be_trained_with(tmp_path: Path) -> None:
    for change, text in (
        ("defense=MixUp", "expected defenses of the update for texts"),
        ("augmentation={flip: true}", "expected images to augment"),
    ):
        with pytest.raises(BadInput, match=text):
            train("messages", out=tmp_path, overrides=[change])


def test_commands_that_need_numbers_refuse_texts() -> None:
    for command in ("screen", "bound"):
        done = run(command, "--model", "mlp-relu", "--data", "messages")
        assert done.code == 2
        assert "expected images or rows of numbers, got texts" in done.err
    assert load("messages").tokens is not None
