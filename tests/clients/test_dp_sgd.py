"""DP-SGD against opacus, against its equation, and its privacy against closed forms."""

import copy
import math
import sys
from typing import Any

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradleak as gl
from gradleak.seeds import stage_generator
from gradleak.threat import simulator
from gradleak.zoo.models.building import seeded
from tests.problems import TiedRows, images, labels, normed_net, small_lenet, task_of

CLIP, NOISE = 0.05, 0.7


def sent(task: gl.Task, count: int, client: gl.clients.Client, seed: int = 0) -> dict[str, Tensor]:
    return dict(gl.capture(task, images(count), labels(count), client=client, seed=seed)[0].update.tensors)


def per_example(task: gl.Task, count: int) -> list[dict[str, Tensor]]:
    """Gradients of one example after the other, by plain autograd."""
    named = {name: value for name, value in task.model.named_parameters() if value.requires_grad}
    losses = [cross_entropy(task.model(x[None]), y[None]) for x, y in zip(images(count), labels(count), strict=True)]
    return [dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True)) for loss in losses]


def clipped_mean(gradients: list[dict[str, Tensor]], clip: float) -> dict[str, Tensor]:
    norms = [float(torch.cat([gradient.flatten() for gradient in one.values()]).norm()) for one in gradients]
    factors = [min(1.0, clip / (size + 1e-6)) for size in norms]  # with opacus' slack
    return {
        name: sum(f * one[name] for f, one in zip(factors, gradients, strict=True)) / len(gradients)  # pyright: ignore[reportReturnType]
        for name in gradients[0]
    }


# opacus hooks the backward pass of every layer, and torch warns that the inputs of the first one need no gradient.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning:opacus")
@pytest.mark.parametrize("expected_batch_size", [None, 7])
def test_a_step_is_that_of_opacus_with_the_same_noise(
    expected_batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opacus = pytest.importorskip("opacus", reason="needs the extra dp")
    task, count, rate = small_lenet(), 5, 0.1
    client = gl.clients.DPSGD(clip=CLIP, noise_multiplier=NOISE, expected_batch_size=expected_batch_size)
    ours = sent(task, count, client, seed=3)

    # What the client draws, drawn again: opacus itself makes float32 noise only.
    private = int(torch.randint(2**31, (), generator=stage_generator(3, "client")))
    generator = torch.Generator().manual_seed(private)

    def noise(std: float, reference: Tensor, **_options: object) -> Tensor:
        return std * torch.randn(reference.shape, generator=generator, dtype=reference.dtype)

    monkeypatch.setattr("opacus.optimizers.optimizer._generate_noise", noise)
    model = copy.deepcopy(task.model)
    data = torch.utils.data.TensorDataset(images(count), labels(count))
    model, optimizer, loader = opacus.PrivacyEngine(accountant="rdp").make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        data_loader=torch.utils.data.DataLoader(data, batch_size=count),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        poisson_sampling=False,
    )
    optimizer.expected_batch_size = expected_batch_size or count
    ((inputs, targets),) = list(loader)
    cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    for (name, before), after in zip(task.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours[name], (before - after).detach() / rate, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [1, 4])
def test_examples_are_clipped_one_by_one_over_all_parameters(count: int) -> None:
    gradients = per_example(small_lenet(), count)
    norms = sorted(float(torch.cat([g.flatten() for g in one.values()]).norm()) for one in gradients)
    clip = norms[0] if count == 1 else (norms[1] + norms[2]) / 2  # half of them are clipped
    expected = clipped_mean(gradients, clip)
    for name, value in sent(small_lenet(), count, gl.clients.DPSGD(clip=clip)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-14)


def test_without_clipping_and_noise_it_is_the_gradient() -> None:
    expected = sent(small_lenet(), 3, gl.clients.Gradient())
    for name, value in sent(small_lenet(), 3, gl.clients.DPSGD(clip=1e6)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-14)


def test_what_is_not_sent_counts_in_the_norm_and_what_is_frozen_does_not() -> None:
    whole = sent(small_lenet(), 3, gl.clients.DPSGD(clip=CLIP))
    head = sent(small_lenet(), 3, gl.clients.DPSGD(clip=CLIP, sent=("linear.*",)))
    assert list(head) == ["linear.weight", "linear.bias"]
    for name, value in head.items():
        assert torch.equal(value, whole[name])
    frozen = small_lenet()
    for name, parameter in frozen.model.named_parameters():
        parameter.requires_grad_(name.startswith("linear"))
    expected = clipped_mean(per_example(frozen, 3), CLIP)
    for name, value in sent(frozen, 3, gl.clients.DPSGD(clip=CLIP)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-14)


def test_tied_parameters_count_once() -> None:
    task = task_of(seeded(0, TiedRows))
    expected = clipped_mean(per_example(task, 3), CLIP)
    update = sent(task, 3, gl.clients.DPSGD(clip=CLIP))
    assert set(update) == set(expected)
    for name, value in update.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-14)


