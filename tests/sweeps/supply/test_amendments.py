"""What may be asked of a sweep after its launch, and what is refused, with the reason and the way out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_events import begun, ended, record, recorded, reported, started
from sweep_files import RATES, toy

from cluster import devices
from sweeps.record.events import Event, HostsStarted, Reply, RequestAnswered, SweepEnded, TargetSettled, TrialState
from sweeps.record.sweep_record import SweepRecord
from sweeps.supply.amendments import Amendments
from sweeps.supply.trial_source import planned

SPACE = {
    "adapter.r": {"choice": [4, 8, 16]},
    **RATES,
    "training.warmup_ratio": {"uniform": [0.0, 0.2], "when": {"adapter.r": [4, 8]}},
}
BUDGET = {"trials": 4, "steps_per_trial": 9, "wall_clock": "1m"}
NEW = SweepRecord()
REFUSED: tuple[object, ...] = (False, None, {})
"""Of an answer: whether it is accepted, its point, its changes."""


def sweep(space: dict[str, Any] | None = None, trainable: Any = None, **sections: Any) -> Amendments:
    config, parsed = toy(space or SPACE, **{"budget": BUDGET, **sections})
    return Amendments(config, parsed, trainable)


def at(amendments: Amendments, state: TrialState, **values: Any) -> SweepRecord:
    """A sweep with one trial, t00, at a whole point."""
    point = {"adapter.r": 8, "training.learning_rate": 1e-3, "training.warmup_ratio": 0.0, **values}
    return SweepRecord(trials=recorded((planned(0, amendments.config, point, {}), state)))


def gist(answer: Reply) -> tuple[object, ...]:
    return answer.is_accepted, answer.point, answer.changes


def after(seen: SweepRecord, answer: Reply) -> SweepRecord:
    told = RequestAnswered(
        time=1.0, request="1", sender="x", asked="x", is_accepted=answer.is_accepted, message=answer.message,
        point=None if answer.point is None else dict(answer.point), changes=dict(answer.changes),
    )  # fmt: skip
    return seen.apply(told)


@pytest.mark.parametrize("name", ["training.learning_rate", "learning_rate", "lr"])
def test_a_field_goes_by_its_whole_name_or_the_one_that_is_shown_and_others_keep_the_files_value(name: str) -> None:
    answer = sweep(adapter={"r": 4}).point({name: 1e-1}, NEW)  # outside the space, as in searcher.points
    assert answer.is_accepted
    whole = {"adapter.r": 4, "training.learning_rate": 1e-1, "training.warmup_ratio": 0.03}
    assert answer.point == whole | {"training.warmup_ratio": sweep().config.training.warmup_ratio}
    assert answer.message.endswith("it has the next free slot, and is one trial beyond budget.trials")


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (
            {"wall_clock": "10s"},
            "budget.wall_clock is used up, so nothing more would be trained: raise it first, qsweep",
        ),
        ({"target": 0.5}, "budget.target 0.5 is reached: t00 has eval_loss 0.4000 at step 3, and budget.target stays"),
    ],
)
def test_nothing_is_promised_that_a_used_up_budget_would_keep_from_being_tried(limit: Any, told: str) -> None:
    whole: list[Event] = [begun(), started("a"), reported("a", 3, 0.4), SweepEnded(time=50.0, reason="budget")]
    asked = sweep(budget={"trials": 4, "steps_per_trial": 9, **limit})
    answers = [asked.changes({"budget.trials": 50}, record(whole), None), asked.point({"r": 4}, record(whole))]
    assert [(*gist(answer), answer.message[: len(told)]) for answer in answers] == [(*REFUSED, told)] * 2
    if "wall_clock" in limit:
        both = {"budget.trials": 50, "budget.wall_clock": "1h"}
        assert asked.changes(both, record(whole), None).is_accepted


OF_TABLES = {**SPACE, "adapter.target_modules": {"choice": ["attention-qv", "all-linear"]}}


def test_every_heading_of_the_tables_is_taken() -> None:
    values = {"r": 8, "alpha": 32, "modules": "all-linear", "lr": 2e-3}
    itself = sweep({**OF_TABLES, "adapter.lora_alpha": {"choice": [16, 32]}}).point(values, NEW)
    ratio = sweep({**OF_TABLES, "adapter.alpha_over_r": {"choice": [1, 2]}})
    for answer in (itself, ratio.point(values, NEW)):
        assert answer.message.startswith("r=8, lora_alpha=32, target_modules=all-linear, learning_rate=0.002")
    of_file: Any = ratio.point({"lora_alpha": 6}, NEW).point
    assert of_file["adapter.alpha_over_r"] == 6 / ratio.config.base.adapter.r


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"alpha": 32, "alpha_over_r": 2}, "alpha: follows from adapter.alpha_over_r: give one of them"),
        ({"alpha": "two"}, "alpha: 'two' over r = 8 is no number: give adapter.alpha_over_r in its place"),
        ({"alpha": 32, "r": 0}, "alpha: 32 over r = 0 is no number"),
        ({"alpha": 32, "lora_alpha": 32}, "alpha: is not searched"),
        ({}, "a point needs a value: write FIELD=VALUE"),
        ({"learnin_rate": 1.0}, "learnin_rate: is not searched"),
        ({"learning_rate": -1.0}, "training.learning_rate: -1.0 must be greater than 0"),
        ({"r": 4, "adapter.r": 8}, "adapter.r: is given twice"),
        ({"r": "many"}, "adapter.r: 'many' must be a whole number"),
        ({"r": 16, "warmup_ratio": 0.1}, "training.warmup_ratio: is not searched together with the point's other"),
    ],
)
def test_a_point_that_breaks_a_rule_is_refused_and_told_which(values: dict[str, Any], told: str) -> None:
    ratio = sweep({**OF_TABLES, "adapter.alpha_over_r": {"choice": [1, 2]}}, adapter={"r": 8})
    answer = ratio.point(values, NEW)
    assert (*gist(answer), answer.message[: len(told)]) == (*REFUSED, told)


def test_a_point_whose_step_would_pass_two_report_points_is_refused() -> None:
    space = {"training.batch_size": {"choice": [1, 2, 4]}, **SPACE}
    counted = sweep(space, budget={**BUDGET, "examples_per_trial": 324})
    assert counted.point({"batch_size": 24}, NEW).is_accepted
    answer = counted.point({"batch_size": 400}, NEW)
    assert gist(answer) == REFUSED
    assert "400 rows a step pass two report points at once" in answer.message
    assert sweep(space).point({"batch_size": 400}, NEW).is_accepted, "here steps are counted"


def test_the_trainable_has_its_say() -> None:
    trainable = SimpleNamespace(check=lambda spec: ["adapter.r: 5 is odd"] if spec.adapter.r == 5 else [])
    assert sweep(trainable=trainable).point({"r": 5}, NEW).message == "adapter.r: 5 is odd"
    assert sweep(trainable=trainable).point({"r": 4}, NEW).is_accepted


def test_a_point_that_was_tried_or_asked_for_is_not_taken_twice() -> None:
    amendments = sweep()
    seen = at(amendments, TrialState.RUNNING)
    (key,) = seen.trials
    seen = seen.apply(ended(key, TrialState.STOPPED, by_person_or_budget=True, may_go_on=True))
    answer = amendments.point({"r": 8, "learning_rate": 1e-3, "warmup_ratio": 0.0}, seen)
    assert gist(answer) == (True, None, {})
    told = "this point is t00 already, STOPPED at step 0: it is not tried again, and goes on when the sweep has more "
    assert answer.message == f"{told}time"
    asked = after(NEW, amendments.point({"r": 8}, NEW))
    answer = amendments.point({"adapter.r": 8}, asked)
    assert gist(answer) == (True, None, {})
    assert answer.message.endswith("asked for already: it has the next free slot")


def test_modules_that_cannot_be_trained_are_refused_and_equal_ones_are_one_point() -> None:
    space = {"adapter.target_modules": {"choice": ["all-linear", "attention", "mlp"]}}
    amendments = sweep(space)
    seen = NEW.apply(TargetSettled(time=1.0, value="mlp", problem="no module is called so"))
    seen = seen.apply(TargetSettled(time=1.0, value="attention", same_as="all-linear"))
    refused = amendments.point({"target_modules": "mlp"}, seen)
    assert (refused.is_accepted, refused.message) == (False, "adapter.target_modules: no module is called so")
    assert amendments.point({"target_modules": "attention"}, seen).point == {"adapter.target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({}, "nothing to change"),
        ({"budget.trials": 0}, "budget.trials: 0: must be a whole number of at least 1"),
        ({"budget.trials": "auto"}, "budget.trials: auto: was made a number when the sweep was launched"),
        ({"budget.wall_clock": "soon"}, "budget.wall_clock: 'soon' must be"),
        (
            {"budget.steps_per_trial": 18},
            "budget.steps_per_trial: the schedule of the learning rate spans the steps, so all trials keep theirs: "
            "qsweep refit SWEEP trains the best trial, or a named one, anew for longer",
        ),
        ({"search_space.adapter.r": 8}, "search_space.adapter.r: is the same for all trials"),
        ({"trials": 8}, "trials: unknown key; did you mean budget.trials?"),
        ({"budget.trials": 1}, "budget.trials: 1 is too few: 2 trials have begun already, and count also when they"),
        ({"budget.wall_clock": "19s"}, "budget.wall_clock: 19s is too little: 20s are spent"),
        ({"budget.gpu_hours": 0.009}, "budget.gpu_hours: 0.009 is too little: 0.01 are spent"),
    ],
)
def test_what_cannot_change_is_refused_and_told_why(wanted: dict[str, Any], told: str) -> None:
    hosts = HostsStarted(time=2.0, since=2.0, hosts=2, slots=2, held=2, held_seconds=0.0, device="cuda")
    seen = record([begun(0.0), hosts, started("a", 0), started("b", 1), reported("b", 10, 1.0)])
    answer = sweep().changes(wanted, seen, 20.0)
    assert (*gist(answer), answer.message[: len(told)]) == (*REFUSED, told)


def test_budgets_may_shrink_to_what_was_not_drawn_or_spent_yet() -> None:
    seen = record([begun(0.0), started("a", 0), started("b", 1)])
    wanted = {"budget.trials": 2, "budget.wall_clock": "21s", "budget.gpu_hours": 0.5, "cluster.hosts": 1}
    answer = sweep().changes(wanted, seen, 20.0)
    assert answer.changes == wanted
    assert answer.message == (
        "budget.trials is 2, and was 4; budget.wall_clock is 21s, and was 1m; "
        "budget.gpu_hours is 0.5, and was unlimited; cluster.hosts is 1, and was auto"
    )


NOTHING = "nothing would be trained: the sweep has finished, and none of its trials goes on"


@pytest.mark.parametrize("wanted", [{"budget.wall_clock": "1h"}, {"cluster.hosts": 8}, {"budget.gpu_hours": 4.0}])
def test_a_finished_sweep_is_not_opened_again_for_what_trains_nothing(wanted: dict[str, Any]) -> None:
    seen: list[Event] = [begun(), started("a"), reported("a", 9, 0.4), ended("a", TrialState.COMPLETED)]
    whole = record([*seen, SweepEnded(time=50.0, reason="finished")])
    answer = sweep().changes(wanted, whole, None)
    assert gist(answer) == REFUSED
    assert f": {NOTHING}; raise budget.trials with it, or ask for a point first: qsweep add SWEEP FI" in answer.message
    assert sweep().changes({**wanted, "budget.trials": 5}, whole, None).is_accepted
    opened = after(whole, sweep().point({"r": 4}, whole))
    assert sweep().changes(wanted, opened, None).is_accepted


def test_a_finished_sweep_that_tried_its_whole_space_is_not_opened_for_more_trials() -> None:
    amendments = sweep({"adapter.r": {"choice": [8, 16]}})
    seen = [each for key in "ab" for each in (started(key), ended(key, TrialState.COMPLETED))]
    whole = record([begun(), *seen, SweepEnded(time=50.0, reason="finished")])
    answer = amendments.changes({"budget.trials": 9}, whole, None)
    assert gist(answer) == REFUSED
    told = f"budget.trials 9: {NOTHING}; the search space has 2 points, which are all tried: ask for "
    assert answer.message.startswith(told)
    states: list[Event] = [
        started("a"),
        ended("a", TrialState.COMPLETED),
        started("b"),
        ended("b", TrialState.INFEASIBLE),
    ]
    half = record([begun(), *states, SweepEnded(time=50.0, reason="finished")])
    assert amendments.changes({"budget.trials": 9}, half, None).message.startswith(told)
    opened = after(whole, amendments.point({"r": 4}, whole))
    assert amendments.changes({"budget.trials": 9}, opened, None).is_accepted
    assert sweep({"adapter.r": {"choice": [4, 8, 16]}}).changes({"budget.trials": 9}, whole, None).is_accepted


def test_a_finished_sweep_takes_more_time_where_a_point_would_have_none() -> None:
    """Its time was used up while it ended."""
    whole = record([begun(), started("a"), ended("a", TrialState.COMPLETED), SweepEnded(time=61.0, reason="finished")])
    assert not sweep().point({"r": 4}, whole).is_accepted
    answer = sweep().changes({"budget.wall_clock": "1h"}, whole, None)
    assert answer.is_accepted
    assert sweep().point({"r": 4}, after(whole, answer)).is_accepted


def test_a_sweep_whose_patience_is_used_up_goes_on_with_more_of_it() -> None:
    impatient = sweep(budget={**BUDGET, "trials": 8, "patience": 1})
    seen: list[Event] = [begun()]
    for place, key in enumerate("ab"):
        told = reported(key, 3, 1.0).model_copy(update={"is_gain": place == 0})
        seen += [started(key, place), told, ended(key, TrialState.COMPLETED)]
    over = record([*seen, SweepEnded(time=9.0, reason="budget")])
    for wanted in ({"budget.trials": 9}, {"budget.patience": 1, "budget.trials": 9}):
        answer = impatient.changes(wanted, over, None)
        assert (*gist(answer), answer.message) == (
            *REFUSED,
            f"budget.trials 9: {NOTHING}; budget.patience 1: at their first report 1 trial since t00 brought no gain: "
            "raise budget.patience with it, or set it to null",
        )
    for patience in (None, 2):
        assert impatient.changes({"budget.patience": patience}, over, None).is_accepted
    assert impatient.point({"r": 4}, over).is_accepted, "a point that somebody asks for is tried all the same"
    assert impatient.changes({"budget.wall_clock": "9h"}, record(seen), 10.0).is_accepted, "while trials train"


def test_points_that_were_asked_for_are_not_counted_as_drawn() -> None:
    amendments = sweep()
    answer: Any = amendments.point({"r": 8}, NEW)
    trial = planned(1, amendments.config, answer.point, {})
    seen = after(at(amendments, TrialState.RUNNING), answer)
    seen = SweepRecord(trials={**seen.trials, **recorded((trial, TrialState.RUNNING))}, added=seen.added)
    assert amendments.changes({"budget.trials": 1}, seen, 1.0).is_accepted


def test_a_ray_of_the_sweeps_own_has_no_more_hosts_than_its_gpus_allow() -> None:
    amendments = replace(sweep(cluster={"gpus_per_host": 2}), gpus=5)
    answer = amendments.changes({"cluster.hosts": 3}, NEW, 1.0)
    told = "cluster.hosts: 3 is too many: each host takes 2 GPUs, and this machine has 5; at most 2, or auto"
    assert (answer.is_accepted, answer.message) == (False, told)
    for fewer in (2, "auto"):
        assert amendments.changes({"cluster.hosts": fewer}, NEW, 1.0).is_accepted


@pytest.mark.parametrize(
    ("cluster", "gpus"), [({}, 2), ({"profile": "attached", "address": "auto"}, 0), ({"gpus_per_host": 0}, 0)]
)
def test_gpus_of_this_machine_limit_only_hosts_that_take_one_here(monkeypatch, cluster, gpus) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: 2)
    launched = sweep(cluster=cluster)
    file = SimpleNamespace(config=launched.config, space=launched.space)
    amendments = Amendments.of(file)  # type: ignore[arg-type]
    assert amendments.gpus == gpus
    assert amendments.changes({"cluster.hosts": 3}, NEW, 1.0).is_accepted is (gpus == 0)


def test_what_holds_already_is_accepted_and_changes_nothing() -> None:
    amendments = sweep()
    seen = after(NEW, amendments.changes({"budget.trials": 8}, NEW, 1.0))
    answer = amendments.changes({"budget.trials": 8, "budget.wall_clock": None}, seen, 1.0)
    assert answer.changes == {"budget.wall_clock": None}
    assert answer.message == "budget.trials is 8 already; budget.wall_clock is unlimited, and was 1m"


@pytest.mark.parametrize("name", ["quantization.scheme", "quantization"])
def test_a_point_on_another_base_is_asked_for_as_any_other(name: str) -> None:
    space = {"quantization.scheme": {"choice": ["nf4", "none"]}, **RATES}
    answer = sweep(space).point({name: "none", "lr": 1e-3}, NEW)
    assert answer.is_accepted
    assert answer.point == {"quantization.scheme": "none", "training.learning_rate": 1e-3}
    assert "quantization=none" in answer.message
    assert "quantization.scheme: 'int8' must be" in sweep(space).point({name: "int8"}, NEW).message
