"""A confident example's row of the classifier's gradient, made from the other rows."""

import torch

import gradleak as gl
from gradleak.attacks.restoration import confident_class, restored
from gradleak.tasks import soft_cross_entropy
from gradleak.threat import Observation
from gradleak.zoo.models import mlp


def confident(
    gain: float, dtype: torch.dtype = torch.float32, defenses: tuple[gl.defenses.Defense, ...] = ()
) -> tuple[Observation, Observation]:
    """The same confident example in float32 and in float64; its class is 2."""
    found: list[Observation] = []
    for precision in (dtype, torch.float64):
        model = mlp(12, (8,), 4, seed=0)
        with torch.no_grad():
            list(model.parameters())[-1][2] = gain
        task = gl.Task(model.to(precision), gl.TabularSpace(12), num_classes=4)
        inputs = torch.rand((1, 12), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        observation, _ = gl.capture(task, inputs.to(precision), torch.tensor([2]), defenses=defenses)
        found.append(observation)
    return found[0], found[1]


def last(observation: Observation) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias = list(observation.update.tensors.values())[-2:]
    return weight.double(), bias.double()


def test_the_row_of_the_true_class_has_its_digits_back() -> None:
    rounded, exact = confident(14.0)
    truth = last(exact)[1]
    assert abs(float(last(rounded)[1][2] / truth[2]) - 1) > 1e-3
    again = restored(rounded)
    torch.testing.assert_close(last(again)[1], truth, rtol=2e-5, atol=0)
    torch.testing.assert_close(last(again)[0], last(exact)[0], rtol=2e-5, atol=1e-12)


def test_the_class_is_found_where_no_residual_is_negative() -> None:
    rounded, exact = confident(25.0)
    weight, bias = last(rounded)
    assert bool((bias >= 0).all())
    state = list(rounded.state.parameters.values())
    assert confident_class(weight, bias, state[-2], state[-1]) == 2
    torch.testing.assert_close(last(restored(rounded))[1], last(exact)[1], rtol=2e-5, atol=0)


def test_what_is_not_plainly_one_gradient_stays_as_it_is() -> None:
    unsure, _ = confident(0.0)
    assert restored(unsure) is unsure
    noisy, _ = confident(14.0, defenses=(gl.defenses.GaussianNoise(std=1e-9),))
    assert restored(noisy) is noisy


def test_the_default_loss_is_the_soft_cross_entropy() -> None:
    assert confident(0.0)[0].task.loss is soft_cross_entropy
