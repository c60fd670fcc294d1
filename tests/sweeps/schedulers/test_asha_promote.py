"""ASHA's promoting form: against the pseudo-code of the paper, what it takes, its tail, and trials that are lost."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_players import Play, play

from sweeps.schedulers import Decision, Ended, Idle, Reported, Resume, SlotUse, Started, TrialStatus
from sweeps.schedulers.asha import TAIL_TRIALS, Config, Promote, most_steps

POINTS = (3, 9, 27, 81)


def in_turn(busy: Sequence[str]) -> str:
    return busy[0]


def by(values: Sequence[float]) -> Callable[[str, int], float]:
    return lambda name, _point: values[int(name)]


def played_steps(played: Play, points: Sequence[int]) -> int:
    """Steps that all trials took."""
    return sum(point - max(low for low in (0, *points) if low < point) for _, point in played.work)


def reached_the_end(played: Play) -> set[str]:
    return {report.trial for report in played.reports if report.resource == POINTS[-1]}


class Model:
    """Algorithm 2 of arXiv 1810.05934, word for word: `get_job`, and the rungs that it looks at. Slow."""

    def __init__(self, factor: int, top: int) -> None:
        self.factor, self.top = factor, top
        self.reports: list[list[tuple[float, int, str]]] = [[] for _ in range(top + 1)]
        self.promoted: list[set[str]] = [set() for _ in range(top + 1)]

    def candidates(self, rung: int) -> list[str]:
        best = sorted(self.reports[rung])[: len(self.reports[rung]) // self.factor]
        return [name for _, _, name in best if name not in self.promoted[rung]]

    def get_job(self) -> tuple[str, int] | None:
        """A trial and the rung that it goes to; None: "grow the bottom rung"."""
        for rung in range(self.top - 1, -1, -1):
            found = self.candidates(rung)
            if found:
                self.promoted[rung].add(found[0])
                return found[0], rung + 1
        return None


def model_work(factor: int, points: Sequence[int], played: Play, trials: int) -> list[tuple[str, int]]:
    """What the model begins, told the same reports in the same order."""
    model, work, begun = Model(factor, len(points) - 1), [], 0
    for number, event in enumerate(played.events):
        if isinstance(event, Reported):
            model.reports[points.index(event.resource)].append((event.value, number, event.trial))
        elif isinstance(event, Started):
            job = model.get_job()
            if job is not None:
                work.append((job[0], points[job[1]]))
            elif begun < trials:
                work.append((str(begun), points[0]))
                begun += 1
    return work


@settings(max_examples=60)
@given(st.data(), st.integers(2, 4), st.integers(1, 4), st.integers(1, 40))
def test_the_order_of_the_paper_is_that_of_its_pseudo_code(data, factor, slots, trials):
    values = data.draw(st.lists(st.integers(0, 9), min_size=trials, max_size=trials))
    rng = random.Random(data.draw(st.integers(0, 99)))
    points = (1, factor, factor**2, factor**3)
    played = play(Promote(points, factor, "paper"), by(values), trials, slots, rng.choice)
    expected = model_work(factor, points, played, trials)
    assert played.work[: len(expected)] == expected
    assert len(played.work) - len(expected) <= len(points)  # the tail


def brute_breadth(values: Sequence[float], factor: int, points: Sequence[int]) -> int:
    """Synchronous halving, which breadth is on one slot."""
    survivors, total, before = list(range(len(values))), 0, 0
    for point in points:
        total += len(survivors) * (point - before)
        survivors = sorted(survivors, key=lambda number: values[number])[: max(1, len(survivors) // factor)]
        before = point
    return total


@settings(max_examples=60)
@given(st.permutations(range(20)), st.integers(1, 20), st.integers(2, 4))
def test_breadth_on_one_slot_takes_what_halving_in_step_takes(order: list[int], trials: int, factor: int) -> None:
    points = (2, 2 * factor, 2 * factor**2)
    values = order[:trials]
    steps = played_steps(play(Promote(points, factor), by(values), trials, 1, in_turn), points)
    assert steps == brute_breadth(values, factor, points) == most_steps(points, factor, trials, 1, False)


# The tail


@pytest.mark.parametrize("trials", [1, 2, 8, 26])
def test_the_best_trial_reaches_the_last_point_although_too_few_came_to_the_rung_below(trials: int) -> None:
    assert reached_the_end(play(Promote(POINTS, 3), by(list(range(trials))), trials, 2, in_turn)) == {"0"}
    assert Config().needs_tail(81, trials)
    assert not Config().needs_tail(81, 27)


@pytest.mark.parametrize(("rank", "complete"), [(0, {"0"}), (3, {"0", "1"})])
def test_a_protected_trial_that_leads_is_the_one_that_reaches_the_last_point(rank: int, complete: set[str]) -> None:
    values = [float(rank), 1.0, 2.0, 4.0]
    assert reached_the_end(play(Promote(POINTS, 3), by(values), 4, 1, in_turn, protects_first=True)) == complete


@pytest.mark.parametrize(
    ("loss", "work"), [(None, Idle.WAIT), (0.0, Idle.WAIT), (2.0, Resume("a"))], ids=["unknown", "leads", "does not"]
)
def test_the_tail_begins_beside_a_protected_trial_that_does_not_lead(loss: float | None, work: SlotUse) -> None:
    rule = Promote((3, 9), 3)
    rule.take(Started("default", is_protected=True))
    rule.take(Started("a"))
    rule.take(Reported("a", 3, 1.0))
    if loss is not None:
        assert rule.take(Reported("default", 3, loss)) is Decision.GO_ON
    assert rule.next(is_exhausted=True) == work
    if work == Idle.WAIT:
        rule.take(Ended("default"))
        work = Resume("a")
        assert rule.next(is_exhausted=True) == work
    rule.take(Started("a"))
    assert rule.next(is_exhausted=True) is Idle.WAIT


def test_a_trial_that_went_on_by_its_rank_is_not_in_the_tail_when_the_log_says_so_late() -> None:
    rule = Promote((1, 2, 4), 2)
    for name, loss in [("a", 5.0), ("b", 6.0)]:
        rule.take(Started(name))
        rule.take(Reported(name, 1, loss))
    assert rule.next(is_exhausted=True) == Resume("a")
    rule.take(Started("c"))
    rule.take(Reported("c", 1, 4.0))
    rule.take(Started("a", is_in_tail=False))
    rule.take(Started("b"))
    assert [rule.is_in_tail(name) for name in "abc"] == [False, True, False]


@pytest.mark.parametrize(
    ("points", "last", "patience"), [((1, 3), None, None), ((1, 3, 9, 27), None, None), ((1, 3, 9, 27), 1.0, 1)]
)
def test_the_tail_gives_up_after_so_many_trials_that_were_lost(points, last, patience):
    """Each trial is lost on its way to the second or third rung, or it overfits; coming there gives no more tries."""
    losses = {1: 0.0, 3: 0.5 if len(points) > 2 else None, 9: last}
    rule = Promote(points, 20, overfit_patience=patience)
    played = play(rule, lambda name, point: losses[point], 9, 1, in_turn)
    assert [name for name, point in played.work if point == 3] == [str(number) for number in range(TAIL_TRIALS)]


def test_trials_that_are_lost_after_they_were_promoted_by_rank_take_the_tail_no_tries() -> None:
    lost = {(str(number), 3) for number in range(TAIL_TRIALS)}
    rule = Promote((1, 3, 9), 2)
    played = play(rule, lambda name, point: None if (name, point) in lost else float(name), 8, 1, in_turn)
    assert played.reports[-1].resource == 9


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6), st.booleans(), st.sampled_from([3, 5, 30]))
def test_breadth_never_takes_more_than_its_worst_case_but_for_lost_trials_those_of_the_tail(
    seed, trials, slots, protects, factor
):
    rng = random.Random(seed)
    lost_before = rng.choice([(), POINTS[1:], POINTS[2:], POINTS[3:]])
    share = rng.random() ** 0.2

    def value(name: str, point: int) -> float | None:
        return rng.choice([None, math.inf]) if point in lost_before and rng.random() < share else rng.random()

    played = play(Promote(POINTS, factor), value, trials, slots, rng.choice, protects)
    of_tail = TAIL_TRIALS * (POINTS[-1] - POINTS[0]) if lost_before else 0
    assert played_steps(played, POINTS) <= most_steps(POINTS, factor, trials, slots, protects) + of_tail


# Trials that are lost


def test_a_trial_that_diverged_ranks_last_where_it_would_have_reported() -> None:
    rule = Promote((1, 3), 3)
    for name in "abc":
        rule.take(Started(name))
    rule.take(Reported("a", 1, 2.0))
    rule.take(Ended("b", is_diverged=True))
    assert rule.next(is_exhausted=True) is Idle.WAIT
    assert rule.take(Reported("c", 1, math.nan)) is Decision.STOP
    assert rule.next(is_exhausted=True) == Resume("a")  # 1 of 3
    assert [rule.status(name) for name in "abc"] == [TrialStatus.PARKED, TrialStatus.OVER, TrialStatus.OVER]


def test_a_trial_that_overfits_is_not_resumed() -> None:
    losses = {3: 1.0, 9: 1.5, 27: 1.6}
    played = play(Promote(POINTS, 2, overfit_patience=2), lambda _, point: losses[point], 1, 1, in_turn)
    assert played.decisions == [Decision.PARK, Decision.PARK, Decision.STOP]
