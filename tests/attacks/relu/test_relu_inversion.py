"""Peeling, the convex end and the search of ReLU networks."""

import math

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.attacks.closed_form.layers import read_chain
from gradleak.attacks.recipes import dlg
from gradleak.attacks.relu import MaskDerivative, relu_inversion
from gradleak.attacks.relu.convex import Splitting, cholesky_in_time, least_variation, linear_facts
from gradleak.attacks.relu.descent import Descent, color_variation, descend
from gradleak.attacks.relu.peeled import peeled_energy
from gradleak.attacks.relu.stack import Stack, forward_matrix, peel_stack, read_stack, weight_gradient_matrix
from gradleak.zoo.data import load
from gradleak.zoo.models import convnet, lenet, mlp
from gradleak.zoo.models.building import seeded
from tests.problems import images, labels, small_lenet


def photograph(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return load("photographs").resized(size).sample(1, seed=seed)


def relu_lenet(size: int = 16, dtype: torch.dtype = torch.float32, **settings: object) -> gl.Task:
    model = lenet(10, input_size=size, activation=nn.ReLU, initialization="default", **settings).to(dtype)  # pyright: ignore[reportArgumentType]
    return gl.Task(model, gl.ImageSpace((3, size, size), mean=(0.5, 0.4, 0.45), std=(0.2, 0.25, 0.3)), num_classes=10)


def narrow_net() -> gl.Task:
    """Its second convolution says far too little about its 2,048 inputs."""

    def build() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 10),
        )

    return gl.Task(seeded(0, build), gl.ImageSpace((3, 16, 16)), num_classes=10)


def stack_of(task: gl.Task) -> Stack:
    chain = read_chain(task, task.state())
    assert not isinstance(chain, str)
    stack = read_stack(chain)
    assert not isinstance(stack, str)
    return stack


def test_operators_are_those_of_torch() -> None:
    layer = stack_of(relu_lenet(dtype=torch.float64)).convolutions[0]
    x = torch.rand((1, *layer.input_shape), dtype=torch.float64)
    cotangent = torch.rand(layer.output_shape, dtype=torch.float64)
    bias = layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(forward_matrix(layer) @ x.flatten(), (layer(x)[0] - bias).flatten())
    (expected,) = torch.autograd.grad(
        (
            nn.functional.conv2d(
                x, (weight := layer.weight.clone().requires_grad_()), None, layer.stride, layer.padding
            )
            * cotangent
        ).sum(),
        weight,
    )
    rows = x[0].flatten(1) @ weight_gradient_matrix(layer, cotangent).T  # [I, O * window]
    torch.testing.assert_close(rows, expected.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 2])
def test_peeled_layers_are_the_true_ones(dtype: torch.dtype, seed: int) -> None:
    task = relu_lenet(16, dtype, width=3, seed=seed)
    inputs, targets = photograph(16, seed)
    observation, _ = gl.capture(task, inputs.to(dtype), targets)
    stack, chain = stack_of(task), read_chain(task, task.state())
    assert not isinstance(chain, str)
    gradient = {name: tensor.double() for name, tensor in observation.update.in_gradient_direction().items()}
    front = peel_stack(stack, gradient, torch.finfo(dtype).eps)
    assert not isinstance(front, str)
    assert front.position == (0 if seed == 0 else 1)
    z = chain.normalize(inputs.double())
    for position, layer in enumerate(stack.convolutions[: front.position + 1]):
        z = layer(z if position == 0 else torch.relu(z))
    z = z[0]
    assert int(((z > 0) != front.active)[front.sure].sum()) == 0
    assert float(front.sure.double().mean()) > 0.85
    tolerance = 1e-3 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(front.values, torch.relu(z), atol=tolerance, rtol=0)


@pytest.mark.slow
def test_lenet_is_peeled_to_a_convex_problem() -> None:
    inputs, targets = photograph(24, 3)
    observation, truth = gl.capture(relu_lenet(24), inputs, targets)
    result = relu_inversion()(observation)
    assert "convex end" in result.message
    scores = gl.score(result, truth).to_dict()
    (psnr,) = scores["psnr"]
    assert psnr is not None
    assert psnr > 30
    assert scores["target_correct"] == [True]
    assert torch.equal(result.variable, relu_inversion()(observation, seed=1).variable)  # nothing random in it


