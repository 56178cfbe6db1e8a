import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.closed_form.linear_layer import (
    find_entry,
    input_from_row,
    input_of_single_example,
    linear_layer,
)
from gradleak.linalg import singular_values_above_rounding
from gradleak.seeds import stage_generator
from gradleak.zoo.models import lenet, mlp
from gradleak.zoo.models.building import seeded
from tests.problems import images, labels

SPACE = gl.ImageSpace((3, 8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


def task_of(model: nn.Module, space: gl.ImageSpace = SPACE) -> gl.Task:
    return gl.Task(model, space, num_classes=10)


def batch(count: int) -> tuple[Tensor, Tensor]:
    return images(count, (3, 8, 8)), labels(count)


class Rearranged(nn.Module):
    """Normalizes again and moves channels last before its first linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 10)
        self.trunk = nn.Sequential(nn.Linear(192, 20), nn.Tanh(), nn.Linear(20, 6))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(torch.tanh(self.trunk((3 * pixels - 1).permute(0, 2, 3, 1).flatten(1))))


def test_both_rules_invert_a_gradient_written_down_by_hand() -> None:
    x, d = torch.tensor([0.2, -0.5, 3.0]), torch.tensor([0.0, -2.0, 0.5])
    weight = torch.outer(d, x)
    assert torch.allclose(input_of_single_example(weight, d), x.double(), rtol=1e-6)
    assert torch.allclose(input_from_row(weight, d), x.double(), rtol=1e-6)
    assert torch.allclose(input_from_row(weight, d, row=2), x.double(), rtol=1e-6)


def test_row_that_one_example_reaches_gives_that_example() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    d = torch.tensor([[0.7, 0.0], [0.1, 0.9]])  # the second unit is active for the second example only
    assert torch.allclose(input_from_row(d.T @ x, d.sum(dim=0), row=1), x[1].double(), rtol=1e-6)


def test_single_example_is_exact_through_the_normalization_of_the_space() -> None:
    inputs, targets = batch(1)
    observation, truth = gl.capture(task_of(mlp(192, (50,), 10).double()), inputs, targets)
    result = linear_layer()(observation)
    scores = gl.score(result, truth)
    assert result.status == "converged"
    assert float(scores.psnr[0]) > 250
    assert scores.target_correct == (True,)
    assert result.objective < 1e-25


def test_rearranging_and_normalizing_inside_the_model_is_undone() -> None:
    inputs, targets = batch(1)
    task = task_of(seeded(3, Rearranged).double())
    observation, truth = gl.capture(task, inputs, targets)
    entry = find_entry(task, observation.state)
    assert entry is not None
    assert (entry.weight, entry.bias) == ("trunk.0.weight", "trunk.0.bias")
    assert float(gl.score(linear_layer()(observation), truth).psnr[0]) > 250
    assert torch.allclose(entry.variable(entry.layer_inputs(inputs), (3, 8, 8)), inputs, atol=1e-12)


def test_layers_that_mix_or_miss_entries_are_not_an_entry() -> None:
    blurred = nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(192, 10)).double()
    for model in (lenet(10, input_size=8).double(), blurred):
        observation, _ = gl.capture(task_of(model), *batch(1))
        result = linear_layer()(observation)
        assert result.status == "not_applicable"
        assert "receives the input" in result.message


def test_a_scaled_negated_delta_gives_the_same_input() -> None:
    inputs, targets = batch(1)
    observation, _ = gl.capture(task_of(mlp(192, (50,), 10).double()), inputs, targets)
    delta = gl.Update({name: -0.3 * g for name, g in observation.update.tensors.items()}, "delta")
    result = linear_layer()(gl.Observation(observation.task, observation.state, delta, batch_size=1))
    assert torch.allclose(result.inputs, inputs, atol=1e-12)
    assert result.targets.tolist() == targets.tolist()
    assert result.status == "converged"


def test_withheld_batch_size_is_decided_by_the_rank() -> None:
    task = task_of(mlp(192, (50,), 10).double())
    for count, status in ((1, "converged"), (3, "not_applicable")):
        inputs, targets = batch(count)
        observation, _ = gl.capture(task, inputs, targets, threat=gl.ThreatModel(batch_size_known=False))
        result = linear_layer()(observation)
        assert result.status == status
        assert count == 1 or "rank 3" in result.message


def test_batches_biasless_layers_and_dead_layers_are_not_applicable() -> None:
    inputs, targets = batch(2)
    observation, _ = gl.capture(task_of(mlp(192, (50,), 10).double()), inputs, targets)
    assert "batch of 2" in linear_layer()(observation).message
    biasless = nn.Sequential(nn.Flatten(), nn.Linear(192, 10, bias=False)).double()
    observation, _ = gl.capture(task_of(biasless), *batch(1))
    assert "bias" in linear_layer()(observation).message
    dead = mlp(192, (50,), 10).double()
    with torch.no_grad():
        dict(dead.named_parameters())["linear1.bias"].fill_(-100.0)
    observation, _ = gl.capture(task_of(dead), *batch(1))
    assert "no unit was active" in linear_layer()(observation).message


def test_rank_ignores_rounding_and_sees_small_directions() -> None:
    generator = stage_generator(0, "rank")
    left = torch.randn((60, 4), generator=generator, dtype=torch.float64)
    right = torch.randn((4, 300), generator=generator, dtype=torch.float64)
    right[3] *= 1e-3
    assert singular_values_above_rounding((left @ right).float()) == 4
    right[3] *= 1e-7
    assert singular_values_above_rounding((left @ right).float()) == 3
