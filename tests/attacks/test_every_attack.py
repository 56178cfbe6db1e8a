"""Every attack on everything that a client may send: it works, or it says why it does not apply; it never raises."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

import gradleak as gl
from gradleak.attacks import ATTACKS
from gradleak.zoo.models import mlp
from tests.problems import Problem, images, labels, problems, small_lenet


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem.name)
def test_it_works_or_says_why_not(problem: Problem, attack: type) -> None:
    observation, _ = gl.capture(problem.task, problem.inputs, problem.targets, client=problem.client)
    found = attack(max_evaluations=3, max_seconds=0.3)(observation)
    assert found.message
    if found.status == "not_applicable":
        assert found.evaluations == 0
        assert bool(found.variable.isnan().all())
    else:
        assert found.variable.shape == problem.inputs.shape
        assert bool(torch.isfinite(found.variable).all())
        assert found.targets.shape == (len(problem.inputs),)


DEFENDED = {
    "pruned": [gl.defenses.TopK(keep=0.01)],
    "pruned-layers": [gl.defenses.TopK(keep=0.3, scope="layer")],
    "noise-pruned": [gl.defenses.GaussianNoise(std=1.0), gl.defenses.TopK(keep=0.05)],
}
"""Updates of which much is zero or wrong."""

NETS = {
    "lenet": lambda: small_lenet(),
    "relu": lambda: small_lenet(torch.float32, activation=nn.ReLU),
    "mlp": lambda: gl.Task(mlp(3 * 16 * 16, (20,)).double(), gl.ImageSpace((3, 16, 16)), num_classes=10),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("known", [True, False], ids=["adaptive", "blind"])
@pytest.mark.parametrize("defenses", DEFENDED.values(), ids=list(DEFENDED))
@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
def test_it_survives_a_defense(
    net: Callable[[], gl.Task], defenses: Sequence[gl.defenses.Defense], known: bool, attack: type
) -> None:
    for count in (1, 3):
        task, threat = net(), gl.ThreatModel(defense_known=known)
        observation, _ = gl.capture(
            task, images(count).to(task.dtype), labels(count), defenses=defenses, threat=threat, seed=1
        )
        found = attack(max_evaluations=3, max_seconds=0.1)(observation)
        assert found.message
        assert found.status == "not_applicable" or bool(torch.isfinite(found.variable).all())
