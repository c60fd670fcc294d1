"""The contract of schedulers, held by every module of sweeps/schedulers."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from rule_players import Play, after, play

from sweeps.config import components
from sweeps.schedulers import Decision, Direction, Reported, Rule, Started, TrialStatus

STEPS = 27
POINTS = (3, 9, 27)
SECTIONS: list[dict[str, Any]] = [
    *({"kind": name} for name in components.available("schedulers")),
    {"kind": "asha", "variant": "stop"},
    {"kind": "asha", "order": "paper"},
    {"kind": "median", "overfit_patience": 1},
]
EVERY = pytest.mark.parametrize("section", SECTIONS, ids=lambda section: "-".join(map(str, section.values())))


def config(section: dict[str, Any], **more: Any) -> Any:
    return components.modules("schedulers")[section["kind"]].Config.model_validate({**section, **more})


def built(section: dict[str, Any], direction: Direction = "min") -> Rule:
    rule: Rule = config(section).build(STEPS, direction)
    return rule


def lived(rule: Rule, seed: int, protects_first: bool = True) -> Play:
    """Twelve trials on three slots; trial 0 is the worst of them."""
    rng = random.Random(seed)
    return play(rule, lambda name, _: rng.random() + 9 * (name == "0"), 12, 3, rng.choice, protects_first)


@EVERY
def test_its_first_line_says_what_it_does_and_its_section_comes_back_from_json(section: dict[str, Any]) -> None:
    assert components.available("schedulers")[section["kind"]].endswith((".", ":", ")"))
    assert config(section).kind == section["kind"]
    given = config(section, grace_steps=2, overfit_patience=3)
    assert type(given).model_validate(json.loads(given.model_dump_json())) == given


@EVERY
def test_reports_come_at_grace_steps_and_end_at_the_last_step(section: dict[str, Any]) -> None:
    assert config(section).points(STEPS) == POINTS
    assert config(section, grace_steps=2, reduction_factor=4).points(40) == (2, 8, 32, 40)
    assert config(section, grace_steps=50).points(STEPS) == (STEPS,)


@EVERY
def test_every_trial_gets_its_grace_steps_and_reports_at_each_point_on_its_way(section: dict[str, Any]) -> None:
    played = lived(built(section), 1)
    for trial in map(str, range(12)):
        seen = tuple(report.resource for report in played.reports if report.trial == trial)
        assert seen
        assert seen == POINTS[: len(seen)]


@EVERY
@pytest.mark.parametrize("seed", range(5))
def test_the_default_configuration_is_trained_to_its_end_although_it_is_the_worst(
    section: dict[str, Any], seed: int
) -> None:
    assert [report.resource for report in lived(built(section), seed).reports if report.trial == "0"] == list(POINTS)


@EVERY
def test_a_replay_after_any_event_decides_as_the_rule_would_have(section: dict[str, Any]) -> None:
    played = lived(built(section), 2)
    for at in range(len(played.events)):
        again, rule = built(section), after(built(section), played.events)
        decisions = [again.take(event) for event in played.events[:at]]
        # A report that was not taken in comes again, and what was judged is not judged twice.
        assert all(
            again.take(event) is not Decision.PARK for event in played.events[:at] if isinstance(event, Reported)
        )
        decisions += [again.take(event) for event in played.events[at:]]
        judged = [v for v, event in zip(decisions, played.events, strict=True) if isinstance(event, Reported)]
        assert judged == played.decisions
        assert [again.status(str(n)) for n in range(12)] == [rule.status(str(n)) for n in range(12)]


@EVERY
def test_higher_is_better_when_the_direction_is_max(section: dict[str, Any]) -> None:
    low, high = built(section, "min"), built(section, "max")
    rng = random.Random(3)
    for number in range(30):
        low.take(Started(str(number)))
        high.take(Started(str(number)))
        value = rng.random()
        assert low.take(Reported(str(number), 3, value)) is high.take(Reported(str(number), 3, -value))
        assert low.next(is_exhausted=True) == high.next(is_exhausted=True)


@EVERY
def test_a_value_that_is_not_finite_ends_the_trial(section: dict[str, Any]) -> None:
    for value in (float("nan"), float("inf"), float("-inf")):
        rule = built(section, "max")
        rule.take(Started("a"))
        assert rule.take(Reported("a", 3, value)) is Decision.STOP
        assert rule.status("a") is TrialStatus.OVER


@EVERY
def test_overfit_patience_is_off_unless_it_is_asked_for(section: dict[str, Any]) -> None:
    ends = {}
    for patience in (None, 1):
        rule = config(section, overfit_patience=patience).build(STEPS)
        rule.take(Started("a"))
        for point in POINTS:
            ends[patience] = point
            if rule.take(Reported("a", point, float(point))) is Decision.STOP:
                break
            rule.take(Started("a"))
    assert ends == {None: 27, 1: 9}


@EVERY
@pytest.mark.parametrize("protects", [False, True])
def test_no_sweep_takes_more_steps_than_it_says(section: dict[str, Any], protects: bool) -> None:
    most = config(section).most_steps(STEPS, 12, 3, protects)
    assert 12 * POINTS[0] <= most <= 12 * STEPS
    for seed in range(10):
        work = lived(built(section), seed, protects).work
        assert sum(point - max(low for low in (0, *POINTS) if low < point) for _, point in work) <= most


@EVERY
def test_only_a_scheduler_that_says_so_parks_trials_or_compares_them_and_ends_some_early(section) -> None:
    played = lived(built(section), 4)
    assert (Decision.PARK in played.decisions) == config(section).parks
    assert (sum(report.resource == STEPS for report in played.reports) < 12) == config(section).compares


@EVERY
def test_more_trials_may_take_more_steps(section: dict[str, Any]) -> None:
    most = [config(section).most_steps(STEPS, trials, 1) for trials in (3, 9, 27, 81)]
    assert all(low < high for low, high in pairwise(most))
