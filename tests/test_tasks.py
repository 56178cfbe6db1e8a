"""Tasks and input spaces: probed at the door, and never altered."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import gradleak as gl
from gradleak.tasks import InputSpace
from gradleak.zoo.models.building import seeded
from tests.problems import labels, normed_net


def test_model_that_refuses_the_shape() -> None:
    with pytest.raises(gl.BadInput, match=r"input of shape \[1, 28, 28\], got .*check shape and model"):
        gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((1, 28, 28)), num_classes=10)


def test_wrong_number_of_classes() -> None:
    with pytest.raises(gl.BadInput, match=r"expected outputs of shape \[N, 7\], got \['N', 10\]"):
        gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((3, 16, 16)), num_classes=7)


def test_nothing_to_train_and_too_few_classes_are_told_together() -> None:
    with pytest.raises(gl.BadInput) as caught:
        gl.Task(nn.Flatten(), gl.ImageSpace((1, 2, 2)), num_classes=1)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"shape": (3, 0, 2)}, "(channels, height, width)"),
        ({"shape": (3, 2, 2), "mean": (0.5, 0.5)}, "1 or 3 values, got 2"),
        ({"shape": (3, 2, 2), "std": (0.0,)}, "positive values"),
        ({"shape": (3, 2, 2), "bounds": (1.0, 0.0)}, "low < high"),
    ],
)
def test_bad_image_spaces(settings: dict[str, tuple[float, ...]], expected: str) -> None:
    with pytest.raises(gl.BadInput) as caught:
        gl.ImageSpace(**settings)  # pyright: ignore[reportArgumentType]
    assert expected in str(caught.value)


def test_probing_a_model_leaves_flags_and_buffers() -> None:
    model = normed_net(nn.BatchNorm2d, 0.2).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10)
    assert all(module.training for module in model.modules())
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name])


class SoftTokens:
    """Token sequences whose variable is one row of token probabilities for each position.

    It stands for the input spaces to come: an integer input, a continuous variable of another shape that enters
    through the model's embedding, and a decoder back to integers.
    """

    def __init__(self, vocabulary: int, length: int) -> None:
        self.vocabulary, self.length = vocabulary, length

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def variable_shape(self) -> tuple[int, ...]:
        return (self.length, self.vocabulary)

    @property
    def bounds(self) -> None:
        return None

    def problems(self, inputs: Tensor) -> list[str]:
        return (
            [] if not inputs.is_floating_point() else [f"tokens: expected integers, got {inputs.dtype}; call .long()"]
        )

    def encode(self, inputs: Tensor) -> Tensor:
        return nn.functional.one_hot(inputs, self.vocabulary)

    def decode(self, variable: Tensor) -> Tensor:
        return variable.argmax(dim=-1)

    def forward(self, module: nn.Module, state: Mapping[str, Tensor], variable: Tensor) -> Tensor:
        weight = state.get("0.weight", module[0].weight)  # pyright: ignore[reportIndexIssue]
        kept = {name: value for name, value in state.items() if name != "0.weight"}
        return functional_call(module, kept, (variable @ weight,))


class EmbeddingSum(nn.Sequential):
    """An embedding and a classifier of its mean; a float input has been embedded already."""

    def forward(self, input: Tensor) -> Tensor:
        embedded = input if input.is_floating_point() else self[0](input)
        return self[1](torch.tanh(embedded).flatten(1))


def test_tokens_pass_through_capture_and_attack() -> None:
    space = SoftTokens(7, 3)
    assert isinstance(space, InputSpace)
    model = seeded(0, lambda: EmbeddingSum(nn.Embedding(7, 4), nn.Linear(12, 5)).double())
    task = gl.Task(model, space, num_classes=5)
    tokens = torch.tensor([[1, 6, 2]])
    observation, _ = gl.capture(task, tokens, labels(1, 5))
    nn.functional.cross_entropy(model(tokens), labels(1, 5)).backward()
    assert isinstance(model[0], nn.Embedding)
    assert model[0].weight.grad is not None
    torch.testing.assert_close(observation.update.tensors["0.weight"], model[0].weight.grad)
    result = gl.attacks.dlg(outer_steps=30, restarts=3)(observation, seed=0)
    assert torch.equal(result.inputs, tokens)
    assert result.objective < 1e-4 * observation.update.squared_norm()


def test_what_is_classified_follows_from_the_outputs() -> None:
    words = nn.Embedding(7, 5)
    every = gl.Task(nn.Sequential(words, nn.Linear(5, 7)), gl.TokenSpace(7, 4), num_classes=7)
    whole = gl.Task(nn.Sequential(words, nn.Flatten(), nn.Linear(20, 3)), gl.TokenSpace(7, 4), num_classes=3)
    assert (every.classified, every.target_shape) == ("token", (4, 7))
    assert (whole.classified, whole.target_shape) == ("example", (3,))


def test_labels_that_are_the_text_itself_are_refused() -> None:
    task = gl.Task(nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7)), gl.TokenSpace(7, 4, padding=0), num_classes=7)
    inputs = torch.tensor([[3, 1, 2, 0], [4, 4, 6, 5]])
    with pytest.raises(gl.BadInput, match="next_tokens"):
        gl.capture(task, inputs, inputs)
    with pytest.raises(gl.BadInput, match="withhold"):
        gl.capture(task, inputs, gl.next_tokens(inputs, 0), threat=gl.ThreatModel(labels_known=True))
    observation, _ = gl.capture(task, inputs, gl.next_tokens(inputs, 0), threat=gl.ThreatModel(lengths_known=True))
    assert observation.lengths is not None
    assert observation.lengths.tolist() == [3, 4]