def test_least_variation_obeys_facts_that_determine_the_image() -> None:
    # One convolution with many channels: every pixel is determined, whatever the prior prefers.
    net = nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(40 * 64, 10))
    task = gl.Task(net.double(), gl.ImageSpace((3, 8, 8)), num_classes=10)
    private = images(1, (3, 8, 8))
    observation, _ = gl.capture(task, private, labels(1))
    stack = stack_of(task)
    gradient = observation.update.in_gradient_direction()
    front = peel_stack(stack, gradient, 2.2e-16)
    assert not isinstance(front, str)
    layer = stack.convolutions[0]
    ones = torch.ones(3, dtype=torch.float64)
    facts = linear_facts(layer, front, gradient[layer.name], ones, 0 * ones)
    ended = least_variation(facts, (3, 8, 8), (0.0, 1.0), Splitting(sweeps=30))
    assert ended is not None
    image, sweeps = ended
    assert sweeps == 30
    torch.testing.assert_close(image, private[0], atol=1e-4, rtol=0)


def test_noise_stops_the_peeling_and_the_search_goes_on() -> None:
    inputs, targets = photograph(16)
    noise = [gl.defenses.GaussianNoise(std=1e-2)]
    observation, _ = gl.capture(relu_lenet(), inputs, targets, defenses=noise)
    result = relu_inversion(max_evaluations=5)(observation)
    assert "searched" in result.message
    assert result.evaluations == 5


def test_a_net_with_too_few_equations_is_searched_below_what_is_known() -> None:
    inputs, targets = photograph(16, 5)
    task = narrow_net()
    observation, _ = gl.capture(task, inputs, targets)
    result = relu_inversion(max_evaluations=200)(observation)
    assert result.message.startswith("peeled: 2.weight 0 of 2048 inputs determined (rank 124); searched")
    assert result.history.objective[-1] < 0.02 * result.history.objective[0]


def test_peeled_objective_is_zero_at_the_truth_and_nowhere_near_it() -> None:
    # A layer with dead units above it, so that its input is known in some directions only.
    task = relu_lenet(16, torch.float64, width=4, seed=5)
    inputs, targets = photograph(16, 1)
    observation, _ = gl.capture(task, inputs.double(), targets)
    chain, update = read_chain(task, task.state()), observation.update.in_gradient_direction()
    assert not isinstance(chain, str)
    front = peel_stack(stack_of(task), update, 2.2e-16)
    assert not isinstance(front, str)
    assert front.position == 1
    assert front.below is not None
    assert 0 < len(front.below.open) < 256
    energy = peeled_energy(chain, stack_of(task), front, update, MaskDerivative(beta=2.0))
    assert abs(float(energy(inputs.double().flatten()))) < 1e-9
    assert float(energy((inputs.double() + 0.05 * images(1)).flatten())) > 1e-3


def test_max_pooling_is_searched_as_a_whole_and_beats_plain_masks() -> None:
    model = convnet(10, input_size=16, width=8)
    task = gl.Task(model, gl.ImageSpace((3, 16, 16)), num_classes=10)
    inputs, targets = photograph(16, 5)
    observation, truth = gl.capture(task, inputs, targets)
    result = relu_inversion(max_evaluations=120)(observation)
    assert result.message.startswith("whole network: it is not a chain")
    assert (result.evaluations, result.targets.tolist()) == (120, targets.tolist())
    assert len(result.history.objective) == 119
    again = relu_inversion(max_evaluations=120)(observation)
    assert torch.equal(result.variable, again.variable)
    grey = float(-10 * torch.log10((truth.inputs - 0.5).square().mean()))
    (psnr,) = gl.score(result, truth).to_dict()["psnr"]
    assert psnr is not None
    assert psnr > grey + 1


