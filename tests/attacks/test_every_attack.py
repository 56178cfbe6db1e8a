"""Every attack on everything that a client may send: it works, or it says why it does not apply; it never raises."""

import pytest
import torch

import gradleak as gl
from gradleak.attacks import ATTACKS
from tests.problems import Problem, problems


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
