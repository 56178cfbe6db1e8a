"""DLG and iDLG: the papers' numbers, the released loop, and the published failure modes."""

import pytest
import torch

import gradleak as gl
from gradleak.attacks.labels import bias_sign, row_sum_sign
from gradleak.attacks.objectives import squared_distance
from gradleak.bench.released_dlg import released_dlg_loop
from gradleak.optim import LBFGS
from gradleak.seeds import stage_generator
from gradleak.zoo.data import load
from gradleak.zoo.models import lenet
from tests.problems import images, labels, small_lenet


def photograph(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = load("photographs").sample(1, seed=seed)
    return inputs.double(), targets


def test_recipes_hold_the_papers_numbers() -> None:
    dlg, idlg = gl.attacks.dlg(), gl.attacks.idlg()
    numbers = LBFGS(
        outer_steps=300, inner_steps=20, lr=1.0, history=100, tolerance_gradient=1e-7, tolerance_change=1e-9
    )
    assert dlg.optimizer(1) == idlg.optimizer(1) == numbers
    assert dlg.objective is idlg.objective is squared_distance
    assert (dlg.labels, dlg.stop_at) == ("joint", None)
    assert (idlg.labels, idlg.stop_at) == ("row_sum_sign", 1e-6)
    assert dlg.restarts == idlg.restarts == 1


def test_start_is_standard_normal() -> None:
    start = gl.attacks.dlg().start((40_000,), stage_generator(0, "start"))
    assert abs(float(start.mean())) < 0.02
    assert abs(float(start.std()) - 1) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_same_objective_values_as_the_released_loop(seed: int) -> None:
    inputs, targets = photograph(seed)
    model = lenet(10, initialization="uniform", seed=seed).double()
    task = gl.Task(model, gl.ImageSpace((3, 32, 32)), num_classes=10)
    observation, _ = gl.capture(task, inputs, targets)
    ours = gl.attacks.dlg(outer_steps=10)(observation, seed=seed)
    generator = stage_generator(seed, "attack/start/0")
    start, logits = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((1, 3, 32, 32), (1, 10))
    )
    _, _, theirs = released_dlg_loop(model, list(observation.update.tensors.values()), start, logits, outer_steps=10)
    assert len(theirs) == len(ours.history.objective) >= 50
    torch.testing.assert_close(torch.tensor(ours.history.objective), torch.tensor(theirs), rtol=1e-8, atol=0)


def test_returned_objective_is_that_of_the_returned_candidate() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    result = gl.attacks.dlg(outer_steps=3)(observation, seed=0)
    step = observation.client.bind(observation.task, observation.state)  # pyright: ignore[reportOptionalMemberAccess]
    again = squared_distance(step(result.variable, result.target_probabilities), observation.update.tensors)
    assert float(again) == pytest.approx(result.objective, rel=1e-12)
    assert result.objective == min(result.history.objective)


def test_joint_labels_of_a_batch_are_per_example() -> None:
    task = small_lenet(initialization="uniform")
    targets = torch.tensor([2, 7])
    observation, truth = gl.capture(task, images(2), targets)
    result = gl.attacks.dlg(outer_steps=25, one_example_at_a_time=False)(observation, seed=0)
    assert result.target_probabilities.shape == (2, 10)
    assert sorted(result.targets.tolist()) == [2, 7]
    assert all(gl.score(result, truth).to_dict()["target_correct"])


def test_dlg_returns_the_optimized_label() -> None:
    observation, _ = gl.capture(small_lenet(initialization="uniform"), images(1), torch.tensor([4]))
    result = gl.attacks.dlg(outer_steps=20)(observation, seed=3)
    assert result.targets.tolist() == [4]
    assert float(result.target_probabilities[0, 4]) > 0.9


def test_one_example_at_a_time_moves_one_example() -> None:
    observation, _ = gl.capture(small_lenet(), images(2), labels(2))
    start = gl.attacks.dlg(max_evaluations=1)(observation, seed=0).variable
    moved = gl.attacks.dlg(max_evaluations=2)(observation, seed=0)
    assert torch.equal(moved.history.snapshots[-1].inputs[1], start[1].clamp(0, 1))
    assert not torch.equal(moved.variable[0], start[0])


