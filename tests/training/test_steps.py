"""Steps of training against plain arithmetic."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradleak as gl
from gradleak.seeds import stage_generator
from gradleak.training.spec import Augmentation, Optimizer
from gradleak.training.steps import (
    Examples,
    augmented,
    batches,
    batches_of,
    learning_rate,
    normalized,
    quality,
    sgd,
    step,
)
from gradleak.zoo.models import mlp

EXAMPLES = Examples(torch.rand(30, 1, 3, 4, generator=stage_generator(0, "inputs")), torch.arange(30) % 4)


def test_steps_are_those_of_the_equations() -> None:
    """v <- m v + g + w p and p <- p - lr v (Sutskever et al., ICML 2013, as in torch), by hand in double precision."""
    settings = Optimizer(lr=0.3, momentum=0.8, weight_decay=0.01)
    model = mlp(12, (5,), 4).double()
    examples = Examples(EXAMPLES.inputs.double(), EXAMPLES.targets)
    own = [parameter.detach().clone() for parameter in model.parameters()]
    velocity = [torch.zeros_like(value) for value in own]
    optimizer = sgd(model, settings)
    for number in range(4):
        positions = torch.arange(number, number + 7)
        batch = examples.at(positions)
        a, b, c, d = (value.requires_grad_() for value in own)
        hidden = functional.relu(batch.inputs.flatten(1) @ a.T + b)
        logits = hidden @ c.T + d
        loss = -(logits - logits.logsumexp(1, keepdim=True))[range(7), batch.targets].mean()
        gradients = torch.autograd.grad(loss, own)
        velocity = [0.8 * v + g + 0.01 * p.detach() for v, g, p in zip(velocity, gradients, own, strict=True)]
        own = [(p - 0.3 * v).detach() for p, v in zip(own, velocity, strict=True)]
        found = step(model, optimizer, 0.3, batch, Augmentation(), 0, str(number))
        assert found == pytest.approx(float(loss.detach()), rel=1e-12)
    for parameter, value in zip(model.parameters(), own, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("count", "size", "expected"), [(30, 7, 5), (29, 7, 4), (30, 30, 1), (30, 64, 1), (1, 8, 1)])
def test_an_epoch_visits_every_example_once_except_one_that_would_be_alone(
    count: int, size: int, expected: int
) -> None:
    found = list(batches(count, size, seed=0, stage="order"))
    assert len(found) == batches_of(count, size) == expected
    visited = torch.cat(found).tolist()
    assert len(set(visited)) == len(visited)
    assert len(visited) == (28 if (count, size) == (29, 7) else count)
    assert torch.cat(list(batches(count, size, seed=1, stage="order"))).tolist() != visited or count == 1


def test_the_schedule_goes_from_the_first_rate_to_zero() -> None:
    cosine = Optimizer(lr=0.2, schedule="cosine")
    assert [learning_rate(cosine, done) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.1, 0.0])
    assert learning_rate(cosine, 0.25) == pytest.approx(0.1 * (1 + math.sqrt(0.5)))
    assert learning_rate(Optimizer(lr=0.2), 0.9) == 0.2


def test_augmentation_mirrors_about_half_and_shifts_all_within_the_margin() -> None:
    inputs = torch.rand(200, 2, 6, 6, generator=stage_generator(0, "images")) + 1
    flipped = augmented(inputs, Augmentation(flip=True), stage_generator(0, "flip"))
    mirrored = [bool(torch.equal(new, old.flip(-1))) for new, old in zip(flipped, inputs, strict=True)]
    kept = [bool(torch.equal(new, old)) for new, old in zip(flipped, inputs, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130
    inputs = inputs[:40]
    shifted = augmented(inputs, Augmentation(crop=2), stage_generator(0, "crop"))
    assert shifted.shape == inputs.shape
    for new, old in zip(shifted, inputs, strict=True):
        places = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(new, _shifted(old, down, right))
        ]
        assert len(places) == 1


def _shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    found = torch.zeros_like(image)
    height, width = image.shape[1:]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                found[:, row, column] = image[:, row - down, column - right]
    return found


def test_quality_is_that_of_evaluation_mode_and_leaves_modes_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout(0.9))
    model.train()
    model[3].eval()
    found = quality(model, EXAMPLES)
    assert [module.training for module in model] == [True, True, True, False]
    with torch.no_grad():
        outputs = model.eval()(EXAMPLES.inputs)
    assert found.loss == pytest.approx(float(functional.cross_entropy(outputs, EXAMPLES.targets)), rel=1e-6)
    assert found.accuracy == float((outputs.argmax(1) == EXAMPLES.targets).double().mean())
    assert found.examples == 30


def test_inputs_are_normalized_as_the_space_does_it() -> None:
    space = gl.ImageSpace((1, 3, 4), mean=(0.3,), std=(0.2,))
    model = nn.Identity()
    torch.testing.assert_close(normalized(EXAMPLES.inputs, space), space.forward(model, {}, EXAMPLES.inputs))
