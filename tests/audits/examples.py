"""Records and images written by hand, with figures that are easy to check."""

from collections.abc import Sequence

import torch

from gradleak.audits.records import Columns, Course, TrialRecord, TrialStatus, record_id
from gradleak.audits.trial import TrialImages

SHAPE = (1, 6, 6)


def columns(
    psnr: Sequence[float], ssim: Sequence[float] | None = None, correct: Sequence[bool] | None = None
) -> Columns:
    count = len(psnr)
    return {
        "psnr": tuple(psnr),
        "ssim": tuple([0.5] * count),
        "correlation": tuple([0.25] * count),
        "target_correct": tuple(correct if correct is not None else [None] * count),
        "paired_with": tuple(range(count)),
    }


def record(
    psnr: Sequence[float],
    *,
    attack: str = "dlg",
    data: str = "faces",
    examples: Sequence[int] = (7,),
    seed: int = 0,
    status: TrialStatus = "converged",
    correct: Sequence[bool] | None = None,
    targets_given: bool = False,
    baseline: float = 12.0,
    evaluations: int = 100,
    course: Course | None = None,
    message: str = "",
    traceback: str = "",
) -> TrialRecord:
    """One trial with these PSNRs; the baseline `grey` has `baseline` dB for every example."""
    spec = {
        "model": {"name": "lenet", "seed": seed},
        "space": {"name": "ImageSpace", "shape": list(SHAPE), "bounds": [0.0, 1.0]},
        "data": {"name": data},
        "examples": list(examples),
        "client": {"name": "Gradient", "mode": "eval"},
        "defenses": [],
        "threat": {"labels_known": targets_given, "batch_size_known": True},
        "attack": {"name": attack},
        "seed": seed,
    }
    return TrialRecord(
        id=record_id(spec),
        status=status,
        spec=spec,
        threat="given: batch size; withheld: labels",
        scores=columns(psnr, correct=correct),
        targets_given=targets_given,
        baselines={"grey": columns([baseline] * len(psnr))},
        objective=1e-7,
        evaluations=evaluations,
        seconds=1.5,
        message=message,
        traceback=traceback,
        course=course if course is not None else Course(),
        environment={"torch": "2.13", "command": "gradleak demo --seed 0"},
    )


def images(count: int = 1, snapshots: int = 3) -> TrialImages:
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand((count, *SHAPE), generator=generator)
    return TrialImages(truth, truth + 0.01, torch.rand((snapshots, count, *SHAPE), generator=generator))
