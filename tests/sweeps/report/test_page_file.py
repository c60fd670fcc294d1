"""The page of a sweep as a file: whole, harmless whatever others wrote into the sweep, and shown by a browser."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import report_sweeps as sweeps
import two_sweeps
from browsers import PROGRAM as BROWSER
from browsers import browser
from sweep_events import started
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.mirror.contents import small_files
from sweeps.record import samples
from sweeps.record.events import Event, TrialEnded, TrialStarted
from sweeps.record.folder import SweepFolder, locked
from sweeps.report import charts, page_file
from trainables.contract import AnsweredRow

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Parts(HTMLParser):
    """The elements of a page, and what its scripts and texts say."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts.append(data)
        else:
            self.text += data


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves plotly.js out: 5 MB, which another test has a browser read."""
    monkeypatch.setattr(charts, "library", lambda: "/* plotly.js */")


def hostile(folder: Path) -> SweepFolder:
    """A sweep with code in every text that others write, its answers among them."""
    rows = {"train": EVIL, "eval": "rows", "prompt": f"{EVIL} {{q}}", "completion": "{a}"}
    document = sweeps.config(data=rows, evaluation={"metrics": ["exact_match"]})
    document["search_space"] = {
        **sweeps.SPACE,
        "adapter.target_modules": {"choice": [EVIL, "attention", "mlp", "all-linear"]},
    }
    events: list[Event] = []
    for event in sweeps.events(6, document):
        if isinstance(event, TrialStarted):
            params, point = {**event.params, "target_modules": EVIL}, {"adapter.target_modules": EVIL}
            event = event.model_copy(update={"params": params, "point": {**(event.point or {}), **point}})
        if isinstance(event, TrialEnded):
            event = event.model_copy(update={"reason": EVIL})
        events.append(event)
    events.insert(-1, started("late", 7))  # it has no value yet
    written = sweeps.write(folder, events, document)
    row = AnsweredRow(row=0, prompt=EVIL, expected="a", answer=EVIL, is_ended=False, scores={"exact_match": 1.0})
    written.keep("0" * 12, "best", 27, {samples.OF_TRIAL: samples.text([row]).encode()})
    worse = row.model_copy(update={"scores": {"exact_match": 0.0}})
    (written.path / samples.OF_BASE).write_text(samples.text([worse]))
    return written


@pytest.mark.usefixtures("library")
def test_what_others_wrote_stays_text_and_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    html = page_file.render(page_file.read_page(hostile(tmp_path), 1000.0))
    found = Parts(html)
    assert "<script>alert" not in html and "<img" not in html
    assert not any("alert(" in script and "newPlot" not in script for script in found.scripts)
    assert not any(re.search(r"\bNaN\b|\bInfinity\b", script) for script in found.scripts)
    assert EVIL in found.text  # as words: a file, a reason, a module
    assert "is better than base on 1 of 1 answered row, and worse on 0." in found.text
    assert [attributes.get("id") for tag, attributes in found.tags if tag == "table"].count("answers") == 1
    charts = html.count('class="plotly-graph-div"')
    assert charts == 8
    # plotly.js, for each chart one that sets a variable and one that draws it, and the one that sorts.
    assert [tag for tag, _ in found.tags].count("script") == len(found.scripts)
    assert sum("Plotly.newPlot" in script for script in found.scripts) == charts
    # plotly 7 adds a button that sends the chart to its maker's server.
    assert html.count('"modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]') == charts
    assert [attrs for _, attrs in found.tags if {"src", "href", "action", "srcset"} & attrs.keys()] == []
    assert re.findall(r"https?://[^\s\"'<]+|@import|url\(", html) == []
    (policy,) = [a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a]
    assert policy is not None and policy.startswith("default-src 'none';")
    assert "form-action 'none'" in policy and "connect-src" not in policy


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine to show the page")
def test_a_browser_shows_the_page_without_an_error_and_marks_a_trial_everywhere(tmp_path: Path) -> None:
    listen = "const errors = []; addEventListener('error', each => errors.push(each.message));"
    listen += "addEventListener('securitypolicyviolation', each => errors.push(each.violatedDirective));"
    html = page_file.render(page_file.read_page(hostile(tmp_path / "x"), 1000.0))
    (tmp_path / "page.html").write_text(html.replace("<head>", f"<head><script>{listen}</script>", 1))
    with browser(1400) as shown:
        drawn_all = "document.querySelectorAll('.js-plotly-plot').length === 8"
        shown.open((tmp_path / "page.html").as_uri(), f"document.readyState === 'complete' && {drawn_all}")
        places = "[...document.querySelectorAll('.small > div')]"
        widths = shown.run(f"{places}.map(each => [each.clientWidth, each.querySelector('.main-svg').clientWidth])")
        ticks = "[...document.querySelectorAll('.small .xtick text')]"
        hidden = shown.run(f"{ticks}.filter(each => each.style.display === 'none').map(each => each.textContent)")
        names = shown.run(f"{ticks}.map(each => each.textContent)")
        shown.run("document.querySelector('#trials tbody tr').click()")
        assert shown.run("document.querySelectorAll('#trials .best.marked').length") == 1
        # The trial has a line in two charts.
        marked = "each => each.style.stroke === 'rgb(216, 27, 96)'"
        shown.wait(f"[...document.querySelectorAll('.js-line')].filter({marked}).length >= 2")
        assert shown.run("errors") == []
    assert "all-linear" in names and hidden == [], "plotly hides a name that leaves its chart"
    assert len(widths) == 3
    for place, drawn in widths:
        assert place >= 320 and drawn == pytest.approx(place, abs=1)  # the browser rounds to whole pixels


@pytest.mark.usefixtures("library")
def test_the_page_of_many_trials_has_all_in_its_table_and_some_in_its_charts(tmp_path: Path) -> None:
    """All trials drawn would take 5 MB beside the table and plotly's library."""
    document = sweeps.config()
    found = page_file.read_page(sweeps.write(tmp_path, sweeps.events(2500, document), document), 1000.0)
    html = page_file.render(found)
    begin = html.index('<table id="trials">')
    table = html[begin : html.index("</table>", begin)]
    assert table.count("<tr data-trial=") == 2501, "the base has a row too"
    assert len(html) - len(table) < 2_000_000
    # The best 100, and every sixth of all.
    assert "The charts draw 500 of 2500 trials: the best ones, and an even share of the others." in html
    assert found.drawn[:100] == found.trials[:100] and found.trials[2496] in found.drawn


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["report", *words])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("library")
def test_several_sweeps_are_one_page(tmp_path: Path) -> None:
    evil: dict[str, Any] = {"search_space": {"adapter.target_modules": {"choice": [EVIL]}}}
    for name, loss, sections in (("lora", 1.0, {}), ("qlora", 1.25, evil)):
        two_sweeps.sweep(tmp_path, name, loss, **sections)
    both = ("lora", "qlora", "--storage", str(tmp_path))
    assert run(*both, "--price", "2.5") == (0, f"{tmp_path}/lora-qlora.html\n", "")
    html = (tmp_path / "lora-qlora.html").read_text()
    found = Parts(html)
    assert "<script>alert" not in html and "<img" not in html and html.startswith("<!doctype html>")
    assert "lora t00 (step 9) is better than qlora t00 (step 9): eval_loss 0.2500 lower" in found.text
    told = ("Their files differ in", "The trials", "The sweeps", "none: the sweep has held no GPU")
    assert all(title in found.text for title in told)
    assert html.count('class="plotly-graph-div"') == 3
    code, _, errors = run(*both, "--price", "-1")
    assert code == 2 and errors.startswith("error: price: must be a finite number above 0, such as 2.5, not -1\n")
    code, _, errors = run("lora", "t00", "--storage", str(tmp_path))
    assert code == 2 and errors.startswith("error: lora:t00: there is no trial of another sweep ")


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return sweeps.write(tmp_path / "x", sweeps.events(1, sweeps.config()))


