"""Contestants, the captures that all of them get, and what is measured."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from gradleak.attacks import auto, dlg, inverting_gradients
from gradleak.attacks.labels import row_sum_sign
from gradleak.bench.released_dlg import released_dlg_loop
from gradleak.bench.released_inverting_gradients import released_inverting_gradients_loop
from gradleak.captures import Truth, capture
from gradleak.reconstructions import Reconstruction
from gradleak.scoring import score
from gradleak.scoring.scores import score_inputs
from gradleak.seeds import stage_generator
from gradleak.tasks import ImageSpace, Task
from gradleak.threat import Observation
from gradleak.zoo.data import Dataset
from gradleak.zoo.models import convnet, lenet, mlp

SUCCESS_DB = 30.0
"""Recognized as a copy of the private image."""


def _lenet(
    activation: Callable[[], nn.Module], initialization: str, width: int = 12
) -> Callable[[int, int], nn.Module]:
    def make(num_classes: int, seed: int) -> nn.Module:
        wide = initialization == "uniform"
        return lenet(
            num_classes, activation=activation, initialization="uniform" if wide else "default", width=width, seed=seed
        )

    return make


NETS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "sigmoid-uniform": _lenet(nn.Sigmoid, "uniform"),
    "sigmoid-default": _lenet(nn.Sigmoid, "default"),
    "tanh-uniform": _lenet(nn.Tanh, "uniform"),
    "tanh-default": _lenet(nn.Tanh, "default"),
    "softplus-uniform": _lenet(nn.Softplus, "uniform"),
    "softplus-default": _lenet(nn.Softplus, "default"),
    "relu-default": _lenet(nn.ReLU, "default"),
    "sigmoid48-default": _lenet(nn.Sigmoid, "default", 48),
    "sigmoid48-uniform": _lenet(nn.Sigmoid, "uniform", 48),
    "convnet32": lambda num_classes, seed: convnet(num_classes, seed=seed),
    "mlp400": lambda num_classes, seed: mlp(3072, (400,), num_classes, seed=seed),
}
"""Networks for 3 x 32 x 32 images, from number of classes and seed: LeNet by activation and initialization, others."""


@dataclass(frozen=True)
class Contest:
    """What is run.

    Args:
        net: a name in `NETS`.
        trials: number of captures, each with a network, a batch and a start of its own.
        batch_size: examples of one capture.
        distinct_labels: whether the labels of a batch differ.
        seed: of images, networks and starts; trial k uses `seed + k`.
        max_seconds: for each attack of the package.
        outer_steps: of the released DLG loop.
        iterations: of the released Inverting Gradients loop.
    """

    net: str
    trials: int = 20
    batch_size: int = 1
    distinct_labels: bool = True
    seed: int = 0
    max_seconds: float = 60.0
    outer_steps: int = 300
    iterations: int = 4800


@dataclass(frozen=True)
class Row:
    """One attack on one capture.

    Attributes:
        attack: the contestant.
        trial: which capture.
        psnr: of each true example, in dB, after pairing.
        ssim: likewise.
        labels_right: how many targets of the paired examples are right; None if they were given to the attack.
        status: of the attack; `loop` for a transcription.
        evaluations: objective gradients.
        seconds: wall time.
        evaluations_to_success: until the first kept candidate with `SUCCESS_DB` in the median; None if never.
        seconds_to_success: likewise.
        message: the attack's own words.
    """

    attack: str
    trial: int
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    labels_right: int | None
    status: str
    evaluations: int
    seconds: float
    evaluations_to_success: int | None
    seconds_to_success: float | None
    message: str = ""


Contestant = Callable[[Observation, Truth, int], Row]
"""Attacks one capture with a seed. The truth is for the measurement; no attack receives it."""


def contestants(contest: Contest) -> dict[str, Contestant]:
    """Every contestant by name.

    Args:
        contest: its limits.

    Returns:
        The package's attacks first, then the transcriptions.
    """
    seconds = contest.max_seconds
    return {
        "auto": partial(_ours, "auto", auto(max_seconds=seconds)),
        "auto-search": partial(_ours, "auto-search", auto(closed_forms=False, max_seconds=seconds)),
        "dlg": partial(_ours, "dlg", dlg(outer_steps=contest.outer_steps, max_seconds=seconds, snapshots=200)),
        "inverting_gradients": partial(_ours, "inverting_gradients", inverting_gradients(max_seconds=seconds)),
        "released-dlg": partial(_released_dlg, contest.outer_steps),
        "released-ig": partial(_released_inverting_gradients, contest.iterations),
    }


def run_contest(contest: Contest, names: tuple[str, ...], data: Dataset) -> Iterator[Row]:
    """Run the contestants in turn on every capture, so that a machine's moods fall on all of them alike.

    Args:
        contest: what is run.
        names: which contestants.
        data: where the private images come from, `[M, 3, 32, 32]`.

    Yields:
        One row for each contestant and capture.
    """
    by_name = contestants(contest)
    for trial in range(contest.trials):
        seed = contest.seed + trial
        inputs, targets = data.sample(contest.batch_size, seed=seed, distinct_labels=contest.distinct_labels)
        model = NETS[contest.net](data.num_classes, seed)
        task = Task(model, ImageSpace((3, 32, 32)), data.num_classes)
        observation, truth = capture(task, inputs, targets, seed=seed)
        order = names if trial % 2 == 0 else tuple(reversed(names))
        for name in order:
            yield by_name[name](observation, truth, trial)


def _ours(name: str, attack: Callable[..., Reconstruction], observation: Observation, truth: Truth, trial: int) -> Row:
    result = attack(observation, seed=trial)
    scores = score(result, truth)
    columns = scores.to_dict()
    seconds_at = dict(zip(result.history.evaluations, result.history.seconds, strict=True))
    hit = next(
        (s for s in result.history.snapshots if score_inputs(s.inputs, truth).median("psnr") >= SUCCESS_DB), None
    )
    within = scores.median("psnr") >= SUCCESS_DB
    return Row(
        attack=name,
        trial=trial,
        psnr=tuple(columns["psnr"]),  # pyright: ignore[reportArgumentType]  # a column of floats
        ssim=tuple(columns["ssim"]),  # pyright: ignore[reportArgumentType]
        labels_right=None if result.targets_given else sum(map(bool, columns["target_correct"])),
        status=result.status,
        evaluations=result.evaluations,
        seconds=result.seconds,
        evaluations_to_success=hit.evaluations if hit else result.evaluations if within else None,
        seconds_to_success=seconds_at.get(hit.evaluations) if hit else result.seconds if within else None,
        message=result.message,
    )


def _released_dlg(outer_steps: int, observation: Observation, truth: Truth, trial: int) -> Row:
    task, count = observation.task, len(truth.inputs)
    generator = stage_generator(trial, "attack/start/0")
    start, logits = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(task.dtype)
        for shape in ((count, *task.space.shape), (count, task.num_classes))
    )
    hits: list[tuple[int, float]] = []
    measuring = 0.0

    def watch(evaluations: int, inputs: Tensor) -> bool:
        nonlocal measuring
        looked = time.perf_counter()
        if not hits and score_inputs(inputs.clamp(0, 1), truth).median("psnr") >= SUCCESS_DB:
            hits.append((evaluations, looked - began - measuring))
        measuring += time.perf_counter() - looked
        return False

    began = time.perf_counter()
    inputs, logits, values = released_dlg_loop(
        task.model, list(observation.update.tensors.values()), start, logits, outer_steps=outer_steps, watch=watch
    )
    seconds = time.perf_counter() - began - measuring
    return _loop_row("released-dlg", trial, truth, inputs, logits.argmax(dim=1), len(values), seconds, hits)


def _released_inverting_gradients(iterations: int, observation: Observation, truth: Truth, trial: int) -> Row:
    """The published attack gets the labels; for one example the sign rule gives them."""
    count = len(truth.inputs)
    last_weight = [tensor for tensor in observation.update.tensors.values() if tensor.dim() == 2][-1]
    targets = torch.tensor([row_sum_sign(last_weight)]) if count == 1 else truth.targets
    start = torch.randn(truth.inputs.shape, generator=stage_generator(trial, "attack/start/0"), dtype=torch.float64)
    began = time.perf_counter()
    inputs, values = released_inverting_gradients_loop(
        observation.task.model,
        list(observation.update.tensors.values()),
        targets,
        start.to(observation.task.dtype),
        iterations=iterations,
        total_variation=1e-1,
        signed=True,
        run=iterations,
    )
    seconds = time.perf_counter() - began
    row = _loop_row("released-ig", trial, truth, inputs, targets, len(values), seconds, [])
    return row if count == 1 else replace(row, labels_right=None, message="the labels of the batch were given")


def _loop_row(
    name: str,
    trial: int,
    truth: Truth,
    inputs: Tensor,
    targets: Tensor,
    evaluations: int,
    seconds: float,
    hits: list[tuple[int, float]],
) -> Row:
    scores = score_inputs(inputs.clamp(0, 1), truth)
    columns = scores.to_dict()
    paired = [targets[int(index)] for index in columns["paired_with"]]  # pyright: ignore[reportArgumentType]
    return Row(
        attack=name,
        trial=trial,
        psnr=tuple(columns["psnr"]),  # pyright: ignore[reportArgumentType]
        ssim=tuple(columns["ssim"]),  # pyright: ignore[reportArgumentType]
        labels_right=sum(int(a == b) for a, b in zip(paired, truth.targets, strict=True)),
        status="loop",
        evaluations=evaluations,
        seconds=seconds,
        evaluations_to_success=hits[0][0] if hits else None,
        seconds_to_success=hits[0][1] if hits else None,
    )
