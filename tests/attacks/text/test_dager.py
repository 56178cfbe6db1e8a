"""Exact texts from the gradients of causal models."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.text.readout import read_texts
from gradleak.attacks.text.span import span_test
from gradleak.tokens import next_tokens
from tests.attacks.text.models import gpt2, gpt2_classifier, ids, llama, lora, plain_decoder
from tests.problems import small_lenet


def ragged(inputs: Tensor, lengths: list[int]) -> Tensor:
    """The same texts, shorter, padded by 0."""
    cut = torch.arange(inputs.shape[1])[None] >= torch.tensor(lengths)[:, None]
    return inputs.masked_fill(cut, 0)


def attacked(task: gl.Task, inputs: Tensor, targets: Tensor, **settings: object) -> tuple[gl.Reconstruction, gl.Scores]:
    observation, truth = gl.capture(task, inputs, targets, **settings)  # pyright: ignore[reportArgumentType]
    found = gl.attacks.dager()(observation)
    return found, gl.score(found, truth)


def exact(scores: gl.Scores) -> list[float]:
    assert scores.text is not None
    return [float(one) for one in scores.text.exact]


@pytest.mark.parametrize("build", [gpt2, llama, plain_decoder])
@pytest.mark.parametrize("lengths", [[6], [3, 6], [6, 3, 4, 5]])
def test_texts_of_different_lengths_come_back_exactly(build: Callable[[], gl.Task], lengths: list[int]) -> None:
    task = build()
    inputs = ragged(ids(task, len(lengths)), lengths)
    found, scores = attacked(task, inputs, next_tokens(inputs, 0), threat=gl.ThreatModel(batch_size_known=False))
    assert found.status == "converged"
    assert found.inputs.shape == inputs.shape
    assert exact(scores) == [1.0] * len(lengths)
    assert "rank" in found.trace[0]


def test_a_text_that_another_one_continues_and_one_that_occurs_twice() -> None:
    task = gpt2()
    inputs = ragged(ids(task, 4), [6, 4, 5, 5])
    inputs[1, :4] = inputs[0, :4]
    inputs[3] = inputs[2]
    found, scores = attacked(task, inputs, next_tokens(inputs, 0))
    assert found.status == "converged"
    assert exact(scores) == [1.0] * 4


def test_a_classifier_gives_whole_texts_and_their_labels() -> None:
    task = gpt2_classifier()
    inputs, labels = ragged(ids(task, 3), [6, 3, 5]), torch.tensor([2, 0, 2])
    inputs[1, :3] = inputs[0, :3]
    found, scores = attacked(task, inputs, labels)
    assert found.status == "converged"
    assert exact(scores) == [1.0] * 3
    assert sorted(found.targets.tolist()) == [0, 2, 2]


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_adapters_alone(start: float) -> None:
    task = lora(rank=16, start=start)
    inputs = ids(task, 2)
    found, scores = attacked(task, inputs, next_tokens(inputs, 0))
    assert found.status == "converged"
    assert exact(scores) == [1.0, 1.0]


@pytest.mark.parametrize(
    "defenses",
    [
        [gl.defenses.Quantize("bf16")],
        [gl.defenses.Quantize("fp16")],
        [gl.defenses.Quantize("int8")],
        [gl.defenses.GaussianNoise(std=1e-5)],
        [gl.defenses.Clip(norm=1e-3)],
    ],
    ids=["bf16", "fp16", "int8", "noise", "clip"],
)
@pytest.mark.parametrize("known", [True, False], ids=["adaptive", "blind"])
def test_coarse_and_noisy_updates(defenses: list[gl.defenses.Defense], known: bool) -> None:
    task = gpt2(width=48)
    inputs = ids(task, 2)
    _, scores = attacked(
        task, inputs, next_tokens(inputs, 0), defenses=defenses, threat=gl.ThreatModel(defense_known=known)
    )
    assert exact(scores) == [1.0, 1.0]


def test_several_local_steps() -> None:
    task = gpt2(width=64)
    inputs = ids(task, 2)
    client = gl.clients.LocalSGD(lr=0.01, epochs=4, shuffle=False)
    _, scores = attacked(task, inputs, next_tokens(inputs, 0), client=client)
    assert exact(scores) == [1.0, 1.0]


def test_nothing_of_the_observation_changes() -> None:
    task = gpt2()
    inputs = ids(task, 2)
    observation, _ = gl.capture(task, inputs, next_tokens(inputs, 0))
    tensors = {**observation.update.tensors, **observation.state.parameters, **dict(task.model.named_parameters())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    gl.attacks.dager()(observation)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors.items())


def test_too_many_tokens_are_refused_with_the_numbers() -> None:
    task = gpt2(width=16)
    inputs = ids(task, 4)
    found, _ = attacked(task, inputs, next_tokens(inputs, 0))
    assert found.status == "not_applicable"
    assert "rank 15 of 16" in found.message


def test_adapters_of_too_small_a_rank_are_refused_with_the_numbers() -> None:
    task = lora(rank=4)
    inputs = ids(task, 2)
    found, _ = attacked(task, inputs, next_tokens(inputs, 0))
    assert found.status == "not_applicable"
    assert "rank 4 of 4" in found.message


def test_images_are_refused() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    found, _ = attacked(small_lenet(), image, torch.tensor([0]))
    assert "no tokens" in found.message


def test_the_first_block_alone_is_enough() -> None:
    task = gpt2()
    inputs = ids(task, 1)
    client = gl.clients.Gradient(sent=("transformer.h.0.*",))
    found, scores = attacked(task, inputs, next_tokens(inputs, 0), client=client)
    assert found.status == "converged"
    assert exact(scores) == [1.0]


def test_without_the_space_behind_the_prefixes_the_last_token_stays_unknown() -> None:
    task = llama()
    inputs = ids(task, 2)
    observation, _ = gl.capture(task, inputs, next_tokens(inputs, 0))
    test, leaves = span_test(observation), [tuple(row[:-1]) for row in inputs.tolist()]
    assert "no gradient" in str(read_texts(test, {}, leaves, task.num_classes, next_token=True))


def test_texts_are_read_from_any_late_module() -> None:
    task = llama()
    inputs = ids(task, 2)
    observation, _ = gl.capture(task, inputs, next_tokens(inputs, 0))
    test, leaves = span_test(observation), [tuple(row[:-1]) for row in inputs.tolist()]
    for kept in ("lm_head", "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj"):
        gradient = {name: value for name, value in observation.update.tensors.items() if name.startswith(kept)}
        read = read_texts(test, gradient, leaves, task.num_classes, next_token=True)
        assert not isinstance(read, str)
        assert read.module == kept
        assert {text.tokens for text in read.texts} == {tuple(row) for row in inputs.tolist()}
