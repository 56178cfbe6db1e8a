"""Mixed precision as a training script has it, masks that are given, and examples that count alike."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradleak as gl
from gradleak.clients import DPSGD, Aggregate, Client, Gradient, LocalSGD
from gradleak.clients.settings import Autocast
from gradleak.seeds import stage_generator
from gradleak.zoo.models.building import seeded
from tests.problems import TiedRows, images, labels, normed_net, small_lenet, task_of

TYPES: dict[Autocast, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def script(task: gl.Task, dtype: torch.dtype, scale: float, *, lr: float = 1.0, steps: int = 1) -> dict[str, Tensor]:
    """A training script under autocast with a scaled loss; what its weights lose, divided by the learning rate."""
    model = copy.deepcopy(task.model).train(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            outputs = model(images(3).float())
        (scale * cross_entropy(outputs.float(), labels(3))).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad /= scale
        if steps == 1:
            return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        optimizer.step()
    before = dict(task.model.named_parameters())
    return {name: (value - before[name]).detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("autocast", TYPES)
@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_autocast_is_that_of_a_training_script(autocast: Autocast, scale: float) -> None:
    task = small_lenet(torch.float32)
    plain = script(task, TYPES[autocast], scale)
    client = Gradient(autocast=autocast, loss_scale=scale)
    update = gl.capture(task, images(3).float(), labels(3), client=client)[0].update.tensors
    exact = gl.capture(task, images(3).float(), labels(3))[0].update.tensors
    for name, value in plain.items():
        assert update[name].dtype == torch.float32
        torch.testing.assert_close(update[name], value, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(update["conv1.weight"], exact["conv1.weight"], rtol=1e-5)  # rounding is visible


def test_local_steps_under_autocast_are_those_of_a_training_script() -> None:
    task = small_lenet(torch.float32)
    plain = script(task, torch.bfloat16, 1.0, lr=0.1, steps=3)
    client = LocalSGD(lr=0.1, epochs=3, shuffle=False, autocast="bf16")
    update = gl.capture(task, images(3).float(), labels(3), client=client)[0].update.tensors
    for name, value in plain.items():
        torch.testing.assert_close(update[name], value, rtol=1e-4, atol=1e-7)


def test_random_masks_that_are_given_make_the_update() -> None:
    task = task_of(normed_net(nn.Identity, 0.3))
    observation, _ = gl.capture(task, images(3), labels(3), client=Gradient(dropout="random"), seed=5)
    assert observation.client == Gradient(dropout="random")
    step, simulate = Gradient(dropout="random").bind_draws(task, task.state())
    masks = step.draw(images(3), stage_generator(5, "client"))
    assert {name: mask.shape for name, mask in masks.items()} == {"3.mask": (3, 6, 16, 16)}
    targets = task.target_probabilities(labels(3))
    given, without = simulate(images(3), targets, masks), simulate(images(3), targets, {})
    for name, value in observation.update.tensors.items():
        assert torch.equal(given[name], value)
    assert not torch.allclose(without["0.weight"], given["0.weight"])


AVERAGING: list[tuple[str, gl.Task, Client]] = [
    ("gradient", small_lenet(), Gradient()),
    ("fixed masks", task_of(normed_net(nn.BatchNorm2d, 0.3)), Gradient(dropout="fixed_mask")),
    ("micro-batches", small_lenet(), Gradient(micro_batch=3)),
    ("scaled loss", small_lenet(), Gradient(loss_scale=64.0)),
    ("part", small_lenet(), Gradient(sent=("conv*",))),
    ("tied", task_of(seeded(0, TiedRows)), Gradient()),
    ("one local step", small_lenet(), LocalSGD(lr=0.1, weight_decay=0.01)),
    ("clipped", small_lenet(), DPSGD(clip=0.02)),
    ("aggregate", small_lenet(), Aggregate([Gradient()], count=2)),
]


@pytest.mark.parametrize(("task", "client"), [case[1:] for case in AVERAGING], ids=[case[0] for case in AVERAGING])
def test_updates_of_single_examples_average_to_that_of_the_batch(task: gl.Task, client: Client) -> None:
    whole = gl.capture(task, images(4), labels(4), client=client)[0].update.tensors
    single = client.clients[0] if isinstance(client, Aggregate) else client
    alone = [
        gl.capture(task, images(4)[n : n + 1], labels(4)[n : n + 1], client=single)[0].update.tensors for n in range(4)
    ]
    for name, value in whole.items():
        mean = torch.stack([update[name] for update in alone]).mean(dim=0)
        torch.testing.assert_close(value, mean, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("task", "client"),
    [
        (task_of(normed_net(nn.BatchNorm2d)), Gradient(mode="train")),
        (small_lenet(), LocalSGD(lr=0.5, epochs=2)),
    ],
    ids=["batch statistics", "local steps"],
)
def test_where_examples_meet_they_do_not_average(task: gl.Task, client: Client) -> None:
    whole = gl.capture(task, images(4), labels(4), client=client)[0].update.tensors
    alone = [
        gl.capture(task, images(4)[n : n + 1], labels(4)[n : n + 1], client=client)[0].update.tensors for n in range(4)
    ]
    name = next(iter(whole))
    assert not torch.allclose(whole[name], torch.stack([update[name] for update in alone]).mean(dim=0), rtol=1e-4)
