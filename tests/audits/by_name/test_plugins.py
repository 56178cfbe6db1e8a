"""Plugins: found in the metadata of installed distributions, loaded when they are named."""

import json
import sys
from pathlib import Path

import pytest

from gradleak.audits.building import build
from gradleak.audits.by_name.plugins import KINDS, plugins
from gradleak.audits.plan import plan
from gradleak.audits.reading import read_spec
from gradleak.audits.trial import run_trial
from gradleak.errors import BadInput
from tests.cli.running import run

MODULE = """
from dataclasses import dataclass

from gradleak.attacks import dlg
from gradleak.clients import Gradient
from gradleak.defenses import GaussianNoise
from gradleak.zoo.models import mlp
from tests.audits.factories import noise

def small_dlg(*, steps: int = 1):
    return dlg(outer_steps=steps)

@dataclass(frozen=True)
class PluggedClient(Gradient):
    pass

@dataclass(frozen=True)
class PluggedNoise(GaussianNoise):
    pass

def plugged_net(hidden: int = 3):
    return mlp(16, (hidden,), 3, seed=1)
"""

ENTRIES = """
[gradleak.attacks]
small_dlg = NAME:small_dlg
broken_attack = NAME_that_is_gone:attack
[gradleak.clients]
plugged_client = NAME:PluggedClient
[gradleak.defenses]
plugged_noise = NAME:PluggedNoise
[gradleak.models]
plugged_net = NAME:plugged_net
[gradleak.data]
plugged_data = NAME:noise
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution as an installer leaves it: a module, and metadata with entry points."""
    name = "gradleak_test_plugin"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    info = tmp_path / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: gradleak-test-plugin\nVersion: 1.2\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(ENTRIES.replace("NAME", name), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_plugins_are_found_and_not_loaded(installed: str) -> None:
    found = {kind: [plugin.name for plugin in plugins(kind)] for kind in KINDS}
    assert {"small_dlg", "broken_attack"} <= set(found["attacks"])
    assert "plugged_client" in found["clients"]
    assert "plugged_noise" in found["defenses"]
    assert "plugged_net" in found["models"]
    assert "plugged_data" in found["data"]
    assert installed not in sys.modules


@pytest.mark.parametrize("kind", KINDS)
def test_plugins_are_listed_with_who_brings_them(installed: str, kind: str) -> None:
    entries = json.loads(run("list", kind, "--json").out)
    own = [entry for entry in entries if "gradleak-test-plugin 1.2" in entry["summary"]]
    assert own
    assert all(set(entry) == set(entries[0]) for entry in entries)
    assert all(entry["name"] in run("list", kind).out for entry in own)
    assert installed not in sys.modules


def test_a_spec_names_plugins_as_it_names_everything(installed: str) -> None:
    spec = read_spec(
        {
            "trials": 1,
            "model": {"name": "plugged_net", "settings": {"hidden": 2}},
            "data": "plugged_data",
            "client": "plugged_client",
            "defense": {"name": "plugged_noise", "std": 1e-3},
            "attack": {"name": "small_dlg", "steps": 2},
        }
    )
    (trial,) = plan(spec)
    assert set(trial.spec["code"]) == {"model", "client", "defense.0", "attack", "data"}
    record, _ = run_trial(build(json.loads(json.dumps(trial.spec))))
    assert record.id == trial.id
    assert record.status in {"budget", "converged"}


def test_a_broken_plugin_is_told_when_it_is_named(installed: str) -> None:
    spec = {"model": "plugged_net", "data": "plugged_data"}
    read_spec(spec)
    with pytest.raises(BadInput) as caught:
        read_spec({**spec, "attack": "broken_attack"})
    (problem,) = caught.value.problems
    assert problem.startswith(
        "spec attack.name: expected the plugin 'broken_attack' of gradleak-test-plugin 1.2 to load"
    )
    assert "ModuleNotFoundError" in problem
    assert "update or uninstall" in problem


@pytest.mark.usefixtures("installed")
def test_plugins_are_among_the_names_that_a_message_offers() -> None:
    with pytest.raises(BadInput, match="did you mean 'small_dlg'"):
        read_spec({"model": "plugged_net", "data": "plugged_data", "attack": "smal_dlg"})
