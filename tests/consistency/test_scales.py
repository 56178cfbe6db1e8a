"""Wrong scales and signs are named."""

import pytest
import torch

from tests.consistency.planting import N, normed, proven, scaled, smooth, step, verdict


@pytest.mark.parametrize(
    ("factor", "cause", "words"),
    [
        (-1.0, "sign", "-1"),
        (float(N), "sum", "summed over the 3 examples"),
        (-float(N), "sum", "the sign is wrong"),
        (1 / N, "averaged_twice", "1/3"),
        (-0.1, "delta_as_gradient", "learning rate 0.1;"),
        (0.37, "scale", "0.37"),
    ],
)
def test_factors(factor: float, cause: str, words: str) -> None:
    found = verdict(scaled(factor)(step(smooth())))
    assert proven(found) == [cause]
    assert words in found.causes[0].explanation
    assert found.scale == pytest.approx(factor, rel=1e-4)
    assert found.relative_error == pytest.approx(abs(1 - 1 / factor), rel=1e-3)


def test_a_summed_loss() -> None:
    assert proven(verdict(step(smooth(), total=True))) == ["sum"]


def test_a_gradient_called_a_delta() -> None:
    assert proven(verdict(step(smooth()), kind="delta")) == ["kind"]


def test_whole_weights() -> None:
    model = smooth()
    gradients = step(model)
    after = {name: value.detach() - 0.02 * gradients[name] for name, value in model.named_parameters()}
    for kind in ("delta", "gradient"):
        found = verdict(after, kind=kind)
        assert proven(found) == ["weights_sent"]
        assert "learning rate 0.02;" in found.causes[0].explanation


def test_a_model_from_after_the_step() -> None:
    model = normed()
    delta = scaled(-0.5)(step(model))
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(delta[name])
    assert "weights_after" in proven(verdict(delta, model, "delta"))


def test_weight_decay() -> None:
    model = smooth()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    tensors = {name: tensor + 0.01 * weights[name] for name, tensor in step(model).items()}
    found = verdict(tensors)
    assert proven(found) == ["weight_decay"]
    assert "0.01" in found.causes[0].explanation


def test_a_scale_for_each_layer() -> None:
    tensors = {name: tensor / tensor.norm() for name, tensor in step(smooth()).items()}
    assert proven(verdict(tensors)) == ["layer_scales"]
