"""`budget.trials: auto`: trials and first rung that fill a budget of time."""

from __future__ import annotations

from typing import Any

import pytest
from measured_rates import rate
from sweep_files import toy

from sweeps.config.load import Sweep
from sweeps.errors import ConfigError
from sweeps.planning import auto_trials
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import RowsAndRates
from sweeps.planning.plan import plan
from sweeps.planning.rates import rate_key
from trainables.contract import Need, Work

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=1)
RATES = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}


def sweep(space: dict[str, Any] | None = None, **sections: Any) -> Sweep:
    sections["budget"] = {"trials": "auto", "steps_per_trial": 27, **sections.get("budget", {})}
    return Sweep(*toy(space or RATES, **sections))


def known(asked: Sweep) -> RowsAndRates:
    key = rate_key(asked.config, "here")
    return RowsAndRates([rate(key)], key)


def settled(asked: Sweep, device: Any = "cpu", hosts: int = 1) -> tuple[Sweep, str]:
    return auto_trials.settled(asked, NEED, Machine(device, hosts, 10**6), known(asked))


@pytest.mark.parametrize("clock", ["10m", "1h"])
def test_as_many_trials_are_chosen_as_the_wall_clock_holds(clock: str) -> None:
    asked = sweep(budget={"wall_clock": clock})
    found, how = settled(asked)
    trials = found.config.budget.count
    taken = {}
    for count in (trials, trials + 1):
        config = found.config.model_copy(update={"budget": found.config.budget.model_copy(update={"trials": count})})
        planned = plan(config, asked.space, NEED, Machine("cpu", 1, 10**6), known(asked))
        assert planned.forecast.seconds is not None
        taken[count] = planned.forecast.seconds.expected
    whole = {"10m": 600, "1h": 3600}[clock]
    assert taken[trials] <= 0.95 * whole < taken[trials + 1]
    assert how.endswith(f"of budget.wall_clock {clock}")


def test_how_a_number_came_is_told() -> None:
    """20 s, and of each trial 1 s, 27 steps of 2 s and three evaluations of 1 s; one evaluation of the base."""
    _, how = settled(sweep(budget={"wall_clock": "5m"}, scheduler={"kind": "fifo"}))
    assert how == "budget.trials: auto is 4: they are expected to take 4 min 13 s of budget.wall_clock 5m"


def test_gpu_hours_are_shared_by_the_hosts() -> None:
    fifo = {"kind": "fifo"}
    one, _ = settled(sweep(budget={"gpu_hours": 1.0}, scheduler=fifo), "cuda")
    # Two hosts have half the time each, and start in it too.
    two, how = settled(sweep(budget={"gpu_hours": 1.0}, scheduler=fifo), "cuda", hosts=2)
    assert one.config.budget.count == 58
    assert 54 <= two.config.budget.count < 58
    assert how.endswith("of budget.gpu_hours 1")


def test_there_are_no_more_trials_than_the_space_has() -> None:
    asked = sweep({"adapter.r": {"choice": [16, 8]}}, budget={"wall_clock": "5h"})
    assert settled(asked)[0].config.budget.count == 2


def test_the_most_that_auto_chooses_is_told_where_the_budget_holds_more() -> None:
    found, how = settled(sweep(budget={"wall_clock": "100d"}))
    assert found.config.budget.count == 1000
    assert how.endswith("of budget.wall_clock 100d; auto chooses 1,000 trials at most: give a number for more")


@pytest.mark.parametrize(
    ("budget", "device", "problem"),
    [
        ({"wall_clock": "30s"}, "cpu", r"budget\.wall_clock 30s does not hold one trial of 27 steps: raise it"),
        ({"wall_clock": "30s", "examples_per_trial": 108}, "cpu", "does not hold one trial of 108 examples: raise it"),
        ({"gpu_hours": 1.0}, "cpu", r"no GPU is used here, so gpu_hours bounds nothing: give wall_clock"),
    ],
)
def test_a_budget_that_cannot_be_filled_is_refused(budget: dict[str, Any], device: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        settled(sweep(budget=budget), device)


def test_without_a_rate_the_way_out_is_told() -> None:
    asked = sweep(budget={"wall_clock": "1h"})
    with pytest.raises(ConfigError, match="run `qsweep plan FILE --calibrate`, or give a number of trials"):
        auto_trials.settled(asked, NEED, Machine("cpu", 1, 10**6), RowsAndRates())


def test_an_estimate_by_arithmetic_is_no_rate() -> None:
    asked = sweep(budget={"wall_clock": "1h"})
    numbers: dict[str, Any] = dict.fromkeys(Work.model_fields, 9)
    work = Work(**numbers)
    with pytest.raises(ConfigError, match=r"arithmetic alone is too rough to choose a number\. Sweeps on such GPUs"):
        auto_trials.settled(asked, NEED, Machine("cuda", 1, 10**6), RowsAndRates(work=work, types=("H100",)))
