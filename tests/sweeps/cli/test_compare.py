"""`qsweep compare` and `qsweep status --watch` read a sweep's folder alone, also while the sweep runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import report_sweeps
import two_sweeps
from sweep_events import answered as answered_request
from sweep_events import base, begun, ended, reported, started
from typer.testing import CliRunner

import qsweep as qs
from sweeps.cli import app
from sweeps.record import samples
from sweeps.record.events import Event, SweepEnded, TrialReported, TrialStarted, TrialState
from sweeps.record.folder import EventLog, SweepFolder, locked
from sweeps.report import status
from trainables.contract import AnsweredRow

ROWS = 40
SCORED = {
    "name": "x",
    "search_space": {"adapter.r": {"choice": [8, 16]}},
    "evaluation": {"metrics": ["exact_match", "choice", "lengths:words"]},
}
RUNNING: list[Event] = [
    begun().model_copy(update={"config": json.dumps(SCORED)}),
    base(4.5),
    started("aaa", 0, r=8),
    reported("aaa", 3, 1.25),
    started("bbb", 1, r=16),
    reported("bbb", 3, 1.5),
]
FINISHED: list[Event] = [
    *RUNNING,
    ended("aaa", TrialState.COMPLETED),
    ended("bbb", TrialState.COMPLETED),
    SweepEnded(time=100.0, reason="finished"),
]


def sweep(folder: Path, events: list[Event]) -> SweepFolder:
    """The folder of a sweep with these events, and the row losses of the reports among them."""
    config = {"name": "x", "budget": {"trials": 4}, "tracking": {"uri": "sqlite:///nowhere.db"}}
    found = report_sweeps.write(folder / "results" / "x", events, config)
    for key, loss in (("aaa", 1.25), ("bbb", 1.5)):
        losses = [10 * loss + row % 5 - 2 + row / 100 - 0.195 for row in range(ROWS)]
        rows = {"eval_loss": loss, "row_losses": losses, "row_tokens": [10] * ROWS, "hardware": "cpu f"}
        found.keep(key, "best", 3, {"eval_rows.json": json.dumps(rows).encode()})
    return found


def compare(folder: Path, *words: str) -> tuple[str, dict]:
    done = CliRunner().invoke(app, ["compare", "x", "--storage", str(folder / "results"), "--json", *words])
    assert done.exit_code == 0, done.output
    return done.stderr, json.loads(done.stdout.splitlines()[-1])


def test_all_trials_are_compared_as_launch_does_at_its_end(tmp_path: Path) -> None:
    sweep(tmp_path, FINISHED)
    text, document = compare(tmp_path)
    assert text.startswith("x-1: finished\n")
    assert "best: t00, eval_loss 1.2500 at step 3\n      whether t00 is better than the base" in text
    assert (
        "      t00 (step 3) is better than t01 (step 3): eval_loss 0.2500 lower, 99.5% confidence interval 0.2500"
        in text
    )
    assert "trials    2 (2 COMPLETED)\ntime      1 min 40 s\nsteps     6\n" in text
    assert (document["sweep"], document["state"], document["best"]["name"]) == ("x-1", "FINISHED", "t00")
    assert [trial["name"] for trial in document["trials"]] == ["t00", "t01"]
    trials = tmp_path / "results" / "x" / "trials"
    folders = [str(trials / key / "best-000003" / "adapter") for key in ("aaa", "bbb")]
    assert [trial["adapter"] for trial in document["trials"]] == folders
    assert document["comparisons"]["trials"][0]["apart"]


def test_trials_are_named_by_number_or_key(tmp_path: Path) -> None:
    sweep(tmp_path, FINISHED)
    text, document = compare(tmp_path, "T01", "aaa")
    assert "t01 (step 3) is worse than t00 (step 3): eval_loss 0.2500 higher, 99.5% confidence interval" in text
    (difference,) = document["differences"]
    assert (difference["against"], difference["trial_key"], difference["rows"]) == ("bbb", "aaa", ROWS)


def test_a_sweep_that_runs_tells_the_best_so_far(tmp_path: Path) -> None:
    with locked(sweep(tmp_path, RUNNING)):
        text, document = compare(tmp_path)
        assert text.startswith("x-1: running\n")
        assert "best so far: t00, eval_loss 1.2500 at step 3\n" in text
        assert (document["state"], document["best"]["name"], document["best"]["so_far"]) == ("RUNNING", "t00", True)
        assert "t00 (step 3) is better than t01 (step 3)" in compare(tmp_path, "t01")[0]


def test_a_trial_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    sweep(tmp_path, FINISHED)
    for command, has_address in (("compare", True), ("report", False)):
        nowhere = CliRunner().invoke(app, [command, "x", "--storage", str(tmp_path / "no")])
        assert nowhere.exit_code == 2 and "--storage" in nowhere.stderr
        assert ("--address" in nowhere.stderr) is has_address
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "results" / "x"), "t00", "t07", "zzz"])
    first, second, count = done.stderr.splitlines()
    assert (done.exit_code, first) == (2, "error: the sweep has no trial t07: it has t00, t01")
    assert second.startswith(f"error: zzz: no sweep of this id or name: there is no folder {Path.cwd()}/results; name ")
    assert second.endswith("; and as a trial: the sweep has no trial zzz: it has t00, t01") and count == "2 problems"


def test_several_sweeps_stand_side_by_side(tmp_path: Path) -> None:
    sides = {"lora": (1.0, {"scheme": "none"}), "qlora": (1.25, {"scheme": "nf4"})}
    for name, (loss, quantization) in sides.items():
        two_sweeps.sweep(tmp_path, name, loss, quantization=quantization)
    done = CliRunner().invoke(app, ["compare", "lora", "qlora", "--storage", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert "Their files differ in\n                     lora  qlora\nquantization.scheme  none    nf4\n" in done.stderr
    assert "\nlora t00 (step 9) is better than qlora t00 (step 9): eval_loss 0.2500 lower, 99.83% con" in done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["settings"] == {"quantization.scheme": ["none", "nf4"]}
    assert [each["value"] for each in document["sweeps"]] == [pytest.approx(1.0), pytest.approx(1.25)]
    words = ["compare", "lora", "t01", "qlora:t00", "--storage", str(tmp_path)]
    assert "lora t01 (step 9) is worse than qlora t00 (step 9): " in CliRunner().invoke(app, words).stdout
    alone = CliRunner().invoke(app, ["compare", "lora:t00", "lora:t01", "--storage", str(tmp_path)])
    assert "t00 (step 9) is better than t01 (step 9): eval_loss 0.5000 lower" in alone.stdout


def answers(*told: tuple[str, str, float], **fields: str) -> bytes:
    """The kept answers to rows of which each has an expected answer, the one that was given, and its scores."""
    return samples.text(
        AnsweredRow(
            row=row, place=f"line {row + 40}", prompt=f"question {row}", expected=wanted, answer=said, is_ended=True,
            scores=dict.fromkeys(("exact_match", "choice"), right), **fields,
        )
        for row, (wanted, said, right) in enumerate(told)
    ).encode()  # fmt: skip


def answered(*rights: int) -> bytes:
    return answers(*(("yes", "yes", 1.0) if row in rights else ("yes", "\x1b[31mno", 0.0) for row in range(4)))


def test_the_rows_whose_answers_differ_are_shown_and_escaped(tmp_path: Path) -> None:
    found = sweep(tmp_path, FINISHED)
    found.keep("aaa", "best", 3, {samples.OF_TRIAL: answered(0, 1, 2)})
    (found.path / samples.OF_BASE).write_bytes(answered(0, 3))
    text, document = compare(tmp_path)
    told = "answers by exact_match: t00 is better than base on 2 of 4 answered rows, and worse on 1"
    assert f"      {told} (qsweep compare x t00 base shows them)\n" in text
    assert (document["answers"]["better"], document["answers"]["worse"]) == (2, 1)
    text, document = compare(tmp_path, "t00", "base")
    assert text[text.index("answers by") :].splitlines()[:6] == [
        told,
        "line 43: exact_match 0 of t00, 1 of base",
        "  prompt    question 3",
        "  expected  yes",
        "  base      yes",
        "  t00       \\x1b[31mno",
    ]
    (against_base,) = document["answers"]
    assert [row["place"] for row in against_base["differing"]] == ["line 43", "line 41", "line 42"]
    assert [against_base["differing"][0][name] for name in ("row", "t00")] == [3, "\x1b[31mno"]
    (found.path / samples.OF_BASE).write_text("{")
    text, document = compare(tmp_path, "t00", "base")
    assert document["answers"] == [] and "base: eval_loss 4.5000; no answers are here: " in text


def test_labels_have_a_table_of_which_is_taken_for_which(tmp_path: Path) -> None:
    found = sweep(tmp_path, FINISHED)

    def compared(*said: str, **fields: str) -> tuple[str, dict]:
        told = [(wanted, answer, right) for wanted, answer, right in zip("ab", said, (1.0, 0.0), strict=True)]
        found.keep("aaa", "best", 3, {samples.OF_TRIAL: answers(*told, **fields)})
        return compare(tmp_path, "t00", "t01")

    text, document = compared("a", "a")
    assert (
        "confusion of t00 (rows: the expected label, columns: its answer):\n" in text and "a  1  0        0\n" in text
    )
    assert document["confusion"]["counts"] == [[1, 0, 0], [1, 0, 0]]
    assert compared("It is a.", "It is a.")[1]["confusion"] is None
    assert compared("{}", "{}", ranked="a")[1]["confusion"] == document["confusion"]


def wrong_rows(found: SweepFolder) -> None:
    told = [("a", "a", 1.0), ("b", "a", 0.0), ("b", "c", 0.0), ("c", "c", 1.0), ("a", "?", 0.0)]
    found.keep("aaa", "best", 3, {samples.OF_TRIAL: answers(*told)})


def test_what_a_trial_gets_wrong_is_shown_by_label_and_row_by_row(tmp_path: Path) -> None:
    wrong_rows(sweep(tmp_path, FINISHED))
    for words in ((), ("t00",)):
        text, document = compare(tmp_path, "--errors", *words)
        lines = text.splitlines()
        assert lines[0] == "t00 gets 3 of 5 answered rows wrong, by exact_match"
        assert lines[2:9] == [
            "confusion of t00 (rows: the expected label, columns: its answer):",
            "   a  b  c  (other)",
            "a  1  0  0        1",
            "b  1  0  1        0",
            "c  0  0  1        0",
            "recall: a 1 of 2, b 0 of 2, c 1 of 1",
            "`b` is never answered (2 rows)",
        ]
        assert lines[10:14] == ["line 41: exact_match 0", "  prompt    question 1", "  expected  b", "  t00       a"]
        (errors,) = document["errors"]
        assert [row["place"] for row in errors["wrong"]] == ["line 41", "line 42", "line 44"]
    assert "      `b` is never answered (2 rows)\n" in compare(tmp_path)[0]
    assert qs.load("x", tmp_path / "results").lines.count("`b` is never answered (2 rows)") == 1


def test_the_worst_rows_of_a_graded_score_come_first(tmp_path: Path) -> None:
    found = sweep(tmp_path, FINISHED)
    found.keep("aaa", "best", 3, {samples.OF_TRIAL: answers(("a", "b", 0.5), ("a", "a", 1.0), ("a", "c", 0.25))})
    text, document = compare(tmp_path, "--errors")
    assert [row["scores"]["exact_match"] for row in document["errors"][0]["wrong"]] == [0.25, 0.5]
    assert text.startswith("t00 falls short on 2 of 3 answered rows, by exact_match\n")
    assert "confusion" not in text and document["errors"][0]["confusion"] is None


def test_errors_without_answers_or_of_several_sweeps_are_refused(tmp_path: Path) -> None:
    folder = sweep(tmp_path, FINISHED).path
    two_sweeps.sweep(tmp_path / "results", "other", 1.0)
    for words, told in (
        (["t00"], "--errors: t00: no answers are here: graders in evaluation.metrics have it answer the rows"),
        ([str(tmp_path / "results" / "other")], "--errors: is of trials of one sweep: name no other sweep"),
    ):
        done = CliRunner().invoke(app, ["compare", str(folder), *words, "--errors"])
        assert (done.exit_code, done.stderr.splitlines()[0]) == (2, f"error: {told}")


def test_each_view_that_has_news_is_printed_until_the_sweep_has_ended(tmp_path, monkeypatch) -> None:
    config = {"budget": {"trials": 4}, "tracking": {"uri": "sqlite:///x.db"}}
    log = EventLog(report_sweeps.write(tmp_path, [begun()], config).events)
    left = [False, True, True]

    def is_driven(_folder: SweepFolder) -> bool:
        if len(left) == 1:
            log.append(started("aaa", 0, r=8))
        return left.pop() if left else False

    monkeypatch.setattr(status, "is_driven", is_driven)
    monkeypatch.setattr("sweeps.cli.status.TURN_SECONDS", 0.0)
    done = CliRunner().invoke(app, ["status", str(tmp_path), "--watch", "--json"])
    log.close()
    assert done.exit_code == 0, done.output
    views = [line for line in done.stderr.splitlines() if line.startswith("x-1: ")]
    assert [view.partition(" ")[2].partition(",")[0] for view in views] == ["running", "not running"]
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["trials"]) == ("LOST", 1)


@pytest.mark.parametrize("words", [["compare"], ["compare", "t00", "t01"], ["status"]])
def test_what_was_asked_for_goes_to_stdout_and_with_json_its_line_alone(tmp_path: Path, words: list[str]) -> None:
    verb, *trials = words
    folder = sweep(tmp_path, FINISHED).path
    plain, line = (CliRunner().invoke(app, [verb, str(folder), *trials, *more]) for more in ((), ("--json",)))
    assert plain.stderr == "" and "t00" in plain.stdout
    assert len(line.stdout.splitlines()) == 1 and json.loads(line.stdout)["sweep"] == "x-1"
    assert line.stderr


def test_a_pipe_gets_no_colours_and_lines_of_any_width_and_may_be_closed_early(tmp_path: Path) -> None:
    sweep(tmp_path, FINISHED)
    command = f"{sys.executable} -m sweeps compare results/x"
    environment = os.environ | {"COLUMNS": "20", "LINES": "5"}
    whole = subprocess.run(command.split(), cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    first = next(line for line in whole.stdout.splitlines() if "trial" in line)
    assert "eval_loss" in first and "state" in first and "\x1b" not in whole.stdout and "…" not in whole.stdout
    assert whole.stderr == ""
    cut = f"set -o pipefail; {command} | true"
    closed = subprocess.run(["bash", "-c", cut], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")


def test_of_sweeps_of_one_name_the_newest_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name, begins in (("x", 1.0), ("x-2", 2.0)):
        config = {"name": "x", "budget": {"trials": 4}, "tracking": {"uri": "sqlite:///nowhere.db"}}
        report_sweeps.write(results / name, [each.model_copy(update={"time": begins}) for each in FINISHED[:1]], config)
    line = f"x: {results}/x-2, the newest of this name; also: {results}/x\n"
    for verb in ("status", "compare"):
        done = CliRunner().invoke(app, [verb, "x", "--storage", str(results)])
        assert (done.exit_code, done.stderr) == (0, line)
        done = CliRunner().invoke(app, [verb, "x-2", "--storage", str(results)])
        assert (done.exit_code, done.stderr) == (0, "")


def test_scores_of_trials_stand_side_by_side_and_a_point_that_a_person_added_is_marked(tmp_path: Path) -> None:
    begun_scored, *rest = FINISHED
    point: dict[str, Any] = {"adapter.r": 16}
    asked = answered_request(point=point)
    scored: list[Event] = []
    for event in rest:
        if isinstance(event, TrialReported):
            event = event.model_copy(update={"best_metrics": {**event.best_metrics, "exact_match": 0.75}})
        if isinstance(event, TrialStarted) and event.trial_key == "bbb":
            event = event.model_copy(update={"point": point})
        scored.append(event)
    sweep(tmp_path, [begun_scored, asked, *scored])
    text, _ = compare(tmp_path, "t00", "t01")
    assert re.search(r"exact_match +0\.7500 +0\.7500\n", text)
    assert "t01 (added)" in text and "t00 (added)" not in text
    assert "t01 (added)" in compare(tmp_path)[0]
