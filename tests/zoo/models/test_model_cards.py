"""The named models."""

import pytest
import torch

from gradleak.zoo.models import REFERENCE_MODELS, ModelCard


def test_names_are_unique_and_expected() -> None:
    names = [card.name for card in REFERENCE_MODELS]
    assert len(set(names)) == len(names)
    assert {
        "lenet-dlg",
        "lenet-default",
        "lenet-relu",
        "lenet-tanh",
        "lenet-softplus",
        "mlp-relu",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet20-sigmoid-nostride",
        "convnet32",
    } <= set(names)


@pytest.mark.parametrize("card", REFERENCE_MODELS, ids=lambda card: card.name)
def test_every_card_builds_what_it_is_asked_for(card: ModelCard) -> None:
    model = card.factory((1, 12, 9), 4, 7)
    assert model(torch.zeros(2, 1, 12, 9)).shape == (2, 4)
    same, other = card.factory((1, 12, 9), 4, 7).state_dict(), card.factory((1, 12, 9), 4, 8).state_dict()
    state = model.state_dict()
    assert torch.equal(state["linear.weight"], same["linear.weight"])
    assert not torch.equal(state["linear.weight"], other["linear.weight"])
    assert card.description
    assert card.source


def test_cards_differ_where_their_names_say() -> None:
    cards = {card.name: card.factory for card in REFERENCE_MODELS}
    shape = (3, 32, 32)
    assert cards["lenet-dlg"](shape, 10, 0).get_parameter("linear.weight").abs().max() > 0.49
    assert cards["lenet-default"](shape, 10, 0).get_parameter("linear.weight").abs().max() < 0.04
    assert "Softplus" in str(cards["lenet-softplus"](shape, 10, 0))
    assert "stride=(2, 2)" in str(cards["resnet20"](shape, 10, 0))
    without = str(cards["resnet20-sigmoid-nostride"](shape, 10, 0))
    assert "stride=(2, 2)" not in without
    assert "ReLU" not in without
