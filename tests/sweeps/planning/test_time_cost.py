"""What a sweep takes: trials at each rung, time, LoRA against QLoRA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.halving.asha_promote import Promote
from sweeps.halving.asha_stop import Stop
from sweeps.halving.fifo import Fifo
from sweeps.halving.rule import Rule
from sweeps.halving.rungs import rungs
from sweeps.planning import lora_or_qlora, time_cost, virtual_sweep
from sweeps.planning.forecast import Forecast
from sweeps.planning.rates import Speed
from sweeps.planning.time_cost import Range, Work
from sweeps.planning.virtual_sweep import Play
from trainables.contract import Need

POINTS = (3, 9, 27)
RULES: dict[str, Callable[[], Rule]] = {
    "fifo": lambda: Fifo(POINTS),
    "stop": lambda: Stop(POINTS, 3),
    "promote": lambda: Promote(POINTS, 3),
}

# Trials at each rung


@pytest.mark.parametrize(
    ("rule", "arrival", "counts"),
    [
        ("fifo", range(9), (9, 9, 9)),
        ("stop", range(9), (9, 1, 1)),  # the best comes first
        ("stop", range(8, -1, -1), (9, 9, 9)),  # each is better than those before it
        ("promote", range(9), (9, 3, 1)),
        ("promote", range(8, -1, -1), (9, 3, 1)),
    ],
)
def test_a_play_counts_who_comes_to_each_rung(rule: str, arrival: range, counts: tuple[int, ...]) -> None:
    played = virtual_sweep.play(RULES[rule](), [float(quality) for quality in arrival], 1, 1, False)
    assert played.counts == counts
    assert played.makespan == time_cost.steps_of(POINTS, counts)


def test_a_protected_first_trial_is_trained_to_the_end() -> None:
    assert virtual_sweep.play(Promote(POINTS, 3), [9.0, *map(float, range(8))], 1, 1, True).counts == (9, 4, 2)


@given(
    trials=st.integers(1, 40), hosts=st.integers(1, 9), slots=st.integers(1, 9), rule=st.sampled_from(sorted(RULES)),
    protects_first=st.booleans(),
)  # fmt: skip
def test_a_play_ends_with_fewer_trials_at_each_rung(
    trials: int, hosts: int, slots: int, rule: str, protects_first: bool
) -> None:
    ((counts, makespan), *others) = virtual_sweep.plays(
        RULES[rule], trials, hosts, slots, protects_first, is_random=False
    )
    assert not others
    assert counts[0] == trials
    steps = time_cost.steps_of(POINTS, counts)
    # No host trains more than one trial's steps at a time, and no trial's steps are trained side by side.
    assert max(steps / hosts, POINTS[-1]) <= makespan + 1e-6
    assert makespan <= steps + 1e-6
    assert hosts > 1 or makespan == steps
    assert all(later <= earlier for earlier, later in pairwise(counts))
    assert counts[-1] >= 1


def test_many_trials_are_played_in_part() -> None:
    plays = virtual_sweep.plays(RULES["promote"], 9_000, 1, 4, False)
    assert {play.counts[0] for play in plays} == {9_000}
    assert all(2_900 < play.counts[1] < 3_100 for play in plays)


@pytest.mark.parametrize("rule", RULES)
def test_the_end_of_a_sweep_that_is_played_in_part_is_no_longer_than_the_end_of_that_part(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mean() -> float:
        plays = virtual_sweep.plays(RULES[rule], 1_000, 64, 1, False)
        return sum(play.makespan for play in plays) / len(plays)

    whole = mean()
    monkeypatch.setattr(virtual_sweep, "MOST_PLAYED", 250)
    assert mean() == pytest.approx(whole, rel=0.1)


def test_a_play_does_not_look_through_all_hosts_at_each_report(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    look = virtual_sweep._Host.next_report

    def noted(host: virtual_sweep._Host) -> tuple[float, int]:
        looked.append(host)
        return look(host)

    monkeypatch.setattr(virtual_sweep._Host, "next_report", noted)
    played = virtual_sweep.play(RULES["stop"](), [float(quality) for quality in range(300)], 100, 2, False)
    assert len(looked) < 10 * sum(played.counts)


@pytest.mark.parametrize(
    ("rule", "trials", "hosts", "slots", "makespan"),
    [
        ("fifo", 9, 4, 1, 81),  # a host trains three trials, one after the other
        ("fifo", 9, 4, 3, 81),  # a host trains three trials, side by side
        ("fifo", 4, 9, 2, 27),
        ("promote", 9, 9, 1, 27),
        ("promote", 9, 3, 1, 9 + 6 + 18),
    ],
)
def test_a_play_takes_as_long_as_what_follows_one_another(
    rule: str, trials: int, hosts: int, slots: int, makespan: int
) -> None:
    qualities = [float(quality) for quality in range(trials)]
    assert virtual_sweep.play(RULES[rule](), qualities, hosts, slots, False).makespan == makespan


TWO_WAYS = [Play((9, 3, 1), 63), Play((9, 5, 2), 93)]


def test_a_forecast_is_the_mean_of_its_plays() -> None:
    seen = Forecast(POINTS, TWO_WAYS, 1)
    assert seen.reaching == [9.0, 4.0, 1.5]
    work = seen.work(9, 243)
    # 9 x 3 + 3 x 6 + 1 x 18, and 9 x 3 + 5 x 6 + 2 x 18
    assert work.steps == work.makespan == Range(78.0, 63.0, 93.0)
    assert (work.worst_makespan, work.evaluations, work.worst_evaluation_turns) == (243, 15.5, 28)
    assert work.evaluation_turns == 15.5


def test_no_more_steps_are_expected_than_there_can_be() -> None:
    seen = Forecast(POINTS, TWO_WAYS, 1)
    assert seen.work(9, 80).steps == Range(71.5, 63.0, 80.0)
    assert seen.work(9, 60).steps == Range(60.0, 60.0, 60.0)


def test_several_hosts_take_turns_at_each_report_and_at_the_repeats() -> None:
    seen = Forecast(POINTS, [Play((9, 5, 2), 45)], 4)
    work = seen.work(9, 9 * 27)
    # The base and nine trials, then five, then two: 3 + 2 + 1 turns of four hosts.
    assert (work.steps.expected, work.makespan.expected, work.evaluation_turns) == (93, 45, 6)
    # At worst a host trains three trials to their ends.
    assert (work.worst_makespan, work.worst_evaluation_turns) == (3 * 27, 9)
    again = seen.work(9, 9 * 27 + 9 * 27, repeats=lambda last: 3 * last)
    # Six trials more: two turns.
    assert (again.makespan.expected, again.evaluation_turns) == (45 + 2 * 27, 6 + 2 * 3)


def test_at_worst_one_trial_ends_alone() -> None:
    work = Forecast(POINTS, [Play((9, 3, 1), 35)], 4).work(9, 67)
    assert work.worst_makespan == (67 - 27) / 4 + 27


# Time

SPEED = Speed(
    step_seconds=2.0, evaluation_seconds=5.0, start_seconds=20.0, trial_seconds=1.0, uncertainty=0.2,
    start_uncertainty=0.3, trial_uncertainty=0.5, measured=99,
)  # fmt: skip
WORK = Work(
    steps=Range(100, 80, 130), evaluations=10, makespan=Range(100, 80, 130), worst_makespan=300, evaluation_turns=10,
    worst_evaluation_turns=20, trials=4,
)  # fmt: skip


def test_time_is_start_trials_steps_and_evaluations() -> None:
    found = time_cost.cost(WORK, SPEED, 1, gpus=1)
    assert found.seconds.expected == 20 + 4 + 200 + 50
    assert found.seconds.low == pytest.approx(0.7 * 20 + 0.5 * 4 + 0.8 * (160 + 50))
    assert found.seconds.high == pytest.approx(1.3 * 20 + 1.5 * 4 + 1.2 * (260 + 50))
    assert found.worst_seconds == 24 + 600 + 100
    assert found.gpu_hours.expected == pytest.approx(274 / 3600)


def test_several_hosts_take_what_follows_one_another_and_each_of_them_is_paid_for() -> None:
    shared = replace(WORK, makespan=Range(60, 50, 70), worst_makespan=160, evaluation_turns=6, worst_evaluation_turns=9)
    found = time_cost.cost(shared, SPEED, 2, gpus=1)
    assert found.seconds.expected == 24 + 120 + 30
    assert found.seconds.low == pytest.approx(0.7 * 20 + 0.5 * 4 + 0.8 * (100 + 30))
    assert found.worst_seconds == 24 + 320 + 45
    assert found.gpu_hours.expected == pytest.approx(2 * 174 / 3600)
    assert time_cost.cost(shared, SPEED, 2, gpus=0).gpu_hours == Range(0, 0, 0)
    each_of_four = time_cost.cost(shared, SPEED, 2, gpus=4)
    assert each_of_four.seconds == found.seconds
    assert each_of_four.gpu_hours.expected == pytest.approx(4 * found.gpu_hours.expected)


def test_the_share_of_evaluation_is_of_all_work_whoever_does_it() -> None:
    assert time_cost.evaluation_share(WORK, step=2.0, evaluation=5.0) == pytest.approx(0.2)
    assert time_cost.evaluation_share(WORK, step=0.0, evaluation=0.0) == 0.0


# LoRA against QLoRA


def estimate(scheme: str, recomputes: bool) -> Need:
    """A base of 14 GB in 16 bits, 4 GB in 4; slots of 4 GB, of 1 GB where activations are recomputed."""
    base = 14 * 10**9 if scheme == "none" else 4 * 10**9
    return Need(
        base_bytes=base, slot_bytes=5 * 10**8, step_bytes=5 * 10**8 if recomputes else 35 * 10**8, saturating_slots=9
    )


def test_each_size_of_gpu_has_the_slots_that_fit_and_an_advice() -> None:
    found = lora_or_qlora.choices(estimate, 1.0, 4, (4, 5, 12, 15, 24, 80))
    assert [(choice.gpu_gb, choice.lora.words, choice.qlora.words, choice.advice) for choice in found] == [
        (4, "does not fit", "does not fit", "a larger GPU, or shorter rows"),
        (5, "does not fit", "1 slot, recomputing", "QLoRA"),
        (12, "does not fit", "2 slots", "QLoRA"),
        (15, "1 slot, recomputing", "2 slots", "QLoRA"),
        (24, "2 slots", "4 slots", "LoRA"),
        (80, "4 slots", "4 slots", "LoRA"),
    ]


@pytest.mark.parametrize(
    ("recomputing", "words"),
    [
        ("auto", ["1 slot, recomputing", "2 slots"]),
        (True, ["1 slot, recomputing", "4 slots, recomputing"]),
        (False, ["does not fit", "2 slots"]),
    ],
)
def test_the_table_recomputes_where_the_sweep_does(recomputing: Literal["auto"] | bool, words: list[str]) -> None:
    (found,) = lora_or_qlora.choices(estimate, 1.0, 4, (15,), recomputing)
    assert [found.lora.words, found.qlora.words] == words


def test_only_a_part_of_the_memory_is_planned_with() -> None:
    (whole, *_), (part, *_) = (
        lora_or_qlora.choices(estimate, 1.0, 4, (18,)),
        lora_or_qlora.choices(estimate, 0.85, 4, (18,)),
    )
    assert (whole.lora.words, part.lora.words) == ("1 slot", "1 slot, recomputing")


def test_a_model_of_unknown_size_has_no_table() -> None:
    assert lora_or_qlora.choices(lambda *_: None, 1.0, 4) == ()


def test_rungs_of_these_tests_are_those_of_the_product() -> None:
    assert rungs(3, 3, 27) == POINTS
