"""The frontier of a report: foreign names are shown and not run, and settings without an accuracy say why."""

import html
import json
import re
from pathlib import Path
from typing import Any

import gradleak as gl
from gradleak.audits.audit import declare
from gradleak.audits.prices import FILE, PriceRecord, read_prices
from gradleak.audits.pricing_keys import setting_key
from gradleak.audits.records import TrialRecord, record_id
from gradleak.audits.report import write_report
from gradleak.audits.store import Store
from gradleak.audits.summarizing import spec_settings
from tests.audits.examples import images, record

EVIL = '<script>alert("a&b")</script>'

SPEC: dict[str, Any] = {
    "trials": 1,
    "model": {"name": "mlp", "settings": {"hidden": [8]}},
    "data": "digits",
    "attack": "linear_layer",
    "price": {"epochs": 1, "examples": 64, "batch_size": 8, "seeds": 2},
    "run": {"backend": "inprocess"},
}


def section(page: str) -> str:
    """Markup of the frontier and of the sentence about it beside the verdict."""
    found = re.findall(r'<section id="(?:verdict|frontier)".*?</section>', page, flags=re.DOTALL)
    assert len(found) == 2
    return "".join(found)


def shown(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


def named(model: str, defenses: list[dict[str, str]], leaked: float) -> TrialRecord:
    """A trial of a foreign model, data set, client and defense."""
    one = record([leaked], data=EVIL)
    spec = {**one.spec, "model": {"name": model}, "client": {"name": EVIL, "lr": EVIL}, "defenses": defenses}
    return one.model_copy(update={"spec": spec, "id": record_id(spec)})


def test_names_and_messages_of_others_are_shown_and_not_run(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    trials = [named(EVIL, [], 40.0), named(EVIL, [{"name": f"tests:{EVIL}", "keep": EVIL}], 5.0)]
    trials.append(named("plain", [], 40.0))
    prices: list[PriceRecord] = []
    for trial, message in zip(trials, ("", EVIL, ""), strict=True):
        store.append(trial, images(1))
        key = setting_key(spec_settings(trial.spec))
        facts = {"status": "error", "message": message} if message else {"status": "finished", "accuracy": 0.5}
        prices.append(PriceRecord.model_validate({"id": key, "seed": 0, "settings": (key,), **facts}))
    (tmp_path / FILE).write_text("".join(one.model_dump_json() + "\n" for one in prices))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    frontier = section(page)
    assert "<script" not in page
    assert "<script" not in (tmp_path / "summary.html").read_text(encoding="utf-8")
    assert f"{EVIL}, {EVIL}" in shown(frontier)  # the title: model and data
    assert f"tests:{EVIL}(keep={EVIL})" in shown(frontier)
    assert f" {EVIL} " in shown(re.findall(r"<tr.*?</tr>", frontier, flags=re.DOTALL)[2])  # why it has no accuracy
    assert "&amp;b" in frontier
    assert "&amp;amp;" not in frontier  # escaped once
    assert EVIL.replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;").replace("&b", "&amp;b") in frontier


def test_local_training_and_aggregates_have_their_price_and_their_place(tmp_path: Path) -> None:
    local = {"name": "LocalSGD", "lr": 0.1, "epochs": 2, "shuffle": False}
    clients = ["Gradient", local, {"name": "Aggregate", "clients": ["Gradient"], "count": 2}]
    spec = {**SPEC, "client": clients, "batch_size": 2, "defense": ["none", {"name": "TopK", "keep": 0.1}]}
    trainings = [one.training for one in declare(spec).prices]
    assert None not in trainings
    assert [one.workers for one in trainings if one is not None and one.federated is None] == [1, 1, 2, 2] * 2
    assert sum(one is not None and one.federated is not None for one in trainings) == 4
    assert gl.audit(spec, out=tmp_path).complete
    (found,) = Store.open(tmp_path).contents().frontiers
    assert [one.label for one in found.points] == [
        f"{defense}, {client}"
        for client in ("Gradient", "LocalSGD(epochs=2, lr=0.1)", "Aggregate(count=2)")
        for defense in ("no defense", "TopK(keep=0.1)")
    ]
    assert all(one.seeds == 2 and one.trouble == "" for one in found.points)
    # A defense is compared with the same client without one.
    for plain, pruned in zip(found.points[::2], found.points[1::2], strict=True):
        assert abs(pruned.price.value - (plain.accuracy.value - pruned.accuracy.value)) < 1e-12
    assert len({one.accuracy.value for one in found.points}) > 2
    assert 'id="frontier"' in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_training_that_diverges_has_no_accuracy_and_is_no_recommendation(tmp_path: Path) -> None:
    wild = {**SPEC, "price": {**SPEC["price"], "optimizer": {"lr": 1e30}}}
    done = gl.audit({**wild, "defense": ["none", {"name": "Clip", "norm": 1e-30}]}, out=tmp_path)
    assert done.complete
    assert {one.status for one in read_prices(tmp_path)} == {"diverged", "finished"}
    (found,) = Store.open(tmp_path).contents().frontiers
    assert found.points[0].trouble == "training diverged in 2 of 2"
    assert found.points[0].seeds == 0
    assert found.points[1].seeds == 2
    assert not found.points[0].dominated
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "training diverged in 2 of 2" in shown(section(page))
    assert "NaN" not in section(page)
    json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_data_without_labels_are_attacked_and_their_frontier_says_why_there_is_no_price(tmp_path: Path) -> None:
    assert gl.audit({**SPEC, "data": {"name": "digits", "only": ["3"], "classes": 10}}, out=tmp_path).complete
    (found,) = Store.open(tmp_path).contents().frontiers
    assert [(one.seeds, one.trouble) for one in found.points] == [(0, "the data have no labels to be right about")]
    frontier = section(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "the data have no labels to be right about" in shown(frontier)
    assert "<svg" not in frontier.split('id="frontier"')[1]  # there is no dot to draw
