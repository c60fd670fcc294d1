"""What is said of the best trial, in lines that say no more than is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sweep_events import base, ended, record, reported, started

from sweeps.record.events import Event, TrialState
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import best_compared
from sweeps.report.best_compared import FirstTrial
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


def sweep(*changes: Event) -> SweepRecord:
    return record([*EVENTS, *changes])


def separation(
    *trials: Comparison, against: Comparison | None = None, rows: int = 32, not_compared: int = 0
) -> Separation:
    return Separation(rows, 0.975, trials, against, not_compared)


UNTOLD = Comparison("a", 0.75, None, None, "1 evaluation row, at least 10 are needed")


# Against the base


def best_of(found: SweepRecord) -> TrialRecord:
    best = choose(found.trials.values(), found.objective).winner
    assert best is not None
    return best


def against_base(found: SweepRecord, compared: Comparison | None = None) -> str | None:
    return best_compared.against_base(found, best_of(found), separation(against=compared))


def test_the_best_is_compared_with_the_base() -> None:
    assert against_base(sweep(base(4.5))) == "better than the base without an adapter (4.5000): 3.2500 lower (72%)"


def test_with_the_interval_where_it_is_known() -> None:
    told = against_base(sweep(base(4.5)), Comparison("base", 3.25, 3.1, 3.4))
    assert told == (
        "better than the base without an adapter (4.5000): 3.2500 lower (72%), "
        "97.5% confidence interval 3.1000 to 3.4000 on 32 rows"
    )


def test_a_gain_on_the_base_that_may_be_chance_is_no_win() -> None:
    told = against_base(sweep(base(1.26)), Comparison("base", 0.01, -0.02, 0.04))
    assert told == (
        "cannot be told apart from the base without an adapter (1.2600): 0.0100 lower (1%), "
        "97.5% confidence interval -0.0200 to 0.0400 on 32 rows (below 0: the other way round); more steps "
        "(budget.steps_per_trial) or other values may help"
    )


def test_a_best_that_is_worse_than_the_base_says_so() -> None:
    told = against_base(sweep(base(1.2)), Comparison("base", -0.05, -0.06, -0.04))
    assert told == (
        "not better than the base without an adapter (1.2000): 0.0500 higher, "
        "97.5% confidence interval 0.0400 to 0.0600 on 32 rows; more steps (budget.steps_per_trial) "
        "or other values may help"
    )


def test_a_gain_on_the_base_that_may_be_chance_for_all_that_is_known_is_no_win() -> None:
    told = against_base(
        sweep(base(4.5)), Comparison("base", 3.25, None, None, "1 evaluation row, at least 10 are needed")
    )
    assert told == (
        "whether it is better than the base without an adapter (4.5000) cannot be told: 3.2500 lower (72%), "
        "1 evaluation row, at least 10 are needed"
    )


def test_without_base_or_best_there_is_nothing_to_compare() -> None:
    assert against_base(sweep()) is None
    assert best_compared.of_best(record([base(2.0)]), None, None) == []


def test_trials_that_have_not_ended_and_are_lower_are_named() -> None:
    found = sweep(started("d", 3), reported("d", 3, 1.125), ended("d", TrialState.PAUSED, "interrupted"))
    told = best_compared.unfinished(found, best_of(found))
    assert told == "the best of the trials that have ended; lower so far: t03 1.1250"
    assert best_compared.unfinished(sweep(), best_of(sweep())) is None


# Against the next ones


def against_next(found: Separation | None) -> list[str]:
    return best_compared.against_next(sweep(), best_of(sweep()), found)


def test_a_best_that_is_apart_from_the_next_says_by_how_much() -> None:
    assert against_next(separation(Comparison("a", 0.75, 0.5, 1.0))) == [
        "better than the next: t00 is 0.7500 higher, 97.5% confidence interval 0.5000 to 1.0000 on 32 rows",
        "each point was trained with one seed: other seeds may change the order (searcher.repeats tries them)",
    ]


def test_a_next_that_cannot_be_told_apart_is_named_with_what_would_tell() -> None:
    assert against_next(separation(Comparison("a", 0.02, -0.01, 0.05))) == [
        "t00 cannot be told apart from it: 0.0200 higher, 97.5% confidence interval -0.0100 to 0.0500 on 32 rows "
        "(below 0: the other way round); "
        "a difference of this size takes about 72 rows"
    ]


def test_where_a_guess_of_the_rows_would_be_wild_there_is_none() -> None:
    (line,) = against_next(separation(Comparison("a", 0.001, -0.05, 0.05)))
    assert "takes about" not in line


def test_many_that_cannot_be_told_apart_are_named_together() -> None:
    alike = [Comparison(key, 0.1, -0.1, 0.3) for key in ("a", "c", "a", "c", "a")]
    lines = against_next(separation(*alike))
    assert len(lines) == best_compared.SHOWN + 1
    assert lines[-1] == "nor can t02, t00"


def test_what_cannot_be_told_is_said() -> None:
    assert against_next(separation(UNTOLD, rows=1)) == [
        "whether it is better than t00 cannot be told: 1 evaluation row, at least 10 are needed"
    ]


def test_what_cannot_be_told_of_the_base_and_the_next_for_one_reason_is_said_once() -> None:
    found, untold = sweep(base(4.5)), replace(UNTOLD, key="base", difference=3.25)
    told = best_compared.of_best(found, best_of(found), separation(UNTOLD, against=untold, rows=1))
    assert told[1:] == ["nor whether it is better than t00"]
    other = replace(untold, unknown="its losses are missing")
    told = best_compared.of_best(found, best_of(found), separation(UNTOLD, against=other, rows=1))
    assert told[1:] == ["whether it is better than t00 cannot be told: 1 evaluation row, at least 10 are needed"]


def test_few_rows_and_trials_that_were_left_out_are_said() -> None:
    lines = against_next(separation(Comparison("a", 0.75, 0.5, 1.0), rows=20, not_compared=4))
    assert lines[2:] == [
        "4 more trials, further behind, were not compared",
        "20 rows are few: where some differ far more than the rest, the intervals claim too much; take "
        "30 or more (data.eval_examples); small differences take hundreds",
    ]


def test_a_next_that_was_stopped_is_compared_where_it_was_stopped() -> None:
    at_3 = Comparison("a", 0.5, 0.25, 0.75, steps=(3, 3), point=3)
    line, *_ = against_next(separation(at_3))
    assert line == (
        "better than the next: t00 is 0.5000 higher at step 3, where both were evaluated and t00 was stopped, "
        "97.5% confidence interval 0.2500 to 0.7500 on 32 rows"
    )
    line, *_ = against_next(separation(replace(at_3, low=-0.25)))
    assert line.startswith("t00 cannot be told apart from it: 0.5000 higher at step 3, where both were evaluated")


def test_where_rungs_count_examples_so_do_the_lines() -> None:
    (line, *_) = against_next(separation(Comparison("a", 0.5, 0.25, 0.75, steps=(3, 1), point=24)))
    assert "0.5000 higher after 24 examples, where both were evaluated" in line


def test_unequal_steps_are_named() -> None:
    (line, *_) = against_next(separation(Comparison("a", 0.75, 0.5, 1.0, steps=(3, 9))))
    assert line == (
        "better than the next: t00 is 0.7500 higher at unequal steps (t00 at 3, t01 at 9), "
        "97.5% confidence interval 0.5000 to 1.0000 on 32 rows"
    )


def test_two_trials_that_went_as_far_are_compared_each_at_its_best_step() -> None:
    """Both had nine steps to become best in, so that unequal steps favour neither."""
    found = sweep(reported("a", 9, 2.5, since=3, best=(3, 2.0)), ended("a", TrialState.COMPLETED))
    at_best = separation(Comparison("a", 0.75, 0.5, 1.0, steps=(3, 9)))
    line, *_ = best_compared.against_next(found, best_of(found), at_best)
    assert line == (
        "better than the next: t00 is 0.7500 higher each at its best step (t00 at 3, t01 at 9), "
        "97.5% confidence interval 0.5000 to 1.0000 on 32 rows"
    )


@pytest.mark.parametrize("low", [-0.75, None])
def test_a_trial_that_was_ahead_after_equal_steps_is_named(low: float | None) -> None:
    """The best may owe its place to the steps that the other one did not get."""
    high = None if low is None else -0.25
    ahead = Comparison("a", -0.5, low, high, "" if low else "its rows are missing", steps=(3, 3), point=3)
    lines = against_next(separation(ahead))
    told = "t00 was ahead of it: 0.5000 lower at step 3, where both were evaluated and t00 was stopped"
    assert lines[0] == told + (", 97.5% confidence interval 0.2500 to 0.7500 on 32 rows" if low else "")
    assert not any("better than the next" in line for line in lines)


def test_nothing_is_said_of_nothing() -> None:
    assert against_next(None) == []
    assert against_next(separation()) == []


# Against the default


def compared(found: SweepRecord, starts_with_default: bool = True, is_outside: bool = False) -> str | None:
    return best_compared.against_default(found, best_of(found), FirstTrial(starts_with_default, is_outside), None)


def test_the_best_is_compared_with_the_default() -> None:
    assert compared(sweep()) == (
        "t01 has eval_loss 1.2500, the default configuration (t00, stopped at step 3) 2.0000: 0.7500 lower (38%)"
    )


def test_with_the_interval_of_the_default_where_it_is_known() -> None:
    found = separation(Comparison("c", 0.25, 0.1, 0.4), Comparison("a", 0.75, 0.6, 0.9))
    told = best_compared.against_default(sweep(), best_of(sweep()), FirstTrial(True, False), found)
    assert (told or "").endswith("0.7500 lower (38%), 97.5% confidence interval 0.6000 to 0.9000 on 32 rows")


def test_a_default_that_was_stopped_is_compared_where_it_was_stopped() -> None:
    found = sweep(reported("b", 3, 1.5), reported("b", 9, 1.25, since=3))
    at_3 = separation(Comparison("c", 0.25, 0.1, 0.4), Comparison("a", 0.5, 0.4, 0.6, steps=(3, 3), point=3))
    assert best_compared.against_default(found, best_of(found), FirstTrial(True, False), at_3) == (
        "t01 has eval_loss 1.5000, the default configuration (t00, stopped at step 3) 2.0000: 0.5000 lower "
        "(25%) at step 3, where both were evaluated and t00 was stopped, 97.5% confidence interval 0.4000 to 0.6000 "
        "on 32 rows"
    )


@pytest.mark.parametrize("default", [Comparison("a", 0.75, 0.6, 0.9), Comparison("a", 0.75, -0.1, 1.6)])
def test_a_default_that_is_compared_as_the_next_is_not_compared_again(default: Comparison) -> None:
    (line, *_) = against_next(separation(default))
    assert "t00" in line and "0.7500 higher" in line
    told = best_compared.against_default(sweep(), best_of(sweep()), FirstTrial(True, False), separation(default))
    assert told == "the default configuration (t00, stopped at step 3) has eval_loss 2.0000"


def test_a_default_that_went_to_its_end_says_so() -> None:
    assert "(t00, 3 steps)" in (compared(sweep(ended("a", TrialState.COMPLETED))) or "")


def test_the_default_itself_can_be_the_best() -> None:
    found = sweep(reported("a", 9, 0.5), ended("a", TrialState.COMPLETED))
    assert compared(found) == "the default configuration (t00) is the best: eval_loss 0.5000"


def test_a_default_outside_the_space_says_so() -> None:
    assert "the default configuration (t00, outside the space, stopped at step 3) 2.0" in (
        compared(sweep(), is_outside=True) or ""
    )
    found = sweep(reported("a", 9, 0.5), ended("a", TrialState.COMPLETED))
    assert "the default configuration (t00, outside the space) is the best" in (compared(found, is_outside=True) or "")


@pytest.mark.parametrize("state", [TrialState.DIVERGED, TrialState.FAILED, TrialState.RUNNING])
def test_a_default_that_is_not_ranked_is_no_yardstick(state: TrialState) -> None:
    """Its loss may even be the lowest, before it diverged."""
    assert compared(sweep(reported("a", 9, 0.1), ended("a", state))) is None


def test_there_may_be_nothing_to_compare() -> None:
    assert compared(sweep(), starts_with_default=False) is None


# With other seeds

AGAIN: list[Event] = [
    started("again", 9).model_copy(update={"repeats": "b"}),
    reported("again", 9, 1.375),
    ended("again", TrialState.COMPLETED),
]


def test_what_the_best_point_came_to_with_other_seeds_is_told() -> None:
    found = sweep(*AGAIN)
    best = best_of(found)
    assert best_compared.repeated(found, best) == "the same point with other seeds: t09 1.3750"
    assert best_compared.repeated(sweep(), best) is None
    cut_short = sweep(*AGAIN[:2], ended("again", TrialState.STOPPED, "budget.wall_clock is used up"))
    assert best_compared.repeated(cut_short, best) is None


def test_where_seeds_are_counted_in_it_is_told_how_far_they_go() -> None:
    found = sweep(*AGAIN)
    apart = Comparison("a", 0.75, 0.5, 1.0)
    counted_in = replace(separation(apart), seeds=SeedNoise(0.0884, 1, 1))
    lines = best_compared.against_next(found, best_of(found), counted_in)
    spread = "2 trials of 1 point have a standard deviation of 0.0884 within a point, each at its best step"
    assert f"other seeds are counted in: {spread}" in lines
    assert not any("each point was trained with one seed" in line for line in lines)
    alone = best_compared.against_next(found, best_of(found), separation(apart))
    assert any("each point was trained with one seed" in line for line in alone)
