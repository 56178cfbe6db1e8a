"""The recipes for texts hold their papers' numbers, recover texts of small models, and say where they do not apply."""

import math
import time
from dataclasses import replace

import pytest
import torch

import gradleak as gl
from gradleak.attacks.objectives import AbsoluteAndSquaredDistance, layer_cosine_distance, squared_distance
from gradleak.attacks.priors import Weighted
from gradleak.attacks.searched_targets import searched_layout
from gradleak.attacks.text.alternation import Reorderings
from gradleak.attacks.text.embedded import BERT_RMS, Embedded, in_embeddings
from gradleak.attacks.text.lamp import embedding_norm
from gradleak.attacks.text.reordering import proposed_orders, random_orders
from gradleak.attacks.text.tag import TagDistance, clamped_normal
from gradleak.errors import BadInput
from gradleak.optim import LBFGS, Adam, Staircase, WarmLinear
from gradleak.seeds import stage_generator
from gradleak.threat import Observation
from tests.problems import images, labels, small_lenet
from tests.texts import LENGTH, SPACE, VOCABULARY, Text, text, texts

pytest.importorskip("transformers")
FACTORIES = [gl.attacks.dlg_text, gl.attacks.tag, gl.attacks.lamp]


def captured(made: Text, *, given: bool = True) -> tuple[Observation, gl.Truth]:
    threat = gl.ThreatModel(lengths_known=True, labels_known=given)
    return gl.capture(made.task, made.inputs, made.targets, threat=threat)


def accuracy(attack: gl.attacks.Attack, made: Text, *, given: bool = True) -> float:
    observation, truth = captured(made, given=given)
    found = gl.score(attack(observation), truth).text
    assert found is not None
    return float(found.token_accuracy.mean())


def test_dlg_holds_the_papers_numbers() -> None:
    attack = gl.attacks.dlg_text()
    assert attack.search.optimizer(2) == LBFGS(outer_steps=100, inner_steps=20, lr=1.0, history=100, blocks=2)
    assert attack.search.objective is squared_distance
    assert (attack.search.labels, attack.rms, attack.search.priors) == ("joint", 1.0, ())


def test_tag_holds_its_numbers() -> None:
    attack = gl.attacks.tag()
    assert attack.search.objective == TagDistance(0.1)
    assert attack.search.optimizer(1) == Adam(1000, lr=0.05, weight_decay=0.01, schedule=WarmLinear(50), clip=1.0)
    assert attack.rms == BERT_RMS == pytest.approx(0.0505, abs=1e-4)
    start = attack.search.start((2, 30, 8), stage_generator(0, "start"))
    assert attack.search.start is clamped_normal
    assert float(start.abs().max()) == 0.1
    a = {"first": torch.tensor([1.0, 2.0]), "second": torch.tensor([3.0])}
    zero = {name: torch.zeros_like(value) for name, value in a.items()}
    assert float(TagDistance(0.1)(zero, a)) == pytest.approx(0.5 * (5 + 0.1 * 3 + 9 + 0.05 * 3))


def test_lamp_holds_its_numbers() -> None:
    attack = gl.attacks.lamp()
    assert attack.adam == Adam(2000, lr=0.01, schedule=Staircase(0.89, 50))
    assert attack.search.objective is layer_cosine_distance
    assert attack.search.priors == (Weighted(1.0, embedding_norm),)
    assert (attack.candidates, attack.permutations, attack.proposals, attack.swap_every) == (500, 500, 200, 75)
    assert attack.language_weight == 0.2
    assert [step for step in range(500) if attack.reorders(step)] == [225, 300, 375, 450]
    other = gl.attacks.lamp(variant="l2_l1")
    assert other.search.objective == AbsoluteAndSquaredDistance(0.01)
    assert other.search.priors == (Weighted(25.0, embedding_norm),)
    assert other.language_weight == 60.0
    with pytest.raises(BadInput, match="'cos' or 'l2_l1'"):
        gl.attacks.lamp(variant="l2")  # pyright: ignore[reportArgumentType]  # that is the point


