"""Where a sweep stands is told from its folder alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import report_sweeps
from folders_that_go import goes_before_it_is_listed
from sweep_events import begun, ended, hosts, record, reported, started

from cluster.pace import Silent
from sweeps.errors import SweepError
from sweeps.record.events import (
    DataPrepared,
    DriverLives,
    Event,
    HostsStarted,
    RequestAnswered,
    SweepEnded,
    SweepPlanned,
    TrialParked,
    TrialState,
)
from sweeps.record.folder import EventLog, SweepFolder, locked
from sweeps.report.status import EventsRead, Status, read, silent
from sweeps.report.time_left import Rates

URI = "http://me:secret@127.0.0.1:5000"
CONFIG: dict[str, Any] = {"name": "x", "budget": {"trials": 4}, "tracking": {"uri": URI}}
DATA = DataPrepared(time=5.0, summary={"train_rows": 0})
HOSTS = HostsStarted(time=4.0, since=3.0, hosts=2, slots=6, held=2, held_seconds=2.0, device="cpu")
# `reported` tells of 100 tokens a step, and of a report at second 10 + step.
TRAINED: list[Event] = [
    begun(),
    HOSTS,
    DATA,
    started("aaa", 0, r=8),
    reported("aaa", 5, 2.0),
    started("bbb", 1, r=4),
    reported("bbb", 5, 1.5),
]


def write(folder: Path, events: list[Event]) -> SweepFolder:
    return report_sweeps.write(folder, events, CONFIG)


def running(folder: SweepFolder, now: float = 20.0) -> Status:
    with locked(folder):
        return read(folder, now)


def over(reason: str) -> SweepEnded:
    return SweepEnded.model_validate({"time": 100.0, "reason": reason})


def asked(time: float, **more: Any) -> RequestAnswered:
    return RequestAnswered(
        time=time, request=str(time), sender="a test", asked="more", is_accepted=True, message="yes", **more
    )


PAUSED: list[Event] = [ended("aaa", TrialState.PAUSED), ended("bbb", TrialState.PAUSED)]
ENDED: list[Event] = [ended("aaa", TrialState.STOPPED), ended("bbb", TrialState.COMPLETED)]
EXTENDED = asked(150.0, changes={"budget.trials": 9})


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "NOT_BEGUN"),
        (TRAINED, "LOST"),
        ([*TRAINED, over("failed")], "FAILED"),
        ([*TRAINED, *PAUSED, over("interrupted")], "INTERRUPTED"),
        ([*TRAINED, *ENDED, over("finished")], "FINISHED"),
        ([*TRAINED, *ENDED, over("finished"), EXTENDED], "EXTENDED"),
        ([*TRAINED, *PAUSED, over("interrupted"), EXTENDED], "INTERRUPTED"),
        ([*TRAINED, *ENDED, over("finished"), EXTENDED, begun(200.0)], "LOST"),
    ],
)
def test_the_state_of_a_sweep_that_does_not_run(tmp_path: Path, events: list[Event], state: str) -> None:
    status = read(write(tmp_path, events), now=300.0)
    assert (status.state, status.seconds_left, status.waits_for) == (state, None, None)


def test_lines_and_json_say_the_same_of_a_sweep_that_somebody_drives(tmp_path: Path) -> None:
    status = running(write(tmp_path, TRAINED))
    # Time on the log's clock, until now: the driver began at 0.
    assert status.lines() == [
        "x-1: running",
        f"  folder    {tmp_path}",
        "  trials    2 of 4 (2 RUNNING)",
        "  reported  2 at step 5",
        "  best      t01, eval_loss 1.5000 at step 5",
        "  hosts     2 on cpu, 6 slots in all",
        "  rate      1.00 steps/s, 100 tokens/s",
        "  time      20 s",
        "  tracking  http://me:***@127.0.0.1:5000 has not taken 7 events yet",
    ]
    document = status.as_json()
    assert (document["best"]["trial_key"], document["best"]["value"], document["seconds"]) == ("bbb", 1.5, 20.0)
    assert document["hosts"] == {"hosts": 2, "slots": 6, "device": "cpu", "silent": ()}
    assert (document["state"], document["steps_per_second"], document["waiting_requests"]) == ("RUNNING", 1.0, 0)
    assert document["rungs"] == [{"step": 5, "reported": 2, "parked": 0}]
    assert "secret" not in json.dumps(document)


def test_the_time_left_goes_by_the_plan_of_the_launch_and_the_trials_that_there_are_now(tmp_path: Path) -> None:
    more, parked = asked(15.0, changes={"budget.trials": 6}), TrialParked(time=15.0, trial_key="aaa", step=5)
    ends = ended("bbb", TrialState.COMPLETED).model_copy(update={"time": 15.0})
    folder = write(tmp_path, [SweepPlanned(time=0.0, steps=40, seconds=None), *TRAINED, parked, ends, more])
    # The plan of 4 trials was 40 steps: 60 for 6, 10 of them done, at one step a second; 2 seconds have passed.
    assert running(folder, 17.0).seconds_left == pytest.approx(48.0)


WAITING = "for Ray and the hosts: what the sweep prints says why; 17 s so far"


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([], "for its driver to check the model and the data"),
        ([begun(3.0)], WAITING),
        (TRAINED[:3], "for a trial to start; 16 s so far"),
        (TRAINED[:4], "for the first report: 1 trial in training; 16 s so far"),
        (TRAINED, None),
        ([*TRAINED, *PAUSED, over("interrupted"), begun(3.0)], WAITING),  # the rates of earlier drivers tell nothing
        ([*TRAINED, *ENDED, over("finished")], None),
    ],
)
def test_before_its_first_report_it_is_told_what_a_sweep_waits_for(
    tmp_path: Path, events: list[Event], told: str | None
) -> None:
    status = running(write(tmp_path, events))
    assert status.as_json()["waits_for"] == told
    assert [line for line in status.lines() if "waits" in line] == ([f"  waits     {told}"] if told else [])


def test_requests_that_go_while_they_are_looked_at_wait_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, TRAINED)
    folder.requests.mkdir()
    for name in ("1.json", ".2.json.1a2b", ".3.json", "4.txt"):
        (folder.requests / name).touch()
    # A name that is not UTF-8: no driver ever answers it.
    (folder.requests / os.fsdecode(b"\xff.json")).touch()
    assert read(folder, now=20.0).waiting_requests == 1
    goes_before_it_is_listed(folder.requests, monkeypatch)
    assert read(folder, now=20.0).waiting_requests == 0


def test_the_best_may_still_run_and_is_none_that_diverged(tmp_path: Path) -> None:
    events = [*TRAINED, ended("bbb", TrialState.DIVERGED)]
    best = read(write(tmp_path, events), now=30.0).best
    assert best is not None and best.trial_key == "aaa"


def test_rates_are_of_the_present_driver() -> None:
    log = EventsRead()
    log.take((event, 0) for event in TRAINED)
    # 10 steps and 1000 tokens between the data (5) and the latest report (15).
    assert log.rates == Rates(steps_per_second=1.0, tokens_per_second=100.0)
    log.take((event, 0) for event in (begun(1000.0), DATA.model_copy(update={"time": 1010.0})))
    assert log.rates is None


@pytest.mark.parametrize(
    ("taken", "refused", "told"),
    [
        (8, [], "holds all events"),
        # Answers to requests are nothing that MLflow waits for, and neither is that a driver lives.
        (7, [], "has not taken 1 event yet; `qsweep resume` sends them"),
        (8, [0], "refused 1 event; the next `qsweep resume` tries again"),
        (7, [0], "has not taken 1 event yet; `qsweep resume` sends them; it refused 1 event; the next `qsweep resume` "
                 "tries again"),
    ],
)  # fmt: skip
def test_what_mlflow_has_not_taken_or_refused_is_counted(
    tmp_path: Path, taken: int, refused: list[int], told: str
) -> None:
    folder = write(tmp_path, [*TRAINED, over("failed")])
    size = sum(map(len, folder.events.read_bytes().splitlines(keepends=True)[:taken]))
    log = EventLog(folder.events)
    log.append(asked(200.0))
    log.append(DriverLives(time=260.0))
    log.close()
    folder.tracking.write_text(json.dumps({"uri": URI, "acknowledged_bytes": size, "refused": refused}))
    status = read(folder, now=300.0)
    assert status.lines()[-1] == f"  tracking  http://me:***@127.0.0.1:5000 {told}"
    assert (status.as_json()["tracking"]["backlog"], status.refused) == (8 - taken, len(refused))


def test_what_was_asked_for_since_the_launch_is_told(tmp_path: Path) -> None:
    first = started("ccc", 2).model_copy(update={"point": {"adapter.r": 64}})
    more: list[Event] = [
        asked(11.0, point={"adapter.r": 64}),
        asked(12.0, point={"adapter.r": 128}),
        asked(13.0, changes={"budget.trials": 8, "budget.wall_clock": None}),
        first,
    ]
    status = read(write(tmp_path, [*TRAINED, *more]), now=20.0)
    assert status.planned_trials == 10
    assert status.lines()[2:6] == [
        "  trials    3 of 10 (3 RUNNING)",
        "  added     2 points, 1 waiting for a slot",
        "  extended  budget.trials is 8, and was 4 at launch",
        "  extended  budget.wall_clock is unlimited, and was unlimited at launch",
    ]
    document = json.loads(json.dumps(status.as_json()))
    assert document["added"] == {"points": 2, "waiting": 1}
    assert document["extended"] == {"budget.trials": 8, "budget.wall_clock": None}
    # Answers to requests are no training: rates and times go by the latest event of a trial.
    assert status.record.latest == first.time


def test_how_many_trials_came_to_each_rung_is_told(tmp_path: Path) -> None:
    events = [
        *TRAINED,
        TrialParked(time=16.0, trial_key="aaa", step=5),
        started("bbb", 1),
        reported("bbb", 15, 1.2, since=5),
        started("rep", 2).model_copy(update={"repeats": "bbb"}),
        reported("rep", 15, 1.0),
    ]
    told = "\n".join(read(write(tmp_path, events), now=30.0).lines())
    assert "reported  2 at step 5 (1 parked), 1 at step 15" in told
    assert "trials    2 of 4 and 1 repeat (" in told


def test_a_folder_that_holds_no_sweep_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SweepError, match="not the configuration of a sweep"):
        read(SweepFolder(tmp_path), now=0.0)


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
