"""The speed of a host by arithmetic."""

from __future__ import annotations

import pytest
from sweep_files import toy

from sweeps.planning.arithmetic import GENERATED, LARGEST_SHARE, LAUNCH_SECONDS, SLOWER, speed
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import RowsAndRates, forecast
from sweeps.planning.rates import Load, Speed
from trainables.contract import RowShape, Work

WORK = Work(
    trained=30e9, evaluated=15e9, generated=16e9, micro_batch=2, pass_tokens=4096, pass_operators=3000,
    slot_operators=2700, forward_operators=2280,
)  # fmt: skip
SMALL = WORK.model_copy(update={"trained": 3e8, "evaluated": 1.5e8})
PEAK = 989e12


def found(work: Work = WORK, types: tuple[str, ...] = ("H100",), slots: int = 1, answered: float | None = 0.0) -> Speed:
    load = Load(tokens_per_step=2000.0, slots=slots, evaluation_rows=200, row_tokens=500.0)
    return speed(work, types, "auto", load, answered)


def test_a_large_model_takes_its_operations_over_a_part_of_the_peak() -> None:
    seen = found()
    assert seen.step_seconds / seen.factor == pytest.approx(30e9 * 2000 / (LARGEST_SHARE * PEAK))
    assert seen.evaluation_seconds / seen.factor == pytest.approx(15e9 * 200 * 500 / (LARGEST_SHARE * PEAK))
    assert seen.factor**2 == pytest.approx(SLOWER)
    assert seen.source == "by arithmetic, not measured: H100 at 12 to 40% of its peak speed"
    assert not seen.is_measured


def test_a_small_model_waits_for_its_operators_which_slots_share() -> None:
    """Two micro-batches of a step: each has a pass, and in it the operators of its trial."""
    alone, shared = found(SMALL), found(SMALL, slots=4)
    assert alone.step_seconds / alone.factor == pytest.approx(2 * (3000 + 2700) * LAUNCH_SECONDS)
    assert shared.step_seconds / shared.factor == pytest.approx(2 * (3000 / 4 + 2700) * LAUNCH_SECONDS)
    assert "H100 at 0.21 to 0.71% of its peak" in alone.source


def test_of_several_types_the_range_has_the_fastest_and_the_slowest() -> None:
    seen = found(types=("A100", "H100"))
    assert seen.factor**2 == pytest.approx(SLOWER * 989 / 312)
    assert "A100 or H100 at 12 to 40% of their peak speeds" in seen.source


def test_a_host_loads_its_base_before_it_trains() -> None:
    """27 GB at 0.2 to 2 GB/s, beside the start of Ray, which is the same without a base."""
    without, seen = found().start_seconds, found(WORK.model_copy(update={"loaded_bytes": 27 * 10**9}))
    assert seen.start_seconds.low - without.low == pytest.approx(13.5)
    assert seen.start_seconds.high - without.high == pytest.approx(135)
    assert without.low < without.expected < seen.start_seconds.expected < seen.start_seconds.high
    assert seen.start_source == "by arithmetic: 27.0 GB from disk or network at 0.2 to 2 GB/s"


def test_answers_take_what_their_tokens_take_and_are_unknown_where_nothing_bounds_them() -> None:
    seen = found(answered=1000.0)
    assert seen.answer_seconds is not None
    assert seen.answer_seconds / seen.factor == pytest.approx(1000 * 16e9 / (GENERATED * PEAK))
    assert found(answered=None).answer_seconds is None


@pytest.mark.parametrize(("types", "work"), [((), WORK), (("H100",), None)])
def test_a_sweep_is_estimated_where_gpu_and_work_are_known(types: tuple[str, ...], work: Work | None) -> None:
    rows = RowShape(longest=9, mean=5.0, labelled=0.7, train_rows=30, eval_rows=9)
    data = {"train": "hub/rows", "eval": "hub/more", "prompt": "{q}", "completion": "{a}"}
    config, space = toy({"adapter.r": {"choice": [4, 8]}}, data=data, cluster={"gpu": "H100"})
    machine = Machine("cuda", 2, 10**10, device_name="H100")
    whole = forecast(config, space, machine, 1, RowsAndRates(rows=rows, work=WORK, types=("H100",)))
    assert whole.seconds is not None and whole.gpu_hours is not None
    assert whole.seconds.low < whole.seconds.expected < whole.seconds.high
    assert whole.gpu_hours.high == pytest.approx(2 * whole.seconds.high / 3600)
    heavy = WORK.model_copy(update={"loaded_bytes": 10**12})
    loaded = forecast(config, space, machine, 1, RowsAndRates(rows=rows, work=heavy, types=("H100",)))
    # Both hosts load for 500 to 5,000 s, and both are paid for.
    assert loaded.gpu_hours.low - whole.gpu_hours.low == pytest.approx(2 * 500 / 3600)
    assert loaded.gpu_hours.high - whole.gpu_hours.high == pytest.approx(2 * 5_000 / 3600)
    assert not whole.is_measured
    assert forecast(config, space, machine, 1, RowsAndRates(rows=rows, work=work, types=types)).seconds is None
