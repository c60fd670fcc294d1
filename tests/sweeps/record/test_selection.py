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


def trial(number: int, loss: float, state: TrialState = TrialState.COMPLETED, **metrics: float) -> TrialRecord:
    best = {"eval_loss": loss, **metrics}
    return TrialRecord(f"key{number}", number, {}, state, best_step=3, best_metrics=best, evals=((3, best),), step=9)


def test_a_trial_is_ranked_by_its_best_report_and_not_by_its_last() -> None:
    overfitted = replace(trial(0, 1.0), evals=((3, {"eval_loss": 1.0}), (9, {"eval_loss": 5.0})))
    selection = choose([overfitted, trial(1, 1.5)], LOWEST_LOSS)
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
    orders = itertools.permutations(trials)
    assert {tuple(t.number for t in rank(order, LOWEST_LOSS)) for order in orders} == {(0, 2, 1)}


def test_a_lucky_seed_does_not_win() -> None:
    trials = [trial(0, 1.0), trial(1, 1.1), replace(trial(2, 0.5), repeats="key1")]
    assert [found.number for found in rank(trials, LOWEST_LOSS)] == [0, 1]


MATCHES = Objective(metric="exact_match", mode="max")


def test_trials_without_a_score_rank_behind_those_with_one_by_their_loss_which_decides_among_equals_too() -> None:
    trials = [
        trial(0, 0.1, TrialState.STOPPED),
        trial(1, 0.9, exact_match=0.5),
        trial(2, 0.8, exact_match=0.5),
        trial(3, 0.2, TrialState.STOPPED),
        trial(4, 2.0, exact_match=0.0),
        trial(5, math.nan, TrialState.STOPPED),
    ]
    for order in (trials, trials[::-1]):
        assert [found.number for found in rank(order, MATCHES)] == [2, 1, 4, 0, 3]
    assert [found.number for found in rank(trials[:1], MATCHES)] == [0], "none was scored"


def test_a_trial_whose_answers_could_not_be_scored_has_no_rank_by_that_score() -> None:
    lacking = replace(trial(0, 0.1), unscored={"exact_match": "row 3: KeyError: 'a'"})
    scored, stopped = trial(1, 0.9, exact_match=0.5), trial(2, 0.5, TrialState.STOPPED)
    assert [found.number for found in rank([lacking, scored, stopped], MATCHES)] == [1, 2]
    assert choose([lacking, stopped], MATCHES).why == (
        "no trial has exact_match: the answers of t00 could not be scored"
    ), "a trial that was stopped early does not win by its loss"
    assert [found.number for found in rank([lacking, scored, stopped], LOWEST_LOSS)] == [0, 2, 1]
    made_up = replace(lacking, best_metrics={"eval_loss": 0.1, "exact_match": 0.6})
    assert choose([made_up, scored], MATCHES).winner == made_up


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
        found = pareto(order, (LOWEST_LOSS, Objective(metric="trainable_params")))
        assert [each.number for each in found] == [0, 6, 1, 3]


def test_a_trial_without_one_of_the_metrics_is_in_no_pareto_set() -> None:
    trials = [trial(0, 0.1), trial(1, 1.0, exact_match=0.75), trial(2, 1.0, exact_match=0.5)]
    assert [found.number for found in pareto(trials, (LOWEST_LOSS, MATCHES))] == [1]


def test_the_leader_may_still_run() -> None:
    running = trial(1, 0.5, TrialState.RUNNING)
    assert leader([trial(0, 1.0), running, trial(2, 0.1, TrialState.FAILED)], LOWEST_LOSS) is running
    assert leader([TrialRecord("new", 0, {}, TrialState.RUNNING)], LOWEST_LOSS) is None
