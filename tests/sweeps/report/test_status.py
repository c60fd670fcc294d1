"""Where a sweep stands is told from its folder alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import report_sweeps
from sweep_events import answered, begun, ended, hosts, infeasible, parked, record, reported, started

from cluster.pace import Silent
from sweeps.errors import SweepError
from sweeps.record.events import DataPrepared, DriverLives, Event, SweepEnded, SweepPlanned, TrialState, to_line
from sweeps.record.folder import SweepFolder, locked
from sweeps.report.status import EventsRead, Status, read_status, silent
from sweeps.report.time_left import Rates, Trained, seconds_left

URI = "http://me:***@127.0.0.1:5000"
CONFIG: dict[str, Any] = {"name": "x", "budget": {"trials": 4}, "tracking": {"uri": URI}}
DATA = DataPrepared(time=5.0, summary={"train_rows": 0})
HOSTS = hosts(4.0, since=3.0, hosts=2, slots=6, held=2, held_seconds=2.0)
# `reported` tells of 100 tokens a step, and of a report at second 10 + step.
TRAINED: list[Event] = [begun(), HOSTS, DATA, started("aaa", 0, r=8), reported("aaa", 5, 2.0)]
TRAINED += [started("bbb", 1, r=4), reported("bbb", 5, 1.5)]


def write(folder: Path, events: list[Event]) -> SweepFolder:
    return report_sweeps.write(folder, events, CONFIG)


def running(folder: SweepFolder, now: float = 20.0) -> Status:
    with locked(folder):
        return read_status(folder, now)


def end(reason: str) -> SweepEnded:
    return SweepEnded.model_validate({"time": 100.0, "reason": reason})


PAUSED: list[Event] = [ended("aaa", TrialState.PAUSED), ended("bbb", TrialState.PAUSED)]
ENDED: list[Event] = [ended("aaa", TrialState.STOPPED), ended("bbb", TrialState.COMPLETED)]
EXTENDED = answered(150.0, changes={"budget.trials": 9})


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "NOT_BEGUN"),
        (TRAINED, "LOST"),
        ([*TRAINED, end("failed")], "FAILED"),
        ([*TRAINED, *PAUSED, end("interrupted")], "INTERRUPTED"),
        ([*TRAINED, *ENDED, end("finished")], "FINISHED"),
        ([*TRAINED, *ENDED, end("finished"), EXTENDED], "EXTENDED"),
        ([*TRAINED, *PAUSED, end("interrupted"), EXTENDED], "INTERRUPTED"),
        ([*TRAINED, *ENDED, end("finished"), EXTENDED, begun(200.0)], "LOST"),
    ],
)
def test_the_state_of_a_sweep_that_does_not_run(tmp_path: Path, events: list[Event], state: str) -> None:
    status = read_status(write(tmp_path, events), now=300.0)
    assert (status.state, status.seconds_left, status.waits_for) == (state, None, None)


def test_trials_whose_driver_is_lost_are_not_said_to_run_now(tmp_path: Path) -> None:
    assert (
        "  trials    2/4 (2 RUNNING when the driver was lost)" in read_status(write(tmp_path, TRAINED), 300.0).lines()
    )


def test_lines_and_json_say_the_same_of_a_sweep_that_somebody_drives(tmp_path: Path) -> None:
    status = running(write(tmp_path, TRAINED))
    # Time on the log's clock, until now: the driver began at 0.
    assert status.lines() == [
        "x-1: running",
        f"  folder    {tmp_path}",
        "  trials    2/4 (2 RUNNING)",
        "  reported  2 at step 5",
        "  best      t01, eval_loss 1.5000 at step 5, so far",
        "  hosts     2 on cpu, 6 slots in all",
        "  rate      1.00 steps/s, 100 tokens/s",
        "  time      20 s",
        "  tracking  http://me:***@127.0.0.1:5000 has not taken 7 events yet",
    ]
    document = status.as_json()
    best = document["best"]
    assert (best["trial_key"], best["value"], best["so_far"], document["seconds"]) == ("bbb", 1.5, True, 20.0)
    assert document["hosts"] == {"hosts": 2, "slots": 6, "device": "cpu", "silent": ()}
    assert (document["state"], document["steps_per_second"], document["waiting_requests"]) == ("RUNNING", 1.0, 0)
    assert document["rungs"] == [{"step": 5, "reported": 2, "parked": 0}]


ONE_A_SECOND = Rates(1.0, 100.0)
PLAN = SweepPlanned(time=0.0, steps=40, seconds=None)


def over(state: TrialState, *, by_person: bool = False) -> Event:
    return ended("bbb", state, by_person_or_budget=by_person)


def left(*more: Event, trials: int | None = 4, rates: Rates | None = ONE_A_SECOND) -> float | None:
    """After 10 steps, the latest report of second 15."""
    found = record([*TRAINED, *more])
    return seconds_left(found, rates, Trained.of(found.trials.values()).steps, trials, at_launch=4)


@pytest.mark.parametrize("state", [TrialState.STOPPED, TrialState.COMPLETED, TrialState.DIVERGED])
def test_once_a_trial_has_ended_the_others_take_as_many_steps(state: TrialState) -> None:
    # 4 trials of 5 steps each, 10 of them done, at one step a second; one that never trained tells nothing.
    assert left(PLAN, over(state), infeasible("ccc", 2)) == pytest.approx(10.0)
    assert left(over(state), rates=None) is None
    assert left(over(state), trials=None) is None
    assert left(over(state), trials=2) is None, "it took more steps than expected"


@pytest.mark.parametrize(
    "more",
    [
        [],
        [over(TrialState.STOPPED, by_person=True)],
        [over(TrialState.COMPLETED), parked("aaa", 5)],
        [parked("aaa", 5)],
    ],
)
def test_before_that_and_while_trials_are_parked_the_plan_tells_how_many_steps_there_are(more: list[Event]) -> None:
    found = left(PLAN, *more), left(PLAN, *more, trials=6)
    assert found == pytest.approx((40 - 10, 60 - 10))
    assert left(*more) is None, "without a plan nothing tells"


def test_the_time_left_goes_by_the_plan_of_the_launch_and_the_trials_that_there_are_now(tmp_path: Path) -> None:
    more = answered(15.0, changes={"budget.trials": 6})
    rest = [event.model_copy(update={"time": 15.0}) for event in (parked("aaa", 5), ended("bbb", TrialState.COMPLETED))]
    folder = write(tmp_path, [PLAN, *TRAINED, *rest, more])
    # The plan of 4 trials was 40 steps: 60 for 6, 10 of them done, at one step a second; 2 seconds have passed.
    assert running(folder, 17.0).seconds_left == pytest.approx(48.0)


WAITING = "for Ray and the hosts: qsweep logs shows what they do; 17 s so far"


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([], "for its driver to check the model and the data"),
        ([begun(3.0)], WAITING),
        (TRAINED[:3], "for a trial to start; 16 s so far"),
        (TRAINED[:4], "for the first report: 1 trial in training; 16 s so far"),
        (TRAINED, None),
        ([*TRAINED, *PAUSED, end("interrupted"), begun(3.0)], WAITING),  # the rates of earlier drivers tell nothing
        ([*TRAINED, *ENDED, end("finished")], None),
    ],
)
def test_before_its_first_report_it_is_told_what_a_sweep_waits_for(tmp_path, events, told):
    status = running(write(tmp_path, events))
    assert status.as_json()["waits_for"] == told
    assert [line for line in status.lines() if "waits" in line] == ([f"  waits     {told}"] if told else [])


def test_requests_that_go_while_they_are_looked_at_wait_no_longer(tmp_path, monkeypatch):
    folder = write(tmp_path, TRAINED)
    folder.requests.mkdir()
    for name in ("1.json", ".2.json.1a2b", ".3.json", "4.txt"):
        (folder.requests / name).touch()
    # A name that is not UTF-8: no driver ever answers it.
    (folder.requests / os.fsdecode(b"\xff.json")).touch()
    assert read_status(folder, now=20.0).waiting_requests == 1
    for look in ("listdir", "scandir"):
        monkeypatch.setattr(os, look, Mock(side_effect=FileNotFoundError))
    assert read_status(folder, now=20.0).waiting_requests == 0


def test_rates_are_of_the_present_driver_and_none_of_what_is_trained_in_no_time_or_not_at_all() -> None:
    log = EventsRead()
    log.take((event, 0) for event in TRAINED)
    # 10 steps and 1000 tokens between the data (5) and the latest report (15).
    assert log.rates == Rates(steps_per_second=1.0, tokens_per_second=100.0)
    log.take((event, 0) for event in (begun(1000.0), DATA.model_copy(update={"time": 1010.0})))
    assert log.rates is None
    before, after = Trained(10, 100), Trained(20, 300)
    assert Rates.between(before, after, 0.0) is None
    assert Rates.between(after, after, 5.0) is None


@pytest.mark.parametrize(
    ("taken", "refused", "told"),
    [
        (8, [], "holds all events"),
        # Answers to requests are nothing that MLflow waits for, and neither is that a driver lives.
        (7, [], "has not taken 1 event yet; `qsweep resume` sends them"),
        (8, [0], "refused 1 event; the next"),
        (7, [0], "has not taken 1 event yet; `qsweep resume` sends them; it refused 1 event; the next"),
    ],
)
def test_what_mlflow_has_not_taken_or_refused_is_counted(tmp_path, taken, refused, told):
    folder = write(tmp_path, [*TRAINED, end("failed")])
    size = sum(map(len, folder.events.read_bytes().splitlines(keepends=True)[:taken]))
    with folder.events.open("a") as log:
        log.writelines(f"{to_line(event)}\n" for event in (answered(200.0), DriverLives(time=260.0)))
    folder.tracking.write_text(json.dumps({"uri": URI, "acknowledged_bytes": size, "refused": refused}))
    status = read_status(folder, now=300.0)
    again = " `qsweep resume` tries again" if refused else ""
    assert status.lines()[-1] == f"  tracking  http://me:***@127.0.0.1:5000 {told}{again}"
    assert (status.as_json()["tracking"]["backlog"], status.refused) == (8 - taken, len(refused))


def test_what_was_asked_for_since_the_launch_is_told(tmp_path: Path) -> None:
    more: list[Event] = [
        answered(11.0, point={"adapter.r": 64}),
        answered(12.0, point={"adapter.r": 128}),
        answered(13.0, changes={"budget.trials": 8, "budget.wall_clock": None}),
        started("ccc", 2).model_copy(update={"point": {"adapter.r": 64}}),
    ]
    status = running(write(tmp_path, [*TRAINED, *more]))
    assert status.planned_trials == 10
    assert status.lines()[2:6] == [
        "  trials    3/10 (3 RUNNING)",
        "  added     2 points, 1 waiting for a slot",
        "  extended  budget.trials is 8, and was 4 at launch",
        "  extended  budget.wall_clock is unlimited, and was unlimited at launch",
    ]
    document = json.loads(json.dumps(status.as_json()))
    assert document["added"] == {"points": 2, "waiting": 1}
    assert document["extended"] == {"budget.trials": 8, "budget.wall_clock": None}
    # Answers to requests are no training: rates and times go by the latest event of a trial.
    assert status.record.latest == more[-1].time


def test_how_many_trials_came_to_each_rung_is_told(tmp_path: Path) -> None:
    again = started("rep", 2).model_copy(update={"repeats": "bbb"})
    more = parked("aaa", 5), started("bbb", 1), reported("bbb", 15, 1.2, since=5), again, reported("rep", 15, 1.0)
    told = "\n".join(read_status(write(tmp_path, [*TRAINED, *more]), now=30.0).lines())
    assert "reported  2 at step 5 (1 parked), 1 at step 15" in told
    assert "trials    2/4 and 1 repeat (" in told
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SweepError, match="not the configuration of a sweep"):
        read_status(SweepFolder(tmp_path), now=0.0)


HANGS = Silent(pid=7, node="10.0.0.1", trials=("bbb", "ccc", "aaa"), what="step", usual=21.0, since=100.0)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (HANGS, "for 12 min 00 s its step has not ended, and the slowest so far took 21 s."),
        (HANGS.model_copy(update={"what": "evaluation", "usual": None}), "its first evaluation has not ended."),
        (HANGS.model_copy(update={"what": "answer", "usual": None}), "it answers no call."),
    ],
)
def test_a_host_that_may_hang_is_told_with_its_trials_and_the_way_out(host: Silent, said: str) -> None:
    line = silent(host, record([begun(), hosts(), started("aaa"), started("bbb", 11), started("ccc", 100)]), 820.0)
    assert line.startswith("the host of t00, t11, t100 (process 7 on 10.0.0.1) may hang: ")
    assert said in line and "kill -9 7" in line
