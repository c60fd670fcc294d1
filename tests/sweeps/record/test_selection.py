"""The winner has the lowest evaluation loss that it ever reported, whatever the order of arrival."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from sweeps.record.events import TrialRecord, TrialState
from sweeps.record.selection import choose, rank
from trainables.objective import MIN_EVAL_LOSS, Objective


def trial(number: int, loss: float, state: TrialState = TrialState.COMPLETED, last: float | None = None) -> TrialRecord:
    best = {"eval_loss": loss}
    evals = ((3, best), (9, best if last is None else {"eval_loss": last}))
    return TrialRecord(f"key{number}", number, {}, state, best_step=3, best_metrics=best, evals=evals, step=9)


def test_the_lowest_best_loss_wins() -> None:
    decision = choose([trial(0, 2.0), trial(1, 1.0), trial(2, 3.0)], MIN_EVAL_LOSS)
    assert decision.winner is not None and decision.winner.number == 1
    assert decision.why == "lowest eval_loss of 3 ranked trials, at step 3"


def test_a_trial_is_ranked_by_its_best_report_and_not_by_its_last() -> None:
    decision = choose([trial(0, 1.0, last=5.0), trial(1, 1.5)], MIN_EVAL_LOSS)
    assert decision.winner is not None and decision.winner.number == 0


@pytest.mark.parametrize(
    "state", [state for state in TrialState if state not in (TrialState.COMPLETED, TrialState.STOPPED)]
)
def test_only_trials_that_ended_well_can_win(state: TrialState) -> None:
    decision = choose([trial(0, 0.1, state), trial(1, 1.0)], MIN_EVAL_LOSS)
    assert decision.winner is not None and decision.winner.number == 1


def test_a_trial_that_was_stopped_can_win() -> None:
    decision = choose([trial(0, 2.0), trial(1, 1.0, TrialState.STOPPED)], MIN_EVAL_LOSS)
    assert decision.winner is not None and decision.winner.number == 1


@pytest.mark.parametrize(
    "trials", [[], [trial(0, math.inf)], [trial(0, 1.0, TrialState.FAILED)], [trial(0, math.nan, TrialState.STOPPED)]]
)
def test_there_may_be_no_winner(trials: list[TrialRecord]) -> None:
    decision = choose(trials, MIN_EVAL_LOSS)
    assert decision.winner is None
    assert decision.why == ("no trial completed with a finite eval_loss" if trials else "no trial began")


def test_the_order_of_arrival_does_not_matter() -> None:
    trials = [trial(2, 1.0), trial(0, 1.0), trial(1, 2.0), trial(3, 0.5, TrialState.DIVERGED)]
    assert {tuple(t.number for t in rank(order, MIN_EVAL_LOSS)) for order in itertools.permutations(trials)} == {
        (0, 2, 1)
    }


def accurate(number: int, accuracy: float) -> TrialRecord:
    return replace(trial(number, 1.0), best_metrics={"eval_loss": 1.0, "eval_accuracy": accuracy})


def test_where_higher_is_better_the_highest_wins() -> None:
    decision = choose(
        [accurate(0, 0.5), accurate(1, 0.75), trial(2, 0.1)], Objective(metric="eval_accuracy", mode="max")
    )
    assert decision.winner is not None and decision.winner.number == 1
    assert decision.why == "highest eval_accuracy of 2 ranked trials, at step 3"
