"""What is said of the best trial, in lines that say no more than is known."""

from __future__ import annotations

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


def separation(*trials: Comparison, base: Comparison | None = None, rows: int = 32, left_out: int = 0) -> Separation:
    return Separation(rows, 0.975, trials, base, left_out)


def interval(low: float, high: float) -> str:
    return f", 97.5% confidence interval {low:.4f} to {high:.4f} on 32 rows"


TURNED = " (below 0: the other way round)"

# Against the base

of_base = partial(Comparison, "base")
MORE = "; more steps (budget.steps_per_trial) or other values may help"
UNKNOWN = f"cannot be told: 3.2500 lower (72%), {ONE_ROW}"


@pytest.mark.parametrize(
    ("loss", "compared", "line"),
    [
        (4.5, None, "better than BASE (4.5000): 3.2500 lower (72%)"),
        (4.5, of_base(3.25, 3.1, 3.4), f"better than BASE (4.5000): 3.2500 lower (72%){interval(3.1, 3.4)}"),
        (
            1.26,
            of_base(0.01, -0.02, 0.04),
            f"cannot be told apart from BASE (1.2600): 0.0100 lower (1%){interval(-0.02, 0.04)}{TURNED}{MORE}",
        ),
        (
            1.2,
            of_base(-0.05, -0.06, -0.04),
            f"not better than BASE (1.2000): 0.0500 higher{interval(0.04, 0.06)}{MORE}",
        ),
        (4.5, of_base(3.25, None, None, ONE_ROW), f"whether it is better than BASE (4.5000) {UNKNOWN}"),
    ],
)
def test_the_best_is_compared_with_the_base(loss: float, compared: Comparison | None, line: str) -> None:
    found = sweep(base(loss))
    told = best_compared.against_base(found, best_of(found), separation(base=compared))
    assert told == [line.replace("BASE", "the base without an adapter")]


def test_without_base_or_best_there_is_nothing_to_compare() -> None:
    assert best_compared.comparison_lines(sweep(), best_of(sweep()), None) == []
    assert best_compared.comparison_lines(record([base(2.0)]), None, None) == []


# Against the next ones

ONE_SEED = "each point was trained with one seed: other seeds may change the order (searcher.repeats tries them)"
BOTH = "where both were evaluated"


def against_next(*trials: Comparison, **more: Any) -> list[str]:
    return best_compared.against_next(sweep(), best_of(sweep()), separation(*trials, **more))


@pytest.mark.parametrize(
    ("compared", "lines"),
    [
        (APART, [f"better than the next: t00 is 0.7500 higher{interval(0.5, 1.0)}", ONE_SEED]),
        (
            Comparison("a", 0.02, -0.01, 0.05),
            [
                f"t00 cannot be told apart from it: 0.0200 higher{interval(-0.01, 0.05)}{TURNED}; "
                "a difference of this size takes about 62 rows"
            ],
        ),
        (UNTOLD, [f"whether it is better than t00 cannot be told: {ONE_ROW}"]),
        (AT_3, [f"better than the next: t00 is 0.5000 higher at step 3, {BOTH}{interval(0.25, 0.75)}", ONE_SEED]),
        (
            replace(AT_3, steps=(3, 1), point=24),
            [f"better than the next: t00 is 0.5000 higher after 24 examples, {BOTH}{interval(0.25, 0.75)}", ONE_SEED],
        ),
        (
            replace(APART, steps=(3, 9)),
            [
                f"better than the next: t00 is 0.7500 higher at unequal steps (t00 at 3, t01 at 9){interval(0.5, 1.0)}",
                ONE_SEED,
            ],
        ),
        # The best may owe its place to the steps that the other one did not get.
        (
            replace(AT_3, difference=-0.5, low=-0.75, high=-0.25),
            [f"t00 was ahead of it: 0.5000 lower at step 3, {BOTH}{interval(0.25, 0.75)}", ONE_SEED],
        ),
    ],
)
def test_the_best_is_compared_with_the_next(compared: Comparison, lines: list[str]) -> None:
    assert against_next(compared) == lines


