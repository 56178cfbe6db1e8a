"""The whole model: derivatives, parameters, conditions, what attacks do, and that nothing is changed."""

import json

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.zoo.models import lenet, resnet
from gradleak.zoo.models.building import seeded
from tests.inspection.models import INPUTS, SPACE, TARGETS, Detached, Once, around, inspected
from tests.problems import normed_net


def ignore(module: nn.Module, args: object, outputs: object) -> None:
    del module, args, outputs


def hooks_of(model: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [len(getattr(module, kind)) for module in model.modules() for kind in kinds]


def test_the_model_is_left_as_it_was() -> None:
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(784, 10))
    model[1].eval()
    model[2].register_forward_hook(ignore)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    hooks = hooks_of(model)
    inputs, draws = INPUTS.clone(), torch.get_rng_state()
    found = gl.inspect(model, inputs, TARGETS, space=SPACE, num_classes=10)
    assert found.conditions.dropout == ("3",)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert hooks_of(model) == hooks
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(inputs, INPUTS)
    assert torch.equal(torch.get_rng_state(), draws)


def test_inspecting_twice_gives_the_same() -> None:
    model = around(torch.relu)
    assert inspected(model).derivatives == inspected(model).derivatives


def test_differences_agree_with_double_backward_at_small_steps_only_where_there_are_kinks() -> None:
    smooth, kinked = (inspected(lenet(10, input_size=16, activation=kind)) for kind in (nn.Sigmoid, nn.ReLU))
    of = {name: dict(found.derivatives.step_errors) for name, found in (("smooth", smooth), ("kinked", kinked))}
    assert of["smooth"][1e-3] < 1e-3
    assert of["kinked"][1e-3] > 1e-2
    assert smooth.derivatives.best_error < 1e-8
    assert kinked.derivatives.best_error < 1e-8
    assert kinked.derivatives.best_step < 1e-3


def test_inputs_exactly_on_kinks_are_said() -> None:
    model = seeded(0, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)))
    nn.init.zeros_(model[0].bias)  # pyright: ignore[reportArgumentType]  # a tensor here
    black = INPUTS.clone()
    black[:, :, 4:] = 0
    found = gl.inspect(model, black, TARGETS, space=SPACE, num_classes=10)
    assert found.derivatives.jittered
    assert found.verdict == "kinks"
    assert not inspected(model).derivatives.jittered


def test_a_function_marked_once_differentiable_is_named() -> None:
    found = inspected(around(Once.apply))
    assert found.verdict == "no double backward"
    assert "differentiate twice" in found.headline
    assert found.derivatives.curvature > 0  # which autograd would pass by
    assert found.findings[0].operation == "Once"
    searches, differences = found.routes[:2]
    assert searches.works is False
    assert differences.attack == "finite_differences"
    assert differences.works is True


def test_a_wrong_second_derivative_is_measured() -> None:
    found = inspected(around(Detached.apply))
    assert found.derivatives.runs
    assert found.verdict == "no double backward"
    assert "runs, but is wrong" in found.headline


def test_parameters_without_gradients_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(768, 10), nn.Linear(10, 10)
            self.again = self.head
            self.idle = nn.Linear(3, 3)
            self.dead = nn.Parameter(torch.ones(10))
            self.body.bias.requires_grad_(False)

        def forward(self, pixels: Tensor) -> Tensor:
            features = torch.sigmoid(self.body(pixels.flatten(1)))
            return self.again(self.head(features)) + self.dead * torch.relu(-features)

    parameters = inspected(Odd()).parameters
    assert parameters.without_gradient == ("idle.weight", "idle.bias")
    assert parameters.zero_gradient == ("dead",)
    assert parameters.frozen == ("body.bias",)
    assert parameters.tied == (("again.weight", "head.weight"), ("again.bias", "head.bias"))


def test_batch_norm_couples_examples_in_training_mode() -> None:
    conditions = inspected(normed_net(nn.BatchNorm2d).float()).conditions
    assert conditions.batch_norm == ("1",)
    assert conditions.coupled == ("train",)
    assert conditions.mode_difference > 0.1
    without = inspected(normed_net(lambda width: nn.BatchNorm2d(width, track_running_stats=False)).float()).conditions
    assert without.coupled == ("eval", "train")
    assert without.without_running_statistics == ("1",)


def test_dropout_by_function_that_never_ends_is_random_in_both_modes() -> None:
    found = inspected(around(lambda z: nn.functional.dropout(torch.sigmoid(z), 0.3, training=True)))
    assert found.conditions.random == ("eval", "train")
    assert [finding.kind for finding in found.findings] == ["random"]
    assert found.derivatives.best_error < 1e-6  # with the same draws


def test_lower_precision_inside_is_said() -> None:
    found = inspected(around(lambda z: torch.sigmoid(z.bfloat16()).float()))
    assert found.conditions.inside == ("bfloat16", "float32")
    assert not found.derivatives.float64


def test_in_place_activations_are_named() -> None:
    assert inspected(around(nn.ReLU(inplace=True))).conditions.in_place == ("relu in activation (ReLU)",)
    assert inspected(around(nn.ReLU())).conditions.in_place == ()


def test_closed_forms_are_tried_and_say_why_not() -> None:
    routes = {route.attack: route for route in inspected(lenet(10, input_size=16)).routes}
    assert routes["layer_recursion"].works is True
    assert routes["linear_layer"].works is False
    assert "no linear layer receives the input" in routes["linear_layer"].why
    assert {"spear", "position_gradient", "residual_peeling"} <= set(routes)


def test_replacements_that_audit_another_model_are_refused() -> None:
    found = inspected(resnet(8))
    words = {one.what: one.faithful for one in found.replacements}
    assert words["ReLU and the like -> softplus, sigmoid, GELU"] is False
    assert words["removing strides"] is False
    assert words["removing BatchNorm, or the other mode"] is False
    assert words["computing in float64"] is True


def test_everything_is_plain_data() -> None:
    plain = json.loads(json.dumps(inspected(around(torch.relu)).to_dict()))
    assert plain["verdict"] == "kinks"
    assert plain["derivatives"]["runs"] is True


def test_a_task_and_no_inputs_are_enough() -> None:
    found = gl.inspect(gl.Task(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), gl.TabularSpace(5), 3))
    assert found.verdict == "smooth"
    assert found.inputs == "2 random inputs"


def test_bad_input_is_refused_at_the_door() -> None:
    with pytest.raises(gl.BadInput, match="expected space and num_classes"):
        gl.inspect(lenet(10))
    with pytest.raises(gl.BadInput, match=r"inputs: expected images.*\n.*targets: expected class indices"):
        gl.inspect(lenet(10, input_size=16), INPUTS[0], torch.tensor([1]), space=SPACE, num_classes=10)
