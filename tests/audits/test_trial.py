"""One trial: scores, baselines, course, and an attack that crashes."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

import gradleak as gl
from gradleak.attacks import Attack, Progress, dlg
from gradleak.attacks.protocol import not_applicable
from gradleak.audits.records import record_id
from gradleak.audits.trial import Trial, TrialImages, run_trial, thinned
from gradleak.errors import BadInput
from gradleak.zoo.models import lenet


def small_trial(attack: Attack, *, count: int = 1, threat: gl.ThreatModel | None = None) -> Trial:
    generator = torch.Generator().manual_seed(5)
    public = torch.rand((12, 1, 12, 12), generator=generator)
    model = lenet(4, 1, input_size=12, width=4, seed=0)
    return Trial(
        task=gl.Task(model, gl.ImageSpace((1, 12, 12)), 4),
        model={"name": "lenet", "seed": 0},
        data={"name": "noise"},
        examples=list(range(count)),
        inputs=public[:count],
        targets=torch.arange(count) % 4,
        reference=public,
        attack=attack,
        attack_settings={"name": attack.name, "outer_steps": 3},
        threat=threat if threat is not None else gl.ThreatModel(),
    )


@dataclass(frozen=True)
class Returns:
    """An attack that answers with its candidates, whatever it sees."""

    inputs: torch.Tensor
    name: str = "returns"

    def __call__(
        self, observation: gl.Observation, *, seed: int = 0, progress: Progress | None = None
    ) -> gl.Reconstruction:
        answer = not_applicable(self.name, observation, "")
        targets = torch.zeros(len(self.inputs), dtype=torch.long)
        return replace(answer, inputs=self.inputs, variable=self.inputs, targets=targets, status="converged")


@dataclass(frozen=True)
class Crashes:
    """An attack with a fault."""

    name: str = "crashes"

    def __call__(
        self, observation: gl.Observation, *, seed: int = 0, progress: Progress | None = None
    ) -> gl.Reconstruction:
        raise ZeroDivisionError("no luck")


def test_a_trial_holds_scores_baselines_and_course() -> None:
    trial = small_trial(dlg(outer_steps=3, snapshots=5))
    record, images = run_trial(trial, command="gradleak demo")
    assert record.id == trial.id == record_id(record.spec)
    assert record.status in {"budget", "converged", "nonfinite"}
    assert set(record.baselines) == {"grey", "mean_color", "dataset_mean", "random_other"}
    assert len(record.course.psnr) == len(record.course.snapshot_evaluations) == len(images.snapshots)
    assert record.course.evaluations[-1] == record.evaluations
    # The last snapshot is the returned candidate, so its PSNR is the score.
    assert record.course.psnr[-1][0] == pytest.approx(record.numbers("psnr")[0], rel=1e-9)
    assert record.environment["command"] == "gradleak demo"
    assert record.environment["dtype"] == "float32"
    assert record.spec["targets"] == [0]


def test_scores_agree_with_scoring_by_hand() -> None:
    trial = small_trial(Returns(torch.full((1, 1, 12, 12), 0.5)))
    record, images = run_trial(trial)
    mse = float((trial.inputs.double() - 0.5).square().mean())
    assert record.numbers("psnr")[0] == pytest.approx(-10 * math.log10(mse))
    assert record.numbers("psnr") == record.baselines["grey"]["psnr"]
    assert isinstance(images, TrialImages)
    assert bool((images.reconstruction == 0.5).all())


def test_images_come_in_true_order() -> None:
    inputs = small_trial(Crashes(), count=3).inputs
    record, images = run_trial(small_trial(Returns(inputs[[2, 0, 1]]), count=3))
    assert record.scores["paired_with"] == (1, 2, 0)
    assert isinstance(images, TrialImages)
    assert torch.equal(images.reconstruction, inputs)
    assert record.numbers("psnr") == (math.inf,) * 3


def test_an_attack_that_crashes_is_counted_and_never_a_pass() -> None:
    record, images = run_trial(small_trial(Crashes(), count=2))
    assert record.status == "error"
    assert record.message == "ZeroDivisionError: no luck"
    assert "raise ZeroDivisionError" in record.traceback
    assert all(math.isnan(value) for column in ("psnr", "ssim", "mse") for value in record.numbers(column))
    assert record.scores["target_correct"] == (False, False)
    assert isinstance(images, TrialImages)
    assert bool(images.reconstruction.isnan().all())


def test_an_answer_that_cannot_be_scored_is_an_error_of_the_attack() -> None:
    record, _ = run_trial(small_trial(Returns(torch.zeros(1, 3, 5, 5))))
    assert record.status == "error"
    assert "BadInput" in record.traceback


def test_an_attack_that_does_not_apply_has_no_scores() -> None:
    record, _ = run_trial(small_trial(gl.attacks.idlg(outer_steps=1), count=2))
    assert record.status == "not_applicable"
    assert all(math.isnan(value) for value in record.numbers("psnr"))


def test_a_bad_batch_is_refused_before_the_attack() -> None:
    trial = replace(small_trial(Crashes()), inputs=torch.full((1, 1, 12, 12), 7.0))
    with pytest.raises(BadInput, match="pixels"):
        run_trial(trial)


def test_every_setting_changes_the_id() -> None:
    trial = small_trial(Crashes())
    others = [
        replace(trial, seed=1),
        replace(trial, examples=[3]),
        replace(trial, defenses=[gl.defenses.GaussianNoise(0.1)]),
        replace(trial, threat=gl.ThreatModel(labels_known=True)),
        replace(trial, attack_settings={"name": "crashes", "outer_steps": 4}),
        replace(trial, client=gl.clients.Gradient(mode="train")),
    ]
    assert len({trial.id, *(other.id for other in others)}) == 7
    assert replace(trial, seed=0).id == trial.id


def test_thinning_keeps_first_last_and_least() -> None:
    values = [float(10_000 - position) for position in range(5000)] + [math.nan] + [20_000.0] * 4999
    kept = thinned(values, 300)
    assert len(kept) <= 300
    assert kept == sorted(set(kept))
    assert {0, 4999, 9999} <= set(kept)
    assert thinned([3.0, 1.0], 300) == [0, 1]
    assert thinned([], 300) == []
