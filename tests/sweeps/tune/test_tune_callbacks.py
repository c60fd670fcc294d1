"""What the journal is told of a trial: it begins when it holds a slot, and an infeasible point never begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_events import reported
from sweep_files import toy

from sweeps.errors import StorageError
from sweeps.record.events import Event, TrialParked, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.steering.answering import STOPPED_BY_REQUEST
from sweeps.steering.stop import StopState
from sweeps.tune.sweep_trials import STOPPED_BY_SCHEDULER, SweepTrials
from sweeps.tune.tune_callbacks import Became, JournalCallback, RuleScheduler, what_became

OPENED: dict[str, Any] = {"step": 0, "state": "RUNNING", "opened": True, "done": False}


class FillingJournal(Journal):
    """A journal whose disk may be full."""

    is_full = False

    def add(self, event: Event) -> None:
        if self.is_full:
            raise StorageError("events.jsonl: cannot be written: No space left on device")
        super().add(event)


@pytest.fixture
def stop() -> StopState:
    return StopState()


@pytest.fixture
def trials(tmp_path, stop) -> Iterator[SweepTrials]:
    config, _ = toy(searcher={"kind": "random", "start_with_default": False}, scheduler={"grace_steps": 3})
    with closing(FillingJournal(SweepFolder(tmp_path))) as journal:
        yield SweepTrials(config, journal, SweepFolder(tmp_path), stop, lambda: 5.0)


@pytest.fixture
def journal(trials) -> Journal:
    return trials.journal


@pytest.fixture
def events(journal) -> list:
    told: list = []
    journal.listen(lambda event, _record: told.append(event))
    return told


@pytest.fixture
def callback(trials) -> JournalCallback:
    return JournalCallback(trials, lambda _line: None, lambda _key, _run: None)


def trial(key: str = "a", **last_result: Any) -> Any:
    config = {"trial_key": key, "number": 3, "params": {"r": 8}, "point": {"adapter.r": 8}, "spec": "{}"}
    config |= {"repeats": None, "is_in_tail": False, "run": 1}
    return SimpleNamespace(config=config, last_result=last_result, get_error=lambda: None)


def report(step: int) -> dict[str, Any]:
    told = reported("a", step, 2.0).model_copy(update={"adapter": None})
    return {"step": step, "state": "RUNNING", "report": told, "done": False, "is_saved": True}


def ending(state: str, reason: str) -> dict[str, Any]:
    return {"step": 0, "state": state, "reason": reason, "history": [], "done": True}


def told(events: list) -> list[str]:
    return [event.type for event in events]


def test_a_trial_begins_once_it_holds_a_slot(callback, events):
    callback.on_trial_start(1, [], trial())
    assert events == []
    for _ in range(2):  # its process may be started again
        callback.on_trial_result(1, [], trial(), OPENED)
    assert told(events) == ["trial_started"]
    assert (events[0].number, events[0].params) == (3, {"r": 8})


def test_a_report_has_the_drivers_time_and_keeps_that_of_the_trials_process(callback, events, journal):
    """That may be on a node whose clock is ahead, or the report may have been made before an earlier driver died."""
    callback.on_trial_result(1, [], trial(), report(3))
    assert (events[-1].time, events[-1].evaluated_time) == (5.0, 13.0)
    assert journal.record.known_until == 5.0


def test_a_repeat_that_is_infeasible_is_no_point_of_its_own(callback, journal):
    repeat = trial("b", **ending("INFEASIBLE", "no such layer"))
    repeat.config["repeats"] = "a"
    callback.on_trial_complete(1, [], repeat)
    assert journal.record.trials["b"].repeats == "a"


@pytest.mark.parametrize(
    ("state", "before"), [("FAILED", ["trial_started", "trial_ended"]), ("INFEASIBLE", ["point_infeasible"])]
)
def test_a_trial_that_is_over_stays_as_it_ended_whatever_tune_says_of_it_again(
    callback, events, journal, state, before
):
    """Also before it held a slot."""
    over = trial(**ending(state, "the first reason"))
    callback.on_trial_complete(1, [], over)
    assert told(events) == before
    callback.on_trial_complete(2, [], over)
    callback.on_trial_error(2, [], over)
    assert told(events) == before
    assert (journal.record.trials["a"].state.value, journal.record.trials["a"].reason) == (state, "the first reason")


def test_a_parked_trial_that_failed_before_it_held_a_slot_again_went_on(callback, events, journal):
    """What the log says of it is what the rule was told: it went on, and was lost."""
    callback.on_trial_result(1, [], trial(), report(3))
    journal.add(TrialParked(time=1.0, trial_key="a", step=3))
    again = trial(**ending("FAILED", "KeyError: 'row 17'"))
    again.config["is_in_tail"] = True
    callback.on_trial_complete(1, [], again)
    assert told(events[-2:]) == ["trial_started", "trial_ended"]
    assert [event.is_in_tail for event in events if event.type == "trial_started"] == [False, True]


@pytest.mark.parametrize("last", [{}, OPENED])
def test_a_trial_that_the_sweeps_end_did_not_wait_for_has_not_failed(callback, events, journal, last):
    """Ray Tune calls it complete; the end of the sweep says that it is interrupted."""
    callback.on_trial_result(1, [], trial(), OPENED)
    callback.on_trial_complete(1, [], trial(**last))
    assert told(events) == ["trial_started"]
    assert not journal.record.trials["a"].state.is_final


def test_a_failure_that_no_encoding_takes_is_kept_written_out(callback, journal, stop):
    callback.on_trial_result(1, [], trial(), OPENED)
    callback.on_trial_complete(1, [], trial(**ending("FAILED", "OSError: rows-\udcff.jsonl \x1b[2J")))
    assert journal.record.trials["a"].state is TrialState.FAILED
    assert journal.record.trials["a"].reason == r"OSError: rows-\udcff.jsonl \x1b[2J"
    assert stop.reason is None


def test_nothing_that_fails_here_is_raised_into_tune_or_swallowed(callback, journal, stop):
    def broken(_event, _record):
        raise RuntimeError("the display broke")

    journal.listen(broken)
    callback.on_trial_result(1, [], trial(), OPENED)
    assert (stop.reason, stop.message) == ("failed", "RuntimeError: the display broke")
    assert isinstance(callback.failure, RuntimeError)


def test_no_trial_goes_on_past_a_report_that_the_log_does_not_take(callback, journal, trials):
    """Its snapshot has the report, and the next driver is told it. A later snapshot would not have it."""
    scheduler = RuleScheduler(trials, callback.write)
    assert scheduler.on_trial_result(None, trial(), OPENED) == scheduler.CONTINUE
    journal.is_full = True
    assert scheduler.on_trial_result(None, trial(), report(3)) == scheduler.STOP


@pytest.mark.parametrize("state", ["COMPLETED", "RUNNING"])
def test_a_trial_whose_report_the_log_does_not_take_is_not_over(callback, journal, state):
    """It is interrupted with its sweep, and goes on from before that report."""
    told = trial()
    callback.on_trial_result(1, [], told, OPENED)
    journal.is_full = True
    callback.on_trial_result(1, [], told, report(3))
    journal.is_full = False
    told.last_result = report(3) | {"state": state, "done": True}
    callback.on_trial_complete(1, [], told)
    assert journal.record.trials["a"].state is TrialState.RUNNING


@pytest.mark.parametrize(
    ("result", "is_to_stop", "is_parked", "became"),
    [
        ({}, False, False, None),
        (OPENED, False, False, None),
        (ending("PAUSED", "the sweep is stopping"), False, False, Became(TrialState.PAUSED, "the sweep is stopping")),
        (ending("PAUSED", "the sweep is stopping"), True, False, Became(TrialState.STOPPED, STOPPED_BY_REQUEST, True)),
        (ending("PAUSED", "full") | {"ends_sweep": "failed"}, True, False, Became(TrialState.PAUSED, "full")),
        (report(3), False, False, Became(TrialState.STOPPED, STOPPED_BY_SCHEDULER)),
        (report(3), True, False, Became(TrialState.STOPPED, STOPPED_BY_SCHEDULER)),
        (report(3), False, True, Became(TrialState.PARKED)),
        (report(3), True, True, Became(TrialState.STOPPED, STOPPED_BY_REQUEST, True)),
        (report(9) | {"state": "COMPLETED"}, True, False, Became(TrialState.COMPLETED)),
        (ending("DIVERGED", "nan"), True, False, Became(TrialState.DIVERGED, "nan")),
    ],
)
def test_what_became_of_a_trial_whose_process_has_ended(result, is_to_stop, is_parked, became):
    assert what_became(result, is_to_stop, is_parked) == became


def test_a_stub_that_is_made_anew_is_told_what_the_log_has_by_then(callback):
    """Else Tune would get a report again."""
    tuned = trial()
    callback.on_trial_result(0, [], tuned, OPENED)
    callback.on_trial_recover(0, [], tuned)
    assert tuned.config["reported"] == {"step": 0, "best_step": 0, "best_metrics": None}
    callback.on_trial_result(0, [], tuned, report(3))
    callback.on_trial_recover(0, [], tuned)
    assert (tuned.config["reported"]["step"], tuned.config["reported"]["best_metrics"]) == (3, {"eval_loss": 2.0})
