"""Defenses in the loop of a training, against plain loops."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import gradleak as gl
from gradleak.audits.interrupts import Interrupts
from gradleak.cli.factories import checkpointed_model
from gradleak.defenses import GaussianNoise, TopK
from gradleak.defenses.applying import defended
from gradleak.errors import BadInput
from gradleak.seeds import stage_generator, torch_seed
from gradleak.tasks import InputSpace, Task
from gradleak.training import read_checkpoint
from gradleak.training.courses import Course, course_of
from gradleak.training.defending import Defending, private_seed
from gradleak.training.spec import TrainSpec
from gradleak.training.steps import Examples, batches, denormalized, normalized
from gradleak.training.train import declare_training
from gradleak.updates import UpdateKind
from tests.training.tiny import FEDERATED, SINGLE

EXAMPLES = Examples(torch.randn(120, 64, generator=stage_generator(0, "inputs")), torch.arange(120) % 10)
INTERRUPTS = Interrupts()


@dataclass(frozen=True)
class Halves:
    """A defense of the batch: every input is halved, in the units of the space, and no label is certain."""

    def problems(self) -> list[str]:
        return []

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        del kind, generator
        return dict(tensors)

    def change_batch(
        self, variable: Tensor, target_probabilities: Tensor, space: InputSpace, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        del space, generator
        return variable / 2, 0.9 * target_probabilities + 0.1 / target_probabilities.shape[1]


@dataclass(frozen=True)
class Looks:
    """A defense that looks at the step: the update times the mean of what the model received."""

    def problems(self) -> list[str]:
        return []

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        raise AssertionError("a defense that looks at the step has its step")

    def step_problems(self, task: Task) -> list[str]:
        del task
        return []

    def apply_to_step(
        self,
        tensors: Mapping[str, Tensor],
        kind: UpdateKind,
        step: gl.defenses.PrivateStep,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        del kind, generator
        return {name: tensor * step.variable.mean() for name, tensor in tensors.items()}


def course(spec: dict[str, Any], model: nn.Module, *defenses: gl.defenses.Defense) -> Course:
    task = Task(copy.deepcopy(model), gl.TabularSpace(64), 10)
    return course_of(TrainSpec.model_validate(spec), EXAMPLES, Defending(defenses, task))


def after(made: Course, units: int = 3) -> dict[str, Tensor]:
    for _ in range(units):
        made.advance(INTERRUPTS)
    return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_defenses_are_applied_in_order_to_the_gradient_of_each_step_before_the_optimizer() -> None:
    spec = {**SINGLE, "batch_size": 50, "optimizer": {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.01}}
    defenses = (TopK(keep=0.3), GaussianNoise(std=0.01))
    model = nn.Linear(64, 10)
    found = after(course(spec, model, *defenses), units=5)
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.8, weight_decay=0.01)
    positions = [batch for epoch in range(2) for batch in batches(120, 50, 0, f"training/order/{epoch}")]
    for unit in range(5):
        batch = EXAMPLES.at(positions[unit])
        optimizer.zero_grad()
        functional.cross_entropy(plain(batch.inputs), batch.targets).backward()
        gradients = {name: value.grad for name, value in plain.named_parameters() if value.grad is not None}
        sent = defended(defenses, gradients, "gradient", seed=private_seed(0, f"training/step/{unit}", 0))
        for name, parameter in plain.named_parameters():
            parameter.grad = sent[name]
        optimizer.step()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    reverse = after(course(spec, model, *reversed(defenses)), units=5)
    assert not same(found, reverse)


def test_no_defense_gives_the_bits_of_a_plain_training() -> None:
    model = nn.Linear(64, 10)
    plain = after(course(SINGLE, model))
    assert same(plain, after(course({**SINGLE, "defense": "none"}, model)))
    # Through the defended path, with nothing to do there, the arithmetic is that of a plain step as well.
    assert same(plain, after(course(SINGLE, model, TopK(keep=1.0))))
    assert not same(plain, after(course(SINGLE, model, TopK(keep=0.1))))


def test_noise_is_new_in_each_step_and_the_same_for_the_same_seed() -> None:
    class Still(nn.Module):
        """Its gradient is zero, so that the change of the model is the noise."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4000, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            return 0 * self.weight.sum() + torch.zeros(len(inputs), 10, dtype=torch.float64)

    spec = {**SINGLE, "optimizer": {"lr": 1.0, "momentum": 0.0}}
    states = [after(course({**spec, "seed": seed}, Still(), GaussianNoise(0.1)), 1)["weight"] for seed in (0, 0, 1)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert float(states[0].std()) == pytest.approx(0.1, rel=0.05)
    made = course(spec, Still(), GaussianNoise(0.1))
    first = after(made, 1)["weight"]
    second = after(made, 1)["weight"] - first
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1


def test_workers_defend_their_own_gradients_before_the_mean() -> None:
    model = nn.Linear(64, 10)
    spec = {**SINGLE, "batch_size": 30, "optimizer": {"lr": 0.1, "momentum": 0.0}}
    whole, split = (after(course({**spec, "workers": count}, model)) for count in (1, 4))
    for name in whole:
        torch.testing.assert_close(split[name], whole[name], rtol=1e-5, atol=1e-6)
    defense = TopK(keep=0.05)
    found = after(course({**spec, "workers": 4}, model, defense), units=1)
    batch = EXAMPLES.at(next(batches(120, 30, 0, "training/order/0")))
    expected = torch.zeros(10, 64)
    for inputs, targets in zip(batch.inputs.tensor_split(4), batch.targets.tensor_split(4), strict=True):
        own = copy.deepcopy(model)
        functional.cross_entropy(own(inputs), targets).backward()
        gradients = {name: value.grad for name, value in own.named_parameters() if value.grad is not None}
        expected += len(inputs) / 30 * defense.apply(gradients, "gradient", None)["weight"]
    torch.testing.assert_close(found["weight"], model.weight.detach() - 0.1 * expected, rtol=1e-5, atol=1e-6)
    # More workers than examples: the last have nothing to do.
    assert len(after(course({**spec, "batch_size": 3, "workers": 8}, model, defense), units=1)) == 2


def test_the_noise_of_many_workers_averages_out() -> None:
    """The mean of W workers' noise has a W-th of the variance: what a single sender would have to add is less."""
    model = nn.Linear(64, 10)
    spec = {**SINGLE, "batch_size": 32, "optimizer": {"lr": 1.0, "momentum": 0.0}}
    plain = after(course(spec, model), 1)["weight"]
    spread = {
        workers: float(
            (after(course({**spec, "workers": workers}, model, GaussianNoise(0.1)), 1)["weight"] - plain).std()
        )
        for workers in (1, 16)
    }
    assert spread[1] == pytest.approx(0.1, rel=0.1)
    assert spread[16] == pytest.approx(0.025, rel=0.1)


def test_a_defense_of_the_batch_sees_the_units_of_the_space_and_gives_soft_targets() -> None:
    space = gl.ImageSpace((1, 8, 8), (0.3,), (0.2,))
    linear = nn.Linear(64, 10)
    model = nn.Sequential(nn.Flatten(), linear)
    pixels = torch.rand(20, 1, 8, 8, generator=stage_generator(1, "inputs"))
    examples = Examples(normalized(pixels, space), torch.arange(20) % 10)
    torch.testing.assert_close(denormalized(examples.inputs, space), pixels)
    spec = TrainSpec.model_validate({**SINGLE, "batch_size": 20, "optimizer": {"lr": 0.1, "momentum": 0.0}})
    made = course_of(spec, examples, Defending((Halves(),), Task(copy.deepcopy(model), space, 10)))
    found = after(made, 1)
    soft = 0.9 * functional.one_hot(examples.targets, 10) + 0.01
    loss = -(soft * model(normalized(pixels / 2, space)).log_softmax(1)).sum(1).mean()
    loss.backward()
    gradient = linear.weight.grad
    assert isinstance(gradient, Tensor)
    torch.testing.assert_close(found["1.weight"], linear.weight.detach() - 0.1 * gradient, rtol=1e-4, atol=1e-6)


def test_a_defense_that_looks_at_the_step_gets_it() -> None:
    model = nn.Linear(64, 10)
    spec = {**SINGLE, "batch_size": 120, "optimizer": {"lr": 0.1, "momentum": 0.0}}
    plain, found = (after(course(spec, model, *defenses), 1)["weight"] for defenses in ((), (Looks(),)))
    change = (plain - model.weight.detach()) * EXAMPLES.inputs.mean()
    torch.testing.assert_close(found, model.weight.detach() + change, rtol=1e-4, atol=1e-6)


def test_clients_of_a_federation_defend_their_deltas() -> None:
    model = nn.Linear(64, 10)
    federation = {"clients": 3, "local_epochs": 2}
    spec = {**FEDERATED, "federated": federation, "optimizer": {"lr": 0.1, "momentum": 0.0}}
    found = after(course(spec, model, TopK(keep=0.02)), 1)
    changed = int((found["weight"] != model.weight).sum() + (found["bias"] != model.bias).sum())
    assert 13 <= changed <= 3 * 13  # 2 % of 650 entries, rounded up, of each of three clients
    single = {**spec, "federated": {"clients": 1}}
    undefended, sent = (after(course(single, model, *defenses), 1) for defenses in ((), (TopK(keep=0.02),)))
    delta = {name: undefended[name] - tensor.detach() for name, tensor in model.named_parameters()}
    expected = TopK(keep=0.02).apply(delta, "delta", None)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(sent[name], parameter.detach() + expected[name], rtol=1e-6, atol=1e-7)


def test_local_steps_of_a_federation_are_made_on_the_defended_batch() -> None:
    model = nn.Linear(64, 10)
    spec = {**FEDERATED, "federated": {"clients": 1}, "batch_size": 120, "optimizer": {"lr": 0.1, "momentum": 0.0}}
    found = after(course(spec, model, Halves()), 1)["weight"]
    soft = 0.9 * functional.one_hot(EXAMPLES.targets, 10) + 0.01
    (-(soft * model(EXAMPLES.inputs / 2).log_softmax(1)).sum(1).mean()).backward()
    gradient = model.weight.grad
    assert gradient is not None
    torch.testing.assert_close(found, model.weight.detach() - 0.1 * gradient, rtol=1e-4, atol=1e-6)


def test_mixed_precision_trains_and_is_rounded() -> None:
    model = nn.Linear(64, 10)
    full, rounded = (after(course({**SINGLE, "autocast": autocast}, model))["weight"] for autocast in (None, "bf16"))
    assert not torch.equal(full, rounded)
    change = full - model.weight.detach()
    assert float((rounded - full).norm() / change.norm()) < 0.05


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"defense": {"name": "TopK", "keep": 0}}, ["defense.keep: expected a share above 0 and at most 1, got 0"]),
        ({"defense": {"name": "TopK", "kep": 0.1}}, ["defense.kep: expected one of keep, scope"]),
        ({"defense": {"name": "TopQ", "keep": 0.1}}, ["defense.name: "]),
        (
            {"defense": [{"name": "TopK", "keep": 0.1}, {"name": "GaussianNoise", "std": -1}]},
            ["defense.1.std: expected a finite value of at least 0, got -1"],
        ),
        ({"workers": 0}, ["workers: expected at least 1, got 0"]),
        ({"workers": 2, "dp": {"noise_multiplier": 1}}, ["workers: expected 1 with dp, got 2"]),
        ({"dp": {"clip": 1}}, ["dp: expected either noise_multiplier or epsilon, got neither"]),
        ({"dp": {"noise_multiplier": 1, "epsilon": 3}}, ["dp: expected either noise_multiplier or epsilon, got both"]),
        ({"dp": {"noise_multiplier": -1}}, ["dp.noise_multiplier: expected at least 0, got -1"]),
        (
            {"dp": {"noise_multiplier": 1}, "model": "tests.training.tiny:normalized"},
            ["dp: expected a model without BatchNorm"],
        ),
        (
            {"dp": {"noise_multiplier": 1}, "defense": "tests.training.test_defending:Halves"},
            ["defense: expected defenses of the update alone with dp, got Halves"],
        ),
        ({"autocast": "fp8"}, ["autocast: expected"]),
    ],
)
def test_mistakes_are_told_at_the_door(changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        declare_training({**SINGLE, **changes})
    assert len(caught.value.problems) == len(expected)
    for problem, start in zip(caught.value.problems, expected, strict=True):
        assert problem.removeprefix("spec ").startswith(start), problem
        assert "; " in problem


def test_private_federations_and_workers_of_federations_are_refused() -> None:
    with pytest.raises(BadInput) as caught:
        declare_training({**FEDERATED, "workers": 2, "dp": {"noise_multiplier": 1}})
    text = "\n".join(caught.value.problems)
    assert "workers: expected 1 with a federation, whose clients are the workers, got 2" in text
    assert "dp: expected none for a federated training" in text


def test_a_composition_reads_back_from_the_effective_spec() -> None:
    given = {**SINGLE, "defense": [{"name": "TopK", "keep": 0.5}, {"name": "GaussianNoise", "std": 0.1}]}
    spec = declare_training(given).spec
    assert [entry.plain() for entry in spec.defense] == given["defense"]
    assert declare_training(spec.to_plain()).spec == spec


@dataclass(frozen=True)
class Extra:
    """A defense that is a part of the model: one more linear layer."""

    def problems(self) -> list[str]:
        return []

    def apply(
        self, tensors: Mapping[str, Tensor], kind: UpdateKind, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        del kind, generator
        return dict(tensors)

    def change_task(self, task: Task) -> Task:
        if any(name.startswith("extra") for name, _ in task.model.named_parameters()):
            return task
        with torch_seed(5):
            layers = OrderedDict[str, nn.Module]([("inner", task.model), ("extra", nn.Linear(10, 10))])
        return Task(nn.Sequential(layers), task.space, task.num_classes)


def test_a_defense_in_the_model_is_trained_and_its_checkpoint_is_built_and_audited_with_it(tmp_path: Path) -> None:
    name = "tests.training.test_defending:Extra"
    outcome = gl.train({**SINGLE, "defense": name}, out=tmp_path / "trained")
    assert outcome.row["test_accuracy"] > 0.3
    first, last = (load_file(outcome.checkpoints[position]) for position in (0, -1))
    assert not torch.equal(first["extra.weight"], last["extra.weight"])
    found = read_checkpoint(outcome.checkpoints[-1])
    assert found.model.defenses == ({"name": name},)
    model = checkpointed_model(found, outcome.checkpoints[-1], found.input_space(), 10)
    assert torch.equal(model.state_dict()["extra.weight"], last["extra.weight"])
    audit = {
        "trials": 1,
        "model": {"weights": str(outcome.checkpoints[-1])},
        "data": "digits",
        "defense": ["none", name],
        "attack": "linear_layer",
        "run": {"backend": "inprocess"},
    }
    audited = gl.audit(audit, out=tmp_path / "audit")
    assert (audited.finished, audited.errors) == (2, 0)
