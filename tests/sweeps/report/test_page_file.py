"""The page of a sweep as a file: whole, harmless whatever others wrote into the sweep, and shown by a browser."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_sweeps as sweeps
import two_sweeps
from browsers import PROGRAM as BROWSER
from browsers import browser
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.mirror.contents import small_files
from sweeps.record import samples
from sweeps.record.events import Event, TrialEnded, TrialReported, TrialStarted
from sweeps.record.folder import SweepFolder, locked, read_events
from sweeps.record.selection import choose
from sweeps.report import charts, page_file, status
from sweeps.report.sweeps_compared import compared
from trainables.contract import AnsweredRow
from trainables.objective import LOWEST_LOSS

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Parts(HTMLParser):
    """The elements of a page, and what its scripts and texts say."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in_script = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)
        else:
            self.text += data


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves plotly.js out: 5 MB, which other tests look at."""
    monkeypatch.setattr(charts, "library", lambda: "/* plotly.js */")


def rendered(folder: Path, events: list[Event], document: dict[str, Any] | None = None) -> str:
    return page_file.render(page_file.read(sweeps.write(folder, events, document), 1000.0))


def hostile() -> tuple[list[Event], dict[str, Any]]:
    """A sweep with code in every text that others write."""
    document = sweeps.config(name=EVIL, data={"prompt": EVIL}, model={"source": EVIL})
    document["search_space"] = {"adapter.target_modules": {"choice": [EVIL, "b"]}}
    events: list[Event] = []
    for event in sweeps.events(6, document):
        if isinstance(event, TrialStarted):
            params = {**event.params, "target_modules": EVIL}
            event = event.model_copy(update={"params": params, "point": {"adapter.target_modules": EVIL}})
        if isinstance(event, TrialEnded):
            event = event.model_copy(update={"reason": EVIL})
        events.append(event)
    return events, document


@pytest.mark.usefixtures("library")
def test_what_others_wrote_stays_text(tmp_path: Path) -> None:
    html = rendered(tmp_path, *hostile())
    found = Parts(html)
    assert "<script>alert" not in html and "<img" not in html
    assert EVIL in found.text  # as words: a name, a reason, a module
    charts = html.count('class="plotly-graph-div"')
    assert charts == 6
    # plotly.js, for each chart one that sets a variable and one that draws it, and the one that sorts.
    assert [tag for tag, _ in found.tags].count("script") == len(found.scripts)
    assert sum("Plotly.newPlot" in script for script in found.scripts) == charts


@pytest.mark.usefixtures("library")
def test_answers_that_differ_are_a_table_of_text(tmp_path: Path) -> None:
    config = sweeps.config(evaluation={"metrics": ["exact_match"]})
    folder = sweeps.write(tmp_path, sweeps.events(6, config), config)
    best = choose(page_file.status.read(folder, 1000.0).record.trials.values(), LOWEST_LOSS).winner
    assert best is not None and best.best_step is not None
    answers = [
        AnsweredRow(row=row, prompt=EVIL, expected="a", answer=EVIL, is_ended=False, scores={"exact_match": right})
        for row, right in ((0, 1.0), (1, 0.0))
    ]
    folder.keep(best.trial_key, "best", best.best_step, {samples.OF_TRIAL: samples.text(answers[:1]).encode()})
    (folder.path / samples.OF_BASE).write_text(
        samples.text([answers[0].model_copy(update={"scores": {"exact_match": 0.0}}), answers[1]])
    )
    page = Parts(page_file.render(page_file.read(folder, 1000.0)))
    assert "is better than base on 1 of 1 answered row, and worse on 0." in page.text
    assert page.text.count(EVIL) == 3  # prompt and both answers
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "table"].count("answers") == 1
    assert all("alert(" not in script for script in page.scripts)


@pytest.mark.usefixtures("library")
def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    events, document = list(sweeps.events(12, sweeps.config())), sweeps.config()
    html = rendered(tmp_path, events, document)
    found = Parts(html)
    assert [attrs for _, attrs in found.tags if {"src", "href", "action", "srcset"} & attrs.keys()] == []
    assert re.findall(r"https?://[^\s\"'<]+|@import|url\(", html) == []
    (policy,) = [a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a]
    assert policy is not None and policy.startswith("default-src 'none';")
    assert "form-action 'none'" in policy and "connect-src" not in policy


@pytest.mark.usefixtures("library")
def test_the_toolbar_has_the_named_buttons_alone(tmp_path: Path) -> None:
    """plotly 7 adds one that sends the chart to its maker's server."""
    html = rendered(tmp_path, list(sweeps.events(3, sweeps.config())))
    assert html.count('"modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]') == html.count("newPlot")