def test_batches_use_recovered_or_given_labels() -> None:
    targets = torch.tensor([3, 1])
    task = relu_lenet()
    recovered = relu_inversion(max_evaluations=3)(gl.capture(task, images(2).float(), targets)[0])
    assert sorted(recovered.targets.tolist()) == [1, 3]
    assert "peeling is for one example" in recovered.message
    threat = gl.ThreatModel(labels_known=True)
    given = relu_inversion(max_evaluations=3)(gl.capture(task, images(2).float(), targets, threat=threat)[0])
    assert given.targets.tolist() == [3, 1]


def test_restarts_share_the_budget_and_do_not_influence_each_other() -> None:
    observation, _ = gl.capture(narrow_net(), images(1).float(), labels(1))
    many = relu_inversion(restarts=3, max_evaluations=31)(observation, seed=0)
    assert many.evaluations == 31
    assert relu_inversion(restarts=1, max_evaluations=11)(observation, seed=0).evaluations == 11


def test_seconds_are_respected() -> None:
    observation, _ = gl.capture(narrow_net(), images(1).float(), labels(1))
    assert relu_inversion(max_seconds=0.5)(observation).seconds < 1.5


def test_what_it_cannot_attack_it_says() -> None:
    observation, _ = gl.capture(relu_lenet(), images(1).float(), labels(1))
    for value in observation.update.tensors.values():
        value.zero_()
    assert "no evidence" in relu_inversion()(observation).message
    rows = gl.Task(mlp(48, (12,), 10), gl.TabularSpace(48), num_classes=10)
    result = relu_inversion()(gl.capture(rows, torch.rand(1, 48), labels(1))[0])
    assert (result.status, "images" in result.message) == ("not_applicable", True)
    unknown = gl.ThreatModel(batch_size_known=False)
    observation, _ = gl.capture(relu_lenet(), images(1).float(), labels(1), threat=unknown)
    assert "batch size" in relu_inversion()(observation).message


def test_sigmoid_is_no_relu_stack_and_is_searched() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    result = relu_inversion(max_evaluations=3)(observation)
    assert "an activation is not ReLU" in result.message
    assert dlg().name != result.attack == "relu_inversion"


def test_color_variation_by_hand() -> None:
    image = torch.zeros((1, 2, 2, 2), dtype=torch.float64)
    image[0, 0, 0, 0], image[0, 1, 0, 0] = 3.0, 4.0
    # Only the first pixel has differences: 3 and 4 across, and the same down.
    assert float(color_variation(image)) == pytest.approx((50**0.5 + 3e-3) / 4, rel=1e-6)


def test_descent_keeps_the_box_and_compares_at_the_last_weight() -> None:
    shape = (1, 1, 4, 4)
    target = torch.linspace(-1, 2, 16, dtype=torch.float64)
    minimum = descend(
        lambda x: (x - target).square().sum(),
        torch.full((2, 16), 0.5, dtype=torch.float64),
        shape,
        settings=Descent(first_weight=1.0, last_weight=1e-6),
        bounds=(0.0, 1.0),
        evaluations=200,
        seconds=None,
    )
    torch.testing.assert_close(minimum.points[0], target.clamp(0, 1), atol=1e-2, rtol=0)
    assert torch.equal(minimum.points[0], minimum.points[1])
    again = (minimum.points[0] - target).square().sum() + 1e-6 * color_variation(minimum.points[0].view(shape))
    torch.testing.assert_close(minimum.values[0], again)


def test_weight_of_the_variation_falls_geometrically() -> None:
    settings = Descent(first_weight=0.1, last_weight=0.001, settled=0.8)
    assert [settings.weight(share) for share in (0.0, 0.4, 0.8, 1.0)] == pytest.approx([0.1, 0.01, 0.001, 0.001])


def test_cholesky_in_time_is_the_factor_or_nothing() -> None:
    rows = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = rows @ rows.T + torch.eye(1000)
    factor = cholesky_in_time(matrix, math.inf)
    assert factor is not None
    torch.testing.assert_close(factor, torch.linalg.cholesky(matrix))
    assert cholesky_in_time(matrix, 0.0) is None
