"""The winner has the lowest evaluation loss that it ever reported, whatever the order of arrival."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from sweeps.record.events import TrialState
from sweeps.record.selection import choose, leader, pareto, rank
from sweeps.record.sweep_record import TrialRecord
from trainables.objective import LOWEST_LOSS, Objective


def trial(number: int, loss: float, state: TrialState = TrialState.COMPLETED, last: float | None = None) -> TrialRecord:
    best = {"eval_loss": loss}
    evals = ((3, best), (9, best if last is None else {"eval_loss": last}))
    return TrialRecord(f"key{number}", number, {}, state, best_step=3, best_metrics=best, evals=evals, step=9)


def test_a_trial_is_ranked_by_its_best_report_and_not_by_its_last() -> None:
    selection = choose([trial(0, 1.0, last=5.0), trial(1, 1.5)], LOWEST_LOSS)
    assert selection.winner is not None and selection.winner.number == 0


@pytest.mark.parametrize("state", TrialState)
def test_only_trials_that_ended_well_can_win(state: TrialState) -> None:
    selection = choose([trial(0, 0.1, state), trial(1, 1.0)], LOWEST_LOSS)
    ended_well = state in (TrialState.COMPLETED, TrialState.STOPPED)
    assert selection.winner is not None and selection.winner.number == (0 if ended_well else 1)


@pytest.mark.parametrize(
    "trials", [[], [trial(0, math.inf)], [trial(0, 1.0, TrialState.FAILED)], [trial(0, math.nan, TrialState.STOPPED)]]
)
def test_there_may_be_no_winner(trials: list[TrialRecord]) -> None:
    selection = choose(trials, LOWEST_LOSS)
    assert selection.winner is None
    assert selection.why == ("no trial completed with a finite eval_loss" if trials else "no trial began")


def test_the_order_of_arrival_does_not_matter() -> None:
    trials = [trial(2, 1.0), trial(0, 1.0), trial(1, 2.0), trial(3, 0.5, TrialState.DIVERGED)]
    assert {tuple(t.number for t in rank(order, LOWEST_LOSS)) for order in itertools.permutations(trials)} == {
        (0, 2, 1)
    }


def accurate(number: int, accuracy: float) -> TrialRecord:
    return replace(trial(number, 1.0), best_metrics={"eval_loss": 1.0, "eval_accuracy": accuracy})


MATCHES = Objective(metric="exact_match", mode="max")


def scored(number: int, loss: float, score: float | None, state: TrialState = TrialState.COMPLETED) -> TrialRecord:
    metrics = {"eval_loss": loss} | ({} if score is None else {"exact_match": score})
    return replace(trial(number, loss, state), best_metrics=metrics)


def test_trials_without_a_score_rank_behind_those_with_one_by_their_loss_which_decides_among_equals_too() -> None:
    trials = [
        scored(0, 0.1, None, TrialState.STOPPED),
        scored(1, 0.9, 0.5),
        scored(2, 0.8, 0.5),
        scored(3, 0.2, None, TrialState.STOPPED),
        scored(4, 2.0, 0.0),
        scored(5, math.nan, None, TrialState.STOPPED),
    ]
    for order in (trials, trials[::-1]):
        assert [found.number for found in rank(order, MATCHES)] == [2, 1, 4, 0, 3]
    assert [found.number for found in rank(trials[:1], MATCHES)] == [0], "none was scored"


OBJECTIVES = (LOWEST_LOSS, Objective(metric="trainable_params"))


def sized(number: int, loss: float, params: int, state: TrialState = TrialState.COMPLETED) -> TrialRecord:
    return replace(trial(number, loss, state), trainable_params=params)


def test_the_pareto_set_holds_what_no_other_trial_beats() -> None:
    trials = [
        sized(0, 1.0, 900),
        sized(1, 1.5, 300),
        sized(2, 1.5, 400),  # as good as t01, and larger
        sized(3, 2.0, 100),
        sized(4, 2.5, 200),  # worse and larger than t03
        sized(5, 0.5, 50, TrialState.DIVERGED),
        sized(6, 1.0, 900),  # as good as t00
    ]
    for order in (trials, trials[::-1]):
        assert [found.number for found in pareto(order, OBJECTIVES)] == [0, 6, 1, 3]


def test_a_trial_without_one_of_the_metrics_is_in_no_pareto_set() -> None:
    both = (LOWEST_LOSS, Objective(metric="eval_accuracy", mode="max"))
    trials = [trial(0, 0.1), accurate(1, 0.75), accurate(2, 0.5)]
    assert [found.number for found in pareto(trials, both)] == [1]


def test_the_leader_may_still_run() -> None:
    running = trial(1, 0.5, TrialState.RUNNING)
    assert leader([trial(0, 1.0), running, trial(2, 0.1, TrialState.FAILED)], LOWEST_LOSS) is running
    assert leader([TrialRecord("new", 0, {}, TrialState.RUNNING)], LOWEST_LOSS) is None
