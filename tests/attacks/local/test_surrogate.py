"""One gradient in place of local steps: sign and scale, and what has none."""

from dataclasses import asdict, replace

import pytest
import torch

import gradleak as gl
from gradleak.attacks.mismatch import mismatch
from gradleak.attacks.surrogate import Scale, middle, path_scale, surrogate_gradient
from gradleak.errors import BadInput
from tests.problems import images, labels, small_lenet


def observed(client: gl.clients.Client, count: int = 4, **threat: bool) -> gl.Observation:
    return gl.capture(
        small_lenet(), images(count), labels(count), client=client, threat=gl.ThreatModel(**threat), seed=0
    )[0]


def scale_of(observation: gl.Observation) -> Scale:
    scale = path_scale(observation)
    assert isinstance(scale, Scale)
    return scale


def test_one_step_is_the_gradient_itself() -> None:
    gradient = observed(gl.clients.Gradient())
    surrogate = surrogate_gradient(observed(gl.clients.LocalSGD(lr=0.03, weight_decay=0.2, momentum=0.5)))
    assert surrogate.update.kind == "gradient"
    for name, tensor in gradient.update.tensors.items():
        assert torch.allclose(surrogate.update.tensors[name], tensor, rtol=1e-9, atol=1e-12)
        assert torch.equal(surrogate.state.parameters[name], gradient.state.parameters[name])


def test_the_scale_counts_steps_momentum_and_decay() -> None:
    plain = observed(gl.clients.LocalSGD(lr=0.1, epochs=3, batch_size=2))
    assert asdict(scale_of(plain)) == pytest.approx({"gradient": 0.6, "weights": 0.0})
    heavy = observed(gl.clients.LocalSGD(lr=0.1, epochs=2, momentum=0.9))
    assert asdict(scale_of(heavy)) == pytest.approx({"gradient": 0.1 * (1 + 1.9), "weights": 0.0})
    decayed = observed(gl.clients.LocalSGD(lr=0.1, epochs=2, weight_decay=0.5))
    assert scale_of(decayed).weights == pytest.approx(0.95**2 - 1)


def test_the_middle_of_the_path_fits_best() -> None:
    client = gl.clients.LocalSGD(lr=0.002, epochs=4, batch_size=2)
    observation = observed(client)
    assert middle(observation) == pytest.approx(7 / 16)
    probabilities = observation.task.target_probabilities(labels(4))
    errors = [mismatch(surrogate_gradient(observation, alpha), images(4), probabilities) for alpha in (0, 7 / 16, 1)]
    assert errors[1] < 0.1 * min(errors[0], errors[2])


def test_an_aggregate_is_the_gradient_of_its_clients_batches() -> None:
    member = gl.clients.LocalSGD(lr=1e-4, epochs=2, batch_size=1)
    observation = observed(gl.clients.Aggregate([member], count=2))
    surrogate = surrogate_gradient(observation)
    assert mismatch(surrogate, images(4), observation.task.target_probabilities(labels(4))) < 1e-5
    uneven = gl.clients.Aggregate([member], sizes=(1, 3), count=2)
    assert "different lengths" in str(path_scale(observed(uneven)))


def test_an_unknown_client_leaves_a_direction() -> None:
    observation = observed(gl.clients.LocalSGD(lr=0.005, epochs=3), client_known=False)
    surrogate = surrogate_gradient(observation)
    assert surrogate.update.kind == "delta"
    assert surrogate.client is None
    assert gl.attacks.dlg()(surrogate).status == "not_applicable"
    probabilities = observation.task.target_probabilities(labels(4))
    assert mismatch(surrogate, images(4), probabilities) < 1e-3
    scaled = surrogate_gradient(observation, scale=0.015)
    assert mismatch(scaled, images(4), probabilities) < 1e-2


def test_paths_that_are_no_multiple_of_a_gradient_are_refused() -> None:
    adam = observed(gl.clients.LocalAdam(lr=0.01, epochs=2))
    with pytest.raises(BadInput, match="Adam"):
        surrogate_gradient(adam)
    with pytest.raises(BadInput, match=r"alpha: expected a share in \[0, 1\], got 2"):
        surrogate_gradient(observed(gl.clients.LocalSGD(lr=0.1)), 2.0)
    gradient = observed(gl.clients.Gradient())
    assert surrogate_gradient(gradient) is gradient


def test_the_number_of_steps_is_unknown_with_the_batch_size() -> None:
    client = gl.clients.LocalSGD(lr=0.1, epochs=2, batch_size=2)
    assert path_scale(observed(client, batch_size_known=False)) is None
    assert isinstance(path_scale(observed(replace(client, batch_size=None), batch_size_known=False)), Scale)
