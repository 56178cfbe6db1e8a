"""The report: everything in one file, nothing from outside, text from records shown and never run."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gradleak.audits.records import Course, TrialRecord
from gradleak.audits.report import write_report
from gradleak.audits.report.axes import axes_of
from gradleak.audits.report.choosing import DRAWN_CARDS, choose
from gradleak.audits.report.words import verdict
from gradleak.audits.store import Store
from gradleak.audits.summarizing import summarize
from gradleak.errors import BadInput
from tests.audits.examples import columns, images, record

EVIL = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'
COURSE = Course(
    evaluations=(1, 10, 100),
    objective=(3.0, 1e-2, 0.0),
    snapshot_evaluations=(1, 10, 100),
    psnr=((5.0,), (20.0,), (float("inf"),)),
)


def reported(folder: Path, *records: TrialRecord) -> str:
    store = Store.open(folder)
    for kept in records:
        store.append(kept, images(kept.batch_size))
    return write_report(folder).read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Collects every element with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(page)
    return parser.found


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)))


@pytest.fixture
def page(tmp_path: Path) -> str:
    return reported(
        tmp_path,
        record([42.5], course=COURSE),
        record([6.2], attack="idlg", status="budget", course=COURSE),
        record([18.0, 55.0], data="photographs", examples=(3, 4), status="nonfinite"),
    )


def test_the_verdict_comes_first_with_worst_case_beside_median(page: str) -> None:
    text = text_of(page)
    assert text.index("2 of 3 private images were reconstructed almost exactly.") < text.index("What the attacker held")
    assert "photographs image 4, at 55.0 dB by dlg" in text
    assert "Median of the best reconstruction of each image: 42.5 dB" in text
    assert "1 of 3 trials reproduced the shared update" in text
    assert "1 ended before it got there, 1 diverged: a failed attack is not the same as no leak" in text


def test_every_section_is_there(page: str) -> None:
    ids = {attributes.get("id") for _, attributes in elements(page)}
    assert {"verdict", "ledger", "leakage", "pictures", "course", "repeat", "words"} <= ids
    text = text_of(page)
    assert "withheld" in text
    assert "gray card" in text
    assert "gradleak demo --seed 0" in text
    assert "6 to 79" not in text  # no interval of one of three here
    assert "1 of 1" in text


def test_nothing_is_loaded_from_outside(page: str) -> None:
    for tag, attributes in elements(page):
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on")]
    style = re.findall(r"<style.*?</style>", page, flags=re.DOTALL)
    assert not re.search(r"@import|url\((?!#)", " ".join(style))


def test_every_picture_has_words(page: str) -> None:
    pictures = [attributes for tag, attributes in elements(page) if tag == "img"]
    # hero 2, wall 2 for each of 4 examples, strips 3 + truth for 2 examples with a course
    assert len(pictures) == 2 + 8 + 2 * 4
    assert all(attributes.get("alt") for attributes in pictures)
    assert "Reconstruction of photographs image 4 by dlg, 55.0 dB" in [picture["alt"] for picture in pictures]


def test_plots_are_inline_and_follow_the_page_colors(page: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(plots) == 2 + 2  # the distribution of each data set; PSNR and objective of the faces
    assert all("var(--series-1)" in plot and "var(--soft)" in plot for plot in plots)
    assert not re.search("#0101|#0102", "".join(plots))


def test_text_from_records_is_shown_and_not_run(tmp_path: Path) -> None:
    page = reported(
        tmp_path, record([float("nan")], attack=EVIL, data=EVIL, status="error", message=EVIL, traceback=EVIL)
    )
    assert "<script" not in page
    assert "onerror=" not in re.sub(r"&lt;img.*?&gt;", "", page)
    assert EVIL in text_of(page)
    assert [tag for tag, attributes in elements(page) if "onerror" in attributes] == []
    assert "Attacks that crashed" in page


def test_a_report_reads_the_store_alone(tmp_path: Path) -> None:
    first = reported(tmp_path / "a", record([42.5], course=COURSE))
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "a")
    (tmp_path / "b" / "a" / "report.html").unlink()
    assert write_report(tmp_path / "b" / "a").read_text(encoding="utf-8") == first


def test_lost_pictures_and_a_torn_line_are_said(tmp_path: Path) -> None:
    reported(tmp_path, record([42.5]), record([41.0], examples=(8,)))
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    lines = (tmp_path / "trials.jsonl").read_bytes()
    (tmp_path / "trials.jsonl").write_bytes(lines[:-30])
    text = text_of(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "The image file of this trial is not in the folder." in text
    assert "cut off" in text


def test_a_store_without_trials_has_a_report(tmp_path: Path) -> None:
    Store.open(tmp_path).lines.write_bytes(b"")
    assert "There are no trials in this folder." in text_of(write_report(tmp_path).read_text(encoding="utf-8"))


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a folder with trials\.jsonl"):
        write_report(tmp_path)


def test_failed_attacks_are_no_clean_bill() -> None:
    failed = verdict(summarize([record([9.0], status="nonfinite")]))
    assert failed.badge == "No verdict"
    clean = verdict(summarize([record([9.0])]))
    assert clean.badge == "No leak found"
    assert any("no proof" in finding for finding in clean.findings)


def test_a_baseline_above_the_threshold_is_said() -> None:
    found = verdict(summarize([record([45.0], baseline=22.0)])).findings
    assert any("For 1 of them that is 20 dB or more by itself" in finding for finding in found)


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs a browser: no chromium is on the path")
    return found


WIDE = """<!doctype html><iframe id="page" src="{address}" style="width:390px;height:800px;border:0"></iframe>
<script>page.onload = () => {{
  const root = page.contentDocument.documentElement;
  document.title = `scroll ${{root.scrollWidth}} client ${{root.clientWidth}} images ` +
    [...page.contentDocument.images].filter(image => image.complete && image.naturalWidth > 0).length;
}}</script>"""


@pytest.mark.slow
def test_a_browser_shows_it_on_a_phone_without_sideways_scrolling(tmp_path: Path, page: str) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(WIDE.format(address=(tmp_path / "report.html").as_uri()))
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=100, check=False
    )
    found = re.search(r"<title>scroll (\d+) client (\d+) images (\d+)</title>", done.stdout)
    assert found is not None, done.stderr[-2000:]
    scroll, client, pictures = map(int, found.groups())
    assert scroll <= client
    assert pictures == page.count("<img ")
    assert "CONSOLE" not in done.stderr


def many(trials: int) -> list[TrialRecord]:
    """Two attacks, three batch sizes; PSNRs that fall with the batch size."""
    return [
        record(
            [40.0 - 5 * size + (seed % 7)] * size,
            attack=attack,
            examples=tuple(range(seed, seed + size)),
            seed=seed,
            course=COURSE if size == 1 else None,
        )
        for seed in range(trials)
        for size in (1, 2, 4)
        for attack in ("auto", "dlg")
    ]


def test_of_many_trials_a_fixed_draw_is_shown_in_paired_order() -> None:
    shown = choose(many(40))
    assert not shown.everything
    assert len(shown.drawn) == DRAWN_CARDS
    pairs = list(zip(shown.drawn[::2], shown.drawn[1::2], strict=True))
    assert all((one.examples, one.attack, two.attack) == (two.examples, "auto", "dlg") for one, two in pairs)
    # The draw depends on how many batches there are, never on what came of them.
    other = [kept.model_copy(update={"scores": columns([1.0] * kept.batch_size)}) for kept in many(40)]
    assert [kept.id for kept in choose(other).drawn] == [kept.id for kept in shown.drawn]
    assert [kept.attack for kept in shown.highest] == ["auto", "dlg"]
    assert max(value for kept in many(40) for value in kept.numbers("psnr")) in shown.highest[0].numbers("psnr")


def test_a_setting_that_was_varied_becomes_a_curve(tmp_path: Path) -> None:
    (axis,) = axes_of(summarize(many(3)).groups)
    assert (axis.title, [line.attack for line in axis.lines]) == ("batch size", ["auto", "dlg"])
    assert [line.places for line in axis.lines] == [(1.0, 2.0, 4.0)] * 2
    page = reported(tmp_path, *many(3))
    assert "Leakage over batch size" in text_of(page)


def test_declared_thresholds_and_limits_stand_on_the_page(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.write("spec.yaml", b"name: my audit\nthreshold: [25]\nlimit: {success_rate_at: 25, below: 0.5}\n")
    page = reported(tmp_path, *many(3))
    text = text_of(page)
    assert "25 dB or more" in text
    assert "my audit" in text
    assert "Declared limits" in text
    assert 'class="exceeded"' in page


def test_figures_and_a_short_page_come_with_the_report(tmp_path: Path) -> None:
    page = reported(tmp_path, *many(2))
    figures = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (figures["verdict"], figures["trials"]) == ("leak", 12)
    assert {group["attack"] for group in figures["groups"]} == {"auto", "dlg"}
    short = (tmp_path / "summary.html").read_text(encoding="utf-8")
    assert "Leakage by attack" in short
    assert "What was reconstructed" not in short
    assert len(short) < len(page) / 2


def test_the_ledger_names_an_order_of_batches_only_where_there_is_one(tmp_path: Path) -> None:
    def shown(name: str, client: dict[str, object]) -> bool:
        one = record([21.0])
        threat = {"labels_known": False, "batch_size_known": True, "order_known": False}
        spec = {**one.spec, "client": client, "threat": threat}
        return "order of batches" in reported(tmp_path / name, one.model_copy(update={"spec": spec})).lower()

    local: dict[str, object] = {"name": "LocalSGD", "lr": 0.1, "order": None}
    assert not shown("gradient", {"name": "Gradient", "mode": "eval"})
    assert shown("local", local)
    assert shown("aggregate", {"name": "Aggregate", "clients": [local], "count": 2})


@pytest.mark.parametrize("known", [True, False])
def test_images_have_no_lengths_to_withhold(tmp_path: Path, known: bool) -> None:
    one = record([42.5])
    threat = {"labels_known": False, "batch_size_known": True, "lengths_known": known}
    shown = text_of(reported(tmp_path, one.model_copy(update={"spec": {**one.spec, "threat": threat}})))
    assert (" lengths " in shown) == known
