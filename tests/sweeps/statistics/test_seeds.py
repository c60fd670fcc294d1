"""How far another seed moves a loss, from trials that were trained again."""

from __future__ import annotations

import math
from random import Random

import pytest
from sweep_events import ended, record, reported, started

from sweeps.record.events import Event, TrialState
from sweeps.record.selection import choose, rank
from sweeps.record.sweep_record import SweepRecord
from sweeps.statistics.intervals import pooled
from sweeps.statistics.trials import noise


def trial(key: str, number: int, loss: float, repeats: str | None = None) -> list[Event]:
    begins = started(key, number).model_copy(update={"repeats": repeats})
    return [begins, reported(key, 3, loss), ended(key, TrialState.COMPLETED)]


def sweep(*trials: list[Event]) -> SweepRecord:
    return record([event for events in trials for event in events])


def test_repeats_and_the_trial_that_they_repeat_are_one_group() -> None:
    found = sweep(trial("a", 0, 1.0), trial("b", 1, 2.0), trial("c", 2, 1.2, "a"), trial("d", 3, 2.1, "b"))
    told = noise(found.trials.values(), "eval_loss")
    assert told is not None
    assert told.deviation == pytest.approx(math.sqrt((0.02 + 0.005) / 2))
    assert noise(sweep(trial("a", 0, 1.0), trial("b", 1, 2.0)).trials.values(), "eval_loss") is None


def test_a_repeat_that_was_cut_short_says_nothing_of_seeds() -> None:
    whole = [trial("a", 0, 1.0), trial("b", 1, 2.0), trial("c", 2, 1.2, "a")]
    cut = [*trial("d", 3, 3.9, "b")[:2], ended("d", TrialState.STOPPED, "budget.wall_clock is used up")]
    told = noise(sweep(*whole, cut).trials.values(), "eval_loss")
    assert told is not None
    assert (told.points, told.freedom) == (1, 1)


def test_a_lucky_seed_does_not_win() -> None:
    found = sweep(trial("a", 0, 1.0), trial("b", 1, 1.1), trial("c", 2, 0.5, "b"))
    winner = choose(found.trials.values(), found.objective).winner
    assert winner is not None and winner.trial_key == "a"
    assert [each.trial_key for each in rank(found.trials.values(), found.objective)] == ["a", "b"]


def test_an_interval_of_seeds_alone_holds_as_often_as_it_says() -> None:
    rng = Random(0)
    held = 0
    for _ in range(1000):
        noise = pooled([[rng.gauss(0, 1) for _ in range(3)] for _ in range(3)])
        assert noise is not None
        held += abs(rng.gauss(0, 1) - rng.gauss(0, 1)) < noise.margin(0.95, 2)
    assert 0.92 < held / 1000 < 0.98
