"""`gradleak bound-dp`: what differentially private training leaves to any attacker."""

import math
from dataclasses import asdict
from typing import Annotated, Any

import typer

from gradleak.bounds import ReconstructionRobustness, robustness_curve, uniform_prior_hit_rate
from gradleak.bounds.robustness_terms import prior_problems, setting_problems
from gradleak.cli.console import console, errors, facts_table, number, print_json
from gradleak.cli.loading import AsJson
from gradleak.errors import BadInput, refuse

# Draws times steps that take about half a minute, from which on a word is said before.
_LONG = 500_000_000


def bound_dp(
    noise_multiplier: Annotated[float, typer.Option(help="Noise in units of the clipping norm; 0 is none.")],
    steps: Annotated[int, typer.Option(help="Steps of the training, all of which the attacker sees.")],
    sampling_rate: Annotated[
        float, typer.Option(help="Probability with which a record takes part in a step; 1 is full batches.")
    ] = 1.0,
    prior: Annotated[
        list[float] | None,
        typer.Option(help="Success rate of the best guess without an update, in (0, 1); repeat it for several."),
    ] = None,
    candidates: Annotated[
        list[int] | None,
        typer.Option(help="The same as one over this many equally likely candidates; repeat it for several."),
    ] = None,
    participation_known: Annotated[
        bool, typer.Option("--participation-known", help="The attacker may know in which steps the record took part.")
    ] = False,
    delta: Annotated[float, typer.Option(help="For the epsilon that is printed beside the bound.")] = 1e-5,
    confidence: Annotated[float, typer.Option(help="With which a simulated bound holds.")] = 0.99,
    draws: Annotated[int, typer.Option(help="Draws of the simulation.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Bound how often any attacker can reconstruct a record from differentially private training."""
    priors, problems = _priors(prior or [], candidates or [])
    problems += prior_problems(priors) if priors else []
    problems += setting_problems(noise_multiplier, sampling_rate, steps, delta, draws, confidence)
    refuse(_as_option(problem) for problem in problems)
    if sampling_rate < 1 and not participation_known and draws * steps > _LONG:
        minutes = draws * steps / _LONG / 2
        errors.print(f"simulating {draws} draws of {steps} steps, about {minutes:.0f} min; --draws 10000 is quicker")
    found = robustness_curve(
        priors,
        noise_multiplier=noise_multiplier,
        steps=steps,
        sampling_rate=sampling_rate,
        participation_known=participation_known,
        delta=delta,
        draws=draws,
        confidence=confidence,
        seed=seed,
    )
    if as_json:
        print_json([_plain(each) for each in found])
        return
    for each in found:
        _show(each)
    console.print("It holds under these assumptions:")
    for line in found[0].assumptions:
        console.print(f"- {line}")


def _priors(given: list[float], candidates: list[int]) -> tuple[list[float], list[str]]:
    """All prior hit rates in the order of the options, and what is wrong about them."""
    priors, problems = list(given), list[str]()
    for count in candidates:
        try:
            priors.append(uniform_prior_hit_rate(count))
        except BadInput as error:
            problems += error.problems
    if not given and not candidates:
        problems.append("prior: expected a hit rate, got none; give --prior 0.1, or --candidates 10 for the same")
    return priors, problems


def _as_option(problem: str) -> str:
    name, colon, rest = problem.partition(":")
    return f"--{name.replace('_', '-')}{colon}{rest}"


def _show(found: ReconstructionRobustness) -> None:
    low, high = found.interval
    rows = [("prior", f"{_percent(found.prior)} of best guesses succeed without an update"), ("route", found.route)]
    if found.confidence < 1:
        rows.append(
            (
                "interval",
                f"{_percent(low)} to {_percent(high)} ({_percent(found.confidence)} confidence, upper end holds)",
            )
        )
    rows.append(("epsilon", f"{number(found.epsilon)} at delta {number(found.delta)}; {found.accountant}"))
    others = sorted((value, name) for name, value in found.routes.items() if name != found.route)
    rows += [("also valid" if index == 0 else "", f"{_percent(v)}  {name}") for index, (v, name) in enumerate(others)]
    console.print(facts_table(f"At most {_percent(found.bound)} of reconstructions succeed", rows))
    console.print()


def _percent(share: float) -> str:
    """In three digits, rounded up at the third, since a bound must not look lower than it is."""
    if share <= 0:
        return "0 %"
    unit = 10.0 ** (math.floor(math.log10(100 * share)) - 2)
    return f"{min(100.0, math.ceil(round(100 * share / unit, 6)) * unit):.3g} %"


def _plain(found: ReconstructionRobustness) -> dict[str, Any]:
    return {**asdict(found), "routes": dict(found.routes)}
