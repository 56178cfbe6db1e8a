"""PRECODE: a public layer, a private draw, and a loss with a divergence."""

import copy

import pytest
import torch
from torch import Tensor, nn

import gradleak as gl
from gradleak.bottleneck import auxiliary_loss, bottlenecks, with_bottleneck
from gradleak.clients import Gradient
from gradleak.clients.stateless import NOISE
from gradleak.seeds import stage_generator, torch_seed
from gradleak.threat import simulator
from gradleak.zoo.models import lenet, mlp
from tests.problems import images, labels, small_lenet

PRECODE = gl.defenses.Precode(width=8, beta=0.1)
NAME = f"linear.bottleneck.noise.{NOISE}"


def defended_task() -> gl.Task:
    return PRECODE.change_task(small_lenet())


def by_hand(task: gl.Task, inputs: Tensor, targets: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """The gradient of cross-entropy and divergence, written out without the package's layers."""
    model = copy.deepcopy(task.model)
    assert isinstance(model, nn.Sequential)
    (bottleneck,) = bottlenecks(model).values()
    head = model.get_submodule("linear.head")
    features = model[:-1](inputs)
    mean, log_variance = bottleneck.encoder(features).split(8, dim=1)
    outputs = head(bottleneck.decoder(mean + torch.exp(0.5 * log_variance) * noise))
    law = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    divergence = torch.distributions.kl_divergence(law, torch.distributions.Normal(0.0, 1.0)).sum(dim=1).mean()
    loss = nn.functional.cross_entropy(outputs, targets) + 0.1 * divergence
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_step_is_the_gradient_of_loss_and_divergence_at_the_drawn_noise(micro_batch: int | None) -> None:
    task, inputs, targets = defended_task(), images(3), labels(3)
    client = Gradient(micro_batch=micro_batch)
    step, simulate = client.bind_draws(task, task.state())
    drawn = step.draw(inputs, stage_generator(5, "client"))
    assert list(drawn) == [NAME]
    sent = simulate(inputs, task.target_probabilities(targets), drawn)
    for name, gradient in by_hand(task, inputs, targets, drawn[NAME]).items():
        torch.testing.assert_close(sent[name], gradient)


def test_what_is_sent_depends_on_a_fresh_draw_for_each_example_and_seed() -> None:
    task, same = small_lenet(), images(1).expand(2, -1, -1, -1)

    def sent(seed: int) -> Tensor:
        update = gl.capture(task, same, labels(1).expand(2), defenses=[PRECODE], seed=seed)[0].update
        return update.tensors["linear.bottleneck.decoder.weight"]

    assert torch.equal(sent(0), sent(0))
    assert not torch.allclose(sent(0), sent(1))
    step, _ = Gradient().bind_draws(defended_task(), defended_task().state())
    noise = step.draw(images(400), stage_generator(0, "client"))[NAME]
    assert abs(float(noise.mean())) < 4 / 3200**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / 3200) ** 0.5
    assert not torch.equal(noise[0], noise[1])


def test_without_a_generator_there_is_no_noise_and_the_divergence_stays() -> None:
    observation, truth = gl.capture(small_lenet(), images(2), labels(2), defenses=[PRECODE])
    simulated = simulator(observation)(truth.inputs, observation.task.target_probabilities(truth.targets))
    for name, gradient in by_hand(observation.task, truth.inputs, truth.targets, torch.zeros(2, 8)).items():
        torch.testing.assert_close(simulated[name], gradient)


def test_every_client_draws_noise() -> None:
    clients = gl.clients
    for client in (
        clients.LocalSGD(lr=0.1, epochs=2),
        clients.DPSGD(clip=1.0, noise_multiplier=0.0),
        clients.Aggregate(clients=(clients.Gradient(), clients.Gradient())),
    ):
        sent = [
            gl.capture(small_lenet(), images(2), labels(2), client=client, defenses=[PRECODE], seed=seed)[0].update
            for seed in (0, 1)
        ]
        assert not any(torch.equal(sent[0].tensors[name], tensor) for name, tensor in sent[1].tensors.items())


