"""Gradient matching without a second derivative: its gradient is exact to rounding, and it finds the image."""

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.finite_difference import finite_difference_energy, one_by_one
from gradleak.attacks.inversion import observed_tensors
from gradleak.attacks.layout import Layout
from gradleak.attacks.objectives import Objective, cosine_distance, normalized_squared_distance, squared_distance
from gradleak.optim import value_and_gradient
from gradleak.threat import simulator
from gradleak.zoo.models import lenet
from tests.inspection.models import OnceSigmoid
from tests.problems import Problem, gradient_problems, images, labels, small_lenet

SMOOTH = [problem for problem in gradient_problems() if problem.name not in {"rows", "transformer"}]  # those have ReLU


@pytest.mark.parametrize("objective", [squared_distance, cosine_distance, normalized_squared_distance])
@pytest.mark.parametrize("problem", SMOOTH, ids=lambda problem: problem.name)
@pytest.mark.parametrize("joint", [True, False], ids=["labels searched", "labels fixed"])
def test_gradient_is_that_of_double_backward(problem: Problem, objective: Objective, joint: bool) -> None:
    observation, _ = gl.capture(problem.task, problem.inputs, problem.targets, client=problem.client)
    targets = None if joint else problem.task.target_probabilities(problem.targets)
    layout = Layout.of(observation, len(problem.inputs), targets)
    step, observed = simulator(observation), observed_tensors(observation)
    generator = torch.Generator().manual_seed(0)
    points = torch.stack(
        [
            layout.pack(
                images(len(problem.inputs), problem.inputs.shape[1:], seed=seed),  # pyright: ignore[reportArgumentType]
                torch.randn(layout.logits_shape, generator=generator),
            )
            for seed in (5, 6)
        ]
    )
    exact = value_and_gradient(lambda point: objective(step(*layout.unpack(point)), observed))
    found = one_by_one(finite_difference_energy(observation, layout, objective, observed=observed))(points)
    for row in range(len(points)):
        values, gradients = exact(points[[row]])
        assert torch.equal(found[0][[row]], values)
        assert float((found[1][row] - gradients[0]).norm() / gradients.norm()) < 1e-6


def test_priors_join_the_gradient() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    layout = Layout.of(observation, 1, None)
    observed = observed_tensors(observation)

    def plain(weight: float) -> torch.Tensor:
        energy = finite_difference_energy(
            observation,
            layout,
            squared_distance,
            observed=observed,
            terms=lambda variable, _targets: weight * variable.square().sum(),
        )
        point = layout.pack(images(1, seed=3), torch.zeros(1, 10))
        return value_and_gradient(energy)(point[None])[1][0]

    difference = plain(2.0) - plain(0.0)
    assert torch.allclose(difference[:768], 4 * images(1, seed=3).flatten(), atol=1e-9)


@pytest.fixture(scope="module")
def once() -> tuple[gl.Observation, gl.Truth]:
    """An update of a model whose activation can be differentiated once only."""
    model = lenet(10, input_size=16, activation=OnceSigmoid).double()
    return gl.capture(gl.Task(model, gl.ImageSpace((3, 16, 16)), 10), images(1), labels(1))


def test_an_image_is_found_without_a_second_derivative(once: tuple[gl.Observation, gl.Truth]) -> None:
    observation, truth = once
    result = gl.attacks.finite_differences(max_evaluations=500)(observation, seed=0)
    scores = gl.score(result, truth)
    assert scores.median("psnr") > 40
    assert scores.to_dict()["target_correct"] == [True]


@pytest.mark.parametrize(
    "factory",
    [
        gl.attacks.dlg,
        gl.attacks.idlg,
        gl.attacks.staged,
        gl.attacks.inverting_gradients,
        gl.attacks.relu_inversion,
        gl.attacks.cpl,
        gl.attacks.sapag,
    ],
    ids=lambda factory: factory.__name__,
)
def test_other_searches_say_that_they_cannot(factory: type, once: tuple[gl.Observation, gl.Truth]) -> None:
    result = factory(max_evaluations=20)(once[0])
    assert result.status == "not_applicable"
    assert result.message.startswith("no second derivative: trying to differentiate twice")
    assert "finite_difference" in result.message


def test_the_portfolio_turns_to_differences(once: tuple[gl.Observation, gl.Truth]) -> None:
    observation, truth = once
    result = gl.attacks.auto(closed_forms=False, max_evaluations=400, max_seconds=None)(observation)
    assert "by finite_differences" in result.message
    assert "search with first derivatives" in result.trace
    assert gl.score(result, truth).median("psnr") > 30


def test_a_kernel_without_a_second_derivative_is_a_status_too() -> None:
    task = gl.Task(lenet(10, input_size=16, activation=nn.Hardsigmoid).double(), gl.ImageSpace((3, 16, 16)), 10)
    observation, _ = gl.capture(task, images(1), labels(1))
    result = gl.attacks.dlg(max_evaluations=5)(observation)
    assert result.status == "not_applicable"
    assert "hardsigmoid_backward is not implemented" in result.message
    assert gl.attacks.finite_differences(max_evaluations=5)(observation).status == "budget"


def test_a_model_that_can_be_differentiated_twice_is_searched_as_ever() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    assert gl.attacks.dlg(outer_steps=1)(observation).status == "budget"


@pytest.mark.parametrize(
    ("client", "dtype", "why"),
    [
        (gl.clients.Gradient(autocast="bf16"), torch.float32, "bf16"),
        (gl.clients.Gradient(mode="train", micro_batch=1), torch.float64, "micro-batches"),
        (gl.clients.LocalSGD(lr=0.1, epochs=2), torch.float64, "another client"),
    ],
    ids=["bf16", "micro-batches", "local steps"],
)
def test_clients_whose_derivative_it_would_get_wrong_are_left_alone(
    client: gl.clients.Client, dtype: torch.dtype, why: str
) -> None:
    observation, _ = gl.capture(small_lenet(dtype), images(2).to(dtype), labels(2), client=client)
    found = gl.attacks.finite_differences(max_evaluations=2)(observation)
    assert found.status == "not_applicable"
    assert why in found.message
