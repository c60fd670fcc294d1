"""What is said of the best trial, in lines that say no more than is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sweep_events import base, ended, record, reported, started

from sweeps.record.events import Event, TrialState
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import best_compared
from sweeps.statistics.comparison import Comparison, Separation
from sweeps.statistics.intervals import SeedNoise

EVENTS: list[Event] = [
    started("a", 0),
    started("b", 1),
    started("c", 2),
    reported("a", 3, 2.0),
    reported("b", 3, 1.5),
    reported("c", 3, 1.0),
    ended("c", TrialState.DIVERGED, "loss nan"),
    reported("b", 9, 1.25, since=3),
    ended("b", TrialState.COMPLETED),
    ended("a", TrialState.STOPPED, "stopped by the scheduler"),
]
ONE_ROW = "1 evaluation row, at least 10 are needed"
UNTOLD = Comparison("a", 0.75, None, None, ONE_ROW)
APART = Comparison("a", 0.75, 0.5, 1.0)
AT_3 = Comparison("a", 0.5, 0.25, 0.75, steps=(3, 3), point=3)


def sweep(*changes: Event) -> SweepRecord:
    return record([*EVENTS, *changes])


def best_of(found: SweepRecord) -> TrialRecord:
    best = choose(found).winner
    assert best is not None
    return best


def separation(*trials: Comparison, base: Comparison | None = None, rows: int = 32) -> Separation:
    return Separation(rows, 0.975, trials, base, 0)


def interval(low: float, high: float) -> str:
    return f", 97.5% confidence interval {low:.4f} to {high:.4f} on 32 rows"


# Against the base

of_base = partial(Comparison, "base")
MORE = "; more steps (budget.steps_per_trial) or other values may help"


@pytest.mark.parametrize(
    ("loss", "compared", "line"),
    [
        (4.5, None, "t01 is better than BASE (4.5000): eval_loss 3.2500 lower"),
        (
            4.5,
            of_base(3.25, 3.1, 3.4),
            f"t01 is better than BASE (4.5000): eval_loss 3.2500 lower{interval(3.1, 3.4)}",
        ),
        (
            1.26,
            of_base(0.01, -0.02, 0.04),
            f"t01 cannot be told apart from BASE (1.2600): eval_loss 0.0100 lower{interval(-0.02, 0.04)}"
            f" (below 0: the base without an adapter would be better){MORE}",
        ),
        (
            1.2,
            of_base(-0.05, -0.06, -0.04),
            f"t01 is worse than BASE (1.2000): eval_loss 0.0500 higher{interval(0.04, 0.06)}{MORE}",
        ),
        (
            4.5,
            of_base(3.25, None, None, ONE_ROW),
            f"whether t01 is better than BASE (4.5000) cannot be told: eval_loss 3.2500 lower, {ONE_ROW}",
        ),
    ],
)
def test_the_best_is_compared_with_the_base(loss: float, compared: Comparison | None, line: str) -> None:
    found = sweep(base(loss))
    told = best_compared.comparisons(found, best_of(found), separation(base=compared), False)
    assert told == [line.replace("BASE", "the base without an adapter")]


def test_without_base_or_best_there_is_nothing_to_compare() -> None:
    assert best_compared.best_lines(sweep(), choose(sweep()), None) == ["best so far: t01, eval_loss 1.2500 at step 9"]
    alone = record([base(2.0)])
    assert best_compared.best_lines(alone, choose(alone), None) == ["best: no trial began"]


# Against the next ones

ONE_SEED = "each point was trained with one seed: other seeds may change the order (searcher.repeats tries them)"


def against(*trials: Comparison, has_default: bool = False, changes: Sequence[Event] = (), **more: Any) -> list[str]:
    found = sweep(*changes)
    compared = separation(*trials, **more) if trials else None
    return best_compared.comparisons(found, best_of(found), compared, has_default)


@pytest.mark.parametrize(
    ("compared", "lines"),
    [
        (APART, [f"t01 (step 9) is better than t00 (step 3): eval_loss 0.7500 lower{interval(0.5, 1.0)}", ONE_SEED]),
        (
            Comparison("a", 0.02, -0.01, 0.05),
            [
                f"t01 (step 9) cannot be told apart from t00 (step 3): eval_loss 0.0200 lower{interval(-0.01, 0.05)}"
                " (below 0: t00 would be better); a difference of this size takes about 62 rows"
            ],
        ),
        (
            UNTOLD,
            [f"whether t01 (step 9) is better than t00 (step 3) cannot be told: eval_loss 0.7500 lower, {ONE_ROW}"],
        ),
        (AT_3, [f"t01 (step 3) is better than t00 (step 3): eval_loss 0.5000 lower{interval(0.25, 0.75)}", ONE_SEED]),
        (
            replace(AT_3, steps=(3, 1), point=24),
            [
                "t01 (step 1) is better than t00 (step 3): eval_loss 0.5000 lower after 24 examples"
                f"{interval(0.25, 0.75)}",
                ONE_SEED,
            ],
        ),
        (
            replace(APART, steps=(3, 9)),
            [
                "t01 (step 9) is better than t00 (step 3): eval_loss 0.7500 lower at unequal steps"
                f"{interval(0.5, 1.0)}",
                ONE_SEED,
            ],
        ),
        # The best may owe its place to the steps that the other one did not get.
        (
            replace(AT_3, difference=-0.5, low=-0.75, high=-0.25),
            [f"t01 (step 3) is worse than t00 (step 3): eval_loss 0.5000 higher{interval(0.25, 0.75)}", ONE_SEED],
        ),
    ],
)
def test_the_best_is_compared_with_the_next(compared: Comparison, lines: list[str]) -> None:
    assert against(compared) == lines


def test_where_a_guess_of_the_rows_would_be_wild_there_is_none_and_many_alike_are_named_together() -> None:
    (line,) = against(Comparison("a", 0.001, -0.05, 0.05))
    assert "takes about" not in line
    more = [started(key, number) for key, number in (("d", 3), ("e", 4))]
    lines = against(*(Comparison(key, 0.1, -0.1, 0.3) for key in ("a", "c", "d", "e")), changes=more)
    assert len(lines) == best_compared.SHOWN + 1 and lines[-1] == "nor from t04"


def test_few_rows_and_other_seeds_are_said() -> None:
    assert against(APART, rows=20)[2:] == [
        "20 rows are few: where some differ far more than the rest, the intervals claim too much; take "
        "30 or more (data.eval_examples); small differences take hundreds",
    ]
    counted_in = replace(separation(APART), seeds=SeedNoise(0.0884, 1, 1))
    spread = "2 trials of 1 point have a standard deviation of 0.0884 within a point, each at its best step"
    assert best_compared.notes(counted_in) == [f"other seeds are counted in: {spread}"]
    assert best_compared.notes(separation(UNTOLD, rows=20)) == []


THE_C = Comparison("c", 0.25, 0.1, 0.4)
DEFAULT = "(step 3, the default configuration)"


@pytest.mark.parametrize(
    ("compared", "line"),
    [
        ((), f"t01 (step 9) is better than t00 {DEFAULT}: eval_loss 0.7500 lower"),
        ((THE_C, APART), f"t01 (step 9) is better than t00 {DEFAULT}: eval_loss 0.7500 lower{interval(0.5, 1.0)}"),
        ((THE_C, AT_3), f"t01 (step 3) is better than t00 {DEFAULT}: eval_loss 0.5000 lower{interval(0.25, 0.75)}"),
        # As the next one it has no second line.
        ((APART,), f"t01 (step 9) is better than t00 {DEFAULT}: eval_loss 0.7500 lower{interval(0.5, 1.0)}"),
    ],
)
def test_the_best_is_compared_with_the_default_once(compared: tuple[Comparison, ...], line: str) -> None:
    told = against(*compared, has_default=True)
    assert line in told and sum("t00" in each for each in told) == 1


def test_a_default_that_is_the_best_says_so_and_one_that_failed_is_no_yardstick() -> None:
    best: list[Event] = [reported("a", 9, 0.5), ended("a", TrialState.COMPLETED)]
    assert against(has_default=True, changes=best) == ["t00 is the default configuration"]
    for state in (TrialState.DIVERGED, TrialState.FAILED):
        # Its loss may even be the lowest, before it diverged.
        assert against(has_default=True, changes=[reported("a", 9, 0.1), ended("a", state)]) == []


def test_what_the_best_point_came_to_with_other_seeds_is_told() -> None:
    again = started("again", 9).model_copy(update={"repeats": "b"}), reported("again", 9, 1.375)
    found = sweep(*again, ended("again", TrialState.COMPLETED))
    assert best_compared.repeated(found, best_of(found)) == ["the same point with other seeds: t09 1.3750"]
    cut_short = sweep(*again, ended("again", TrialState.STOPPED, "budget.wall_clock is used up"))
    assert best_compared.repeated(cut_short, best_of(cut_short)) == []
