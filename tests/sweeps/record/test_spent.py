"""What a sweep has spent is added up in one place, under all of its drivers."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sweep_events
from sweep_events import answered, begun, ended, history, record, reported, started

from sweeps.record.events import (
    DataPrepared,
    Event,
    HostsChanged,
    HostsStarted,
    SweepEnded,
    SweepPlanned,
    TrialStarted,
    TrialState,
)
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.journal import Journal
from sweeps.record.spent import Planned, planned, spent
from sweeps.record.sweep_record import SweepRecord
from sweeps.tracking.metric_points import spent_points
from trainables.contract import Device

FULL = 27
PREPARED = DataPrepared(time=12.0, summary={"train_rows": 0})


def hosts(time: float = 10.0, count: int = 2, device: Device = "cpu", gpus: int = 1) -> HostsStarted:
    held = {"hosts": count, "slots": 4, "held": count, "held_seconds": 5.0 * count, "gpus_per_host": gpus}
    return sweep_events.hosts(time, since=time - 5, device=device, **held)


def over(time: float) -> SweepEnded:
    return SweepEnded(time=time, reason="finished")


def sweep(*events: Event) -> SweepRecord:
    return record([begun(), hosts(), PREPARED, *events])


def test_steps_and_tokens_are_those_of_all_trials() -> None:
    late = ended("b", TrialState.STOPPED, history=history(4, 5))  # taken since its last report
    trials = started("a"), started("b", 1), reported("a", 9, 1.0), reported("b", 3, 2.0), late
    found = spent(sweep(*trials), FULL)
    assert (found.steps, found.tokens) == (9 + 5, 900 + 500)


@pytest.mark.parametrize(
    ("state", "by_budget", "full"),
    [
        (TrialState.STOPPED, False, FULL),
        (TrialState.STOPPED, True, 3),
        *((state, False, 3) for state in (TrialState.DIVERGED, TrialState.FAILED, TrialState.PAUSED)),
    ],
)
def test_only_the_scheduler_saves_steps(state: TrialState, by_budget: bool, full: int) -> None:
    over = ended("a", state, by_person_or_budget=by_budget)
    assert spent(sweep(started("a"), reported("a", 3, 1.0), over), FULL).full_steps == full


def test_time_between_drivers_is_not_spent_and_each_had_its_own_hosts_of_so_many_gpus() -> None:
    prepared = PREPARED.model_copy(update={"time": 1011.0})
    found = spent(sweep(over(45.0), begun(1000.0), hosts(1010.0, 3, "cuda"), prepared, over(1065.0)), FULL)
    assert (found.seconds, found.host_seconds) == (45 + 65, 2 * 40 + 3 * 60)
    assert found.gpu_hours == pytest.approx(3 * 60 / 3600)
    of_two, changed = hosts(1010.0, 1, "cuda", 2), HostsChanged(time=1810.0, hosts=3, slots=3, held=3)
    found = spent(sweep(over(45.0), begun(1000.0), of_two, changed, over(2810.0)), FULL)
    assert found.host_seconds == 2 * 40 + 5 + (1810 - 1010) + 3 * 1000
    assert found.gpu_hours == pytest.approx(2 * (5 + (1810 - 1010) + 3 * 1000) / 3600)
    without = spent(sweep(over(45.0), begun(1000.0), over(1007.0)), FULL)
    assert (without.seconds, without.host_seconds) == (52.0, 80.0), "a driver that got no host held none"


def test_hosts_that_wait_for_a_gpu_hold_none(tmp_path: Path) -> None:
    """Asked for at 5.0; two were placed 5 hours later, at different times, and one was ready at 18070."""
    told = hosts(18070.0, 1, "cuda", 4).model_copy(update={"since": 5.0, "held": 2, "held_seconds": 100.0})
    found = record([begun(), told, over(18080.0), begun(20000.0), told.model_copy(update={"time": 20010.0})])
    assert found.host_seconds_spent() == {"cuda": 100 + 2 * 10 + 100}
    assert found.gpu_seconds_spent(20015.0) == 4 * (100 + 2 * 10 + 100 + 2 * 5)
    on_cpus = record([begun(), told.model_copy(update={"device": "cpu"}), over(18080.0)])
    assert (on_cpus.gpu_seconds_spent(), on_cpus.host_seconds_spent()) == (0.0, {"cpu": 100 + 2 * 10})
    journal = Journal(SweepFolder(tmp_path))
    journal.add(told)
    assert Journal(SweepFolder(tmp_path)).record.gpu_seconds_spent(18071.0) == 4 * (100 + 2 * 1)


def test_drivers_that_are_killed_between_reports_have_spent_their_time_all_the_same(tmp_path: Path) -> None:
    with closing(Journal(SweepFolder(tmp_path))) as journal:
        for life in (0.0, 10_000.0):
            for event in (begun(life), hosts(life + 10, 2, "cuda"), PREPARED.model_copy(update={"time": life + 12})):
                journal.add(event)
            for seconds in range(12, 3600, 5):
                journal.tell_alive(life + seconds)
        journal.add(begun(20_000.0))
    found = Journal(SweepFolder(tmp_path)).record
    assert found.seconds_spent() == pytest.approx(2 * 3600, abs=130)
    assert found.gpu_seconds_spent() == pytest.approx(2 * 2 * 3600, abs=300)
    assert len(list(read_events(SweepFolder(tmp_path).events))) < 2 * 60 + 10, "a line a minute at most"
    assert found.latest == 20_000.0


def test_the_parent_run_shows_what_is_known_of_it_with_a_point_for_each_driver() -> None:
    points = {point.key: point.value for point in spent_points(sweep(over(45.0)), FULL)}
    none = dict.fromkeys(["steps", "examples", "tokens", "gpu_hours", "full_steps"], 0)
    assert points == none | {"seconds": 45, "host_seconds": 80}
    again = spent_points(sweep(over(45.0), begun(), PREPARED, over(60.0)), FULL)
    assert {point.step for point in again} == {2}


def test_a_clock_that_was_set_back_spends_no_time() -> None:
    assert sweep(over(60.0), begun(50.0), over(40.0)).seconds_spent() == 60.0
    assert SweepRecord().seconds_spent(100.0) == 0.0


def of_batch(key: str, batch: int, steps: int) -> TrialStarted:
    """A trial of `steps` steps of `batch` rows, two micro-batches each."""
    training = {"batch_size": batch, "gradient_accumulation_steps": 2}
    return started(key).model_copy(update={"spec": json.dumps({"steps": steps, "training": training})})


def test_examples_are_rows_of_all_steps_and_a_trial_that_was_stopped_would_have_taken_its_own_steps() -> None:
    trials = of_batch("a", 4, 9), reported("a", 9, 1.0), of_batch("b", 1, 72), reported("b", 3, 1.0)
    found = spent(sweep(*trials, ended("b", TrialState.STOPPED)), FULL)
    assert (found.examples, found.full_steps) == (9 * 8 + 3 * 2, 9 + 72)
    assert list(found.model_dump()) == ["steps", "examples", "tokens", "seconds", "gpu_hours", "full_steps"]


def against(*events: Event) -> Planned | None:
    found = sweep(*events)
    return planned(found, spent(found, FULL))


TRAINED = (started("a"), reported("a", 9, 1.0))


def test_the_plan_is_held_against_what_was_spent() -> None:
    found = against(SweepPlanned(time=0.0, steps=10, seconds=50.0, memory_bytes=4), *TRAINED, over(45.0))
    assert found is not None
    assert (found.steps_off, found.seconds_off) == (-0.1, -0.1)
    assert (found.memory_bytes, found.memory_off) == (4, (1000 + 9) / 4 - 1)


def test_the_first_plan_stays_and_one_without_a_rate_says_nothing_of_time() -> None:
    found = against(*(SweepPlanned(time=0.0, steps=steps, seconds=None) for steps in (9, 99)), *TRAINED)
    assert found is not None
    assert (found.steps, found.steps_off, found.seconds_off, found.memory_off) == (9, 0.0, None, None)
    assert against() is None


@pytest.mark.parametrize("more", [{"changes": {"budget.trials": 10}}, {"point": {"adapter.r": 4}}], ids=list)
def test_a_sweep_that_was_extended_is_not_held_against_its_plan(more: dict[str, Any]) -> None:
    plan = SweepPlanned(time=0.5, steps=40, seconds=60.0)
    assert against(plan) is not None
    assert against(plan, answered(**more)) is None
