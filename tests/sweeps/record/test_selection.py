"""The winner has the lowest evaluation loss that it ever reported, whatever the order of arrival."""

from __future__ import annotations

import itertools
import math

import pytest

from sweeps.record.events import TrialRecord, TrialState
from sweeps.record.selection import choose, rank


def trial(number: int, loss: float, state: TrialState = TrialState.COMPLETED, last: float | None = None) -> TrialRecord:
    evals = ((3, loss), (9, loss if last is None else last))
    return TrialRecord(f"key{number}", number, {}, state, best_step=3, best_eval_loss=loss, evals=evals, step=9)


def test_the_lowest_best_loss_wins() -> None:
    decision = choose([trial(0, 2.0), trial(1, 1.0), trial(2, 3.0)])
    assert decision.winner is not None and decision.winner.number == 1
    assert decision.why == "lowest eval_loss of 3 ranked trials, at step 3"


def test_a_trial_is_ranked_by_its_best_report_and_not_by_its_last() -> None:
    decision = choose([trial(0, 1.0, last=5.0), trial(1, 1.5)])
    assert decision.winner is not None and decision.winner.number == 0


@pytest.mark.parametrize(
    "state", [state for state in TrialState if state not in (TrialState.COMPLETED, TrialState.STOPPED)]
)
def test_only_trials_that_ended_well_can_win(state: TrialState) -> None:
    decision = choose([trial(0, 0.1, state), trial(1, 1.0)])
    assert decision.winner is not None and decision.winner.number == 1


def test_a_trial_that_was_stopped_can_win() -> None:
    decision = choose([trial(0, 2.0), trial(1, 1.0, TrialState.STOPPED)])
    assert decision.winner is not None and decision.winner.number == 1


@pytest.mark.parametrize(
    "trials", [[], [trial(0, math.inf)], [trial(0, 1.0, TrialState.FAILED)], [trial(0, math.nan, TrialState.STOPPED)]]
)
def test_there_may_be_no_winner(trials: list[TrialRecord]) -> None:
    decision = choose(trials)
    assert decision.winner is None
    assert decision.why == ("no trial completed with a finite eval_loss" if trials else "no trial began")


def test_the_order_of_arrival_does_not_matter() -> None:
    trials = [trial(2, 1.0), trial(0, 1.0), trial(1, 2.0), trial(3, 0.5, TrialState.DIVERGED)]
    assert {tuple(t.number for t in rank(order)) for order in itertools.permutations(trials)} == {(0, 2, 1)}
