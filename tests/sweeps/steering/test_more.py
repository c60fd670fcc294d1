"""More is asked of a sweep: a point to try next, larger budgets. What is granted holds, whoever dies when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from played_sweeps import SPACE, Driver, Killed, driver, story, sweep
from sweep_files import toy

from sweeps.config.model import SweepConfig
from sweeps.record.events import RequestAnswered, SweepEnded, SweepStarted, TrialStarted, TrialState
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.sweep_record import SweepRecord
from sweeps.steering import mailbox
from sweeps.steering.answering import Answerer, Decide, deciding
from sweeps.steering.asking import answer_in_its_place
from sweeps.steering.mailbox import AddPoint, ExtendSweep, Mailbox
from sweeps.supply.amendments import Amendments
from sweeps.supply.trial_source import TrialSource

POINT = AddPoint(sender="a test", values={"learning_rate": 3e-3})
LARGER = ExtendSweep(sender="a test", changes={"budget.trials": 11})


def decide(config: SweepConfig) -> Decide:
    _, space = toy(SPACE)
    return deciding(Amendments(config, space, None), lambda: 1.0)


def answering(played: Driver) -> Answerer:
    """The thread of the played driver that answers requests."""
    box, config = Mailbox(played.folder), played.config
    return Answerer(box, played.journal, played.stop, played.trials.to_stop.add, lambda: 1.0, decide(config))


def answers(path: Path) -> list[RequestAnswered]:
    return [event for event, _ in read_events(path / "events.jsonl") if isinstance(event, RequestAnswered)]


def run(path: Path, config: SweepConfig, asks_at: int | None = None, killed_after: int = 10**6) -> SweepRecord:
    """Drives the sweep; both requests come once the log has so many events."""
    with driver(path, config) as played:
        answerer = answering(played)

        def look() -> None:
            if asks_at is not None and played.count >= asks_at and not answers(path) and not waiting(path):
                mailbox.send(played.folder, POINT, 1)
                mailbox.send(played.folder, LARGER, 2)
            answerer.answer_all()

        played.look = look
        played.run(killed_after)
        return played.journal.record


def waiting(path: Path) -> list[Path]:
    return sorted((path / "requests").glob("*.json"))


def trials(record: SweepRecord) -> dict[str, TrialState]:
    return {key: trial.state for key, trial in record.trials.items()}


@pytest.mark.parametrize(
    ("scheduler", "searcher", "asks_at", "default"),
    [
        ({}, "random", 1, True),
        ({"order": "paper"}, "tpe", 12, True),
        ({"variant": "stop"}, "random", 1, True),
        ({"variant": "stop"}, "tpe", 12, True),
        ({}, "tpe", 17, False),
        ({"order": "paper"}, "tpe", 17, False),
    ],
)
def test_a_sweep_that_is_extended_at_any_event_and_killed_at_any_later_one_decides_the_same(
    tmp_path: Path, scheduler: dict[str, Any], searcher: str, asks_at: int, default: bool
) -> None:
    # Without the default configuration, 5 trials are too few for the last rung: at event 17 the tail goes on.
    config = sweep(5, {"kind": searcher, "start_with_default": default}, **scheduler)
    whole = run(tmp_path / "whole", config, asks_at)
    assert len(whole.trials) == 12
    assert [trial.point for trial in whole.trials.values() if trial.point in whole.added] == [*whole.added]
    log = [event for event, _ in read_events(tmp_path / "whole" / "events.jsonl")]
    since = max(number for number, event in enumerate(log) if isinstance(event, RequestAnswered)) + 1
    for killed_after in range(since, len(log) + 1, 7):
        path = tmp_path / str(killed_after)
        with pytest.raises(Killed):
            run(path, config, asks_at, killed_after)
        assert trials(run(path, config)) == trials(whole)
        assert story(path) == story(tmp_path / "whole")
        assert len(answers(path)) == 2


def test_under_breadth_trials_that_come_late_begin_before_any_other_is_resumed(tmp_path: Path) -> None:
    # By then the nine trials of the launch have reported, and the best of them are being resumed.
    run(tmp_path, sweep(9), asks_at=32)
    is_new: dict[bool, list[bool]] = {False: [], True: []}
    """Asked already -> of each trial that got a slot, whether it was new."""
    begun: set[str] = set()
    is_asked = False
    for event, _ in read_events(tmp_path / "events.jsonl"):
        is_asked = is_asked or isinstance(event, RequestAnswered)
        if isinstance(event, TrialStarted):
            is_new[is_asked].append(event.trial_key not in begun)
            begun.add(event.trial_key)
    before, after = is_new[False], is_new[True]
    assert before[9:] and before == [True] * 9 + [False] * len(before[9:])
    # The point and the two more trials; only then are trials resumed again.
    assert after[3:] and after == [True] * 3 + [False] * len(after[3:])


def test_a_point_that_cannot_be_trained_takes_no_trial_of_the_budget(tmp_path: Path) -> None:
    with driver(tmp_path, sweep(5, variant="stop")) as played:
        played.infeasible, answerer = {1, 3}, answering(played)
        played.look = answerer.answer_all
        mailbox.send(played.folder, POINT, 1)
        played.run()
        states = [trial.state for trial in played.journal.record.trials.values()]
    # The added one is not replaced, the other one is.
    assert (len(states), states.count(TrialState.INFEASIBLE)) == (7, 2)


def test_what_breaks_the_decision_or_comes_when_nothing_is_left_to_train_is_refused_and_not_lost(tmp_path):
    decide = deciding(Mock(point=Mock(side_effect=ZeroDivisionError("no idea"))), lambda: 0.0)
    with driver(tmp_path, sweep(3)) as played:
        mailbox.send(played.folder, POINT, 1)
        replace(answering(played), decide=decide).answer_all()
        played.run()
        mailbox.send(played.folder, POINT, 2)
        answering(played).answer_all()
        assert played.journal.record.added == ()
    broken, late = answers(tmp_path)
    told = "the request cannot be decided on: ZeroDivisionError: no idea"
    assert (broken.is_accepted, broken.message) == (False, told)
    told = "the sweep is ending (its last trial is over): ask again once it has ended"
    assert not late.is_accepted and late.message.startswith(told)
    assert waiting(tmp_path) == []


def test_what_is_granted_between_the_last_look_for_a_trial_and_the_end_is_tried(tmp_path, monkeypatch):
    with driver(tmp_path, sweep(3, variant="stop")) as played:
        answerer = answering(played)

        def nothing_left(_source: object, _record: object) -> None:
            mailbox.send(played.folder, LARGER, 1)
            answerer.answer_all()

        # It is asked last, when there is neither a new trial nor one to resume.
        monkeypatch.setattr(TrialSource, "repeat", nothing_left)
        played.run()
        assert len(played.journal.record.trials) == 11
        assert not played.stop.takes_more
    assert [answer.is_accepted for answer in answers(tmp_path)][:1] == [True]


def finished(path: Path) -> SweepConfig:
    config = sweep(3)
    with driver(path, config) as played:
        played.journal.add(SweepStarted(sweep_id="toy-1", time=0.0, config="{}"))
        played.run()
        for trial in played.journal.record.trials.values():
            if not trial.state.is_final:
                played.trials.end_parked(trial)
        played.journal.add(SweepEnded(time=10.0, reason="finished"))
        assert played.journal.record.is_finished
    return config


@pytest.mark.parametrize(("request_", "trials"), [(POINT, 4), (LARGER, 11)], ids=["point", "budget"])
def test_a_sweep_that_has_finished_takes_more_and_goes_on_with_it(tmp_path, request_, trials):
    path = tmp_path / "x"
    config = finished(path)
    assert answer_in_its_place(SweepFolder(path), request_, decide(config), now=1000.0).is_accepted
    with driver(path, config) as following:
        assert not following.journal.record.is_finished
        # The pause until somebody asked is no time that the sweep has spent.
        assert following.journal.record.seconds_spent() == 10.0
        following.journal.add(SweepStarted(sweep_id="toy-1", time=2000.0, config="{}"))
        following.run()
        following.journal.add(SweepEnded(time=2010.0, reason="budget"))
        record = following.journal.record
    assert (len(record.trials), record.was_reopened) == (trials, False)


def test_what_changes_nothing_does_not_open_a_finished_sweep_again(tmp_path: Path) -> None:
    path = tmp_path / "x"
    config = finished(path)
    same = ExtendSweep(sender="a test", changes={"budget.trials": 3})
    answer = answer_in_its_place(SweepFolder(path), same, decide(config), now=1000.0)
    assert (answer.is_accepted, answer.message) == (True, "budget.trials is 3 already")
    with driver(path, config) as following:
        assert following.journal.record.is_finished
