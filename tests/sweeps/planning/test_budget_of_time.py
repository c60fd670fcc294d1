"""A budget of time: what a plan says of one that is too short or of unknown reach, and `budget.trials: auto`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from measured_rates import rate
from sweep_files import RATES, toy

from sweeps.config.load import LoadedSweep
from sweeps.errors import ConfigError
from sweeps.planning import auto_trials, rates, this_machine
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import RowsAndRates
from sweeps.planning.plan import plan
from sweeps.planning.rates import rate_key
from trainables.contract import Need, Work
from trainables.specs import QuantizationSpec

NINE = {"trials": 9, "steps_per_trial": 9}
NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)


def warnings(device: Any = "cpu", hosts: int = 1, is_known: bool = True, **sections: Any) -> list[str]:
    config, space = toy(RATES, **sections)
    key = rate_key(config, "here")
    measured = [rate(key, step_seconds=10.0, start_seconds=0.0, trial_seconds=0.0)] if is_known else []
    planned = plan(config, space, NEED, Machine(device, hosts, 10**6), RowsAndRates(measured, key))
    return [line for line in planned.warnings if line.startswith(("budget.", "cluster.hosts"))]


@pytest.mark.parametrize(
    ("scheduler", "has_other_order"),
    [({}, True), ({"order": "paper"}, False), ({"variant": "stop"}, False), ({"kind": "fifo"}, False)],
)
def test_a_wall_clock_that_is_too_short_is_told_with_the_ways_out(scheduler, has_other_order) -> None:
    (line,) = warnings(budget={**NINE, "wall_clock": "1m"}, scheduler=scheduler)
    assert line.startswith("budget.wall_clock 1m is shorter than the ")
    assert "lower budget.trials or set it to auto" in line
    assert ("scheduler.order=paper" in line) is has_other_order


def test_gpu_hours_that_are_too_few_are_told_too() -> None:
    budget, fifo = {**NINE, "gpu_hours": 0.1}, {"kind": "fifo"}
    (line,) = warnings("cuda", 2, budget=budget, scheduler=fifo)
    # Of nine trials one host trains five: 45 steps of 10 s, and 10 evaluations of 1 s. Both hosts are paid for.
    assert line.startswith("budget.gpu_hours 0.1 is shorter than the 0.256 GPU-hours that are expected: ")
    assert warnings("cuda", 2, budget={**NINE, "gpu_hours": 0.5}, scheduler=fifo) == []
    assert warnings("cpu", 2, budget=budget, scheduler=fifo) == []


@pytest.mark.parametrize(("field", "limit"), [("wall_clock", "1m"), ("gpu_hours", 1.0)])
def test_a_budget_of_unknown_reach_is_told_with_the_ways_to_an_answer(field: str, limit: Any) -> None:
    (line,) = warnings("cuda", is_known=False, budget={**NINE, field: limit})
    assert line.startswith(f"budget.{field} 1")
    for way_out in ("scheduler.order=paper", "`qsweep plan FILE --calibrate`", "budget.trials=auto"):
        assert way_out in line


@pytest.mark.parametrize("scheduler", [{"order": "paper"}, {"variant": "stop"}, {"kind": "fifo"}, {"grace_steps": 9}])
def test_where_trials_come_to_their_last_step_early_an_unknown_reach_is_no_warning(scheduler: dict[str, Any]) -> None:
    assert warnings(is_known=False, budget={**NINE, "wall_clock": "1m"}, scheduler=scheduler) == []


@pytest.mark.parametrize(
    ("device", "hosts", "scheduler", "is_told"),
    [("cuda", 8, {}, True), ("cuda", 1, {}, False), ("cpu", 8, {}, False), ("cuda", 8, {"kind": "fifo"}, False)],
)
def test_hosts_that_will_have_no_trial_in_the_last_rung_are_told(device, hosts, scheduler, is_told) -> None:
    """64 trials, of which some two come to the last step."""
    told = warnings(device, hosts, budget={"trials": 64}, cluster={"slots_per_host": 1}, scheduler=scheduler)
    assert len(told) == is_told
    for line in told:
        expected = re.match(r"cluster\.hosts: 8 hosts for (\d) trials that can be expected at the last report: ", line)
        assert expected is not None, line
        assert 2 <= int(expected[1]) < 8
        assert f"`qsweep extend SWEEP cluster.hosts={expected[1]}`" in line


ONE_SLOT = NEED.model_copy(update={"saturating_slots": 1})


def sweep(space: dict[str, Any] | None = None, **sections: Any) -> LoadedSweep:
    sections["budget"] = {"trials": "auto", "steps_per_trial": 27, **sections.get("budget", {})}
    return LoadedSweep(*toy(space or RATES, **sections))


def known(asked: LoadedSweep) -> RowsAndRates:
    key = rate_key(asked.config, "here")
    return RowsAndRates([rate(key)], key)


def settled(asked: LoadedSweep, device: Any = "cpu", hosts: int = 1) -> tuple[LoadedSweep, str]:
    return auto_trials.with_auto_trials(asked, ONE_SLOT, Machine(device, hosts, 10**6), known(asked))


@pytest.mark.parametrize(("clock", "seconds"), [("10m", 600), ("1h", 3600)])
def test_as_many_trials_are_chosen_as_the_wall_clock_holds(clock: str, seconds: int) -> None:
    asked = sweep(budget={"wall_clock": clock})
    found, how = settled(asked)

    def taken(trials: int) -> float:
        config = found.config.model_copy(update={"budget": found.config.budget.model_copy(update={"trials": trials})})
        expected = plan(config, asked.space, ONE_SLOT, Machine("cpu", 1, 10**6), known(asked)).forecast.seconds
        assert expected is not None
        return expected.expected

    assert taken(found.config.budget.count) <= 0.95 * seconds < taken(found.config.budget.count + 1)
    assert how.endswith(f"of budget.wall_clock {clock}")


@pytest.mark.parametrize(
    ("space", "sections", "count", "how"),
    [
        # 20 s, and of each trial 1 s, 27 steps of 2 s and three evaluations of 1 s; one evaluation of the base.
        (RATES, {"wall_clock": "5m"}, 4, "is 4: they are expected to take 4 min 13 s of budget.wall_clock 5m"),
        ({"adapter.r": {"choice": [16, 8]}}, {"wall_clock": "5h"}, 2, "of budget.wall_clock 5h"),
        (RATES, {"wall_clock": "100d"}, 1000, "; auto chooses 1,000 trials at most: give a number for more"),
    ],
)
def test_how_a_number_came_is_told(space: Any, sections: Any, count: int, how: str) -> None:
    found, told = settled(sweep(space, budget=sections, scheduler={"kind": "fifo"}))
    assert (found.config.budget.count, told[-len(how) :]) == (count, how)


def test_gpu_hours_are_shared_by_the_hosts() -> None:
    fifo = {"kind": "fifo"}
    one, _ = settled(sweep(budget={"gpu_hours": 1.0}, scheduler=fifo), "cuda")
    # Two hosts have half the time each, and start in it too.
    two, how = settled(sweep(budget={"gpu_hours": 1.0}, scheduler=fifo), "cuda", hosts=2)
    assert one.config.budget.count == 58
    assert 54 <= two.config.budget.count < 58
    assert how.endswith("of budget.gpu_hours 1")


BY_ARITHMETIC = RowsAndRates(work=Work(**dict.fromkeys(Work.model_fields, 9)), types=("H100",))
HOUR = {"wall_clock": "1h"}


@pytest.mark.parametrize(
    ("budget", "device", "rates", "problem"),
    [
        ({"wall_clock": "30s"}, "cpu", None, r"budget\.wall_clock 30s does not hold one trial of 27 steps: raise it"),
        ({"wall_clock": "30s", "examples_per_trial": 108}, "cpu", None, "does not hold one trial of 108 examples: rai"),
        ({"gpu_hours": 1.0}, "cpu", None, r"no GPU is used here, so gpu_hours bounds nothing: give wall_clock"),
        (HOUR, "cpu", RowsAndRates(), "run `qsweep plan FILE --calibrate`, or give a number of trials"),
        (HOUR, "cuda", BY_ARITHMETIC, r"arithmetic alone is too rough to choose a number\. Sweeps on such GPUs"),
    ],
)
def test_a_budget_that_cannot_be_filled_is_refused(budget, device, rates, problem) -> None:
    asked = sweep(budget=budget)
    with pytest.raises(ConfigError, match=problem):
        auto_trials.with_auto_trials(asked, ONE_SLOT, Machine(device, 1, 10**6), rates or known(asked))


def test_auto_counts_the_time_of_every_base_and_needs_the_rate_of_each(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(rates, "file", lambda: tmp_path / "rates.json")
    space = RATES | {"quantization.scheme": {"choice": ["nf4", "none"]}}
    one, both = (sweep(each, model={"source": "m"}, budget={"wall_clock": "1h"}) for each in (RATES, space))
    device = this_machine.machine_of(one.config, to_launch=True).device_name
    assert device is not None

    def keep(asked: LoadedSweep, **words: Any) -> None:
        rates.remember(rates.file(), rate(rate_key(asked.config, device), **words), {})

    keep(one, step_seconds=1.0)
    alone = this_machine.with_trials(one, to_launch=True)[0].config.budget.count
    with pytest.raises(ConfigError, match=r"^budget\.trials: auto: the time of a trial "):
        this_machine.with_trials(both, to_launch=True)
    plain = QuantizationSpec(scheme="none")
    keep(replace(one, config=one.config.model_copy(update={"quantization": plain})), step_seconds=9.0)
    found = this_machine.with_trials(both, to_launch=True)[0].config.budget.count
    assert 0 < found < alone / 2
