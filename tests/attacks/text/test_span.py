"""The span test: true inputs of linear modules lie in the row space of their gradients, in whatever model."""

from collections.abc import Callable

import pytest
import torch

import gradleak as gl
from gradleak.attacks.text.gradient_rank import numerical_rank, rank_above_unknown_noise
from gradleak.attacks.text.span import ACCEPTED, span_test
from gradleak.seeds import stage_generator
from gradleak.tokens import next_tokens
from tests.attacks.text.models import VOCABULARY, bert, gpt2, ids, llama, lora, plain_encoder


@pytest.mark.parametrize(
    ("build", "causal", "positional"),
    [(gpt2, True, True), (llama, True, False), (bert, False, True), (plain_encoder, False, True)],
)
def test_true_inputs_are_in_the_span_and_others_are_not(
    build: Callable[[], gl.Task], causal: bool, positional: bool
) -> None:
    task = build()
    inputs = ids(task, 2)
    targets = next_tokens(inputs) if task.classified == "token" and causal else inputs
    targets = targets if task.classified == "token" else torch.arange(2)
    observation, _ = gl.capture(task, inputs, targets)
    before = {name: tensor.clone() for name, tensor in observation.update.tensors.items()}
    test = span_test(observation)
    assert (test.structure.causal, test.structure.positional) == (causal, positional)
    for depth in (0, 1):
        chosen = test.best(depth)
        assert chosen is not None
        true = test.excess(inputs, [chosen])
        # The last token of a causal model has no gradient.
        true = true[:, :-1] if causal and task.classified == "token" else true
        other = test.excess((inputs + 5) % VOCABULARY, [chosen])
        assert float(true.max()) < ACCEPTED < 100 < float(other[:, 1:].median())
    assert all(torch.equal(before[name], tensor) for name, tensor in observation.update.tensors.items())


@pytest.mark.parametrize("std", [0.0, 0.3])
def test_adapters_give_a_span_as_long_as_the_tokens_are_fewer_than_their_rank(std: float) -> None:
    task = lora(rank=16, start=std)
    inputs = ids(task, 1)
    observation, _ = gl.capture(task, inputs, next_tokens(inputs))
    test = span_test(observation)
    for depth in (0, 1):
        chosen = test.best(depth)
        assert chosen is not None
        assert "lora" in chosen.modules[0]
        assert float(test.excess(inputs, [chosen])[:, :-1].max()) < ACCEPTED
    full = lora(rank=4, start=std)
    observation, _ = gl.capture(full, inputs, next_tokens(inputs))
    test = span_test(observation)
    assert test.equations == ()
    assert "rank 4 of 4" in test.why_not(0)


def test_more_tokens_than_the_width_leave_nothing() -> None:
    task = gpt2(width=16, length=8)
    inputs = ids(task, 3)
    observation, _ = gl.capture(task, inputs, next_tokens(inputs))
    test = span_test(observation)
    assert test.of_depth(0) == ()
    assert "rank 15 of 16" in test.why_not(0)


def test_the_rank_stands_out_of_noise_of_known_and_unknown_size() -> None:
    generator = stage_generator(0, "matrix")
    signal = torch.randn(80, 5, generator=generator) @ torch.randn(5, 30, generator=generator)
    noise = torch.randn(80, 30, generator=generator)
    values = torch.linalg.svdvals((signal + 0.01 * noise).double())
    assert numerical_rank(values / 0.01, 80) == 5
    rank, size = rank_above_unknown_noise(values, 80)
    assert rank == 5
    assert size == pytest.approx(0.01, rel=0.1)
    assert rank_above_unknown_noise(torch.linspace(2, 1, 30).double(), 80)[0] == 30
