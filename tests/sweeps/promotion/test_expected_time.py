"""How long promotion's evaluations may take is told where the sweep's log knows it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_events import base, reported

from sweeps.promotion import expected_time
from sweeps.record.events import EvaluatedPart, Event, HostsStarted, to_line
from sweeps.record.folder import SweepFolder
from trainables.scoring.requests import ScoringProgress
from trainables.specs import EvaluationSpec


def test_evaluations_that_share_their_time_are_counted_once():
    """Each takes ten seconds, the second one eight of them together with the first."""
    events: list[Event] = [base(4.0, rows=4), reported("a", 3, 2.0), reported("b", 5, 2.0)]
    assert expected_time.seconds_of_a_row(events, EvaluationSpec(), False) == pytest.approx(12 / 2 / 4)
    assert expected_time.seconds_of_a_row(events[1:], EvaluationSpec(), False) is None


def test_an_evaluation_on_a_part_of_the_rows_took_the_time_of_these():
    part = EvaluatedPart(rows=2, metrics={"eval_loss": 2.0})
    events: list[Event] = [base(4.0, rows=4), reported("a", 3, 2.0, part=part), reported("b", 5, 2.0)]
    assert expected_time.seconds_of_a_row(events, EvaluationSpec(), False) == pytest.approx(12 / (2 + 4))


def test_answers_take_their_own_time():
    graded, event = EvaluationSpec(metrics=("choice",)), reported("a", 3, 2.0)
    scored = event.model_copy(update={"metrics": event.metrics | {"choice": 0.5}})
    answered = base(4.0, rows=4).model_copy(update={"answered": 2})
    events: list[Event] = [answered, scored]
    assert expected_time.seconds_of_a_row(events, graded, True) == pytest.approx(5)
    assert expected_time.seconds_of_a_row(events, graded, False) is None


def test_the_line_is_empty_where_nothing_is_known(tmp_path, monkeypatch):
    def line(folder, rows: int | None, answers: int = 0, loads: int = 0) -> str:
        config = SimpleNamespace(name="demo", evaluation=EvaluationSpec(), storage="elsewhere")
        sweep = SimpleNamespace(config=config, sweep_id="demo-1")
        context: Any = SimpleNamespace(request=SimpleNamespace(place=SimpleNamespace(folder=folder)), sweep=sweep)
        return expected_time.in_words(context, lambda: rows, losses=3, answers=answers, loads=loads)

    assert line(tmp_path, 20) == ""
    started = HostsStarted(time=19.0, since=4.0, hosts=1, slots=1, held=1, held_seconds=15.0, device="cpu")
    lines = [to_line(event) + "\n" for event in (started, base(4.0, rows=4), reported("a", 3, 2.0))]
    folder = SweepFolder(tmp_path / "elsewhere/demo-2")
    folder.path.mkdir(parents=True)
    folder.events.write_text("".join(lines))
    (folder.path / "config.json").write_text(json.dumps({"sweep_id": "demo-1", "config": {"name": "demo"}}))
    assert line(folder.path, 20) == ", about 2 min 30 s by this sweep's evaluations"
    assert line(folder.path, 20, loads=2) == ", about 3 min 00 s by this sweep's evaluations"
    assert line(folder.path, None) == line(None, 20) == ""
    assert line(folder.path, 20, answers=1) == "", "no evaluation of the sweep has scored answers"
    monkeypatch.chdir(tmp_path)
    assert line(None, 20) == line(folder.path, 20), "a sweep that is named by its id"
    (folder.path / "config.json").write_text(json.dumps({"sweep_id": "demo-2", "config": {"name": "demo"}}))
    assert line(None, 20) == "", "a later sweep of the same name"


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (ScoringProgress(), "  loading the base"),
        (ScoringProgress(doing="serving the packaged model"), "  serving the packaged model"),
        (
            ScoringProgress(doing="computing losses", name="base", done=8, rows=80),
            "  the base: computing losses, 8 of 80 rows done",
        ),
        (ScoringProgress(doing="answering", name="t00", done=42, rows=80), "  t00: answering, 42 of 80 rows done"),
        (
            ScoringProgress(doing="answering", name="champion", rows=80, token=7),
            "  the champion: answering, 0 of 80 rows done, the answers under way at token 7",
        ),
        (
            ScoringProgress(doing="ranking labels", name="t00", done=1, rows=1),
            "  t00: ranking labels, 1 of 1 row done",
        ),
    ],
)
def test_progress_says_what_is_done_and_of_how_many_rows(progress: ScoringProgress, line: str) -> None:
    assert expected_time.so_far(progress) == line
