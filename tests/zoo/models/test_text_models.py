"""Models of texts: shapes, padding, what each position sees, ties, seeds, and bad numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradleak.errors import BadInput
from gradleak.tasks import Task
from gradleak.tokens import TokenSpace
from gradleak.zoo.models import TEXT_MODELS, TextModelCard, decoder, embedding_bag, encoder, lstm

VOCABULARY, LENGTH, CLASSES = 20, 6, 3
LONG = torch.tensor([[5, 6, 7, 8, 9, 10]])
SHORT = torch.tensor([[5, 6, 7, 0, 0, 0]])


def build(card: TextModelCard, num_classes: int | None, seed: int = 0, padding: int | None = 0) -> nn.Module:
    given: dict[str, int | None] = {"vocabulary": VOCABULARY, "num_classes": num_classes, "padding": padding}
    given |= {"length": LENGTH} if card.positions else {}
    return card.factory(**given, width=8, seed=seed)


def outputs(model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(ids) if mask is None else model(ids, mask)


@pytest.mark.parametrize("card", TEXT_MODELS, ids=lambda card: card.name)
def test_a_card_builds_what_it_says(card: TextModelCard) -> None:
    shapes = {"classification": (2, CLASSES), "causal": (2, LENGTH, VOCABULARY), "masked": (2, LENGTH, VOCABULARY)}
    for objective in card.objectives:
        classes = CLASSES if objective == "classification" else None
        model, same, other = (build(card, classes, seed) for seed in (1, 1, 2))
        assert outputs(model, torch.cat([LONG, SHORT])).shape == shapes[objective]
        weights = [one.state_dict()["tokens.weight"] for one in (model, same, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        task_space = TokenSpace(VOCABULARY, LENGTH, padding=0)
        Task(model, task_space, shapes[objective][-1], classified="example" if classes else "token")
    assert card.description
    assert card.source


@pytest.mark.parametrize("card", TEXT_MODELS, ids=lambda card: card.name)
def test_padding_changes_nothing_and_is_found_by_its_id_or_by_the_mask(card: TextModelCard) -> None:
    model = build(card, CLASSES)
    cut = outputs(build(card, CLASSES, padding=None), SHORT[:, :3])
    torch.testing.assert_close(outputs(model, SHORT), cut)
    mask = (SHORT != 0).long()
    torch.testing.assert_close(outputs(build(card, CLASSES, padding=None), SHORT, mask), cut)
    # Whatever fills the masked places.
    torch.testing.assert_close(outputs(model, SHORT + 11 * (1 - mask), mask), cut)


def test_a_decoder_sees_the_past_and_an_encoder_both_sides() -> None:
    changed = LONG.clone()
    changed[0, -1] = 3
    for factory, same in ((decoder, True), (encoder, False)):
        model = factory(VOCABULARY, LENGTH, width=8, heads=2)
        before, after = outputs(model, LONG)[0, :-1], outputs(model, changed)[0, :-1]
        assert torch.allclose(before, after, atol=1e-7) == same


def test_ties() -> None:
    names = [set(dict(decoder(VOCABULARY, LENGTH, width=8, tied=tied).named_parameters())) for tied in (True, False)]
    assert names[1] - names[0] == {"head.weight"}
    names = [set(dict(encoder(VOCABULARY, LENGTH, width=8, tied=tied).named_parameters())) for tied in (True, False)]
    assert names[1] - names[0] == {"head.words.weight"}


def test_the_lstm_is_pytorchs() -> None:
    model = lstm(VOCABULARY, CLASSES, width=4, hidden=5, layers=2)
    reference = nn.LSTM(4, 5, num_layers=2, batch_first=True)
    for number, layer in enumerate(model.recurrent.children()):
        state = layer.state_dict()
        own = (state["inputs.weight"], state["states.weight"], state["inputs.bias"], torch.zeros(20))
        for name, value in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), own, strict=True):
            reference.state_dict()[f"{name}_l{number}"].copy_(value)
    with torch.no_grad():
        expected = model.linear(reference(model.tokens(LONG))[0][:, -1])
    torch.testing.assert_close(outputs(model, LONG), expected)


def test_a_bag_has_no_order() -> None:
    model = embedding_bag(VOCABULARY, CLASSES, width=8, hidden=(7,))
    torch.testing.assert_close(outputs(model, LONG), outputs(model, LONG.flip(1)))


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: decoder(1, 0, 0, width=9, layers=0, heads=2, padding=5), "padding: expected an id from 0 to 0"),
    (lambda: encoder(20, 6, width=9, heads=2), "heads: expected a divisor of the width 9, got 2"),
    (lambda: lstm(20, 3, hidden=0), "hidden: expected at least 1"),
    (lambda: embedding_bag(20, 3, hidden=(4, 0)), r"hidden\[1\]: expected at least 1"),
    (lambda: decoder(20, 3)(LONG), "length: expected texts of at most 3 tokens"),
]


@pytest.mark.parametrize(("make", "text"), BAD)
def test_bad_numbers_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        make()


def test_all_problems_come_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        decoder(1, 0, 0, width=9, layers=0, heads=2, padding=5)
    assert len(caught.value.problems) == 6
