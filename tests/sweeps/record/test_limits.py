"""Budgets that end a sweep whatever its trials do."""

from __future__ import annotations

from itertools import product

from sweep_events import begun, ended, hosts, record, reported, started

from sweeps.config.model import Budget
from sweeps.record import limits
from sweeps.record.events import Event, SweepEnded, TrialState
from sweeps.record.sweep_record import SweepRecord
from trainables.contract import Device


def sweep(device: Device = "cuda", *losses: float, gpus: int = 1) -> SweepRecord:
    """Two hosts since 100, and a trial with these losses."""
    held = hosts(110.0, since=100.0, hosts=2, held=2, held_seconds=20.0, device=device, gpus_per_host=gpus)
    best = min(((loss, 3 * number) for number, loss in enumerate(losses, start=1)), default=(0.0, 0))
    reports = [reported("a", 3 * number, loss, best=best[::-1]) for number, loss in enumerate(losses, start=1)]
    return record([begun(90.0), held, started("a", 7, time=111.0), *reports])


def test_gpu_hours_are_hosts_times_gpus_times_hours_since_they_were_asked_for() -> None:
    budget = Budget(gpu_hours=1.0)
    for gpus, seconds in ((1, 1900.0), (4, 550.0)):
        assert limits.reached(budget, sweep(gpus=gpus), seconds - 1) is None
        found = limits.reached(budget, sweep(gpus=gpus), seconds)
        assert found is not None and (str(found), found.can_be_raised) == ("budget.gpu_hours 1 is used up", True)
    assert limits.reached(budget, sweep("cpu"), 1e9) is None
    assert limits.reached(Budget(), sweep("cuda", 0.0), 1e9) is None


def test_wall_clock_counts_from_the_beginning_and_not_the_pauses_between_drivers() -> None:
    for begins, now in ((130.0, 150.0), (1000.0, 1020.0)):
        whole = record([begun(90.0), SweepEnded(time=130.0, reason="interrupted"), begun(begins)])
        assert limits.reached(Budget(wall_clock="1m"), whole, now - 0.1) is None
        assert limits.reached(Budget(wall_clock="1m"), whole, now) is not None


def test_a_target_is_reached_by_the_best_step_of_any_trial_that_may_be_the_best() -> None:
    budget = Budget(target=0.9)
    found = limits.reached(budget, sweep("cpu", 1.2, 0.8, 1.1), 0.0)
    assert found is not None and not found.can_be_raised
    assert str(found) == "budget.target 0.9 is reached: t07 has eval_loss 0.8000 at step 6"
    assert limits.reached(budget, sweep("cpu", 1.2, 0.91), 0.0) is limits.reached(budget, sweep("cpu"), 0.0) is None
    whole: list[Event] = [begun(), started("a"), reported("a", 9, 0.95), ended("a", TrialState.COMPLETED)]
    for repeats, state in product((None, "a"), (None, TrialState.FAILED, TrialState.STOPPED)):
        events = [*whole, started("r", 1).model_copy(update={"repeats": repeats}), reported("r", 3, 0.8)]
        if state is not None:
            events.append(ended("r", state))
        found = limits.reached(budget, record(events), 0.0)
        assert (found is not None) is (repeats is None and state is not TrialState.FAILED)


def test_patience_is_used_up_by_first_reports_in_a_row_without_a_gain() -> None:
    def found(*gains: bool | None, patience: int | None = 2) -> str | None:
        told: list[Event] = [begun()]
        for number, gain in enumerate(gains):
            report = reported(f"k{number}", 3, 1.0).model_copy(update={"is_gain": gain})
            told += [started(f"k{number}", number), report]
        reached = limits.out_of_patience(Budget(patience=patience), record(told))
        return None if reached is None else str(reached)

    assert found() is found(True) is found(True, False) is found(True, False, True, False, None) is None
    # Before any gain nothing was tried that counts.
    assert found(False, False) is found(True, False, False, patience=None) is None
    told = "budget.patience 2: at their first report 2 trials since t03 brought no gain"
    assert found(False, True, False, True, False, False, None) == told
