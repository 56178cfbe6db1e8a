"""PRECODE's noise as an unknown."""

import math

import torch

import gradleak as gl
from gradleak.attacks import auto, precode_inversion, staged
from gradleak.attacks.latents.batches import read_latents
from gradleak.attacks.latents.reading import LatentReading, below_latent, read_latent
from gradleak.clients.stateless import NOISE
from gradleak.seeds import stage_generator
from gradleak.threat import Observation
from tests.problems import images, labels, small_lenet

PRECODE = gl.defenses.Precode(width=16)


def held(count: int, threat: gl.ThreatModel | None = None, seed: int = 0) -> tuple[Observation, gl.Truth]:
    task = small_lenet(torch.float32)
    inputs, classes = images(count, seed=seed).float(), torch.arange(count) + seed % 5
    return gl.capture(task, inputs, classes, defenses=[PRECODE], threat=threat, seed=seed)


def drawn(observation: Observation, truth: gl.Truth, seed: int) -> torch.Tensor:
    step, _ = gl.clients.Gradient().bind_draws(observation.task, observation.state)
    return step.draw(truth.inputs, stage_generator(seed, "client"))[f"linear.bottleneck.noise.{NOISE}"]


def test_the_noise_of_one_example_is_read() -> None:
    observation, truth = held(1, seed=3)
    reading = read_latent(observation)
    assert isinstance(reading, LatentReading)
    torch.testing.assert_close(reading.noise.float(), drawn(observation, truth, 3), atol=1e-3, rtol=1e-3)


def test_below_the_latent_the_truth_has_the_same_gradient_without_noise() -> None:
    observation, truth = held(1)
    reading = read_latent(observation)
    assert isinstance(reading, LatentReading)
    below = below_latent(observation, reading)
    assert isinstance(below, Observation)
    assert below.defenses == ()
    simulated = gl.threat.simulator(below)(truth.inputs, torch.zeros(1, below.task.num_classes))
    assert "conv1.weight" in simulated
    for name, tensor in simulated.items():
        torch.testing.assert_close(tensor, observation.update.tensors[name], atol=1e-6, rtol=1e-3)


def test_reading_the_noise_finds_the_image_and_its_label_where_none_is_assumed_it_does_not() -> None:
    for seed in range(2):
        observation, truth = held(1, seed=seed)
        found = auto(max_seconds=20)(observation, seed=seed)
        scores = gl.score(found, truth).to_dict()
        assert "by precode_inversion: 16 latent entries read" in found.message
        assert found.status == "converged"
        assert float(scores["psnr"][0] or 0) > 40, found.message
        assert bool(scores["target_correct"][0])
        blind, _ = held(1, gl.ThreatModel(defense_known=False), seed)
        ignoring = staged(restarts=1, max_evaluations=300)(blind, seed=seed)
        assert float(gl.score(ignoring, truth).to_dict()["psnr"][0] or 0) < 20


def test_who_withholds_the_defense_gets_a_blind_attack() -> None:
    blind, _ = held(1, gl.ThreatModel(defense_known=False))
    assert not any("latent" in line for line in auto(max_evaluations=20)(blind).trace)


def test_the_noise_and_the_images_of_a_batch_with_different_labels_are_read() -> None:
    observation, truth = held(2, seed=4)
    reading = read_latents(observation, observation.task.target_probabilities(truth.targets).double(), 0, math.inf)
    assert isinstance(reading, LatentReading)
    torch.testing.assert_close(reading.noise.float(), drawn(observation, truth, 4), atol=1e-3, rtol=1e-3)
    below = below_latent(observation, reading)
    assert isinstance(below, Observation)
    simulated = gl.threat.simulator(below)(truth.inputs, torch.zeros(2, below.task.num_classes))
    for name, tensor in simulated.items():
        torch.testing.assert_close(tensor, observation.update.tensors[name], atol=1e-6, rtol=1e-3)
    found = precode_inversion(restarts=1, max_seconds=20)(observation)
    assert "32 latent entries read" in found.message
    assert min(float(value or 0) for value in gl.score(found, truth).to_dict()["psnr"]) > 30, found.message


def test_batches_with_as_many_examples_as_latent_entries_are_searched_together_with_their_noise() -> None:
    inputs = images(2).float()
    observation, truth = gl.capture(
        small_lenet(torch.float32),
        inputs,
        torch.tensor([3, 3]),
        defenses=[gl.defenses.Precode(width=2)],
        threat=gl.ThreatModel(labels_known=True),
    )
    found = precode_inversion(restarts=1, max_evaluations=400)(observation)
    ignoring = staged(restarts=1, max_evaluations=400)(observation)
    assert found.evaluations <= 400
    assert "4 latent entries searched" in found.message
    assert found.objective < 0.1 * ignoring.objective
    assert found.inputs.shape == truth.inputs.shape


def test_updates_of_one_local_step_are_gradients() -> None:
    task = small_lenet()
    observation, truth = gl.capture(task, images(1), labels(1), client=gl.clients.LocalSGD(lr=0.1), defenses=[PRECODE])
    found = precode_inversion(max_seconds=20)(observation)
    assert float(gl.score(found, truth).to_dict()["psnr"][0] or 0) > 40, found.message


def test_says_why_it_does_not_apply() -> None:
    observation, _ = gl.capture(small_lenet(), images(1), labels(1))
    assert "this one has none" in precode_inversion()(observation).message
    withheld, _ = held(1, gl.ThreatModel(batch_size_known=False))
    assert "batch size is withheld" in precode_inversion()(withheld).message
    task = small_lenet()
    steps, _ = gl.capture(task, images(1), labels(1), client=gl.clients.LocalSGD(lr=0.1, epochs=3), defenses=[PRECODE])
    assert "single gradient" in precode_inversion()(steps).message