def test_dropout_and_latents_are_both_drawn() -> None:
    model = with_bottleneck(nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 4)).double(), width=3)
    task = gl.Task(model, gl.TabularSpace(6), num_classes=4)
    step, _ = Gradient(dropout="random").bind_draws(task, task.state())
    drawn = step.draw(torch.zeros(2, 6).double(), stage_generator(0, "client"))
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {
        "0.mask": (2, 6),
        "1.bottleneck.noise.noise": (2, 3),
    }
    assert set(drawn["0.mask"].unique().tolist()) == {0.0, 2.0}


def test_the_model_is_public_copied_once_and_loadable() -> None:
    task = small_lenet()
    before = copy.deepcopy(task.model.state_dict())
    changed = PRECODE.change_task(task)
    assert PRECODE.change_task(changed) is changed
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert torch.equal(changed.model.state_dict()["linear.head.weight"], before["linear.weight"])
    blind = gl.capture(task, images(1), labels(1), defenses=[PRECODE], threat=gl.ThreatModel(defense_known=False))[0]
    assert len(bottlenecks(blind.task.model)) == 1
    trained = with_bottleneck(lenet(10, input_size=16, seed=3), width=8, seed=4)
    fresh = with_bottleneck(lenet(10, input_size=16, seed=0), width=8)
    fresh.load_state_dict(trained.state_dict())
    with torch_seed(0):
        expected = trained(images(1).float())
    with torch_seed(0):
        assert torch.equal(fresh(images(1).float()), expected)


def test_a_plain_training_loop_draws_in_either_mode_and_gets_the_divergence() -> None:
    model = with_bottleneck(mlp(6, (5,), 4, seed=0), width=3, beta=0.5)
    inputs = torch.rand(2, 6)
    for training in (True, False):
        model.train(training)
        assert not torch.equal(model(inputs), model(inputs))
    copy.deepcopy(model)  # after a pass with gradients
    model(inputs)
    added = auxiliary_loss(model)
    assert added is not None
    added.backward()
    encoder = next(iter(bottlenecks(model).values())).encoder
    mean, log_variance = encoder.weight.grad[:3], encoder.weight.grad[3:]  # pyright: ignore[reportOptionalSubscript]
    assert bool(mean.any())
    assert bool(log_variance.any())
    assert auxiliary_loss(model) is None
    assert auxiliary_loss(nn.Linear(2, 2)) is None


def test_a_task_leaves_torchs_random_state_alone() -> None:
    before = torch.get_rng_state()
    defended_task()
    assert torch.equal(before, torch.get_rng_state())


def test_a_chosen_layer_and_sequences() -> None:
    model = with_bottleneck(mlp(6, (5, 5), 4, seed=0), width=2, layer=_first_linear(mlp(6, (5, 5), 4, seed=0)))
    ((name, layer),) = bottlenecks(model).items()
    assert layer.encoder.in_features == 6
    assert name.endswith(".bottleneck")
    assert layer(torch.rand(2, 3, 6)).shape == (2, 3, 6)


def _first_linear(model: nn.Module) -> str:
    return next(name for name, part in model.named_modules() if isinstance(part, nn.Linear))


def test_bad_input() -> None:
    precode = gl.defenses.Precode
    for defense, expected in (
        (precode(width=0), "Precode.width: expected at least 1"),
        (precode(beta=-1.0), "Precode.beta: expected a finite weight of at least 0"),
        (precode(seed=-1), "Precode.seed"),
        (precode(layer="conv1"), "a trained linear layer for the bottleneck, got 'conv1'; the model's are: 'linear'"),
    ):
        with pytest.raises(gl.BadInput, match=expected):
            gl.capture(small_lenet(), images(1), labels(1), defenses=[defense])
