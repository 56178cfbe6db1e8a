"""The learned attack: what it answers, and for which observations it is."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import gradleak as gl
from gradleak.learning import LearnOutcome, LearnSettings, learn
from gradleak.zoo.data import Dataset, load
from gradleak.zoo.models import lenet

PRUNED = (gl.defenses.TopK(0.1),)


def task_of(seed: int) -> gl.Task:
    return gl.Task(lenet(10, 1, input_size=8, width=4, seed=seed), gl.ImageSpace((1, 8, 8)), 10)


@pytest.fixture(scope="module")
def unseen() -> Dataset:
    return load("digits").split(20, 0)[0]


@pytest.fixture(scope="module")
def trained(unseen: Dataset, tmp_path_factory: pytest.TempPathFactory) -> LearnOutcome:
    _, public = load("digits").split(len(unseen), 0)
    return learn(
        task_of(0),
        public.subset(public.indices(600, seed=0)),
        tmp_path_factory.mktemp("inverter"),
        client=gl.clients.Gradient(),
        defenses=PRUNED,
        settings=LearnSettings(epochs=12, lr=3e-3, hidden=(48,), batch_size=64, features=512),
    )


def seen(unseen: Dataset, at: int, **words: object) -> tuple[gl.Observation, gl.Truth]:
    given = {"defenses": PRUNED, **words}
    return gl.capture(task_of(0), unseen.inputs[at : at + 1], unseen.targets[at : at + 1], **given)  # pyright: ignore[reportArgumentType]


def test_answers_are_nearer_than_the_mean_of_what_it_learned_from(trained: LearnOutcome, unseen: Dataset) -> None:
    attack = gl.attacks.learned(weights=trained.path)
    mean = load("digits").inputs.mean(dim=0)
    ours: list[float] = []
    without: list[float] = []
    labels = 0
    for at in range(len(unseen)):
        observation, truth = seen(unseen, at)
        found = attack(observation)
        assert found.inputs.shape == truth.inputs.shape
        ours.append(float((found.inputs - truth.inputs).square().mean()))
        without.append(float((mean - truth.inputs).square().mean()))
        labels += int(found.targets[0]) == int(truth.targets[0])
        assert found.evaluations == 1
    assert sum(ours) < 0.7 * sum(without)
    assert labels >= 18


def test_an_inverter_for_something_else_is_refused_with_one_line_each(trained: LearnOutcome, unseen: Dataset) -> None:
    attack = gl.attacks.learned(weights=trained.path)
    cases: list[tuple[gl.Observation, str]] = [
        (seen(unseen, 0, defenses=())[0], r"expected one trained for no defense, got one for TopK\(keep=0.1"),
        (seen(unseen, 0, threat=gl.ThreatModel(defense_known=False))[0], "expected one trained for no defense"),
        (seen(unseen, 0, client=gl.clients.Gradient(mode="train"))[0], "expected one trained for the client"),
        (
            gl.capture(task_of(1), unseen.inputs[:1], unseen.targets[:1], defenses=PRUNED)[0],
            "expected one trained for this model",
        ),
    ]
    for observation, words in cases:
        with pytest.raises(gl.BadInput, match=words) as caught:
            attack(observation)
        assert len(caught.value.problems) == 1


def test_batches_and_a_missing_inverter_are_results(trained: LearnOutcome, unseen: Dataset) -> None:
    batch, _ = gl.capture(task_of(0), unseen.inputs[:2], unseen.targets[:2], defenses=PRUNED)
    assert gl.attacks.learned(weights=trained.path)(batch).status == "not_applicable"
    assert gl.attacks.learned()(seen(unseen, 0)[0]).status == "not_applicable"


def test_files_that_are_no_inverters_are_never_opened(trained: LearnOutcome, unseen: Dataset, tmp_path: Path) -> None:
    pickled, other, broken = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    pickled.write_bytes(b"PK\x03\x04 as torch.save begins")
    save_file({"weight": torch.zeros(2)}, other)
    broken.write_bytes(trained.path.read_bytes()[:-10])
    observation, _ = seen(unseen, 0)
    for path, words in (
        (pickled, "a pickle inside, which is never opened"),
        (other, "expected an inverter"),
        (broken, "whole"),
    ):
        with pytest.raises(gl.BadInput, match=words):
            gl.attacks.learned(weights=path)(observation)


def test_a_search_from_the_answer_ends_nearer_to_the_update(trained: LearnOutcome, unseen: Dataset) -> None:
    observation, _ = seen(unseen, 0)
    plain = gl.attacks.learned(weights=trained.path)(observation)
    refined = gl.attacks.learned(weights=trained.path, refine=True, max_evaluations=50)(observation)
    assert refined.objective < plain.objective
    assert refined.targets.tolist() == plain.targets.tolist()
    assert not refined.targets_given
    assert len(refined.trace) == 2


def test_given_labels_are_taken(trained: LearnOutcome, unseen: Dataset) -> None:
    observation, truth = seen(unseen, 0, threat=gl.ThreatModel(labels_known=True))
    found = gl.attacks.learned(weights=trained.path)(observation)
    assert found.targets_given
    assert torch.equal(found.targets, truth.targets)
