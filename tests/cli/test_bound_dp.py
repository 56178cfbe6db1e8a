"""`gradleak bound-dp`."""

import json
import sys

import pytest

from gradleak.cli.bound_dp import _percent  # pyright: ignore[reportPrivateUsage]  # its rounding is a promise
from tests.cli.running import run


@pytest.fixture(autouse=True)
def without_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)


def test_the_bound_is_told_with_its_route_and_assumptions() -> None:
    done = run("bound-dp", "--noise-multiplier", 5, "--steps", 10, "--candidates", 10)
    assert (done.code, done.err) == (0, "")
    words = " ".join(done.out.split())
    assert "At most 25.9 % of reconstructions succeed" in words
    assert "full batch, closed form" in words
    assert "interval" not in words  # a closed form has none
    assert "It holds under these assumptions" in words
    assert "added or removed" in words
    assert "opacus is not installed" in words


def test_json_holds_everything() -> None:
    words = ("--noise-multiplier", 1, "--sampling-rate", 0.1, "--steps", 10, "--draws", 5000, "--delta", 1e-6)
    done = run("bound-dp", *words, "--prior", 0.01, "--prior", 0.1, "--candidates", 4, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert [each["prior"] for each in found] == [0.01, 0.1, 0.25]
    assert [each["bound"] for each in found] == sorted(each["bound"] for each in found)
    for each in found:
        assert each["prior"] < each["bound"] == each["routes"][each["route"]]
        assert each["interval"][1] == each["bound"]
        assert (each["confidence"], each["delta"], each["epsilon"]) == (0.99, 1e-6, None)
    told = run("bound-dp", *words, "--prior", 0.1).out
    assert "99 % confidence" in " ".join(told.split())
    known = run("bound-dp", *words, "--prior", 0.1, "--participation-known", "--json")
    assert json.loads(known.out)[0]["bound"] > found[1]["bound"]


def test_lines_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradleak.cli.console.console.width", 60)
    done = run(
        "bound-dp", "--noise-multiplier", 1, "--sampling-rate", 0.1, "--steps", 10, "--draws", 5000, "--prior", 0.1
    )
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 60


def test_everything_wrong_is_named_at_once() -> None:
    wrong = ("--noise-multiplier", -1, "--sampling-rate", 0, "--steps", 0, "--candidates", 1, "--delta", 2)
    done = run("bound-dp", *wrong, "--prior", 1)
    assert (done.code, done.out) == (2, "")
    names = [problem.split(":")[1].strip() for problem in done.problems]
    assert names == ["--candidates", "--prior", "--noise-multiplier", "--sampling-rate", "--steps", "--delta"]
    assert len(done.err.splitlines()) == 6


def test_a_prior_is_asked_for() -> None:
    done = run("bound-dp", "--noise-multiplier", 1, "--sampling-rate", 0.1, "--steps", 1000, "--draws", 10)
    assert done.code == 2
    assert [problem.split(":")[1].strip() for problem in done.problems] == ["--prior", "--draws"]


@pytest.mark.parametrize(
    ("share", "told"),
    [(0.25813, "25.9 %"), (0.1, "10 %"), (0.2, "20 %"), (1.0, "100 %"), (0.99999, "100 %"), (1e-6, "0.0001 %")],
)
def test_a_bound_is_rounded_up(share: float, told: str) -> None:
    assert _percent(share) == told
