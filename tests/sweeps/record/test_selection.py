"""The winner has the lowest evaluation loss that it ever reported, whatever the order of arrival."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.record.events import SweepEnded, TrialState
from sweeps.record.selection import Selection, choose, pareto, rank, ranking
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from trainables.objective import LOWEST_LOSS, Objective


def trial(number: int, loss: float, state: TrialState = TrialState.COMPLETED, **metrics: float) -> TrialRecord:
    best = {"eval_loss": loss, **metrics}
    return TrialRecord(f"key{number}", number, {}, state, best_step=3, best_metrics=best, evals=((3, best),), step=9)


def sweep(trials: Iterable[TrialRecord], *objectives: Objective, **fields: Any) -> SweepRecord:
    keys = {each.trial_key: each for each in trials}
    fields.setdefault("ended", SweepEnded(time=9.0, reason="finished"))
    return SweepRecord(trials=keys, objectives=objectives or (LOWEST_LOSS,), **fields)


def test_a_trial_is_ranked_by_its_best_report_and_not_by_its_last() -> None:
    overfitted = replace(trial(0, 1.0), evals=((3, {"eval_loss": 1.0}), (9, {"eval_loss": 5.0})))
    selection = choose(sweep([overfitted, trial(1, 1.5)]))
    assert selection.winner is not None and selection.winner.number == 0


@pytest.mark.parametrize("state", TrialState)
def test_trials_that_ended_badly_cannot_win_and_those_that_have_not_ended_win_so_far(state: TrialState) -> None:
    trials = [trial(0, 0.1, state), trial(1, 1.0)]
    selection = choose(sweep(trials))
    assert selection.so_far is (not state.is_final)
    may_win = state in (TrialState.COMPLETED, TrialState.STOPPED) or not state.is_final
    assert selection.winner is not None and selection.winner.number == (0 if may_win else 1)
    assert [each.number for each in rank(trials, LOWEST_LOSS)] == ([0, 1] if state.is_ranked else [1])


@pytest.mark.parametrize(
    "trials", [[], [trial(0, math.inf)], [trial(0, 1.0, TrialState.FAILED)], [trial(0, math.nan, TrialState.STOPPED)]]
)
def test_there_may_be_no_winner(trials: list[TrialRecord]) -> None:
    selection = choose(sweep(trials))
    assert selection.winner is None
    assert selection.why == ("no trial completed with a finite eval_loss" if trials else "no trial began")
    waits = choose(sweep([*trials, TrialRecord("new", 9, {}, TrialState.RUNNING)]))
    assert waits == Selection(None, "no trial that may win has reported yet", so_far=True)


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
    assert choose(sweep([lacking, stopped], MATCHES)).why == (
        "no trial has exact_match: the answers of t00 could not be scored"
    ), "a trial that was stopped early does not win by its loss"
    assert [found.number for found in rank([lacking, scored, stopped], LOWEST_LOSS)] == [0, 2, 1]
    trains = trial(3, 0.8, TrialState.RUNNING)
    assert choose(sweep([lacking, trains], MATCHES)).winner == trains, "until the end the loss names a best so far"
    made_up = replace(lacking, best_metrics={"eval_loss": 0.1, "exact_match": 0.6})
    assert choose(sweep([made_up, scored], MATCHES)).winner == made_up


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
        found = pareto(sweep(order, LOWEST_LOSS, Objective(metric="trainable_params")))
        assert [each.number for each in found] == [0, 6, 1, 3]


def test_a_trial_without_one_of_the_metrics_is_in_no_pareto_set() -> None:
    trials = [trial(0, 0.1), trial(1, 1.0, exact_match=0.75), trial(2, 1.0, exact_match=0.5)]
    assert [found.number for found in pareto(sweep(trials, LOWEST_LOSS, MATCHES))] == [1]


# While trials have not ended


def at(number: int, state: TrialState, *losses: tuple[int, float], **fields: Any) -> TrialRecord:
    """A trial with (step, loss) of each report."""
    evals = tuple((step, {"eval_loss": loss}) for step, loss in losses)
    step, best = min(evals, key=lambda each: each[1]["eval_loss"], default=(None, {}))
    whole = TrialRecord(f"key{number}", number, {}, state, best_step=step, best_metrics=best, evals=evals)
    return replace(whole, points={step: step for step, _ in losses}, **fields)


PAUSED, STOPPED, PARKED = TrialState.PAUSED, TrialState.STOPPED, TrialState.PARKED


def numbers(record: SweepRecord) -> list[int]:
    return [each.number for each in ranking(record)]


def test_a_trial_that_a_person_stopped_is_not_the_best_of_trials_that_go_on() -> None:
    by_hand = at(2, STOPPED, (2, 5.5018))
    trials = [by_hand, at(6, PAUSED, (2, 5.6), (6, 1.4715)), at(1, STOPPED, (2, 5.6), stopped_by_scheduler=True)]
    found = sweep(trials, trials_to_stop=frozenset({"key2"}))
    assert numbers(found) == [6, 1]
    assert choose(found).winner is trials[1] and choose(found).so_far
    assert choose(sweep([by_hand, at(3, PAUSED)], trials_to_stop=frozenset({"key2"}))).winner is None
    over = [by_hand, at(6, TrialState.COMPLETED, (2, 5.6)), trials[2]]
    assert numbers(sweep(over, trials_to_stop=frozenset({"key2"}))) == [2, 1, 6], "a sweep that has ended counts it"


@pytest.mark.parametrize("reason", ["finished", "budget", "interrupted", "failed", None])
def test_a_sweep_that_was_interrupted_or_lost_between_two_trials_has_a_best_so_far(reason: Any) -> None:
    end = None if reason is None else SweepEnded(time=1.0, reason=reason)
    trials = [at(0, TrialState.COMPLETED, (3, 2.0)), at(1, STOPPED, (3, 1.0))]
    found = sweep(trials, trials_to_stop=frozenset({"key1"}), ended=end)
    is_over = reason in ("finished", "budget")
    assert (choose(found).so_far, numbers(found)) == (not is_over, [1, 0] if is_over else [0])


def test_trials_that_go_on_are_compared_after_equal_steps() -> None:
    ahead, behind = at(0, PAUSED, (3, 2.5), (9, 1.5)), at(1, PAUSED, (3, 2.0))
    assert numbers(sweep([ahead, behind])) == [1, 0], "at step 3, which both have reached"
    third = at(2, PARKED, (3, 2.6), (9, 1.9))
    assert numbers(sweep([ahead, behind, third])) == [0, 2, 1], "at step 9: t01 is not as good with fewer steps"
    early = at(3, PAUSED, (3, 1.4))
    assert numbers(sweep([ahead, third, early])) == [3, 0, 2], "t03 is better with fewer steps"
    whole = replace(ahead, state=TrialState.COMPLETED)
    assert numbers(sweep([whole, behind])) == [0, 1], "what has ended counts as a whole"
    assert numbers(sweep([ahead])) == [0]
    elsewhere = at(4, PAUSED, (1, 2.2))
    assert numbers(sweep([ahead, elsewhere])) == [0, 4], "no step that both have reached: each by its best value"


def test_examples_and_not_steps_are_equal_where_rungs_count_examples() -> None:
    ahead = at(0, PAUSED, (3, 2.5), (9, 1.5))
    behind = replace(at(1, PAUSED, (6, 2.0)), points={6: 3})
    assert numbers(sweep([ahead, behind])) == [1, 0]
    assert numbers(sweep([ahead, replace(behind, points={6: 9})])) == [0, 1]


losses = st.one_of(st.sampled_from([1.0, 1.5, 2.0, math.nan, math.inf]), st.floats(0.5, 3.0))
curves = st.lists(losses, max_size=4).map(lambda values: tuple(zip((1, 3, 9, 27), values, strict=False)))
states = st.sampled_from(list(TrialState))
sweeps = st.lists(st.tuples(states, curves, st.booleans(), st.booleans()), min_size=1, max_size=6)


@given(sweeps, st.randoms())
def test_the_best_follows_from_the_trials_whatever_their_order(drawn: list[Any], random: Any) -> None:
    trials = []
    for number, (state, curve, by_scheduler, is_repeat) in enumerate(drawn):
        finite = tuple(each for each in curve if math.isfinite(each[1])) or curve[:1]
        repeats = "key0" if is_repeat and number else None
        trials.append(at(number, state, *finite, stopped_by_scheduler=by_scheduler, repeats=repeats))
    by_hand = frozenset(each.trial_key for each in trials[::2])
    found = sweep(trials, trials_to_stop=by_hand)
    shuffled = random.sample(trials, len(trials))
    assert numbers(sweep(shuffled, trials_to_stop=by_hand)) == numbers(found)
    selection = choose(found)
    assert selection == choose(sweep(shuffled, trials_to_stop=by_hand))
    assert selection.so_far is any(not each.state.is_final for each in trials if each.repeats is None)
    if selection.winner is None:
        return
    best = selection.winner
    assert best.repeats is None and (best.state.is_ranked or not best.state.is_final)
    rivals = [each for each in ranking(found) if each is not best]
    for rival in rivals:
        # Nothing that ended, or reached what another reached too, has a better value: only one alone may be ahead.
        if rival.best_metrics["eval_loss"] < best.best_metrics["eval_loss"]:
            assert not rival.state.is_final
            assert all(rival.reported_step > each.reported_step for each in (best, *rivals) if each is not rival)
    if selection.so_far:
        stopped = best.state is STOPPED and not best.stopped_by_scheduler
        assert not (stopped and best.trial_key in by_hand)
    else:
        assert ranking(found) == rank(trials, LOWEST_LOSS)
