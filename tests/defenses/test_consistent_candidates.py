"""An attacker who knows the defenses finds no fault with the true update, through any composition of them."""

import json
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

import gradleak as gl
from gradleak.components import from_plain, to_plain
from gradleak.defenses import DEFENSES, Defense
from gradleak.defenses.applying import defended, response
from tests.defenses.drawn import update

d = gl.defenses

CERTAIN: list[Defense] = [
    d.GaussianNoise(0.0),
    d.LaplaceNoise(0.0),
    d.Clip(0.5),
    d.Clip(0.05, scope="layer"),
    d.Clip(1e9),
    d.TopK(0.3),
    d.TopK(0.2, scope="layer"),
    d.Quantize("fp16"),
    d.Quantize("bf16"),
    d.Quantize("fp8_e4m3"),
    d.Quantize("fp8_e5m2", scope="global"),
    d.Quantize("fp8_e5m2", scaled=False),
    d.Quantize("int8"),
    d.Quantize("int4", scope="global"),
    d.Sign(),
    d.Sign(scaled=True),
    d.DropLayers(("conv.*",)),
    d.DGC(keep=0.2),
    d.DGC(keep=0.2, clip=0.5, clients=4, scope="global"),
]
"""Every defense whose result follows from the update, in several settings."""

RANDOM: list[Defense] = [
    d.Quantize("fp16", rounding="stochastic"),
    d.Quantize("fp8_e4m3", rounding="stochastic"),
    d.Quantize("int8", rounding="stochastic"),
    d.Quantize("int4", rounding="stochastic", scope="global"),
    d.RandomK(0.3),
    d.RandomK(0.5, unbiased=False, scope="layer"),
    d.QSGD(4),
    d.QSGD(127, bucket=64),
]
"""Every defense that draws, but whose draws a preimage allows for."""

TRIPLES: list[tuple[Defense, Defense, Defense]] = [
    (d.Clip(0.5), d.TopK(0.1), d.Quantize("int8")),
    (d.TopK(0.1), d.Clip(0.5), d.Quantize("fp8_e4m3")),
    (d.Quantize("int8"), d.TopK(0.1), d.Sign()),
    (d.Quantize("int4"), d.Quantize("fp8_e5m2"), d.Quantize("fp16")),
    (d.TopK(0.5), d.TopK(0.3, scope="layer"), d.Sign(scaled=True)),
    (d.Sign(scaled=True), d.Clip(0.1), d.Sign()),
]


def names(defenses: Sequence[object]) -> str:
    return "-".join(repr(defense) for defense in defenses)


def faults(defenses: Sequence[Defense], true: dict[str, Tensor], seed: int | None, dtype: torch.dtype) -> float:
    """Largest difference between what was sent and the reply at the true update, relative to what was sent."""
    observed = defended(defenses, true, "gradient", seed=seed)
    found = response(defenses, observed, "gradient")(true)
    worst = 0.0
    for name, sent in observed.items():
        assert found[name].shape == sent.shape
        assert sent.dtype == dtype
        difference = (found[name] - sent).abs().amax()
        worst = max(worst, float(difference / sent.abs().amax().clamp(min=1e-30)))
    return worst


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_no_fault_at_the_true_update(dtype: torch.dtype) -> None:
    # Alone, in every pair, and in some threes; one test, since there are hundreds of pairs.
    compositions = [(one,) for one in CERTAIN] + list(product(CERTAIN, CERTAIN)) + TRIPLES
    limit = 1e-12 if dtype == torch.float64 else 1e-6
    true = update(0, dtype)
    found = {names(some): faults(some, true, None, dtype) for some in compositions}
    assert {name: fault for name, fault in found.items() if not fault <= limit} == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_no_fault_through_draws(dtype: torch.dtype) -> None:
    settled = [
        defense for defense in CERTAIN if getattr(defense, "clip", None) is None and not isinstance(defense, d.Clip)
    ]  # which would simulate the mean
    pairs = list(product(RANDOM, settled)) + list(product(CERTAIN, RANDOM)) + list(product(RANDOM, RANDOM))
    limit = 1e-12 if dtype == torch.float64 else 1e-6
    true = update(0, dtype)
    found = {names(some): faults(some, true, 5, dtype) for some in [(one,) for one in RANDOM] + pairs}
    assert {name: fault for name, fault in found.items() if not fault <= limit} == {}


@pytest.mark.parametrize("defense", CERTAIN + RANDOM, ids=repr)
def test_another_update_is_at_fault_and_the_way_back_has_a_gradient(defense: Defense) -> None:
    true = update()
    observed = defended([defense], true, "gradient", seed=1)
    respond = response([defense], observed, "gradient")
    other = {name: (-2 * tensor).requires_grad_() for name, tensor in true.items()}
    replies = respond(other)
    misfit = torch.stack([(replies[name] - sent).square().sum() for name, sent in observed.items()]).sum()
    assert float(misfit.detach()) > 1e-3
    gradients = torch.autograd.grad(misfit, list(other.values()), allow_unused=True)
    assert all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(gradient is not None and bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("defense", CERTAIN + RANDOM, ids=repr)
def test_gradient_is_finite_at_zero_and_at_the_truth(defense: Defense) -> None:
    true = update()
    respond = response([defense, d.Clip(0.3)], defended([defense, d.Clip(0.3)], true, "gradient", seed=1), "gradient")
    for factor in (0.0, 1.0):
        start = {name: (factor * tensor).requires_grad_() for name, tensor in true.items()}
        total = torch.stack([tensor.square().sum() for tensor in respond(start).values()]).sum()
        for gradient in torch.autograd.grad(total, list(start.values())):
            assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("defense", CERTAIN + RANDOM, ids=repr)
def test_many_candidates_at_once_are_each_by_itself(defense: Defense) -> None:
    updates = [update(seed) for seed in range(3)]
    stacked = {name: torch.stack([one[name] for one in updates]) for name in updates[0]}
    for defenses in ([defense], [defense, d.Clip(0.3)]):
        respond = response(defenses, defended(defenses, updates[0], "gradient", seed=1), "gradient")
        together = torch.vmap(respond)(stacked)
        for position, one in enumerate(updates):
            for name, alone in respond(one).items():
                assert torch.allclose(together[name][position], alone, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("defense", CERTAIN + RANDOM, ids=repr)
def test_a_defense_remembers_nothing(defense: Defense) -> None:
    true = update()
    first = defended([defense], true, "gradient", seed=3)
    defended([defense], update(9), "gradient", seed=4)
    again = defended([defense], true, "gradient", seed=3)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(true[name], update()[name])  # and leaves what it is given alone


@pytest.mark.parametrize("defense", [*CERTAIN, *RANDOM, d.DGC(warmup=(0.5, 0.1))], ids=repr)
def test_a_defense_goes_through_a_file(defense: Defense) -> None:
    assert from_plain("defense", json.loads(json.dumps(to_plain(defense))), DEFENSES) == defense
    assert defense.problems() == []
