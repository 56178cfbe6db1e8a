"""What an audit will take."""

import math

import pytest

from gradleak.attacks import ATTACKS
from gradleak.audits.estimate import TYPICAL_SECONDS, attack_seconds, estimate
from gradleak.audits.plan import plan
from gradleak.audits.reading import read_spec
from gradleak.audits.records import TrialRecord
from tests.audits.examples import record

SPEC = {
    "trials": 4,
    "model": "tests.audits.factories:net",
    "data": "tests.audits.factories:noise",
    "attack": [{"name": "dlg", "max_seconds": 8}, {"name": "auto", "max_seconds": 2}],
}


def test_every_attack_of_the_package_has_typical_seconds() -> None:
    assert set(TYPICAL_SECONDS) == {factory.__name__ for factory in ATTACKS} - {"using_layers"}


@pytest.mark.parametrize(
    ("attack", "usual", "most"),
    [
        ({"name": "dlg"}, TYPICAL_SECONDS["dlg"], math.inf),
        ({"name": "dlg", "outer_steps": 150}, TYPICAL_SECONDS["dlg"] / 2, math.inf),
        ({"name": "dlg", "restarts": 3, "max_seconds": 20}, 20, 20),
        ({"name": "dlg", "max_evaluations": 100}, 0.4, math.inf),
        ({"name": "using_layers"}, TYPICAL_SECONDS["auto"], 60),
        ({"name": "using_layers", "attack": "dlg", "layers": "first", "max_seconds": 9}, 9, 9),
        ({"name": "auto"}, TYPICAL_SECONDS["auto"], 60),
        ({"name": "tests.audits.factories:quick_dlg"}, 30, math.inf),
    ],
)
def test_seconds_of_an_attack(attack: dict[str, object], usual: float, most: float) -> None:
    assert attack_seconds(attack) == pytest.approx((usual, most))


def test_from_typical_seconds_and_limits() -> None:
    found = estimate(plan(read_spec(SPEC)), [], workers=2)
    assert (found.trials, found.done, found.workers) == (8, 0, 2)
    assert found.seconds == pytest.approx(4 * (8 + 2) / 2)
    assert found.at_most == pytest.approx(4 * (8 + 2) / 2)
    assert "typical" in found.how


def test_from_what_the_folder_holds() -> None:
    planned = plan(read_spec(SPEC))
    stored = [_stored(trial.id, trial.spec, seconds=5.0) for trial in planned[:2]]
    found = estimate(planned, stored, workers=1)
    assert found.done == 2
    assert found.seconds == pytest.approx(6 * 5.0)
    assert found.how == "from the seconds of the trials that the folder holds"
    failed = [replace_status(entry) for entry in stored]
    assert estimate(planned, failed, workers=1).done == 0


def test_nothing_left_takes_no_time() -> None:
    planned = plan(read_spec(SPEC))
    found = estimate(planned, [_stored(trial.id, trial.spec, seconds=5.0) for trial in planned], workers=4)
    assert (found.done, found.seconds, found.at_most) == (8, 0.0, 0.0)


def _stored(identity: str, spec: dict[str, object], seconds: float) -> TrialRecord:
    return record([20.0]).model_copy(update={"id": identity, "spec": spec, "seconds": seconds})


def replace_status(entry: TrialRecord) -> TrialRecord:
    return entry.model_copy(update={"status": "error"})
