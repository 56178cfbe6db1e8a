"""Embeddings in place of tokens: the same update, the nearest tokens back, and what is taken as known of the texts."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.inversion import Inversion
from gradleak.attacks.objectives import squared_distance
from gradleak.attacks.searched_targets import searched_layout
from gradleak.attacks.text.embedded import Embedded, EmbeddedTokens, hard_targets, in_embeddings
from gradleak.attacks.text.frames import Frame, longest_length
from gradleak.optim import Adam
from gradleak.threat import simulator
from gradleak.tokens import IGNORED
from tests.texts import HUGGING_FACE, LENGTH, PLAIN, SPACE, VOCABULARY, Text, text, texts

pytest.importorskip("transformers")


def embedded(made: Text, **settings: float) -> Embedded:
    threat = gl.ThreatModel(lengths_known=True)
    found = in_embeddings(gl.capture(made.task, made.inputs, made.targets, threat=threat)[0], **settings)  # pyright: ignore[reportArgumentType]  # ids and rms
    assert isinstance(found, Embedded)
    return found


@pytest.mark.parametrize("rms", [None, 2.0])
@pytest.mark.parametrize("kind", [*HUGGING_FACE, *PLAIN])
def test_true_embeddings_reproduce_the_update_without_the_embedding(kind: str, rms: float | None) -> None:
    made = text(kind)
    found = embedded(made, **({} if rms is None else {"rms": rms}))
    name = SPACE.embedding_of(made.task.model)[0] + ".weight"
    variable = found.space.encode(made.inputs)
    sent = simulator(found.observation)(variable, made.task.target_probabilities(made.targets))
    observed = found.observation.update.tensors
    assert observed.keys() == found.original.update.tensors.keys() - {name}
    assert observed.keys() == found.observation.state.parameters.keys()
    for key, value in observed.items():
        # A tied output layer has its gradient in the embedding's tensor, which is left out.
        assert torch.allclose(sent[key], value, rtol=1e-6, atol=1e-12), key
    assert torch.equal(found.space.decode(variable), made.inputs)


def test_longer_rows_do_not_hide_the_others() -> None:
    """The lookup of a known package divides by squared norms, and so prefers short rows (a regression)."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((VOCABULARY, 6), generator=generator)
    rows[::2] *= 10
    space = EmbeddedTokens(SPACE, rows, Frame(torch.full((2, LENGTH), -1)))
    tokens = texts(2, lengths=(7,))
    near = rows[tokens] + 0.05 * rows[tokens].norm(dim=-1, keepdim=True) * torch.randn(
        (2, LENGTH, 6), generator=generator
    )
    assert torch.equal(space.decode(near), tokens)


def test_decoding_keeps_to_allowed_tokens_and_to_what_is_known() -> None:
    made = text("bag")
    found = embedded(made, begin=2, end=3, touched_only=True)
    noise = torch.randn((3, *found.space.variable_shape), generator=torch.Generator().manual_seed(0)).double()
    tokens = found.space.decode(noise)
    assert set(tokens.flatten().tolist()) <= set(made.inputs.flatten().tolist())
    assert tokens[:, 0].tolist() == [2, 2, 2]
    assert torch.equal(tokens == 0, made.inputs == 0)
    assert torch.equal(tokens == 3, made.inputs == 3) or bool((tokens[made.inputs == 3] == 3).all())


def test_the_position_gradient_shows_the_longest_length() -> None:
    made = text("bert")
    short = replace(made, inputs=made.inputs.clone(), targets=made.targets.clone())
    short.inputs[0, 5:], short.targets[0, 5:] = 0, IGNORED
    observation, _ = gl.capture(short.task, short.inputs, short.targets)
    assert longest_length(observation, SPACE) == int((short.inputs != 0).sum(dim=1).max())
    found = in_embeddings(observation)
    assert isinstance(found, Embedded)
    assert "as the position embedding's gradient shows" in found.assumption
    noisy, _ = gl.capture(short.task, short.inputs, short.targets, defenses=[gl.defenses.GaussianNoise(std=1e-3)])
    assert longest_length(noisy, SPACE) is None


def test_what_cannot_be_searched_says_so() -> None:
    made = text("bag")
    observation, _ = gl.capture(made.task, made.inputs, made.targets, threat=gl.ThreatModel(lengths_known=True))
    assert "batch size is withheld" in str(in_embeddings(replace(observation, batch_size=None)))
    steps, _ = gl.capture(
        made.task,
        made.inputs,
        made.targets,
        client=gl.clients.LocalSGD(lr=0.1, batch_size=2),
        threat=gl.ThreatModel(lengths_known=True),
    )
    assert "which part has which length" in str(in_embeddings(steps))
    only = {name: torch.zeros_like(tensor) for name, tensor in observation.update.tensors.items()}
    only["embed.weight"] = observation.update.tensors["embed.weight"]
    assert "beside the embedding's is zero" in str(
        in_embeddings(replace(observation, update=replace(observation.update, tensors=only)))
    )


def test_targets_of_a_causal_model_follow_from_its_text() -> None:
    made = text("llama")
    found = embedded(made)
    derived = found.space.next_tokens(found.space.encode(made.inputs), temperature=1e-3)
    assert torch.equal(hard_targets(derived), made.targets)


def test_masked_positions_follow_from_the_text() -> None:
    made = text("bert")
    found = embedded(made)
    layout = searched_layout(found.observation, 3, "evidence")
    assert not isinstance(layout, str)
    assert layout.classes is not None
    assert set(layout.classes.tolist()) <= set(made.targets[made.targets != IGNORED].tolist())
    assert layout.gate is not None
    gate = layout.gate(found.space.encode(made.inputs))
    assert bool((gate[made.inputs == 4] > 0.9).all())
    assert bool((gate[made.inputs != 4] < 0.9).all())
    variable, probabilities = layout.unpack(
        layout.pack(found.space.encode(made.inputs), torch.zeros(layout.logits_shape))
    )
    assert variable.shape == (3, LENGTH, 12)
    assert torch.allclose(probabilities.sum(dim=-1), gate)


@pytest.mark.parametrize("kind", ["bag", "lstm", "bert", "gpt2"])
def test_any_inversion_searches_texts(kind: str) -> None:
    """The search for images works unchanged, several restarts too; what comes back are tokens of the original space."""
    made = text(kind, count=2)
    found = embedded(made, rms=1.0)
    search = Inversion("any", squared_distance, lambda _count: Adam(3, lr=0.01), labels="joint", restarts=2)
    result = found.in_tokens(search(found.observation), "any")
    assert result.inputs.shape == made.inputs.shape
    assert result.inputs.dtype == torch.int64
    assert torch.equal(result.inputs == 0, made.inputs == 0) or SPACE.padding is None
    assert result.targets.shape == made.targets.shape
    assert result.variable.shape == (2, LENGTH, VOCABULARY)
    assert result.evaluations == 8
    assert "lengths were given" in result.message
    assert set(gl.score(result, gl.capture(made.task, made.inputs, made.targets)[1]).to_dict()) >= {"token_accuracy"}


def test_frozen_embeddings_are_searched_as_well() -> None:
    made = text("bag")
    assert isinstance(made.task.model.embed, nn.Embedding)
    made.task.model.embed.weight.requires_grad_(False)
    found = embedded(made)
    assert found.observation.update.tensors.keys() == found.original.update.tensors.keys()
