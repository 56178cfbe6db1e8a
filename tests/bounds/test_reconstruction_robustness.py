"""Bounds on reconstruction against closed forms, numerical integration, and attackers who do their best."""

import itertools
import math
import sys
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import binomtest, norm
from torch import nn

import gradleak as gl
from gradleak.bounds.blow_up import privacy_losses, simulated_blow_up
from gradleak.bounds.privacy_routes import accounts, approximate_dp_bound, rdp_bound, zcdp_bound
from gradleak.bounds.reconstruction_robustness import APPROXIMATE, FULL_BATCH, KNOWN_PARTICIPATION, RENYI, SIMULATED
from gradleak.seeds import stage_generator

robustness = gl.bounds.reconstruction_robustness


@pytest.fixture
def without_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blow-up function alone, at once."""
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)


def simulated(prior: float, noise: float, rate: float, steps: int, draws: int = 40_000, seed: int = 0) -> Any:
    losses = privacy_losses(noise, rate, steps, draws, stage_generator(seed, "test"))
    return simulated_blow_up([prior], losses, 0.99)[0]


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prior", "noise", "expected"), [(0.1, 5.0, 0.2581), (0.01, 2.0, 0.2281)])
@pytest.mark.usefixtures("without_accountant")
def test_full_batches_have_a_closed_form(prior: float, noise: float, expected: float) -> None:
    found = robustness(prior, noise_multiplier=noise, steps=10)
    assert found.bound == pytest.approx(expected, abs=1e-4)
    assert found.route == FULL_BATCH
    assert found.interval == (found.bound, found.bound)
    assert found.confidence == 1.0


@pytest.mark.parametrize(
    ("prior", "noise", "steps"),
    [(0.1, 5.0, 10), (0.01, 2.0, 10), (0.9, 3.0, 2), (1e-6, 0.5, 4), (1e-3, 20.0, 1), (0.5, 0.3, 3)],
)
def test_the_simulation_meets_the_closed_form_within_its_interval(prior: float, noise: float, steps: int) -> None:
    exact = float(norm.cdf(norm.ppf(prior) + math.sqrt(steps) / noise))
    blow_up = simulated(prior, noise, 1.0, steps)
    assert blow_up.low <= exact <= blow_up.high
    assert blow_up.low <= blow_up.estimate <= blow_up.high
    assert blow_up.high - exact < 0.012  # an interval from 0 to 1 would hold everything
    assert blow_up.estimate == pytest.approx(exact, abs=0.005)


def test_the_interval_covers_as_often_as_it_says() -> None:
    exact = float(norm.cdf(norm.ppf(0.1) + 1))
    missed = 0
    for seed in range(300):
        losses = privacy_losses(1.0, 1.0, 1, 2000, stage_generator(seed, "test"))
        blow_up = simulated_blow_up([0.1], losses, 0.99)[0]
        missed += not blow_up.low <= exact <= blow_up.high
    assert binomtest(missed, 300, 0.01, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize(("prior", "noise", "rate"), [(0.1, 1.0, 0.1), (0.01, 0.5, 0.3), (0.001, 0.7, 0.02)])
def test_one_sampled_step_is_a_normal_integral(prior: float, noise: float, rate: float) -> None:
    # The likelihood ratio rises with the value that was sent, so the best event is a half-line.
    threshold = noise * float(norm.isf(prior))
    exact = (1 - rate) * prior + rate * float(norm.sf((threshold - 1) / noise))
    blow_up = simulated(prior, noise, rate, 1)
    assert blow_up.low <= exact <= blow_up.high
    assert blow_up.estimate == pytest.approx(exact, rel=0.05)


def test_two_sampled_steps_are_a_plane_integral() -> None:
    noise, rate, prior = 1.0, 0.4, 0.05

    def ratio(w: float) -> float:
        return 1 - rate + rate * math.exp((2 * w - 1) / (2 * noise**2))

    def probability(level: float, *, with_record: bool) -> float:
        """Of ratio(w_1) ratio(w_2) > level, by integration over the first."""

        def inner(w: float) -> float:
            needed = level / ratio(w) - (1 - rate)
            start = -math.inf if needed <= 0 else noise**2 * math.log(needed / rate) + 0.5
            weight, rest = float(norm.pdf(w, 0, noise)), float(norm.sf(start, 0, noise))
            if with_record:
                weight = (1 - rate) * weight + rate * float(norm.pdf(w, 1, noise))
                rest = (1 - rate) * rest + rate * float(norm.sf(start, 1, noise))
            return weight * rest

        return float(quad(inner, -9, 10, epsabs=1e-9)[0])

    def excess(level: float) -> float:
        return probability(level, with_record=False) - prior

    level = brentq(excess, 0.5, 50)
    exact = probability(level, with_record=True)  # pyright: ignore[reportArgumentType]  # a root, for want of full_output
    blow_up = simulated(prior, noise, rate, 2)
    assert blow_up.low <= exact <= blow_up.high
    assert blow_up.estimate == pytest.approx(exact, rel=0.03)


def test_routes_through_guarantees_are_their_formulas() -> None:
    assert approximate_dp_bound(0.1, 0.5, 1e-3) == pytest.approx(0.1 * math.exp(0.5) + 1e-3)
    assert approximate_dp_bound(0.1, 3.0) == 1.0
    assert approximate_dp_bound(0.1, 1e6) == 1.0
    assert rdp_bound(0.1, [2.0, 4.0], [1.0, 2.0]) == pytest.approx((0.1 * math.exp(1.0)) ** 0.5)
    assert rdp_bound(0.1, [1.1], [math.inf]) == 1.0
    assert zcdp_bound(0.01, 0.2) == pytest.approx(math.exp(-((math.sqrt(math.log(100)) - math.sqrt(0.2)) ** 2)))
    assert zcdp_bound(0.01, 5.0) == 1.0
    # Full batches have the divergence alpha rho at order alpha, of which zCDP's formula is the minimum.
    orders = [1 + k / 1000 for k in range(1, 50_000)]
    assert rdp_bound(0.01, orders, [0.2 * a for a in orders]) == pytest.approx(zcdp_bound(0.01, 0.2), rel=1e-5)


# ---- ends and directions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.2])
@pytest.mark.usefixtures("without_accountant")
def test_infinite_noise_leaves_the_prior(rate: float) -> None:
    assert robustness(0.1, noise_multiplier=math.inf, sampling_rate=rate, steps=10).bound == pytest.approx(0.1)
    almost = robustness(0.1, noise_multiplier=1e4, sampling_rate=rate, steps=10, draws=10_000)
    assert 0.1 <= almost.bound < 0.101


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.usefixtures("without_accountant")
def test_without_noise_every_record_that_takes_part_is_lost(noise: float) -> None:
    assert robustness(0.1, noise_multiplier=noise, steps=3).bound == 1.0
    # A record that was never drawn cannot be seen: with q = 0.2 that happens in 0.8^3 of all trainings.
    found = robustness(0.1, noise_multiplier=noise, sampling_rate=0.2, steps=3, draws=10_000)
    assert found.bound == pytest.approx(1 - 0.9 * 0.8**3, abs=1e-12)
    many = robustness(0.1, noise_multiplier=noise, sampling_rate=0.2, steps=200, draws=1000)
    assert many.bound == pytest.approx(1.0)


@pytest.mark.usefixtures("without_accountant")
def test_more_noise_fewer_steps_rarer_sampling_and_a_weaker_prior_lower_the_bound() -> None:
    def bound(prior: float = 0.05, noise: float = 1.0, rate: float = 0.2, steps: int = 10) -> float:
        return robustness(prior, noise_multiplier=noise, sampling_rate=rate, steps=steps, draws=20_000).bound

    for rising in (
        [bound(noise=noise) for noise in (4.0, 2.0, 1.0, 0.5, 0.25)],
        [bound(steps=steps) for steps in (1, 3, 10, 30, 100)],
        [bound(rate=rate) for rate in (0.05, 0.1, 0.2, 0.5, 1.0)],
        [bound(prior=prior) for prior in (0.001, 0.01, 0.05, 0.2, 0.6)],
    ):
        assert all(before < after for before, after in itertools.pairwise(rising)), rising


@pytest.mark.usefixtures("without_accountant")
def test_a_curve_is_its_points_and_a_seed_its_bits() -> None:
    words: dict[str, Any] = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 10, "draws": 5000}
    curve = gl.bounds.robustness_curve([0.01, 0.1], **words, seed=3)
    assert curve[1] == robustness(0.1, **words, seed=3)
    assert curve[1] != robustness(0.1, **words, seed=4)


@pytest.mark.parametrize("prior", [1e-300, 0.5, 1 - 1e-12])
@pytest.mark.parametrize("noise", [1e-8, 1e-3, 1e8])
@pytest.mark.parametrize("rate", [1e-9, 1 - 1e-15, 1.0])
@pytest.mark.usefixtures("without_accountant")
def test_extreme_settings_overflow_nowhere(prior: float, noise: float, rate: float) -> None:
    found = robustness(prior, noise_multiplier=noise, sampling_rate=rate, steps=50, draws=1000)
    assert prior <= found.bound <= 1
    assert prior <= found.interval[0] <= found.interval[1] <= 1
    assert found.bound == found.routes[found.route]


# ---- attackers ---------------------------------------------------------------------------------------------------


def matching_attack(candidates: torch.Tensor, noise: float, rate: float, steps: int, trials: int) -> int:
    """Successes of an attacker who knows the candidates `[N, d]` and picks the likeliest after all steps."""
    generator = stage_generator(0, "matching")
    truth = torch.randint(len(candidates), (trials,), generator=generator)
    joins = (torch.rand((trials, steps, 1), generator=generator) < rate).double()
    sent = torch.randn((trials, steps, candidates.shape[1]), generator=generator, dtype=torch.float64) * noise
    sent += joins * candidates[truth][:, None]
    scores = torch.einsum("nd,btd->btn", candidates, sent)
    present = (2 * scores - candidates.square().sum(dim=1)) / (2 * noise**2)
    absent = torch.tensor(1 - rate, dtype=torch.float64).log()
    chances = torch.logaddexp(present + math.log(rate), absent).sum(dim=1)
    return int((chances.argmax(dim=1) == truth).sum())


@pytest.mark.parametrize(("rate", "noise", "steps"), [(1.0, 2.0, 4), (0.3, 0.8, 6)])
@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.usefixtures("without_accountant")
def test_the_best_attacker_stays_below_the_bound(count: int, rate: float, noise: float, steps: int) -> None:
    # Two opposite gradients, or ten at right angles, all as long as clipping allows.
    candidates = torch.tensor([[1.0], [-1.0]]).double() if count == 2 else torch.eye(10).double()
    trials = 4000
    hits = matching_attack(candidates, noise, rate, steps, trials)
    found = robustness(1 / count, noise_multiplier=noise, sampling_rate=rate, steps=steps, draws=20_000)
    assert binomtest(hits, trials, found.bound, alternative="greater").pvalue > 1e-3
    assert hits / trials > 1 / count + 0.1  # it does attack
    # The same attacker against a bound for a quarter less shift: the check can fail.
    if count == 2:
        wrong = robustness(0.5, noise_multiplier=noise / 0.75, sampling_rate=rate, steps=steps, draws=20_000).interval[
            0
        ]
        assert binomtest(hits, trials, wrong, alternative="greater").pvalue < 1e-3


@pytest.mark.usefixtures("without_accountant")
def test_opposite_gradients_attain_the_bound_of_full_batches() -> None:
    trials = 20_000
    hits = matching_attack(torch.tensor([[1.0], [-1.0]]).double(), 2.0, 1.0, 4, trials)
    assert binomtest(hits, trials, robustness(0.5, noise_multiplier=2.0, steps=4).bound).pvalue > 1e-3


def test_the_client_makes_the_noise_that_the_bound_speaks_of() -> None:
    # Without weights the classifier's gradients for the two labels are opposite, and longer than the clipping norm.
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    task = gl.Task(model, gl.TabularSpace(4), num_classes=2)
    client = gl.clients.DPSGD(clip=0.1, noise_multiplier=1.5, expected_batch_size=1)
    found = gl.bounds.client_robustness(client, 0.5, steps=1)
    trials, hits = 300, 0
    for seed in range(trials):
        label = seed % 2
        observation, _ = gl.capture(task, torch.ones(1, 4), torch.tensor([label]), client=client, seed=seed)
        sent = observation.update.tensors
        rise = sum(float((tensor[1] - tensor[0]).sum()) for tensor in sent.values())
        hits += (rise < 0) == (label == 1)
    assert found.bound == pytest.approx(float(norm.cdf(1 / 1.5)))
    assert binomtest(hits, trials, found.bound).pvalue > 1e-3


# ---- accountants, clients, words ---------------------------------------------------------------------------------


def test_accountants_give_their_routes() -> None:
    pytest.importorskip("opacus", reason="needs the extra dp")
    found = robustness(0.1, noise_multiplier=1.0, sampling_rate=0.1, steps=10, draws=50_000)
    assert found.epsilon == pytest.approx(2.865, abs=0.01)
    assert found.accountant == "PRV (opacus)"
    # The privacy profile at the best delta is the blow-up function itself, which PRV overstates by its 0.01 of epsilon.
    assert found.interval[0] < found.routes[APPROXIMATE]
    assert found.routes[APPROXIMATE] < found.routes[RENYI] < found.routes[KNOWN_PARTICIPATION]
    assert found.bound == min(found.routes.values()) == found.routes[SIMULATED] == found.interval[1]
    account = accounts(1.0, 0.1, 10, 1e-5)

    def epsilon(orders: list[float]) -> float:
        divergence = dict(zip(account.orders, account.divergences, strict=True))
        return min(divergence[a] + math.log((a - 1) / a) - (math.log(1e-5) + math.log(a)) / (a - 1) for a in orders)

    assert epsilon([a for a in account.orders if a.is_integer()]) == pytest.approx(3.5515, abs=1e-4)
    assert epsilon(list(account.orders)) == pytest.approx(3.441, abs=1e-3)


def test_hopeless_noise_is_accounted_by_renyi_divergences() -> None:
    pytest.importorskip("opacus", reason="needs the extra dp")
    account = accounts(0.01, 0.5, 1000, 1e-5)  # whose privacy losses would fill all memory in PRV's grid
    assert account.accountant == "RDP (opacus)"
    assert account.epsilon > 1e5


@pytest.mark.usefixtures("without_accountant")
def test_without_opacus_the_bound_stands_and_says_what_is_missing() -> None:
    found = robustness(0.1, noise_multiplier=1.0, sampling_rate=0.1, steps=10, draws=5000)
    assert math.isnan(found.epsilon)
    assert "gradleak[dp]" in found.accountant
    assert SIMULATED in found.routes
    assert RENYI not in found.routes


@pytest.mark.usefixtures("without_accountant")
def test_a_batch_size_that_shows_who_took_part_costs_the_amplification() -> None:
    def of(expected: int | None) -> gl.bounds.ReconstructionRobustness:
        client = gl.clients.DPSGD(clip=3.0, noise_multiplier=1.0, sampling_rate=0.1, expected_batch_size=expected)
        return gl.bounds.client_robustness(client, 0.1, steps=10, draws=5000)

    hidden, shown = of(32), of(None)
    assert hidden.route == SIMULATED
    assert shown.route == KNOWN_PARTICIPATION
    assert shown.bound > hidden.bound + 0.1
    # Ten steps at a tenth, written out.
    weights = [math.comb(10, k) * 0.1**k * 0.9 ** (10 - k) for k in range(11)]
    told = sum(w * float(norm.cdf(norm.ppf(0.1) + math.sqrt(k))) for k, w in enumerate(weights))
    assert shown.bound == pytest.approx(told)
    assert any("expected_batch_size" in line for line in hidden.assumptions)
    assert any("may know in which" in line for line in shown.assumptions)
    assert "added or removed" in shown.adjacency


def test_everything_wrong_is_named_at_once() -> None:
    with pytest.raises(gl.BadInput) as caught:
        gl.bounds.robustness_curve(
            [0.0, 1.0, 0.5, math.nan],
            noise_multiplier=-1.0,
            sampling_rate=1.5,
            steps=0,
            delta=0.0,
            draws=10,
            confidence=1.0,
        )
    names = [problem.partition(":")[0] for problem in caught.value.problems]
    assert names == [*["prior"] * 3, "noise_multiplier", "sampling_rate", "steps", "delta", "draws", "confidence"]
    assert all("\n" not in problem and "; " in problem for problem in caught.value.problems)
    with pytest.raises(gl.BadInput, match="noise_multiplier: expected at least 0, got nan"):
        robustness(0.1, noise_multiplier=math.nan, steps=1)
    with pytest.raises(gl.BadInput, match="noise_multiplier: expected 1e-08 to 100000000.0"):
        robustness(0.1, noise_multiplier=1e-200, steps=1)
    with pytest.raises(gl.BadInput, match="sampling_rate: expected a number in"):
        robustness(0.1, noise_multiplier=1.0, sampling_rate=0.0, steps=1)
    with pytest.raises(gl.BadInput, match="at least one hit rate, got none"):
        gl.bounds.robustness_curve([], noise_multiplier=1.0, steps=1)
