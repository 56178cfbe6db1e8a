"""Of which captured batches an audit computes bounds, and how long that takes: the plan of the bounds."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from gradleak.audits.plan import PlannedTrial
from gradleak.audits.pricing_keys import setting_key
from gradleak.audits.records import mapping, record_id
from gradleak.audits.spec import BoundSpec
from gradleak.audits.summarizing import spec_settings
from gradleak.errors import BadInput


@dataclass(frozen=True)
class PlannedBound:
    """One captured batch whose bound is computed.

    Attributes:
        id: content hash of what changes the bound, 16 hexadecimal digits.
        setting: key of its setting; see `setting_key`.
        batch: number of the batch, from 0.
        trial: the spec of a trial on that batch, whose attack and threat model do not matter.
        prior: see `BoundSpec`.
        max_seconds: see `BoundSpec`.
    """

    id: str
    setting: str
    batch: int
    trial: dict[str, Any]
    prior: str
    max_seconds: float


def plan_bounds(bound: BoundSpec | None, planned: Sequence[PlannedTrial]) -> tuple[PlannedBound, ...]:
    """Every bound of an audit, batch by batch, so that a run that is cut short has looked at every setting.

    Args:
        bound: of the spec; None for no bounds.
        planned: its trials; bounds are of their own batches, networks and seeds.

    Returns:
        One for each captured batch of each setting; attackers share it. None for texts: bounds are of derivatives.
    """
    if bound is None:
        return ()
    found: dict[str, PlannedBound] = {}
    for trial in planned:
        if trial.spec["batch"] >= bound.batches or mapping(trial.spec["space"]).get("name") == "TokenSpace":
            continue
        facts = {key: value for key, value in trial.spec.items() if key not in {"attack", "threat", "code"}}
        code = {key: value for key, value in mapping(trial.spec["code"]).items() if not key.startswith("attack")}
        identity = record_id({"bound": facts, "code": code, "prior": bound.prior})
        if identity not in found:
            key = setting_key(spec_settings(trial.spec))
            batch = int(trial.spec["batch"])
            found[identity] = PlannedBound(identity, key, batch, trial.spec, bound.prior, bound.max_seconds)
    return tuple(found.values())


def expected_seconds(planned: Sequence[PlannedBound], known: Collection[str] = ()) -> float:
    """About how long bounds take, one after the other, from one block of products for each setting.

    Args:
        planned: the bounds.
        known: ids of those that are there.

    Returns:
        Seconds; a bound that is not exact counts as its limit, which is more than it takes.
    """
    left = [one for one in planned if one.id not in known]
    each: dict[str, float] = {}
    for one in left:
        if one.setting not in each:
            each[one.setting] = min(one.max_seconds, _exact_seconds(one))
    return math.fsum(each[one.setting] for one in left)


def _exact_seconds(one: PlannedBound) -> float:
    """Seconds of the exact route; 0 where there is no bound."""
    from gradleak.audits.building import build
    from gradleak.bounds.costs import exact_seconds

    try:
        trial = build(one.trial)
        return exact_seconds(
            trial.task, trial.inputs, trial.targets, client=trial.client, defenses=trial.defenses, seed=trial.seed
        )
    except BadInput:
        return 0.0
