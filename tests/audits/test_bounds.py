"""Bounds of an audit: what is planned, what a kill leaves, and what the report says beside the attacks."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gradleak as gl
from gradleak.audits import bounds
from gradleak.audits.audit import declare, run_declared_bounds
from gradleak.audits.bounding import expected_seconds, plan_bounds
from gradleak.audits.bounds import FILE, BoundFacts, BoundRecord, read_bounds, run_bounds
from gradleak.audits.building import build
from gradleak.audits.ceiling_words import bound_sentences, ceiling_sentence
from gradleak.audits.ceilings import Ceiling, ceilings_of
from gradleak.audits.frontier import frontiers_of
from gradleak.audits.pricing_keys import setting_key
from gradleak.audits.records import TrialRecord
from gradleak.audits.report import write_report
from gradleak.audits.report.ceilings import _table  # pyright: ignore[reportPrivateUsage]
from gradleak.audits.report.frontiers import frontier_table
from gradleak.audits.stopping import bound_chance
from gradleak.audits.store import Store
from gradleak.audits.summarizing import capture_of, settings_of, summarize
from gradleak.bounds.photograph_prior import NAME
from gradleak.errors import BadInput
from tests.audits.examples import record

SPEC: dict[str, Any] = {
    "trials": 3,
    "model": {"name": "mlp", "settings": {"hidden": [16], "activation": "tanh"}},
    "data": "digits",
    "defense": ["none", {"name": "GaussianNoise", "std": 0.01}, {"name": "TopK", "keep": 0.02}, {"name": "Sign"}],
    "threat": [{"defense_known": True}, {"defense_known": False}],
    "attack": "linear_layer",
    "bound": {"batches": 2},
    "run": {"backend": "inprocess"},
}


def bound(
    trial: TrialRecord,
    psnr: float,
    *,
    batch: int = 0,
    prior: float = math.nan,
    name: str = "smooth images",
    **more: Any,
) -> BoundRecord:
    facts = {
        "status": "bounded",
        "psnr_ceiling": psnr,
        "precision_ceiling": psnr,
        "unknowns": 36,
        "seconds": 1.0,
        "spread": 0.1,
    }
    own = {"id": str(batch), "setting": setting_key(settings_of(trial)), "batch": batch, "capture": capture_of(trial)}
    prior_facts = {} if math.isnan(prior) else {"prior": name, "prior_psnr_ceiling": prior}
    return BoundRecord.model_validate({**facts, **own, "max_seconds": 60.0, **prior_facts, **more})


def ceiling(trials: list[TrialRecord], *found: BoundRecord) -> Ceiling:
    (one,) = ceilings_of(summarize(trials).groups, trials, found).values()
    return one


def test_attackers_share_the_bounds_of_the_first_batches() -> None:
    planned = declare(SPEC).bounds
    assert len(planned) == 4 * 2
    assert {one.batch for one in planned} == {0, 1}
    assert [one.batch for one in planned] == sorted(one.batch for one in planned)
    assert declare({**SPEC, "bound": None}).bounds == ()
    assert len(declare({**SPEC, "bound": {"batches": 9}}).bounds) == 4 * 3
    # Other means of attack are the same bounds; another seed is not.
    same = declare({**SPEC, "attack": "dlg", "threat": {}, "bound": {"batches": 2, "max_seconds": 5}}).bounds
    assert [one.id for one in same] == [one.id for one in planned]
    assert not {one.id for one in declare({**SPEC, "seed": 1}).bounds} & {one.id for one in planned}
    assert not {one.id for one in declare({**SPEC, "bound": {"prior": "none"}}).bounds} & {one.id for one in planned}


def test_mistakes_in_the_section_are_told_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        declare({**SPEC, "bound": {"batches": 0, "max_second": 3, "prior": "sharp"}})
    assert len(caught.value.problems) == 3
    assert any("did you mean 'max_seconds'" in problem for problem in caught.value.problems)


def test_an_audit_with_bounds_says_what_no_attacker_can_do_better_than(tmp_path: Path) -> None:
    declared = declare(SPEC)
    assert expected_seconds(declared.bounds) > 0
    assert gl.audit(SPEC, out=tmp_path).complete
    records = read_bounds(tmp_path)
    assert {one.id for one in records} == {one.id for one in declared.bounds}
    assert expected_seconds(declared.bounds, {one.id for one in records}) == 0
    # Those of the very batch, network and seed of the trials.
    trial = build(next(one.trial for one in declared.bounds if one.id == records[1].id))
    own = gl.leakage_bound(trial.task, trial.inputs, trial.targets, client=trial.client, defenses=trial.defenses)
    assert records[1].psnr_ceiling == pytest.approx(own.psnr_ceiling)
    contents = Store.open(tmp_path).contents()
    plain, noisy, pruned, signs = contents.ceilings.values()
    assert (plain.noisy, plain.without, plain.trouble) == (False, 0, "")
    assert (noisy.noisy, noisy.without, noisy.trouble) == (True, 0, "")
    assert (pruned.without, pruned.trouble.endswith("of 64 directions free")) == (2, True)
    assert (signs.noisy, signs.without, signs.trouble) == (False, 0, "signs have no derivative")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="bounds"' in page
    assert "GaussianNoise(std=0.01): no unbiased attacker can exceed" in page
    figures = json.loads((tmp_path / "report.json").read_bytes())["bounds"]
    assert [one["label"] for one in figures][0] == "no defense"
    assert {one["prior"] for one in figures} == {"photographs, edges known"}
    assert 0 < records[1].prior_spread < math.sqrt(2)
    assert figures[1]["psnr"]["median"] == pytest.approx(contents.ceilings[figures[1]["setting"]].psnr.median)


def test_bounds_that_are_there_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan_bounds(declare(SPEC).spec.bound, declare({**SPEC, "defense": "none", "trials": 2}).planned)
    calls = 0
    real = bounds._bound  # pyright: ignore[reportPrivateUsage]

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(bounds, "_bound", counted)
    first = run_bounds(planned, tmp_path)
    assert (first.planned, first.done, first.interrupted) == (2, 1, True)
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])  # a kill tore the last line
    assert len(read_bounds(tmp_path)) == 1
    assert run_bounds(planned, tmp_path).done == 2
    assert calls == 3
    assert run_bounds(planned, tmp_path).done == 2
    assert calls == 3
    assert path.read_bytes().startswith(whole)
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(BadInput, match=r"bounds\.jsonl:1: expected a bound"):
        run_bounds(planned, tmp_path)


def test_cut_down_and_failed_bounds_are_computed_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = declare({**SPEC, "defense": "none", "trials": 1, "bound": {"max_seconds": 1e-9}}).bounds
    run_bounds(planned, tmp_path)
    assert [one.status for one in read_bounds(tmp_path)] == ["partial"]
    run_bounds([replace(one, max_seconds=60.0) for one in planned], tmp_path)
    assert [one.status for one in read_bounds(tmp_path)] == ["unbounded"]
    (tmp_path / FILE).unlink()

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(bounds, "_bound", broken)
        assert run_bounds(planned, tmp_path).done == 1
    assert [(one.status, one.message) for one in read_bounds(tmp_path)] == [("error", "RuntimeError: no memory")]
    run_bounds(planned, tmp_path)
    assert read_bounds(tmp_path)[0].status == "error"
    run_bounds(planned, tmp_path, retry_errors=True)
    assert read_bounds(tmp_path)[0].status == "partial"


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    declared = declare({**SPEC, "trials": 1})
    store = Store.open(tmp_path)
    with store.exclusive(), pytest.raises(BadInput, match="nobody else writes"):
        run_declared_bounds(declared, tmp_path)


def test_what_an_attack_reached_is_compared_on_the_same_batches() -> None:
    trials = [record([20.0], seed=0), record([40.0], seed=1)]
    found = ceiling(trials, bound(trials[0], 23.0))
    assert (found.reached[0].psnr, found.reached[0].batches, found.reached[0].ahead) == (20.0, 1, -3.0)
    assert "no unbiased attacker can exceed 23.0 dB on 1 captured batch" in ceiling_sentence(found)
    assert "There dlg reached 20.0 dB, 3.0 dB below." in ceiling_sentence(found)


def test_an_attack_above_the_ceiling_is_said_to_use_a_prior() -> None:
    trials = [record([25.0])]
    words = ceiling_sentence(ceiling(trials, bound(trials[0], 23.0, prior=27.0)))
    assert "2.0 dB above, so it uses a prior" in words
    assert 'It is 2.0 dB below that with the prior "smooth images".' in words
    assert "it is biased" in words
    assert "no attacker at all exceeds 27.0 dB on average" in words
    assert "second ceiling" not in words
    above = ceiling_sentence(ceiling(trials, bound(trials[0], 23.0, prior=24.0)), brief=True)
    assert 'It is 1.0 dB above the second ceiling too, that with the prior "smooth images"' in above


def test_an_attack_a_little_above_the_ceiling_is_lucky_and_not_biased() -> None:
    trials = [record([23.3])]
    words = ceiling_sentence(ceiling(trials, bound(trials[0], 23.0)))
    assert "0.3 dB above, within luck" in words
    assert "prior" not in words


def test_luck_is_that_of_the_best_unbiased_attacker() -> None:
    # Errors of one direction: P(chi2_1 <= x), which the gamma law meets exactly.
    trials = [record([20.0])]
    found = ceiling(trials, bound(trials[0], 10.0, spread=math.sqrt(2)))
    assert found.reached[0].luck == pytest.approx(math.erf(math.sqrt(0.1 / 2)))
    generator = torch.Generator().manual_seed(0)
    variances = torch.tensor([1.0, 0.5, 0.25, 0.1])
    errors = (torch.randn(200_000, 4, generator=generator).square() * variances).sum(1) / variances.sum()
    spread = float(math.sqrt(2) * variances.norm() / variances.sum())
    assert float(errors.std()) == pytest.approx(spread, rel=0.01)
    close = ceiling(trials, bound(trials[0], 20.0 + 10 * math.log10(0.5), spread=spread)).reached[0].luck
    assert close == pytest.approx(float((errors <= 0.5).float().mean()), abs=0.03)


def test_the_error_of_a_batch_counts_and_not_its_mean_psnr() -> None:
    trials = [record([10.0, 60.0], examples=(1, 2))]
    assert ceiling(trials, bound(trials[0], 23.0)).reached[0].psnr == pytest.approx(13.01, abs=0.01)


def test_settings_without_a_ceiling_say_why() -> None:
    trials = [record([25.0])]
    free = bound(trials[0], -math.inf, status="free_directions", free_directions=4)
    found = ceiling(trials, free)
    assert found.trouble == "4 of 36 directions free"
    assert math.isnan(found.psnr.median)
    assert "4 of 36 directions leave no trace" in ceiling_sentence(found)
    given = ceiling_sentence(
        ceiling(trials, bound(trials[0], -math.inf, status="free_directions", free_directions=4, prior=26.5))
    )
    assert "granted of inputs" in given
    assert "It is 1.5 dB below that with" in given
    failed = bound(trials[0], math.nan, status="not_applicable", message="model: expected one that has derivatives")
    found = ceiling(trials, failed)
    assert found.trouble == "not differentiable"
    assert "there is no bound: model: expected one that has derivatives" in ceiling_sentence(found)
    (frontier,) = frontiers_of(summarize(trials, (20.0,)).groups, (), threshold=20.0, ceilings={found.setting: found})
    assert (frontier.points[0].bound, frontier.points[0].bound_trouble) == (None, "not differentiable")


PHOTOGRAPHS: dict[str, Any] = {"name": NAME, "prior_spread": 0.2, "smooth": True}


def test_a_bound_stops_only_attackers_that_it_is_about() -> None:
    trials = [record([9.0], seed=seed, status="budget") for seed in range(2)]

    def chance(*priors: float, at: float = 20.0, size: int = 1, **more: Any) -> float:
        facts: dict[str, Any] = {**PHOTOGRAPHS, **more}
        pairs = enumerate(zip(trials, priors, strict=False))
        found = [bound(trial, 3.0, batch=number, prior=psnr, **facts) for number, (trial, psnr) in pairs]
        return bound_chance(ceiling(trials, *found), at, size)

    # The law of a squared error of independent parts, by the most exposed batch.
    variances = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = float(math.sqrt(2) * variances.norm() / variances.sum())
    errors = (
        torch.randn(50_000, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64).square() @ variances
    )
    share = float((errors / variances.sum() < 10**-0.1).double().mean())
    assert chance(12.0, 19.0, prior_spread=spread) == pytest.approx(share, abs=0.01)
    assert chance(12.0, 19.0) < chance(19.5, 19.0) < 0.5 < chance(21.0, 20.5)
    assert math.isnan(bound_chance(None, 20.0, 1))
    refused: tuple[dict[str, Any], ...] = (
        {"name": "smooth images"},
        {"smooth": False},
        {"status": "partial"},
        {"prior_spread": math.nan},
    )
    assert all(math.isnan(chance(12.0, 13.0, **more)) for more in refused)
    assert math.isnan(chance(12.0, 13.0, size=2))
    assert math.isnan(chance(12.0, 13.0, status="error"))


def test_a_setting_that_no_search_settled_is_stopped_by_its_bound() -> None:
    trials = [record([9.0], seed=seed, status="budget") for seed in range(3)]
    groups = summarize(trials, (20.0,)).groups
    states: list[str] = []
    for psnr in (16.0, 20.5):
        found = ceiling(trials, bound(trials[0], -4.0, **PHOTOGRAPHS, prior=psnr))
        (frontier,) = frontiers_of(groups, (), threshold=20.0, ceilings={found.setting: found})
        states.append(frontier.points[0].state)
        row = frontier_table(frontier).rows[0]
        assert ("stopped by the bound" in row) == (states[-1] == "bounded")
        assert f"{psnr:.1f}" in row
    assert states == ["bounded", "open"]
    (frontier,) = frontiers_of(groups, (), threshold=20.0)
    assert frontier.points[0].state == "open"


def test_only_noise_on_what_does_not_jump_makes_a_bound_of_that_kind(tmp_path: Path) -> None:
    noise, top = {"name": "GaussianNoise", "std": 0.01}, {"name": "TopK", "keep": 0.5}
    spec = {**SPEC, "trials": 1, "defense": ["none", noise, [{"name": "Clip", "norm": 1.0}, noise], [top, noise]]}
    run_bounds(declare(spec).bounds, tmp_path)
    assert [one.smooth for one in read_bounds(tmp_path)] == [False, True, True, False]


def test_the_frontier_has_the_median_ceiling_with_its_ends() -> None:
    trials = [record([5.0], seed=seed) for seed in range(3)]
    found = ceiling(
        trials, *(bound(trial, psnr, batch=n) for n, (trial, psnr) in enumerate(zip(trials, (9, 3, 4), strict=True)))
    )
    (frontier,) = frontiers_of(summarize(trials, (20.0,)).groups, (), threshold=20.0, ceilings={found.setting: found})
    assert (frontier.points[0].bound, frontier.points[0].bound_ends) == (4.0, (3.0, 9.0))


def test_a_later_bound_of_a_batch_replaces_an_earlier_one() -> None:
    trials = [record([5.0])]
    assert ceiling(trials, bound(trials[0], 10.0, id="a"), bound(trials[0], 12.0, id="b")).psnr.median == 12.0


def test_the_prior_is_that_of_photographs_where_there_is_one() -> None:
    def prior(**changes: Any) -> str | None:
        planned = declare({**SPEC, "defense": "none", "trials": 1, **changes}).bounds[0]
        return bounds._prior(build(planned.trial), planned.prior)  # pyright: ignore[reportPrivateUsage]

    assert prior(batch_size=64) == "photographs"
    assert prior(batch_size=65) == "smoothness"  # 4160 values
    assert prior(bound={"prior": "smoothness"}) == "smoothness"
    assert prior(bound={"prior": "none"}) is None


def test_a_table_names_the_prior_once_or_in_each_row() -> None:
    trials = [record([20.0]), record([20.0, 20.0], examples=(1, 2))]
    one, two = (bound(trial, 23.0, prior=27.0) for trial in trials)
    pair = ceilings_of(summarize(trials).groups, trials, [one, two])
    assert 'ceiling with the prior "smooth images", dB [min, max]' in _table(list(pair.values())).header
    other = two.model_copy(update={"prior": "photographs, edges known"})
    table = _table(list(ceilings_of(summarize(trials).groups, trials, [one, other]).values()))
    assert "ceiling with the prior, dB [min, max]" in table.header
    assert [row[3] for row in table.rows] == ["27.0, smooth images", "27.0, photographs, edges known"]


def test_verdicts_cover_every_outcome() -> None:
    made = {
        "bounded": BoundFacts(status="bounded", psnr_ceiling=20.0, precision_ceiling=20.0, unknowns=64),
        "unbounded": BoundFacts(status="unbounded", psnr_ceiling=math.inf, precision_ceiling=90.0, unknowns=64),
        "free": BoundFacts(
            status="free_directions",
            psnr_ceiling=-math.inf,
            precision_ceiling=-math.inf,
            free_directions=3,
            unknowns=64,
            prior="smooth images",
            prior_psnr_ceiling=15.0,
        ),
        "nothing": BoundFacts(status="nothing", psnr_ceiling=-math.inf, precision_ceiling=-math.inf, unknowns=64),
        "signs": BoundFacts(status="unbounded", psnr_ceiling=math.inf, precision_ceiling=90.0, before_signs=True),
        "failed": BoundFacts(status="not_applicable", message="model: no"),
    }
    first = {name: bound_sentences([facts], 1)[0] for name, facts in made.items()}
    assert first["bounded"] == "No unbiased attacker exceeds 20.0 dB on this example."
    assert "only rounding stops an unbiased attacker, at about 90.0 dB on this example" in first["unbounded"]
    assert "3 of 64 directions leave no trace" in first["free"]
    assert "does not depend on the input" in first["nothing"]
    assert first["signs"].startswith("Signs have no derivative")
    assert first["failed"] == "No bound on this example: model: no"
    assert "no attacker at all exceeds 15.0 dB on average" in bound_sentences([made["free"]], 1)[1]
    both = bound_sentences([made["bounded"], made["free"]], 2)
    assert both[0] == "No unbiased attacker exceeds 20.0 dB on 1 of 2 batches of 2."
