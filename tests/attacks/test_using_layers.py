"""Attacks that see some layers only: what they get, that the client's step stays what it was, and what copes."""

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks.objectives import OBJECTIVES
from gradleak.attacks.using_layers import chosen_tensors, narrowed
from gradleak.threat import simulator
from gradleak.zoo.models import lenet
from tests.problems import images, labels, normed_net, small_lenet

NAMES = ["conv1.weight", "conv1.bias", "norm.weight", "linear.weight", "linear.bias"]


def normed_task() -> gl.Task:
    return gl.Task(normed_net(nn.BatchNorm2d), gl.ImageSpace((3, 16, 16)), num_classes=10)


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ("all", NAMES),
        ("first", NAMES[:2]),
        ("last", NAMES[3:]),
        ("*.bias", ["conv1.bias", "linear.bias"]),
        (("last", "norm.*"), NAMES[2:]),
        ("conv2.*", []),
    ],
)
def test_layers_are_chosen_in_the_order_of_the_model(layers: str | tuple[str, ...], kept: list[str]) -> None:
    assert chosen_tensors(NAMES, layers) == kept


CLIENTS: list[gl.clients.Client] = [
    gl.clients.Gradient(),
    gl.clients.Gradient(mode="train", send_buffers=True),
    gl.clients.LocalSGD(lr=0.1, epochs=2, batch_size=2, momentum=0.9, shuffle=False),
    gl.clients.LocalAdam(lr=0.01, epochs=2, shuffle=False),
    gl.clients.Aggregate([gl.clients.LocalSGD(lr=0.1, epochs=2, shuffle=False)], count=2),
    gl.clients.DPSGD(clip=0.1),  # clips by the norm over all layers
    gl.clients.Gradient(sent=("0.*", "6.weight")),
]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: type(client).__name__)
@pytest.mark.parametrize("layers", ["first", "last"])
def test_the_truth_explains_the_chosen_layers_exactly(client: gl.clients.Client, layers: str) -> None:
    task, inputs, targets = normed_task(), images(4), labels(4)
    observation, _ = gl.capture(task, inputs, targets, client=client)
    part = narrowed(observation, chosen_tensors(list(observation.update.tensors), layers))
    assert 0 < len(part.update.tensors) < len(observation.update.tensors)
    assert list(part.state.parameters) == list(part.update.tensors)
    assert set(part.state.parameters) | set(part.state.constants) == set(task.state().parameters) | set(
        task.state().constants
    )
    simulated = simulator(part)(task.encode(inputs), task.target_probabilities(targets))
    for objective in OBJECTIVES:
        assert float(objective(simulated, part.update.tensors)) < 1e-20
    for name, buffer in part.update.buffers.items():
        assert torch.equal(simulated[name], buffer)


class Halved:
    """A defense that looks at all layers together."""

    name = "halved"

    def problems(self) -> list[str]:
        return []

    def apply(self, tensors: dict[str, torch.Tensor], kind: str, generator: object) -> dict[str, torch.Tensor]:
        norm = torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt()
        return {name: tensor / norm for name, tensor in tensors.items()}


def test_a_defense_over_all_layers_is_simulated_over_all_layers() -> None:
    task, inputs, targets = normed_task(), images(2), labels(2)
    observation, _ = gl.capture(task, inputs, targets, defenses=[Halved()])  # pyright: ignore[reportArgumentType]
    part = narrowed(observation, ["0.weight", "0.bias"])
    assert part.defenses is None  # so that no attack takes the update at its word
    simulated = simulator(part)(task.encode(inputs), task.target_probabilities(targets))
    assert all(torch.allclose(simulated[name], tensor) for name, tensor in part.update.tensors.items())


def test_all_layers_are_the_observation_itself() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    assert narrowed(observation, list(observation.update.tensors)) is observation


@pytest.mark.parametrize("layers", ["first", "last", "*.bias"])
@pytest.mark.parametrize("factory", gl.attacks.ATTACKS, ids=lambda factory: factory.__name__)
@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.ReLU])
def test_every_attack_copes(factory: object, layers: str, activation: type[nn.Module]) -> None:
    task = small_lenet(torch.float32, activation=activation)
    observation, truth = gl.capture(task, images(1).float(), labels(1))
    attack = gl.attacks.using_layers(
        attack=factory,  # pyright: ignore[reportArgumentType]
        layers=layers,
        max_evaluations=3,
        max_seconds=2,
    )
    result = attack(observation)
    assert result.attack == "using_layers"
    assert result.status != "not_applicable" or result.message.partition(", ")[2]
    assert len(gl.score(result, truth).to_dict()["psnr"]) == 1


def test_labels_are_searched_where_the_classifier_is_not_seen() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    result = gl.attacks.using_layers(layers="first", max_evaluations=20)(observation)
    assert result.status in {"budget", "converged"}
    assert float(result.target_probabilities.max()) < 1  # a softmax of logits, not a label that was read off


def test_the_first_layer_alone_says_less_than_all() -> None:
    inputs, targets = images(1), labels(1)
    task = gl.Task(lenet(10, input_size=16, width=6).double(), gl.ImageSpace((3, 16, 16)), num_classes=10)
    observation, truth = gl.capture(task, inputs, targets)
    psnr = {
        layers: gl.score(
            gl.attacks.using_layers(attack=gl.attacks.staged, layers=layers, max_evaluations=400, restarts=1)(
                observation
            ),
            truth,
        ).median("psnr")
        for layers in ("all", "last")
    }
    assert psnr["all"] > psnr["last"] + 5


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    attack = gl.attacks.using_layers(layers=("conv7.*", "first"))
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    assert "conv7" in attack.problems(observation.task)[0]
    with pytest.raises(gl.BadInput, match=r"conv7\.\*"):
        attack(observation)
