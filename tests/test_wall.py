"""The wall: what an attack gets, what it cannot get, and that it changes nothing."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.attacks.objectives import (
    OBJECTIVES,
    Objective,
    cosine_distance,
    layer_cosine_distance,
    normalized_squared_distance,
)
from gradleak.threat import simulator
from tests.problems import Problem, images, labels, problems, small_lenet

PROBLEMS = problems()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: getattr(objective, "__name__", repr(objective)))
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_objective_is_zero_at_the_true_batch(problem: Problem, objective: Objective) -> None:
    observation, _ = gl.capture(problem.task, problem.inputs, problem.targets, client=problem.client)
    simulated = simulator(observation)(
        problem.task.encode(problem.inputs), problem.task.target_probabilities(problem.targets)
    )
    buffers = {name: buffer for name, buffer in observation.update.buffers.items() if buffer.is_floating_point()}
    assert float(objective(simulated, {**observation.update.tensors, **buffers})) < 1e-20
    assert len(simulated) == len(observation.update.tensors) + len(observation.update.buffers)


d = gl.defenses
WITHOUT_NOISE: list[list[gl.defenses.Defense]] = [
    [d.GaussianNoise(0.0)],
    [d.LaplaceNoise(0.0)],
    [d.Clip(0.01)],
    [d.Clip(0.01, scope="layer")],
    [d.TopK(0.1)],
    [d.TopK(0.1, scope="layer")],
    [d.RandomK(0.1)],
    [d.DropLayers(("conv*",))],
    [d.DGC(keep=0.05)],
    [d.Quantize("fp16")],
    [d.Quantize("bf16", rounding="stochastic")],
    [d.Quantize("fp8_e4m3")],
    [d.Quantize("int8", rounding="stochastic")],
    [d.QSGD(16)],
    [d.Sign()],
    [d.Sign(scaled=True)],
    [d.Clip(0.01), d.TopK(0.3), d.Quantize("int4"), d.Sign()],
    [d.TopK(0.3), d.Clip(0.01), d.Quantize("fp8_e5m2", scope="global")],
    [d.Quantize("int8"), d.QSGD(64, bucket=100), d.RandomK(0.5)],
]


@pytest.mark.parametrize("defenses", WITHOUT_NOISE, ids=repr)
@pytest.mark.parametrize(
    "problem",
    [problem for problem in PROBLEMS if problem.name in {"lenet-batch", "batchnorm-train", "bf16", "sgd"}],
    ids=lambda problem: problem.name,
)
def test_defenses_leave_the_true_batch_without_fault(problem: Problem, defenses: list[gl.defenses.Defense]) -> None:
    fitting = [defense for defense in defenses if not isinstance(defense, d.DropLayers) or "lenet" in problem.name]
    observation, _ = gl.capture(
        problem.task, problem.inputs, problem.targets, client=problem.client, defenses=fitting, seed=3
    )
    probabilities = problem.task.target_probabilities(problem.targets)
    simulate = simulator(observation)
    true = simulate(problem.task.encode(problem.inputs), probabilities)
    other = simulate(problem.task.encode(images(len(problem.inputs), seed=7).to(problem.inputs)), probabilities)
    # What arithmetic in float32 leaves is relative to the update; in float64 it is nothing.
    limit = 1e-20 if problem.task.dtype == torch.float64 else 1e-9
    sent = observation.update.tensors
    for objective in (normalized_squared_distance, cosine_distance, layer_cosine_distance):
        assert float(objective(true, sent)) < limit
        assert float(objective(other, sent)) > 100 * limit


@pytest.mark.parametrize("defenses", WITHOUT_NOISE, ids=repr)
def test_defended_candidates_run_side_by_side(defenses: list[gl.defenses.Defense]) -> None:
    problem = PROBLEMS[1]
    observation, _ = gl.capture(problem.task, problem.inputs, problem.targets, defenses=defenses)
    simulate, probabilities = simulator(observation), problem.task.target_probabilities(problem.targets)

    def misfit(variable: Tensor) -> Tensor:
        return normalized_squared_distance(simulate(variable, probabilities), observation.update.tensors)

    candidates = torch.stack([images(3, seed=seed) for seed in (7, 8)])
    together = torch.vmap(torch.func.grad(misfit))(candidates)
    for candidate, found in zip(candidates, together, strict=True):
        assert bool(found.isfinite().all())
        assert torch.allclose(torch.func.grad(misfit)(candidate), found, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: getattr(objective, "__name__", repr(objective)))
def test_objective_is_not_zero_elsewhere(objective: Objective) -> None:
    problem = PROBLEMS[0]
    observation, _ = gl.capture(problem.task, problem.inputs, problem.targets)
    other = simulator(observation)(images(1, seed=7), problem.task.target_probabilities(problem.targets))
    assert float(objective(other, observation.update.tensors)) > 1e-6


def test_reconstruction_is_blind_to_the_truth() -> None:
    def attack(spoil: bool) -> gl.Reconstruction:
        inputs, targets = images(1), labels(1)
        observation, truth = gl.capture(small_lenet(), inputs, targets)
        if spoil:  # every tensor of the batch still in anyone's hands
            for tensor in (inputs, truth.inputs):
                tensor.copy_(torch.randn(tensor.shape, dtype=tensor.dtype))
            for tensor in (targets, truth.targets):
                tensor.fill_(0)
        return gl.attacks.dlg(outer_steps=3)(observation, seed=1)

    clean, spoiled = attack(spoil=False), attack(spoil=True)
    assert torch.equal(clean.variable, spoiled.variable)
    assert torch.equal(clean.targets, spoiled.targets)
    assert clean.objective == spoiled.objective


@pytest.mark.parametrize(
    "attack", [gl.attacks.dlg(outer_steps=2), gl.attacks.idlg(outer_steps=2)], ids=lambda a: a.name
)
def test_attack_leaves_the_observation_as_it_was(attack: gl.attacks.Attack) -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1), threat=gl.ThreatModel(labels_known=True))
    held: dict[str, Tensor] = {
        **observation.update.tensors,
        **{f"state/{name}": value for name, value in observation.state.parameters.items()},
        **{f"model/{name}": value for name, value in observation.task.model.named_parameters()},
    }
    assert observation.targets is not None
    held["targets"] = observation.targets
    before = {name: tensor.detach().clone() for name, tensor in held.items()}
    attack(observation, seed=0)
    for name, tensor in held.items():
        assert torch.equal(tensor, before[name]), name


def test_observation_with_everything_withheld_holds_only_the_update() -> None:
    inputs, targets = images(3), labels(3)
    nothing = gl.ThreatModel(labels_known=False, batch_size_known=False, client_known=False, defense_known=False)
    task = small_lenet()
    observation, _ = gl.capture(task, inputs, targets, threat=nothing, defenses=[gl.defenses.GaussianNoise(std=0.1)])
    public = {"task", "state", "threat"}
    derived = {field.name for field in fields(observation)} - public
    assert {name for name in derived if getattr(observation, name) is not None} == {"update"}
    assert observation.task is task
    assert observation.threat is nothing
    for name, parameter in task.model.named_parameters():
        assert torch.equal(observation.state.parameters[name], parameter)
    assert set(vars(observation)) == derived | public  # nothing rides along outside the declared fields


def test_truth_and_observation_share_no_memory() -> None:
    inputs, targets = images(2), labels(2)
    observation, truth = gl.capture(small_lenet(), inputs, targets, threat=gl.ThreatModel(labels_known=True))
    assert observation.targets is not None
    owners = {tensor.data_ptr() for tensor in (inputs, targets, truth.inputs, truth.targets)}
    assert len(owners | {observation.targets.data_ptr()}) == 5
    assert not owners & {tensor.data_ptr() for tensor in observation.update.tensors.values()}


def test_later_training_does_not_alter_an_observation() -> None:
    task = small_lenet()
    observation, _ = gl.capture(task, images(1), labels(1))
    before = {name: value.clone() for name, value in observation.state.parameters.items()}
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(1.0)
    for name, value in observation.state.parameters.items():
        assert torch.equal(value, before[name])


def test_capture_collects_every_problem_at_once() -> None:
    with pytest.raises(gl.BadInput) as caught:
        gl.capture(
            small_lenet(),
            torch.rand(2, 1, 16, 16),
            torch.tensor([1, 12]),
            client=gl.clients.Gradient(mode="test"),  # pyright: ignore[reportArgumentType]
            defenses=[gl.defenses.GaussianNoise(std=-1.0)],
        )
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in ("[N, 3, 16, 16], got [2, 1, 16, 16]", "classes 0..9, got 1..12", "'test'", "got -1.0"):
        assert part in text


@pytest.mark.parametrize(
    ("inputs", "targets", "expected"),
    [
        (torch.zeros(0, 3, 16, 16), torch.zeros(0, dtype=torch.long), "at least 1 example, got 0"),
        (torch.full((1, 3, 16, 16), 200.0), torch.tensor([1]), "pixels in [0, 1], got [200, 200]"),
        (torch.full((1, 3, 16, 16), torch.nan), torch.tensor([1]), "got NaN or infinity"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.tensor([1]), "got torch.uint8"),
        (torch.zeros(1, 3, 16, 16), torch.tensor([1, 2]), "class indices [1]"),
        (torch.zeros(1, 3, 16, 16), torch.tensor([1.0]), "integer class indices, got torch.float32"),
        (torch.zeros(1, 3, 16, 16), torch.ones(1, 10), "rows of probabilities that sum to 1"),
    ],
)
def test_capture_refuses_a_bad_batch(inputs: Tensor, targets: Tensor, expected: str) -> None:
    with pytest.raises(gl.BadInput) as caught:
        gl.capture(small_lenet(), inputs, targets)
    assert expected in str(caught.value)


def test_unknown_client_of_a_delta_is_refused_not_guessed() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    delta = gl.Observation(
        observation.task,
        observation.state,
        gl.Update({name: -0.1 * value for name, value in observation.update.tensors.items()}, "delta"),
        gl.ThreatModel(client_known=False),
        batch_size=1,
    )
    result = gl.attacks.dlg(outer_steps=1)(delta)
    assert result.status == "not_applicable"
    assert "delta" in result.message
