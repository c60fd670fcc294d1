"""Trials: the default first, no equal ones, infeasible ones replaced, until the budget or the space ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from sweep_events import recorded
from sweep_files import RATES, toy

from sweeps.config import resource
from sweeps.record.events import TrialState
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.searchers._learner import Learner
from sweeps.supply import trial_source
from sweeps.supply.target_modules import Targets
from sweeps.supply.trial_source import LEAST_REPLACED, PlannedTrial, TrialSource
from trainables.specs import TrialSpec


class Sweep:
    """A source, and what is known of its sweep."""

    def __init__(
        self, space: dict[str, Any], trials: int = 16, known: Any = None, targets: Any = None, **sections: Any
    ) -> None:
        budget = {"trials": trials, **sections.pop("budget", {})}
        config, parsed = toy(space, budget=budget, **sections)
        self.record = SweepRecord(trials=known or {}, fingerprints={"toy": "1"})
        self.source = TrialSource(config, parsed, self.record, targets)

    def learns(self, trial: PlannedTrial, state: TrialState, reason: str = "") -> None:
        (known,) = recorded((trial, state)).values()
        known = replace(known, reason=reason)
        self.record = replace(self.record, trials={**self.record.trials, trial.trial_key: known})

    def next(self) -> PlannedTrial | None:
        return self.source.next(self.record)


def drawn(trials: Sweep, at_most: int = 100) -> list[PlannedTrial]:
    return list(islice(iter(trials.next, None), at_most))


def test_the_first_trial_is_the_file_itself() -> None:
    first = drawn(Sweep(RATES, training={"learning_rate": 5e-4}))[0]
    assert (first.number, first.spec.training.learning_rate, first.params["learning_rate"]) == (0, 5e-4, 5e-4)


@pytest.mark.parametrize(
    ("trials", "lacking"), [(3, None), (5, "2 of budget.trials 5 were not tried: the space has no new point")]
)
def test_equal_points_are_tried_once_and_trials_that_there_are_no_points_for_are_told(trials, lacking) -> None:
    sweep = Sweep({"adapter.r": {"choice": [4, 8, 16]}}, trials)
    assert sweep.source.lacking(sweep.record) is None
    found = drawn(sweep)
    assert sorted(trial.spec.adapter.r for trial in found) == [4, 8, 16]
    assert [trial.number for trial in found] == [0, 1, 2]
    assert sweep.source.lacking(sweep.record) == lacking


def test_no_trial_begins_once_patience_is_used_up() -> None:
    trials = Sweep(RATES, 9, budget={"patience": 2})
    for _ in range(3):
        first: Any = trials.next()
        trials.learns(first, TrialState.COMPLETED)
    trials.record = replace(trials.record, last_gain=first.trial_key, without_gain=1)
    assert trials.source.out_of_patience(trials.record) is None
    trials.record = replace(trials.record, without_gain=2)
    assert trials.next() is None
    told = "budget.patience 2: at their first report 2 trials since t02 brought no gain: 6 of budget.trials 9 were "
    assert trials.source.out_of_patience(trials.record) == f"{told}not tried"
    trials.record = replace(trials.record, changes={"budget.patience": None})
    assert len(drawn(trials)) == 6
    trials.record = replace(trials.record, changes={})
    assert trials.source.out_of_patience(trials.record) is None, "all were tried"


SCHEMES = {"quantization.scheme": {"choice": ["none", "fp4"]}, **RATES}


def test_the_default_and_given_points_on_a_refused_base_are_handed_out_and_the_searchers_are_not() -> None:
    given = {"quantization.scheme": "nf4", "training.learning_rate": 1e-3}
    space = {**SCHEMES, "quantization.scheme": {"choice": ["nf4", "none"]}}
    sweep = Sweep(space, 6, searcher={"kind": "random", "points": [given]})
    sweep.source.refuse(frozenset({TrialSpec(trainable="toy").base_name}))
    found = drawn(sweep)
    assert [trial.spec.quantization.scheme for trial in found] == ["nf4", "nf4", "none", "none", "none", "none"]
    assert [trial.number for trial in found] == [0, 1, 2, 3, 4, 5]


def test_drawn_trials_that_have_not_begun_go_back_when_no_trial_may_begin() -> None:
    sweep = Sweep(SCHEMES, 6, budget={"patience": 2})
    first: Any = sweep.next()
    sweep.learns(first, TrialState.COMPLETED)
    pool = [trial for trial in (sweep.next(), sweep.next(), sweep.next()) if trial is not None]
    assert sweep.source.still_due(pool, sweep.record) == pool
    sweep.record = replace(sweep.record, changes={"budget.trials": 3})
    assert sweep.source.still_due(pool, sweep.record) == pool[:2]
    sweep.record = replace(sweep.record, last_gain=first.trial_key, without_gain=2)
    assert sweep.source.still_due(pool[:2], sweep.record) == []
    assert "2 of budget.trials 3 were not tried" in (sweep.source.out_of_patience(sweep.record) or "")


def test_an_infeasible_trial_makes_room_for_another() -> None:
    trials = Sweep(RATES, 2)
    before = drawn(trials)
    trials.learns(before[1], TrialState.INFEASIBLE)
    after = drawn(trials)
    assert [trial.number for trial in after] == [2]
    assert after[0].trial_key not in [trial.trial_key for trial in before]


@pytest.mark.parametrize(
    ("metric", "told"), [("eval_loss", [(3, 2.0), (9, 1.5), (27, -0.75)]), (None, [(3, -0.25), (9, -0.5), (27, -0.75)])]
)
def test_at_rungs_a_searcher_is_told_what_stops_trials_and_at_the_end_what_chooses(monkeypatch, metric, told) -> None:
    sections: dict[str, Any] = {"budget": {"steps_per_trial": 27}, "scheduler": {"metric": metric}}
    trials = Sweep(RATES, objective={"metric": "exact_match", "mode": "max"}, searcher={"kind": "tpe"}, **sections)
    first: Any = trials.next()
    heard: list[tuple[int, Any]] = []
    monkeypatch.setattr(Learner, "tell", lambda _self, _point, at, outcome, _is_final: heard.append((at, outcome)))
    scores = ((3, 2.0, 0.25), (9, 1.5, 0.5), (27, 1.75, 0.75))
    evals = tuple((step, {"eval_loss": loss, "exact_match": score}) for step, loss, score in scores)
    (known,) = recorded((first, TrialState.COMPLETED)).values()
    trials.record = replace(trials.record, trials={known.trial_key: replace(known, evals=evals)})
    trials.next()
    assert [each for each in heard if isinstance(each[1], float)] == told


def test_a_searcher_is_told_of_the_default_by_the_rows_of_its_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Sweep(RATES, searcher={"kind": "tpe"}, budget={"steps_per_trial": 9})
    first: Any = trials.next()
    heard: list[float] = []
    monkeypatch.setattr(Learner, "tell", lambda _self, _point, _at, outcome, _is_final: heard.append(outcome))
    (known,) = recorded((first, TrialState.COMPLETED)).values()
    evals = ((3, {"eval_loss": 2.0}), (9, {"eval_loss": 1.5}))
    known = replace(known, evals=evals, at_rung={3: {"eval_loss": 2.25}})
    trials.record = replace(trials.record, trials={known.trial_key: known})
    trials.next()
    assert [each for each in heard if isinstance(each, float)] == [2.25, 1.5]


def test_points_that_cannot_be_trained_do_not_use_up_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_source, "USED_UP", 20)
    space = {"adapter.target_modules": {"choice": ["mlp", "all-linear"]}, "adapter.r": {"choice": [*range(1, 41)]}}
    trials = Sweep(space, 30, targets=Targets(problems={"mlp": "no such layer"}), searcher={"kind": "grid"})
    assert len(drawn(trials)) == 30


@pytest.mark.parametrize(("budget", "replaced"), [(3, LEAST_REPLACED), (14, 14)])
def test_infeasible_trials_are_replaced_so_often_and_no_more(budget: int, replaced: int) -> None:
    trials = Sweep(RATES, budget)
    begun = drawn(trials)
    for number in range(replaced):
        assert trials.source.gave_up(trials.record) is None
        trials.learns(begun[number], TrialState.INFEASIBLE, f"point {number}")
        begun += drawn(trials)
    assert len(begun) == budget + replaced - 1
    assert f"(the last: point {replaced - 1})" in str(trials.source.gave_up(trials.record))


@pytest.mark.parametrize("state", [TrialState.PENDING, TrialState.RUNNING, TrialState.PAUSED])
def test_unfinished_trials_are_handed_out_again_under_their_numbers(state: TrialState) -> None:
    first = drawn(Sweep(RATES, 3))
    assert drawn(Sweep(RATES, 3, recorded(*((trial, state) for trial in first)))) == first


def test_a_sweep_that_gave_up_hands_out_what_it_had_begun_and_nothing_else() -> None:
    begun = drawn(Sweep(RATES, 13))
    infeasible = [(trial, TrialState.INFEASIBLE) for trial in begun[:LEAST_REPLACED]]
    for last in (begun[10], begun[11]):
        trials = Sweep(RATES, 3, recorded(*infeasible, (last, TrialState.PAUSED)))
        assert drawn(trials) == [last]
        assert trials.source.gave_up(trials.record) is not None


@pytest.mark.parametrize(("kind", "space"), [("random", RATES), ("grid", {"adapter.r": {"choice": [*range(1, 61)]}})])
def test_points_that_were_tried_under_an_earlier_driver_do_not_use_up_the_space(kind, space, monkeypatch) -> None:
    monkeypatch.setattr(trial_source, "USED_UP", 20)
    whole = drawn(Sweep(space, 50, searcher={"kind": kind}))
    known = recorded(*((trial, TrialState.STOPPED) for trial in whole[:40]))
    assert drawn(Sweep(space, 50, known, searcher={"kind": kind})) == whole[40:]


def test_a_searcher_is_told_of_report_points_in_the_unit_in_which_trials_are_compared(monkeypatch) -> None:
    """Trials of different batches report after unequal steps and equal examples."""
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Learner, "tell", lambda self, *words: told.append(words))
    space = {"training.batch_size": {"choice": [1, 4]}}
    config, parsed = toy(space, searcher={"kind": "tpe", "points": [{"training.batch_size": size} for size in (1, 4)]})
    config, _ = resource.with_examples(config, parsed, None)
    source = TrialSource(config, parsed, SweepRecord())
    begun = [trial for _ in range(3) if (trial := source.next(SweepRecord())) is not None]
    points = resource.of(config).points
    known: dict[str, TrialRecord] = {}
    for trial in begun:
        steps = resource.of(config).steps(trial.spec.training)
        evals = tuple((step, {"eval_loss": 1.0}) for step in steps)
        (found,) = recorded((trial, TrialState.COMPLETED)).values()
        known[trial.trial_key] = replace(found, evals=evals, step=steps[-1])
    told.clear()
    source.next(SweepRecord(trials=known))
    results = [(resource_, is_final) for _, resource_, outcome, is_final in told if outcome is not None]
    assert results == [(point, point == points[-1]) for _ in begun for point in points]
    assert len({trial.spec.steps for trial in begun}) > 1