def test_restarts_pass_together() -> None:
    task = small_lenet()
    observation, _ = gl.capture(task, images(3), labels(3), client=gl.clients.DPSGD(clip=CLIP, noise_multiplier=1.0))
    simulate = simulator(observation)
    several = torch.stack([images(3), images(3, seed=1)])
    targets = task.target_probabilities(labels(3)).expand(2, -1, -1)
    together = torch.vmap(simulate)(several, targets)
    for row, one in enumerate(several):
        for name, value in simulate(one, targets[row]).items():
            torch.testing.assert_close(together[name][row], value, rtol=1e-10, atol=1e-14)


def test_random_dropout_draws_for_every_example() -> None:
    task = task_of(normed_net(nn.Identity, 0.5))
    client = gl.clients.DPSGD(clip=1e6, dropout="random")
    same = images(1).expand(6, -1, -1, -1)
    update = gl.capture(task, same, labels(1).expand(6), client=client)[0].update.tensors
    again = gl.capture(task, same, labels(1).expand(6), client=client)[0].update.tensors
    one = gl.capture(task, same[:1], labels(1), client=client)[0].update.tensors
    for name, value in update.items():
        assert torch.equal(value, again[name])
    # One mask would leave rank 1 in the head's gradient.
    assert int(torch.linalg.matrix_rank(update["6.weight"])) > 1
    assert int(torch.linalg.matrix_rank(one["6.weight"])) == 1


def test_noise_is_of_the_stated_size_and_different_in_every_tensor() -> None:
    task, count = small_lenet(), 4
    clean = sent(task, count, gl.clients.DPSGD(clip=CLIP))
    noisy = sent(task, count, gl.clients.DPSGD(clip=CLIP, noise_multiplier=NOISE, expected_batch_size=None))
    noise = {name: noisy[name] - clean[name] for name in clean}
    together = torch.cat([value.flatten() for value in noise.values()])
    assert float(together.std()) == pytest.approx(NOISE * CLIP / count, rel=0.05)
    weights = [value for name, value in noise.items() if name.endswith("bias") and value.shape == (12,)]
    assert len(weights) > 1
    assert not torch.equal(weights[0], weights[1])


def test_epsilon_is_that_of_the_accountants() -> None:
    pytest.importorskip("opacus", reason="needs the extra dp")
    client = gl.clients.DPSGD(clip=1.0, noise_multiplier=1.0, sampling_rate=0.1)
    # The subsampled Gaussian mechanism's Renyi divergence at whole orders, written out.
    orders = range(2, 20)
    divergences = {
        a: math.log(sum(math.comb(a, k) * 0.9 ** (a - k) * 0.1**k * math.exp((k * k - k) / 2) for k in range(a + 1)))
        / (a - 1)
        for a in orders
    }
    whole = min(10 * divergences[a] + math.log((a - 1) / a) - (math.log(1e-5) + math.log(a)) / (a - 1) for a in orders)
    by_renyi = client.epsilon(10, 1e-5, "rdp")
    assert whole == pytest.approx(3.5515, abs=1e-3)
    assert whole - 0.2 < by_renyi <= whole
    tight = client.epsilon(10, 1e-5)
    assert tight == pytest.approx(2.865, abs=0.01)
    assert type(tight) is float
    with pytest.warns(UserWarning, match="can underestimate"):
        assert client.epsilon(10, 1e-5, "gdp") < tight


def test_epsilon_of_full_batches_is_the_closed_form() -> None:
    pytest.importorskip("opacus", reason="needs the extra dp")
    mu = math.sqrt(10) / 5

    def excess(epsilon: float) -> float:  # Dong et al. 2019, corollary 1
        shifted = math.exp(epsilon) * float(norm.cdf(-epsilon / mu - mu / 2))
        return float(norm.cdf(-epsilon / mu + mu / 2)) - shifted - 1e-5

    exact = float(brentq(excess, 0, 50))  # pyright: ignore[reportArgumentType]  # a root, for want of full_output
    found = gl.clients.DPSGD(clip=1.0, noise_multiplier=5.0).epsilon(10, 1e-5)
    assert exact <= found <= exact + 0.03


def test_epsilon_without_noise_is_infinite_and_needs_no_opacus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    assert gl.clients.DPSGD(clip=1.0).epsilon(1, 1e-5) == math.inf
    with pytest.raises(gl.BadInput, match=r"gradleak\[dp\]"):
        gl.clients.DPSGD(clip=1.0, noise_multiplier=1.0).epsilon(1, 1e-5)


def test_bad_settings_are_all_named() -> None:
    wrong: dict[str, Any] = {"clip": 0.0, "noise_multiplier": -1.0, "sampling_rate": 0.0, "expected_batch_size": 0}
    client = gl.clients.DPSGD(**wrong, mode="train", micro_batch=2)
    with pytest.raises(gl.BadInput) as caught:
        gl.capture(task_of(normed_net(nn.BatchNorm2d)), images(2), labels(2), client=client)
    named = " ".join(caught.value.problems)
    for setting in (*wrong, "mode", "micro_batch"):
        assert f"client.{setting}: expected" in named
    with pytest.raises(gl.BadInput) as caught:
        gl.clients.DPSGD(**wrong).epsilon(0, 1.0, "moments")  # pyright: ignore[reportArgumentType]
    assert len(caught.value.problems) == 7
