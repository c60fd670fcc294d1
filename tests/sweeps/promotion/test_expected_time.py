"""How long promotion's evaluations may take is told where the sweep's log knows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sweep_events import base, reported

from sweeps.promotion import expected_time
from sweeps.record.events import Event, TrialReported, to_line
from sweeps.record.folder import SweepFolder
from trainables.specs import EvaluationSpec

GRADED = EvaluationSpec(metrics=("choice",))


def scored(event: TrialReported) -> TrialReported:
    """The report with a score of its answers."""
    metrics = event.report.metrics | {"choice": 0.5}
    return event.model_copy(update={"report": event.report.model_copy(update={"metrics": metrics})})


def test_evaluations_that_share_their_time_are_counted_once():
    """Each takes ten seconds, the second one eight of them together with the first."""
    events: list[Event] = [base(4.0, rows=4), reported("a", 3, 2.0), reported("b", 5, 2.0)]
    assert expected_time.seconds_of_a_row(events, EvaluationSpec(), False) == pytest.approx(12 / 2 / 4)
    assert expected_time.seconds_of_a_row(events[1:], EvaluationSpec(), False) is None


def test_answers_take_their_own_time():
    answered = base(4.0, rows=4).model_copy(update={"answered": 2})
    events: list[Event] = [answered, scored(reported("a", 3, 2.0))]
    assert expected_time.seconds_of_a_row(events, GRADED, True) == pytest.approx(5)
    assert expected_time.seconds_of_a_row(events, GRADED, False) is None


def test_the_line_is_empty_where_nothing_is_known(tmp_path):
    config = SimpleNamespace(evaluation=EvaluationSpec())
    request = SimpleNamespace(place=SimpleNamespace(folder=tmp_path))
    context: Any = SimpleNamespace(request=request, sweep=SimpleNamespace(config=config))
    assert expected_time.in_words(context, 3, lambda: 20) == ""
    lines = [to_line(event) + "\n" for event in (base(4.0, rows=4), reported("a", 3, 2.0))]
    SweepFolder(tmp_path).events.write_text("".join(lines))
    assert expected_time.in_words(context, 3, lambda: 20) == ", about 2 min 30 s by this sweep's evaluations"
    assert expected_time.in_words(context, 3, lambda: None) == ""
    request.place.folder = None
    assert expected_time.in_words(context, 3, lambda: 20) == ""