@pytest.mark.usefixtures("library")
def test_numbers_that_json_lacks_are_not_in_the_charts(tmp_path: Path) -> None:
    html = rendered(tmp_path, list(sweeps.events(12, sweeps.config())))
    found = page_file.read(SweepFolder(tmp_path), 1000.0)
    odd = [
        replace(trial, values=(value,))
        for trial, value in zip(found.trials, (float("nan"), float("inf")), strict=False)
    ]
    again = page_file.render(replace(found, trials=(*odd, *found.trials[2:])))
    for page in (html, again):
        scripts = [script for script in Parts(page).scripts if "newPlot" in script]
        assert not any(re.search(r"\bNaN\b|\bInfinity\b", script) for script in scripts)


def test_a_thousand_trials_make_a_page_of_a_few_megabytes(tmp_path: Path) -> None:
    html = rendered(tmp_path, list(sweeps.events(1000, sweeps.config())))
    assert 5e6 < len(html) < 8e6
    assert "The best 100 trials are in colour, the other 900 in grey." in html
    assert html.count("<tr") > 1000


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine to show the page")
def test_a_browser_shows_the_page_without_an_error(tmp_path: Path) -> None:
    assert BROWSER is not None
    if subprocess.run([BROWSER, "--version"], capture_output=True).returncode:
        pytest.skip("the chromium of this machine does not start")
    path = tmp_path / "page.html"
    click = "<script>addEventListener('load', () => document.querySelector('#trials tbody tr').click())</script>"
    page_file.write(path, rendered(tmp_path, *hostile()).replace("</body>", f"{click}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--v=0"]
    flags += [f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([BROWSER, *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    # A script that fails, and what the page's policy refuses, are lines of the console.
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert done.stdout.count('class="plotly-graph-div js-plotly-plot"') == 6
    assert done.stdout.count('<svg class="main-svg"') >= 6
    assert "<script>alert" not in done.stdout
    # A click on a row marks its trial, also in each chart that has a line or points of it.
    assert done.stdout.count('class="best marked"') == 1
    assert done.stdout.count("stroke: rgb(216, 27, 96)") >= 2


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine to show the page")
def test_charts_side_by_side_are_as_wide_as_their_places(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page_file.write(path, rendered(tmp_path, list(sweeps.events(3, sweeps.config()))))
    with browser(1400) as shown:
        shown.open(path.as_uri(), "document.readyState === 'complete'")
        places = "[...document.querySelectorAll('.small > div')]"
        widths = shown.run(f"{places}.map(each => [each.clientWidth, each.querySelector('.main-svg').clientWidth])")
    assert len(widths) == 3
    for place, drawn in widths:
        assert place >= 320 and drawn == pytest.approx(place, abs=1)  # the browser rounds to whole pixels


# The command


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["report", *words])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("library")
def test_several_sweeps_are_one_page(tmp_path: Path) -> None:
    evil: dict[str, Any] = {"search_space": {"adapter.target_modules": {"choice": [EVIL]}}}
    for name, loss, sections in (("lora", 1.0, {}), ("qlora", 1.25, evil)):
        two_sweeps.sweep(tmp_path, name, loss, **sections)
    assert run("lora", "qlora", "--storage", str(tmp_path)) == (0, f"{tmp_path}/lora-qlora.html\n", "")
    html = (tmp_path / "lora-qlora.html").read_text()
    found = Parts(html)
    assert "<script>alert" not in html and "<img" not in html and html.startswith("<!doctype html>")
    assert "qlora t00 (step 9) is worse than lora t00 (step 9): eval_loss 0.2500 higher" in found.text
    assert all(title in found.text for title in ("Their files differ in", "The trials", "The sweeps"))
    assert html.count('class="plotly-graph-div"') == 3
    wrong = run("lora", "qlora", "--storage", str(tmp_path), "--price", "-1")
    assert wrong[0] == 2 and wrong[2].startswith("error: price: must be a finite number above 0, such as 2.5, not -1\n")
    assert run("lora", "qlora", "--storage", str(tmp_path), "--price", "2.5")[0] == 0
    assert "cost at 2.5 a GPU-hour" in Parts((tmp_path / "lora-qlora.html").read_text()).text
    for words in (["lora", "t00"], [f"{tmp_path}/lora:t00"]):
        code, _, errors = run(*words, "--storage", str(tmp_path))
        assert (code, errors.startswith("error: lora:t00: there is no trial of another sweep ")) == (2, True)
    code, _, errors = run("lora", "t00", "t01", "--storage", str(tmp_path))
    assert (code, errors.startswith("error: lora is named more than once, or by its trials: ")) == (2, True)


def test_curves_of_several_sweeps_run_by_step_tokens_and_seconds(tmp_path: Path) -> None:
    folders = [two_sweeps.sweep(tmp_path, name, loss) for name, loss in (("a", 1.0), ("b", 2.0))]
    whole = compared([(status.read(folder, 200.0), None) for folder in folders])
    told = [[event for event, _ in read_events(each.events) if isinstance(event, TrialReported)] for each in folders]
    chart = charts.of_sweeps(*whole.curves(told))
    assert chart is not None
    for figure, reports in zip(chart.figures, ([3.0, 9.0], [300.0, 900.0], [1.5, 4.5]), strict=True):
        thin, thick = (trace for trace in figure.data if trace.name == "a")
        assert (list(thick.x), list(thick.y)) == ([*reports, None], [pytest.approx(1.0)] * 2 + [None])
        assert list(thin.y) == [pytest.approx(1.5)] * 2 + [None]
        assert (thin.line.color, thin.line.width < thick.line.width) == (thick.line.color, True)
        assert thick.hovertext[1] == "a t00, step 9: 1"


@pytest.mark.usefixtures("library")
def test_the_command_writes_the_page_into_the_sweeps_folder(tmp_path: Path) -> None:
    folder = sweeps.write(tmp_path / "x", list(sweeps.events(3, sweeps.config())))
    before = small_files(folder.path)
    assert run(str(folder.path)) == (0, f"{folder.report}\n", "")
    assert folder.report.read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "events.jsonl", "report.html"]
    assert small_files(folder.path) == before  # no mirror takes it for a part of the sweep


@pytest.mark.usefixtures("library")
def test_the_json_line_says_where_the_page_is(tmp_path: Path) -> None:
    folder = sweeps.write(tmp_path / "x", list(sweeps.events(3, sweeps.config(), ends=False)))
    with locked(folder):
        code, out, told = run("x", "--storage", str(tmp_path), "--output", str(tmp_path / "p.html"), "--json")
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    made = found.pop("made")
    assert found == {"sweep": "x-1", "report": str(tmp_path / "p.html"), "state": "RUNNING"}
    assert told == f"the sweep runs: the page shows it as of {made}\n"
    assert f"The sweep runs: this page shows it as of {made}." in " ".join((tmp_path / "p.html").read_text().split())
    assert not folder.report.exists()


@pytest.mark.usefixtures("library")
def test_the_page_tells_the_cost_at_a_price(tmp_path: Path) -> None:
    folder = sweeps.write(tmp_path / "x", list(sweeps.events(3, sweeps.config())))
    assert run(str(folder.path), "--price", "0") == (
        2,
        "",
        "error: price: must be a finite number above 0, such as 2.5, not 0\n1 problem; nothing was written\n",
    )
    assert not folder.report.exists()
    assert run(str(folder.path), "--price", "2.5")[0] == 0
    assert "<p>cost: none, as the sweep has held no GPU</p>" in folder.report.read_text()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "is a folder: name a file in it, such as"),
        ("missing/page.html", "there is no folder"),
        ("x/events.jsonl", "is there already, and is no HTML page: name another file"),
        ("/dev/null", "is there already, and is no HTML page: name another file"),
        ("~nobody-here/page.html", "there is no folder"),
    ],
)
def test_a_wrong_output_is_refused(tmp_path: Path, output: str, message: str) -> None:
    folder = sweeps.write(tmp_path / "x", list(sweeps.events(2, sweeps.config())))
    log = folder.events.read_bytes()
    code, out, told = run(str(folder.path), "--output", output if output.startswith("~") else str(tmp_path / output))
    assert (code, out) == (2, "")
    assert told.startswith("error: --output: ") and message in told
    assert folder.events.read_bytes() == log


@pytest.mark.usefixtures("library")
def test_a_page_may_be_replaced(tmp_path: Path) -> None:
    folder, page = sweeps.write(tmp_path / "x", list(sweeps.events(2, sweeps.config()))), tmp_path / "p.html"
    page.write_text("<!DOCTYPE html>the one before")
    assert run(str(folder.path), "--output", str(page))[0] == 0
    assert "the one before" not in page.read_text()


def test_an_unknown_sweep_is_a_mistake(tmp_path: Path) -> None:
    code, _, told = run("nothing", "--storage", str(tmp_path))
    assert code == 2 and "no sweep of this id or name" in told
