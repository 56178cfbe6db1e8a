"""Texts as inputs: the update of a task on tokens is that of the plain model, and what does not fit is refused."""

import warnings
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.errors import BadInput
from gradleak.seeds import stage_generator
from gradleak.tokens import IGNORED, masked_tokens, next_tokens
from tests.texts import HUGGING_FACE, LENGTH, PLAIN, SPACE, VOCABULARY, Bag, Text, hugging_face, text, texts

pytest.importorskip("transformers")
KINDS = (*HUGGING_FACE, *PLAIN)


def plain_gradients(made: Text) -> dict[str, Tensor]:
    """By the model's own call and loss, as a training script has them."""
    model, inputs = made.task.model, made.inputs
    model.zero_grad()
    if made.name in PLAIN:
        loss = nn.functional.cross_entropy(model(inputs), made.targets)
    else:
        labels = inputs.masked_fill(inputs == 0, IGNORED) if made.name in {"gpt2", "llama"} else made.targets
        loss = model(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=labels).loss
    loss.backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_update_is_the_plain_models(kind: str, mode: Literal["eval", "train"]) -> None:
    made = text(kind)
    made.task.model.train(mode == "train")
    expected = plain_gradients(made)
    observation, _ = gl.capture(made.task, made.inputs, made.targets, client=gl.clients.Gradient(mode=mode))
    tensors = observation.update.tensors
    assert expected.keys() == {name for name in tensors if bool(tensors[name].any()) or name in expected}
    # The losses of transformers' causal models are computed in float32, whatever the model's type.
    rtol, atol = (1e-5, 1e-7) if kind in {"gpt2", "llama"} else (1e-9, 1e-12)
    for name, value in expected.items():
        assert torch.allclose(tensors[name], value, rtol=rtol, atol=atol), name


@pytest.mark.parametrize("kind", KINDS)
def test_examples_alone_give_the_same_sum(kind: str) -> None:
    """DP-SGD passes examples under `vmap`, where transformers' own masks cannot be made (a regression)."""
    made = text(kind)
    client = gl.clients.DPSGD(clip=1e6)
    together = [
        gl.capture(made.task, made.inputs[n : n + 1], made.targets[n : n + 1])[0].update.tensors
        for n in range(len(made.inputs))
    ]
    found = gl.capture(made.task, made.inputs, made.targets, client=client)[0].update.tensors
    for name, tensor in found.items():
        mean = torch.stack([tensors[name] for tensors in together]).mean(dim=0)
        assert torch.allclose(tensor, mean, rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("kind", KINDS)
def test_it_differentiates_twice_in_evaluation_mode(kind: str) -> None:
    made = text(kind)
    task = made.task
    variable = task.encode(made.inputs).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sent = gl.clients.Gradient().bind(task, task.state())(variable, task.target_probabilities(made.targets))
        total = torch.stack([tensor.square().sum() for tensor in sent.values()]).sum()
        (gradient,) = torch.autograd.grad(total, variable)
    assert bool(torch.isfinite(gradient).all())
    assert bool(gradient.any())


def test_tied_rows_have_both_shares() -> None:
    made = text("gpt2")
    names = list(made.task.state().parameters)
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names
    tensors = gl.capture(made.task, made.inputs, made.targets)[0].update.tensors
    assert bool((tensors["transformer.wte.weight"] != 0).all())  # by the head; a lookup alone leaves rows untouched


def refusal(model: nn.Module, space: gl.TokenSpace = SPACE) -> str:
    with pytest.raises(BadInput) as caught:
        gl.Task(model, space, VOCABULARY, classified="token")
    return str(caught.value)


def test_models_that_do_not_fit_are_refused() -> None:
    larger = replace(SPACE, vocabulary=VOCABULARY + 1)
    assert f"expected an nn.Embedding with {VOCABULARY + 1} rows" in refusal(hugging_face("gpt2"), larger)
    assert "no embedding at all" in refusal(nn.Linear(LENGTH, VOCABULARY))
    for kind in ("gpt2", "bert"):
        longer = refusal(hugging_face(kind), replace(SPACE, length=9))
        assert "expected positions for sequences of 9 tokens, got 8" in longer


@pytest.mark.parametrize("setting", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}])
def test_embeddings_that_are_no_plain_lookup_are_refused(setting: dict[str, float]) -> None:
    model = Bag()
    model.embed = nn.Embedding(VOCABULARY, 8, **setting)  # pyright: ignore[reportArgumentType]  # one of three kinds
    assert f"expected {next(iter(setting))}=" in refusal(model)


def test_scaled_embeddings_are_refused() -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return 3.0 * super().forward(input)

    model = Bag()
    model.embed = Scaled(VOCABULARY, 8)
    assert "a forward of its own" in refusal(model)


def test_ids_that_do_not_fit_are_refused() -> None:
    made = text("bag")
    for bad, words in (
        (made.inputs + VOCABULARY, "use the tokenizer that belongs to this model"),
        (made.inputs[:, :-1], f"expected token ids of shape [N, {LENGTH}]"),
        (made.inputs.flip(1), "pad on the right"),
        (made.inputs.float(), "give ids, not embeddings"),
        (torch.zeros_like(made.inputs), "got only padding"),
    ):
        with pytest.raises(BadInput) as caught:
            gl.capture(made.task, bad, made.targets)
        assert words in str(caught.value)


def test_targets_of_language_models() -> None:
    inputs = texts(2, lengths=(7, 4))
    following = next_tokens(inputs, 0)
    assert following[1].tolist() == [*inputs[1, 1:4].tolist(), *[IGNORED] * 4]
    hidden, targets = masked_tokens(inputs, SPACE, stage_generator(0, "mask"), share=0.5)
    masked = hidden == SPACE.mask
    assert torch.equal(targets[masked], inputs[masked])
    assert bool((targets[~masked] == IGNORED).all())
    assert masked.sum(dim=1).tolist() == [2, 1]  # half of the words, rounded to even
