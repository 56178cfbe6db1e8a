"""What an update says of the tokens without search, against the private batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.text.embedding_rows import shown_by_rows
from gradleak.attacks.text.token_bag import laid_out, token_bag
from gradleak.attacks.text.token_evidence import token_evidence
from gradleak.seeds import stage_generator
from gradleak.tokens import masked_tokens, next_tokens
from gradleak.zoo.models.building import seeded
from tests.attacks.text.models import lora
from tests.problems import images, labels, small_lenet

VOCABULARY, LENGTH, MASK = 400, 12, 3


def words(lengths: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = stage_generator(seed, "words")
    rows = torch.zeros(len(lengths), LENGTH, dtype=torch.long)
    for row, size in zip(rows, lengths, strict=True):
        row[:size] = torch.randint(MASK + 1, VOCABULARY, (size,), generator=generator)
    return rows


def language_model(*, masked: bool, tied: bool, width: int = 32) -> gl.Task:
    transformers = pytest.importorskip("transformers")
    space = gl.TokenSpace(VOCABULARY, LENGTH, padding=0, mask=MASK)
    if masked:
        config = transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            tie_word_embeddings=tied,
        )  # fmt: skip
        model = seeded(0, lambda: transformers.BertForMaskedLM(config)).eval()
    else:
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=width, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
        )  # fmt: skip
        model = seeded(0, lambda: transformers.GPT2LMHeadModel(config)).eval()
    return gl.Task(model, space, num_classes=VOCABULARY, classified="token")


def distinct(tokens: Tensor) -> list[int]:
    return tokens[tokens > 0].unique().tolist()


@pytest.mark.parametrize("tied", [True, False])
def test_a_masked_language_model_gives_inputs_targets_counts_and_sizes(tied: bool) -> None:
    task = language_model(masked=True, tied=tied)
    assert isinstance(task.space, gl.TokenSpace)
    inputs, targets = masked_tokens(words((10, 7)), task.space, stage_generator(0, "mask"), share=0.3)
    # One word is hidden twice.
    targets[targets == targets[targets > 0][0]] = targets[targets > 0][1]
    observation, _ = gl.capture(task, inputs, targets)
    found = token_evidence(observation)
    assert found.tokens is not None
    assert found.targets is not None
    assert found.target_counts is not None
    assert found.tokens_certain
    assert found.targets_certain
    assert found.tokens.tolist() == distinct(inputs)
    expected, counts = targets[targets > 0].unique(return_counts=True)
    assert found.targets.tolist() == expected.tolist()
    assert found.target_counts.tolist() == counts.tolist()
    assert int(counts.max()) == 2
    assert (found.longest, found.batch_size) == (10, 2)
    assert found.total_tokens == 17
    assert found.bag.tolist() == distinct(torch.cat([inputs, targets]))


@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_model_gives_its_last_token_as_a_target(tied: bool) -> None:
    inputs = words((9,), seed=1)
    task = language_model(masked=False, tied=tied)
    observation, _ = gl.capture(task, inputs, next_tokens(inputs, 0))
    found = token_evidence(observation)
    assert found.tokens is not None
    assert found.tokens.tolist() == distinct(inputs[:, :8])
    assert found.bag.tolist() == distinct(inputs)
    assert found.longest == 9


def test_rows_behind_noise_come_with_a_false_share_that_holds() -> None:
    generator = stage_generator(0, "rows")
    present = torch.zeros(2000, dtype=torch.bool)
    present[torch.randperm(2000, generator=generator)[:50]] = True
    strength = torch.rand(2000, 1, generator=generator)
    rows = torch.randn(2000, 64, generator=generator)
    rows = rows + 3 * strength * present[:, None] * torch.randn(2000, 64, generator=generator)
    for noise in (1.0, None):
        found = shown_by_rows(rows, torch.randn(2000, 64, generator=generator), tied=False, exact=False, noise=noise)
        assert found is not None
        assert not found.certain
        right = present[found.tokens]
        assert int(right.sum()) > 10
        assert float((~right).double().mean()) <= 0.15
        assert float(found.probability.min()) >= 0.95
    # Nothing but noise: no row may be called a token.
    assert shown_by_rows(rows[~present], torch.ones(1950, 64), tied=False, exact=False, noise=1.0) is None


def test_a_tied_embedding_behind_noise_gives_no_probability() -> None:
    task = language_model(masked=True, tied=True)
    assert isinstance(task.space, gl.TokenSpace)
    hidden, targets = masked_tokens(words((9, 5), seed=6), task.space, stage_generator(0, "mask"))
    observation, _ = gl.capture(task, hidden, targets, defenses=[gl.defenses.GaussianNoise(std=1e-4)])
    found = token_evidence(observation)
    assert not found.tokens_certain
    assert found.total_tokens is None
    if found.probability is not None:
        assert bool(found.probability.isnan().all())


def test_weight_decay_does_not_hide_the_tokens() -> None:
    inputs = words((9, 5), seed=2)
    task = language_model(masked=True, tied=False)
    assert isinstance(task.space, gl.TokenSpace)
    hidden, targets = masked_tokens(inputs, task.space, stage_generator(0, "mask"))
    client = gl.clients.LocalSGD(lr=0.5, weight_decay=1e-2)
    # Blind, too: an unknown client.
    for threat in (gl.ThreatModel(), gl.ThreatModel(client_known=False)):
        observation, _ = gl.capture(task, hidden, targets, client=client, threat=threat)
        found = token_evidence(observation)
        assert found.tokens is not None
        assert not found.tokens_certain
        assert found.tokens.tolist() == distinct(hidden)


def test_pruned_updates_are_not_certain() -> None:
    task = language_model(masked=False, tied=False)
    inputs = words((9,), seed=3)
    threat = gl.ThreatModel(defense_known=False)
    observation, _ = gl.capture(
        task, inputs, next_tokens(inputs, 0), defenses=[gl.defenses.TopK(keep=0.02)], threat=threat
    )
    found = token_evidence(observation)
    assert found.tokens is not None
    assert not found.tokens_certain
    assert set(found.tokens.tolist()) <= set(distinct(inputs))
    assert token_bag()(observation).status == "budget"


def test_frozen_embeddings_and_adapters_say_nothing_and_why() -> None:
    task = language_model(masked=False, tied=False)
    for name, parameter in task.model.named_parameters():
        parameter.requires_grad_("wte" not in name and "wpe" not in name and "lm_head" not in name)
    inputs = words((9,), seed=4)
    observation, _ = gl.capture(replace(task), inputs, next_tokens(inputs, 0))
    found = token_evidence(observation)
    assert found.tokens is None
    assert found.longest is None
    assert found.targets is None
    assert found.total_tokens == 8
    assert any("frozen" in note for note in found.notes)
    assert token_bag()(observation).status == "not_applicable"
    adapted = lora(4, start=0.1)
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10]])
    observation, _ = gl.capture(adapted, tokens, next_tokens(tokens))
    found = token_evidence(observation)
    assert found.tokens is None
    assert found.total_tokens == 4


class Classifier(nn.Module):
    """An embedding and a linear layer, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.words(tokens).mean(dim=1))


def test_a_plain_classifier_leaks_its_bag() -> None:
    task = gl.Task(seeded(0, Classifier), gl.TokenSpace(VOCABULARY, LENGTH), num_classes=3)
    inputs = words((LENGTH,), seed=5)
    observation, truth = gl.capture(task, inputs, torch.tensor([1]))
    before = {name: tensor.clone() for name, tensor in observation.update.tensors.items()}
    found = token_bag()(observation)
    assert found.status == "converged"
    scores = gl.score(found, truth)
    assert scores.text is not None
    assert scores.text.token_recall.tolist() == [1.0]
    assert all(torch.equal(before[name], tensor) for name, tensor in observation.update.tensors.items())


def test_a_bag_is_dealt_out_where_it_does_not_fit_one_row() -> None:
    bag = torch.arange(10, 17)
    assert laid_out(bag, 2, 8).tolist() == [[*range(10, 17), -1]] * 2
    dealt = laid_out(bag, 3, 4)
    assert dealt.shape == (3, 4)
    assert sorted(dealt[dealt >= 0].tolist()) == bag.tolist()
    assert bool((dealt >= 0).any(dim=1).all())


def test_images_are_refused() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    with pytest.raises(gl.BadInput, match="TokenSpace"):
        token_evidence(observation)
