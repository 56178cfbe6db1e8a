"""Language models: probabilities that sum to one, likely texts before others, and files that come back the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradleak.attacks.text import CausalModel, NGrams, lamp, train_language_model
from gradleak.errors import BadInput

VOCABULARY = 12


def counting(texts: int = 40, length: int = 8) -> Tensor:
    """Texts in which each token is one more than the last."""
    start = torch.arange(texts) % 5 + 1
    return (start[:, None] + torch.arange(length)) % VOCABULARY


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one(order: int) -> None:
    model = train_language_model(counting(), VOCABULARY, order=order)
    for prefix in ([1, 2], [7, 3], [0, 0]):  # seen, and never seen
        rows = torch.tensor([[*prefix, last] for last in range(VOCABULARY)])
        assert float(model.probabilities(rows)[:, 2].sum()) == pytest.approx(1.0)
        assert float(model.probabilities(rows)[:, 2].min()) > 0


def test_absolute_discounting_by_hand() -> None:
    model = train_language_model([[1, 2, 1, 2, 1, 3]], 4, order=2, discount=0.5)
    unigram = (2 - 0.5) / 6 + 0.5 * 3 / 6 / 4  # of token 2: twice among six, three kinds
    expected = (2 - 0.5) / 3 + 0.5 * 2 / 3 * unigram  # after token 1: twice among three, two kinds
    assert float(model.probabilities(torch.tensor([[1, 2]]))[0, 1]) == pytest.approx(expected)


def test_likely_texts_come_first_and_padding_does_not_count() -> None:
    model = train_language_model(counting(), VOCABULARY, padding=0)
    good, bad = torch.tensor([[2, 3, 4, 5, 0, 0]]), torch.tensor([[4, 2, 5, 3, 0, 0]])
    assert float(model(good)) < float(model(bad)) - 1
    assert float(model(good)) == pytest.approx(float(model(good[:, :4])))


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    for padding in (None, 0):
        model = train_language_model(counting(), VOCABULARY, padding=padding)
        model.save(tmp_path / "model.safetensors")
        again = NGrams.load(tmp_path / "model.safetensors")
        assert again.padding == padding
        assert torch.equal(again(counting(3)), model(counting(3)))
        judge = lamp(language_model=str(tmp_path / "model.safetensors")).language_model
        assert judge is not None
        assert torch.equal(judge(counting(3)), model(counting(3)))
    (tmp_path / "other.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BadInput):
        NGrams.load(tmp_path / "other.safetensors")


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(BadInput, match="below 2\\*\\*62"):
        train_language_model(counting(), 2**40)
    with pytest.raises(BadInput, match="at least one token"):
        train_language_model([], VOCABULARY)
    with pytest.raises(BadInput, match="use the model's tokenizer"):
        train_language_model([[VOCABULARY]], VOCABULARY)
    with pytest.raises(BadInput, match="discount"):
        train_language_model(counting(), VOCABULARY, discount=1.0)


def test_any_causal_model_judges() -> None:
    class Next(nn.Module):
        """Is sure that each token is one more than the last."""

        def __init__(self) -> None:
            super().__init__()
            self.sureness = nn.Parameter(torch.tensor(20.0))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.sureness * nn.functional.one_hot((tokens + 1) % VOCABULARY, VOCABULARY)

    judge = CausalModel(Next(), padding=0, chunk=3)
    values = judge(torch.tensor([[2, 3, 4, 0], [4, 3, 2, 0], [1, 2, 3, 4], [5, 6, 8, 9]]))
    assert values[[0, 2]].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert values[[1, 3]].tolist() == pytest.approx([20, 20 / 3], rel=1e-4)
