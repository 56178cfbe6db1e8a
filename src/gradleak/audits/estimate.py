"""How large an audit is and how long it will take, before anything is run."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradleak.audits.by_name.components import attack_factory
from gradleak.audits.by_name.settings import parameters
from gradleak.audits.plan import PlannedTrial
from gradleak.audits.records import TrialRecord, mapping

TYPICAL_SECONDS = {
    "auto": 3.0,
    "linear_layer": 0.1,
    "layer_recursion": 0.2,
    "r_gap": 0.2,
    "residual_peeling": 20.0,
    "position_gradient": 0.1,
    "april": 0.1,
    "spear": 5.0,
    "softmax_separation": 0.2,
    "cocktail_party": 5.0,
    "staged": 5.0,
    "maximum_a_posteriori": 5.0,
    "finite_differences": 6.0,
    "relu_inversion": 15.0,
    "batch_norm_inversion": 15.0,
    "dropout_inversion": 10.0,
    "batch_restoration": 10.0,
    "precode_inversion": 10.0,
    "local_training": 10.0,
    "sme": 8.0,
    "order_invariant": 10.0,
    "dlg": 15.0,
    "idlg": 15.0,
    "cpl": 15.0,
    "inverting_gradients": 20.0,
    "sapag": 8.0,
    "gradinversion": 300.0,
    "learned": 0.1,
    "dlg_text": 30.0,
    "tag": 20.0,
    "lamp": 120.0,
    "dager": 5.0,
    "token_bag": 1.0,
}
"""Rough seconds of an attack with its own settings on a LeNet and one color image of 32x32, on one core."""

UNKNOWN_SECONDS = 30.0
"""For an attack that is neither in the table nor limited in seconds."""

REPEATING = ("outer_steps", "steps", "max_steps", "restarts")
"""Settings to which the time of an attack is proportional."""

SECONDS_PER_EVALUATION = 0.004


@dataclass(frozen=True)
class TimeEstimate:
    """What a run of a plan would take.

    Attributes:
        trials: planned.
        done: of these, how many the folder holds already.
        seconds: wall time of the rest, roughly.
        at_most: wall time if every attack uses all the seconds that it is allowed; infinite if one has no limit.
        workers: trials at the same time.
        how: what the estimate was made from, in words.
    """

    trials: int
    done: int
    seconds: float
    at_most: float
    workers: int
    how: str


def estimate(planned: Sequence[PlannedTrial], stored: Iterable[TrialRecord], workers: int) -> TimeEstimate:
    """Estimate the time of a run.

    Args:
        planned: the trials.
        stored: what the folder holds; trials of the same attack, model and batch size tell how long others take.
        workers: trials at the same time.

    Returns:
        The estimate.
    """
    records = [record for record in stored if record.status != "error"]
    done = {record.id for record in records}
    measured: dict[str, list[float]] = {}
    for record in records:
        if math.isfinite(record.seconds):
            measured.setdefault(_kind(record.spec), []).append(record.seconds)
    seconds = {kind: statistics.fmean(values) for kind, values in measured.items()}
    known: dict[str, tuple[float, float, bool]] = {}
    left = [trial for trial in planned if trial.id not in done]
    total = longest = 0.0
    for trial in left:
        kind = _kind(trial.spec)
        if kind not in known:
            usual, most = attack_seconds(trial.spec["attack"])
            known[kind] = (seconds.get(kind, usual), most, kind in seconds)
        total += known[kind][0]
        longest += known[kind][1]
    share = max(1, min(workers, len(left)))
    by_store = sum(from_store for _, _, from_store in known.values())
    return TimeEstimate(
        len(planned), len(planned) - len(left), total / share, longest / share, share, _how(by_store, len(known))
    )


def attack_seconds(attack: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds that an attack usually takes, and the most that it may.

    Args:
        attack: name and settings.

    Returns:
        Both; the second is infinite if the attack has no limit in seconds.
    """
    name = str(attack["name"])
    if name == "using_layers":  # as long as the attack inside
        inner = str(attack.get("attack", "auto"))
        own = {key: value for key, value in attack.items() if key in {"restarts", "max_evaluations", "max_seconds"}}
        return attack_seconds({"name": inner, "max_seconds": 60.0, **dict(attack.get("settings") or {}), **own})
    defaults, _ = parameters(attack_factory(name))
    settings = {key: parameter.default for key, parameter in defaults.items()} | dict(attack)
    limit = settings.get("max_seconds")
    most = float(limit) if isinstance(limit, int | float) else math.inf
    usual = TYPICAL_SECONDS.get(name, min(most, UNKNOWN_SECONDS))
    for key in REPEATING:
        own = defaults[key].default if key in defaults else None
        value = settings.get(key)
        if isinstance(own, int) and own > 0 and isinstance(value, int):
            usual *= value / own
    evaluations = settings.get("max_evaluations")
    if isinstance(evaluations, int):
        usual = min(usual, evaluations * SECONDS_PER_EVALUATION)
    return min(usual, most), most


def _kind(spec: Mapping[str, Any]) -> str:
    """Trials with the same text take about the same time."""
    model = mapping(spec.get("model"))
    examples = spec.get("examples")
    count = len(examples) if isinstance(examples, list) else 0
    network = {key: value for key, value in model.items() if key not in {"seed", "digest"}}
    data = mapping(spec.get("data"))
    return repr((spec.get("attack"), count, network, data.get("size"), data.get("settings"), data.get("objective")))


def _how(by_store: int, kinds: int) -> str:
    table = (
        "typical seconds of each attack with its settings on a LeNet and one 32x32 image (larger models and batches "
        "take longer)"
    )
    if by_store == 0:
        return f"from {table}"
    if by_store == kinds:
        return "from the seconds of the trials that the folder holds"
    return f"from the seconds of the trials that the folder holds where there are any, and else from {table}"