def test_the_norms_of_embeddings_are_those_of_the_vocabulary() -> None:
    made = text("bag", count=2)
    found = in_embeddings(captured(made)[0], rms=BERT_RMS)
    assert isinstance(found, Embedded)
    rows = made.task.state().parameters["embed.weight"]
    assert found.space.mean_norm * found.space.unit == pytest.approx(float(rows.norm(dim=1).mean()))
    term = embedding_norm(found.observation)
    long = torch.full((2, LENGTH, 8), found.space.mean_norm / math.sqrt(8), dtype=torch.float64)
    assert float(term(long, long)) == pytest.approx(0, abs=1e-12)
    assert float(term(2 * long, long)) == pytest.approx(found.space.mean_norm**2)


def test_dlg_recovers_a_text_of_any_model() -> None:
    for kind in ("bag", "lstm"):
        assert accuracy(gl.attacks.dlg_text(outer_steps=30, restarts=2), text(kind, count=1)) == 1.0


def test_tag_recovers_a_text_without_labels() -> None:
    assert accuracy(gl.attacks.tag(steps=400), text("bag", count=1), given=False) > 0.8


def test_lamp_counts_everything_within_its_limit_and_repeats_itself() -> None:
    made = text("bert", count=2)
    observation, _ = captured(made, given=False)
    before = {name: tensor.clone() for name, tensor in observation.update.tensors.items()}
    judge = gl.attacks.train_language_model(texts(50), VOCABULARY, padding=0)
    attack = gl.attacks.lamp(language_model=judge, max_evaluations=300, restarts=2, begin=2, end=3)
    first, second = attack(observation, seed=3), attack(observation, seed=3)
    assert first.evaluations <= 300
    assert first.evaluations == 2 * first.history.evaluations[-1]
    assert torch.equal(first.inputs, second.inputs)
    assert first.objective == second.objective
    assert bool((first.inputs[:, 0] == 2).all())
    assert all(torch.equal(before[name], tensor) for name, tensor in observation.update.tensors.items())


def test_reorderings_put_a_shuffled_text_in_order() -> None:
    """With a judge that knows the language, where the update says nothing about order."""
    made = text("bag", count=2)
    judge = gl.attacks.train_language_model([*made.inputs] * 20, VOCABULARY, padding=0)
    plan = gl.attacks.lamp(language_model=judge, begin=2, end=3, proposals=60, steps=100)
    found = in_embeddings(captured(made)[0], begin=2, end=3)
    assert isinstance(found, Embedded)
    layout = searched_layout(found.observation, 2, "joint")
    assert not isinstance(layout, str)
    reorder = Reorderings(plan, layout, found.space, lambda point: 0 * point.sum(), seed=0, began=time.perf_counter())
    shuffled = made.inputs.clone()
    shuffled[0, 1:6], shuffled[1, 1:3] = made.inputs[0, 1:6].flip(0), made.inputs[1, 1:3].flip(0)
    points = layout.pack(found.space.encode(shuffled), torch.zeros(layout.logits_shape))[None]
    for step in range(75, 900, 75):
        points = reorder(step, points)
    assert torch.equal(found.space.decode(layout.split(points[0])[0]), made.inputs)
    assert reorder.spent[-1] % (2 * 60) == 0


def test_orders_keep_tokens_and_what_is_known() -> None:
    movable = torch.tensor([False, True, True, True, True, False, False])
    for orders in (
        proposed_orders(movable, 60, stage_generator(0, "orders")),
        random_orders(movable, 60, stage_generator(0, "orders")),
    ):
        assert torch.equal(orders.sort(dim=1).values, torch.arange(7).expand(60, 7))
        assert torch.equal(orders[:, ~movable], torch.arange(7)[~movable].expand(60, 3))
        assert torch.equal(orders[0], torch.arange(7))
        assert len(orders.unique(dim=0)) > 10
    assert torch.equal(
        proposed_orders(torch.zeros(3, dtype=torch.bool), 4, stage_generator(0, "o"))[3], torch.arange(3)
    )


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_images_are_no_texts(factory: type) -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    found = factory(max_evaluations=3, max_seconds=1.0, restarts=1)(observation)
    assert found.status == "not_applicable"
    assert "inputs are none" in found.message


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_withheld_facts_and_limits(factory: type) -> None:
    observation, _ = captured(text("bag"))
    assert factory()(replace(observation, batch_size=None)).status == "not_applicable"
    found = factory(max_evaluations=8, restarts=2)(observation)
    assert found.evaluations <= 8
    assert found.inputs.shape == (3, SPACE.length)
    assert factory(max_seconds=0.0)(observation).seconds < 5
