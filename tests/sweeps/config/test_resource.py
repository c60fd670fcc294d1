"""Equal examples where the batch size is searched: rungs in examples, steps by each trial's batch."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sweep_files import RATES, toy

from sweeps.config import resource
from sweeps.config.model import SweepConfig


def settled(space: dict[str, Any], rows: int | None = None, **sections: Any) -> SweepConfig:
    config, parsed = toy({**RATES, **space}, **sections)
    found, wrong = resource.with_examples(config, parsed, rows)
    assert wrong == []
    return found


def batches(*sizes: int) -> dict[str, Any]:
    return {"training.batch_size": {"choice": list(sizes)}}


def test_steps_are_the_resource_where_every_trial_has_the_same_batch() -> None:
    config = settled({})
    found = resource.of(config)
    assert (found.unit, found.points, config.budget.examples_per_trial) == ("step", (3, 9, 27, 81), None)
    assert found.steps(config.training) == found.points


def test_a_searched_batch_makes_rungs_count_examples() -> None:
    """The default is 81 steps of 4 rows: 324, and 336 is the next that 16 divides."""
    config = settled(batches(1, 2, 4, 8, 16))
    found = resource.of(config)
    assert (found.unit, found.points) == ("example", (16, 48, 144, 336))
    assert (config.budget.examples_per_trial, config.budget.steps_per_trial) == (336, 84)
    steps = {size: found.steps(config.training.model_copy(update={"batch_size": size})) for size in (1, 4, 16)}
    assert steps == {1: (16, 48, 144, 336), 4: (4, 12, 36, 84), 16: (1, 3, 9, 21)}


def test_examples_and_epochs_are_other_ways_to_say_how_long_a_trial_is() -> None:
    by_examples = settled({}, budget={"examples_per_trial": 100})
    assert resource.of(by_examples).points == (12, 36, 100)
    assert by_examples.budget.steps_per_trial == 25
    by_epochs = settled({}, rows=40, budget={"epochs_per_trial": 2.5})
    assert (by_epochs.budget.examples_per_trial, by_epochs.budget.epochs_per_trial) == (100, None)


def test_epochs_of_rows_that_are_not_counted_yet_are_refused_with_a_way_out() -> None:
    config, space = toy(RATES, budget={"epochs_per_trial": 2.0})
    (wrong,) = resource.with_examples(config, space, None)[1]
    assert wrong.startswith("budget.epochs_per_trial: 2: how many rows there are is known only after")
    assert wrong.endswith("give budget.examples_per_trial instead")


def test_batches_without_a_small_common_multiple_report_after_the_step_that_reaches_the_rung() -> None:
    config = settled(batches(5, 7, 11, 13), training={"batch_size": 4})
    found = resource.of(config)
    assert found.points[0] == 13
    assert found.steps(config.training.model_copy(update={"batch_size": 5}))[0] == 3


def test_a_long_range_of_batches_is_not_listed() -> None:
    """Listed, this one would take minutes and gigabytes."""
    field = {"training.batch_size": {"randint": [1, 10**9]}}
    config = settled(field, training={"batch_size": 4})
    sizes = resource.batches(config, toy(field)[1])
    assert (sizes[0], sizes[-1]) == (1, 10**9)
    assert len(sizes) < 100
    assert resource.of(config).points[-1] == config.budget.examples_per_trial


@given(
    sizes=st.sets(st.integers(1, 24), min_size=1, max_size=5),
    own=st.integers(1, 24),
    grace=st.integers(1, 9),
    factor=st.integers(2, 5),
    steps=st.integers(1, 200),
)
def test_every_trial_reports_once_at_each_rung_with_equal_examples(sizes, own, grace, factor, steps) -> None:
    config = settled(
        batches(*sizes),
        training={"batch_size": own},
        budget={"steps_per_trial": steps},
        scheduler={"kind": "asha", "grace_steps": grace, "reduction_factor": factor},
    )
    found = resource.of(config)
    for size in {*sizes, own}:
        points = found.steps(config.training.model_copy(update={"batch_size": size}))
        assert list(points) == sorted(set(points)), "two rungs at one step"
        assert all(0 <= size * step - rung < size for step, rung in zip(points, found.points, strict=True))


def test_a_listed_point_whose_step_passes_two_report_points_is_refused() -> None:
    def told(*listed: int) -> list[str]:
        searcher = {"kind": "random", "points": [{"training.batch_size": size} for size in listed]}
        found, wrong = resource.with_examples(*toy({**RATES, **batches(1, 2, 4)}, searcher=searcher), None)
        assert resource.of(found).points == (12, 36, 108, 324)
        return wrong

    assert told(24, 25) == []
    assert told(24, 25, 40) == [
        "searcher.points.2: training.batch_size x training.gradient_accumulation_steps: 40 rows a step pass two report "
        "points at once (the points are at 12, 36, 108, 324 examples): take at most 24 rows a step"
    ]