@pytest.mark.usefixtures("library")
def test_the_command_writes_the_page_into_the_sweeps_folder_or_over_another_page(folder: SweepFolder) -> None:
    before = small_files(folder.path)
    price = "error: price: must be a finite number above 0, such as 2.5, not 0\n1 problem; nothing was written\n"
    assert run(str(folder.path), "--price", "0") == (2, "", price)
    assert not folder.report.exists()
    page = folder.path.with_name("p.html")
    page.write_text("<!DOCTYPE html>the one before")
    with locked(folder):
        code, out, told = run("x", "--storage", str(page.parent), "--output", str(page), "--json")
    found = json.loads(out.splitlines()[-1])
    made = found.pop("made")
    assert (code, found) == (0, {"sweep": "x-1", "report": str(page), "state": "RUNNING"})
    assert told == f"the sweep runs: the page shows it as of {made}\n"
    html = " ".join(page.read_text().split())
    assert f"The sweep runs: this page shows it as of {made}." in html and "the one before" not in html
    assert small_files(folder.path) == before and not folder.report.exists()
    assert run(str(folder.path), "--price", "2.5") == (0, f"{folder.report}\n", "")
    html = folder.report.read_text()
    assert html.startswith("<!doctype html>") and "<td>none: the sweep has held no GPU</td>" in html
    assert small_files(folder.path) == before, "no mirror takes the page for a part of the sweep"


@pytest.mark.usefixtures("library")
def test_a_followed_page_reloads_while_the_sweep_runs_and_its_last_one_stays(folder: SweepFolder) -> None:
    command = [sys.executable, "-m", "sweeps", "report", str(folder.path), "--follow"]
    reloads = "location.reload()"
    with locked(folder), subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as following:
        assert following.stderr is not None and following.stdout is not None
        told = following.stderr.readline()
        assert (
            told
            == f"{folder.report} follows the sweep: open it in a browser; Ctrl-C ends this, and the sweep goes on\n"
        )
        assert reloads in folder.report.read_text()
        following.send_signal(signal.SIGINT)
        assert following.stdout.read() == f"{folder.report}\n"
        assert following.stderr.read().startswith("the sweep runs: the page shows it as of ")
    assert following.returncode == 0 and reloads not in folder.report.read_text()
    folder.report.unlink()
    assert run(str(folder.path), "--follow") == (0, f"{folder.report}\n", ""), (
        "a sweep that has ended is not waited for"
    )
    assert reloads not in folder.report.read_text()
    refused = "error: --follow: goes with one sweep, not with a comparison: leave out one of the two\n"
    assert run(str(folder.path), str(folder.path), "--follow") == (2, "", f"{refused}1 problem; nothing was written\n")


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
def test_a_wrong_output_is_refused(folder: SweepFolder, tmp_path: Path, output: str, message: str) -> None:
    log = folder.events.read_bytes()
    code, out, told = run(str(folder.path), "--output", output if output.startswith("~") else str(tmp_path / output))
    assert (code, out) == (2, "") and told.startswith("error: --output: ") and message in told
    assert folder.events.read_bytes() == log