def test_where_a_guess_of_the_rows_would_be_wild_there_is_none_and_many_alike_are_named_together() -> None:
    (line,) = against_next(Comparison("a", 0.001, -0.05, 0.05))
    assert "takes about" not in line
    lines = against_next(*(Comparison(key, 0.1, -0.1, 0.3) for key in ("a", "c", "a", "c", "a")))
    assert len(lines) == best_compared.SHOWN + 1 and lines[-1] == "nor can t02, t00"


def test_few_rows_other_seeds_and_trials_that_were_left_out_are_said() -> None:
    assert against_next(APART, rows=20, left_out=4)[2:] == [
        "4 more trials, further behind, were not compared",
        "20 rows are few: where some differ far more than the rest, the intervals claim too much; take "
        "30 or more (data.eval_examples); small differences take hundreds",
    ]
    counted_in = replace(separation(APART), seeds=SeedNoise(0.0884, 1, 1))
    spread = "2 trials of 1 point have a standard deviation of 0.0884 within a point, each at its best step"
    assert best_compared.notes(counted_in) == [f"other seeds are counted in: {spread}"]
    assert best_compared.notes(separation(UNTOLD, rows=20)) == []


def against_default(found: SweepRecord, compared: Separation | None = None, name: str = "t00") -> list[str]:
    return best_compared.against_default(found, best_of(found), name, compared)


THE_C = Comparison("c", 0.25, 0.1, 0.4)


@pytest.mark.parametrize(
    ("compared", "line"),
    [
        (None, "t01 has eval_loss 1.2500, DEFAULT 2.0000: 0.7500 lower (38%)"),
        (
            separation(THE_C, Comparison("a", 0.75, 0.6, 0.9)),
            f"t01 has eval_loss 1.2500, DEFAULT 2.0000: 0.7500 lower (38%){interval(0.6, 0.9)}",
        ),
        (
            separation(THE_C, AT_3),
            f"t01 has eval_loss 1.5000, DEFAULT 2.0000: 0.5000 lower (25%) at step 3, {BOTH}{interval(0.25, 0.75)}",
        ),
        # As the next one it has a line of its own.
        (separation(APART), "DEFAULT has eval_loss 2.0000"),
        (separation(replace(APART, low=-0.1)), "DEFAULT has eval_loss 2.0000"),
    ],
)
def test_the_best_is_compared_with_the_default_once(compared: Separation | None, line: str) -> None:
    assert against_default(sweep(), compared) == [
        line.replace("DEFAULT", "the default configuration (t00, stopped at step 3)")
    ]


def test_a_default_that_went_to_its_end_is_the_best_or_lies_outside_says_so_or_is_no_yardstick() -> None:
    (line,) = against_default(sweep(ended("a", TrialState.COMPLETED)), name="t00, outside the space")
    assert "(t00, outside the space, 3 steps)" in line
    found = sweep(reported("a", 9, 0.5), ended("a", TrialState.COMPLETED))
    assert against_default(found) == ["the default configuration (t00) is the best: eval_loss 0.5000"]
    for state in (TrialState.DIVERGED, TrialState.FAILED):
        # Its loss may even be the lowest, before it diverged.
        assert against_default(sweep(reported("a", 9, 0.1), ended("a", state))) == []


def test_what_the_best_point_came_to_with_other_seeds_is_told() -> None:
    again = started("again", 9).model_copy(update={"repeats": "b"}), reported("again", 9, 1.375)
    found = sweep(*again, ended("again", TrialState.COMPLETED))
    assert best_compared.repeated(found, best_of(found)) == ["the same point with other seeds: t09 1.3750"]
    cut_short = sweep(*again, ended("again", TrialState.STOPPED, "budget.wall_clock is used up"))
    assert best_compared.repeated(cut_short, best_of(cut_short)) == []