@pytest.mark.parametrize("label", range(10))
def test_idlg_finds_the_label_of_every_class(label: int) -> None:
    observation, _ = gl.capture(small_lenet(seed=label), images(1, seed=label), torch.tensor([label]))
    result = gl.attacks.idlg(max_evaluations=1)(observation)
    assert result.targets.tolist() == [label]
    assert result.targets_given is False


def test_idlg_reads_a_delta_like_a_gradient() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), torch.tensor([6]))
    tensors = list(observation.update.tensors.items())
    delta = gl.Update({name: -0.05 * value for name, value in tensors}, "delta").in_gradient_direction()
    (weight, _), (bias, _) = tensors[-2:]
    assert row_sum_sign(delta[weight]) == row_sum_sign(observation.update.tensors[weight]) == 6
    assert bias_sign(delta[bias]) == bias_sign(observation.update.tensors[bias]) == 6


def test_bias_rule_holds_where_the_row_sum_rule_does_not() -> None:
    residual = torch.tensor([0.2, 0.3, -0.6, 0.1])
    features = torch.tensor([-1.0, -2.0, 0.5])  # as after tanh
    assert row_sum_sign(residual[:, None] * features) != 2
    assert bias_sign(residual) == 2


def test_idlg_refuses_a_batch_and_a_net_without_linear_head() -> None:
    observation, _ = gl.capture(small_lenet(), images(2), labels(2))
    result = gl.attacks.idlg()(observation)
    assert (result.status, result.evaluations) == ("not_applicable", 0)
    assert "one example" in result.message
    assert bool(result.inputs.isnan().all())
    headless = torch.nn.Sequential(torch.nn.Conv2d(3, 10, 16), torch.nn.Flatten())
    task = gl.Task(headless.double(), gl.ImageSpace((3, 16, 16)), num_classes=10)
    assert "linear classifier" in gl.attacks.idlg()(gl.capture(task, images(1), labels(1))[0]).message


def test_given_labels_are_used_and_marked() -> None:
    observation, truth = gl.capture(small_lenet(), images(2), labels(2), threat=gl.ThreatModel(labels_known=True))
    for attack in (gl.attacks.dlg(max_evaluations=2), gl.attacks.idlg(max_evaluations=2)):
        result = attack(observation)
        assert result.targets_given
        assert torch.equal(result.targets, truth.targets)


def test_zero_update_is_no_evidence() -> None:
    observation, truth = gl.capture(small_lenet(), images(1), labels(1))
    for value in observation.update.tensors.values():
        value.zero_()
    result = gl.attacks.dlg()(observation)
    assert (result.status, result.evaluations) == ("not_applicable", 0)
    assert "no evidence" in result.message
    assert gl.score(result, truth).to_dict()["psnr"] != [0.0]
    assert all(value != value for value in gl.score(result, truth).to_dict()["psnr"])


def test_withheld_batch_size_is_refused() -> None:
    threat = gl.ThreatModel(batch_size_known=False)
    observation, _ = gl.capture(small_lenet(), images(2), labels(2), threat=threat)
    assert "batch size" in gl.attacks.dlg()(observation).message


def test_divergence_is_a_status_and_keeps_the_best_finite_candidate() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    # An update whose scale no batch can produce: full quasi-Newton steps without line search run away.
    for value in observation.update.tensors.values():
        value.mul_(1e200)
    result = gl.attacks.dlg(outer_steps=30)(observation, seed=0)
    assert result.status == "nonfinite"
    assert bool(torch.isfinite(result.inputs).all())


def test_bit_reproducible_for_a_seed_and_different_between_seeds() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    runs = [gl.attacks.dlg(outer_steps=3, restarts=2)(observation, seed=seed).variable for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_restarts_return_the_one_with_the_lowest_objective() -> None:
    observation, _ = gl.capture(small_lenet(initialization="uniform"), images(1), labels(1))
    many = gl.attacks.dlg(outer_steps=2, restarts=4)(observation, seed=0)
    assert many.evaluations == 4 * len(many.history.objective)
    one = gl.attacks.dlg(outer_steps=2)(observation, seed=0)
    assert many.objective <= one.objective * (1 + 1e-9)


def test_max_evaluations_counts_all_restarts() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    assert gl.attacks.dlg(restarts=3, max_evaluations=30)(observation).evaluations == 30
