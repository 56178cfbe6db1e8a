"""Updates of language models on the command line: read, attacked, checked and inspected, or clearly refused."""

import json
from pathlib import Path

import pytest
import torch

import gradleak as gl
from gradleak.evidence import load_update, save_update
from gradleak.zoo.data import load, with_objective
from gradleak.zoo.models.decoder import decoder
from tests.cli.running import run

MESSAGES = with_objective(load("messages"), "causal")
FIRST = "could you pick up bread and milk on the way home?"


@pytest.fixture(scope="module")
def update(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert MESSAGES.tokens is not None
    model = decoder(MESSAGES.tokens.vocabulary, MESSAGES.tokens.length, padding=0, seed=3)
    task = gl.Task(model, MESSAGES.tokens, MESSAGES.num_classes, classified="token")
    threat = gl.ThreatModel(lengths_known=True)
    observation, _ = gl.capture(task, MESSAGES.inputs[:1], MESSAGES.targets[:1], threat=threat)
    path = tmp_path_factory.mktemp("texts") / "update.safetensors"
    save_update(path, observation)
    return path


def test_an_update_file_holds_what_tokens_are(update: Path) -> None:
    evidence = load_update(update)
    assert evidence.space == MESSAGES.tokens
    assert evidence.classified == "token"
    assert evidence.lengths is not None
    assert evidence.lengths.tolist() == [int((MESSAGES.inputs[0] != 0).sum())]


def test_an_attack_prints_and_writes_what_it_recovered(update: Path, tmp_path: Path) -> None:
    common = ("attack", update, "--model", "decoder", "--model-seed", 3, "--attack", "dlg", "--max-evaluations", 3)
    shown = run(*common, "--tokenizer", "messages", "--out", tmp_path / "out")
    assert shown.code == 0, shown.err
    assert "text 0" in shown.out
    assert "lengths" in shown.out
    written = (tmp_path / "out" / "texts.txt").read_text(encoding="utf-8")
    assert len(written.splitlines()) == 1
    assert written.strip().replace(" ", "").isprintable()
    plain = json.loads(run(*common, "--json").out)
    assert len(plain["texts"]) == len(plain["tokens"]) == 1
    # Without words the ids are shown.
    assert plain["texts"][0].split() == [str(token) for token in plain["tokens"][0] if token > 4]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--tokenizer", "digits"), "--tokenizer: expected texts"),
        (("--input-shape", "3,32,32"), "--input-shape: expected none for texts"),
        (("--mean", "0.5"), "--mean or --std: expected none for texts"),
        (("--model", "lstm"), "--model lstm: expected a language model"),
        (("--model", "lenet-dlg"), "--model: expected package.module:factory or one of decoder"),
    ],
)
def test_what_does_not_go_with_texts_is_refused(update: Path, words: tuple[str, str], problem: str) -> None:
    found = run("attack", update, "--model", "decoder", *words)
    assert found.code == 2
    assert problem in found.problems[0]


def test_the_true_texts_are_consistent_and_others_are_not(update: Path) -> None:
    common = ("check", update, "--model", "decoder", "--model-seed", 3, "--data", "messages", "--json", "--indices")
    right, wrong = run(*common, 0), run(*common, 1)
    assert (right.code, wrong.code) == (0, 2)
    assert json.loads(right.out)["consistent"]
    assert not json.loads(wrong.out)["consistent"]
    images = run("check", update, "--model", "decoder", "--data", "digits", "--indices", "0")
    assert images.code == 2
    assert "token ids" in images.problems[0]


@pytest.mark.parametrize("model", ["decoder", "embedding_bag"])
def test_models_of_texts_are_inspected_on_texts(model: str) -> None:
    found = run("inspect", "--model", model, "--data", "messages")
    assert found.code == 0, found.err
    assert "smooth everywhere" in found.out
    assert "random examples of messages" in found.out.replace("\n", " ")


def test_a_model_of_texts_is_inspected_on_random_words_if_no_text_is_given() -> None:
    space = gl.TokenSpace(400, 4, padding=0, special=(1,))
    for classified, classes in (("example", 2), ("token", 400)):
        model = decoder(400, 4, None if classified == "token" else 2, padding=0, width=8, heads=1, layers=1)
        found = gl.inspect(gl.Task(model, space, classes, classified=classified))  # type: ignore[arg-type]
        assert found.verdict == "smooth"


def test_targets_of_texts_that_are_given_come_back_as_ids(tmp_path: Path) -> None:
    assert MESSAGES.tokens is not None
    masked = with_objective(load("messages"), "masked")
    from gradleak.zoo.models.encoder import encoder

    model = encoder(MESSAGES.tokens.vocabulary, MESSAGES.tokens.length, padding=0, width=16, layers=1)
    task = gl.Task(model, MESSAGES.tokens, masked.num_classes, classified="token")
    threat = gl.ThreatModel(labels_known=True)
    observation, _ = gl.capture(task, masked.inputs[:2], masked.targets[:2], threat=threat)
    save_update(tmp_path / "u.safetensors", observation)
    evidence = load_update(tmp_path / "u.safetensors")
    assert evidence.targets is not None
    assert torch.equal(evidence.targets, masked.targets[:2])
    assert evidence.observation(task).targets is evidence.targets
