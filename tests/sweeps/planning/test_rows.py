"""What a plan says of rows: epochs, and what evaluations cost and tell; and of points that are never tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measured_rates import rate
from sweep_files import QLORA, RATES, loaded, toy, write_rows

from sweeps.config import resource
from sweeps.config.load import LoadedSweep
from sweeps.config.model import SweepConfig
from sweeps.config.number_words import epochs
from sweeps.planning import advice, this_machine
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import Forecast, RowsAndRates
from sweeps.planning.plan import plan
from sweeps.planning.rates import Range, rate_key
from sweeps.report.plan_lines import plan_lines
from trainables.contract import Need, RowShape
from trainables.data.preview import preview
from trainables.specs import DataSpec

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=1)
HERE = Machine("cpu", 1, 10**6)
SHAPE = RowShape(longest=9, mean=5.0, labelled=0.5, train_rows=30, eval_rows=700)


def config(rows: int | None = 200) -> SweepConfig:
    data: dict[str, Any] = {"train": "rows.jsonl", "eval": "more.jsonl", "text": "{text}", "eval_examples": rows}
    return SweepConfig.model_validate({"name": "x", "data": data})


def seen(share: float | None) -> Forecast:
    unknown: dict[str, Any] = {"tokens": None, "seconds": None, "gpu_hours": None, "is_measured": False, "rate": ""}
    told: dict[str, Any] = {"reaching": (1.0,), "steps": Range(1, 1, 1), "evaluations": 2.0, "lengths_from": "tokens"}
    return Forecast(**unknown, **told, evaluation_share=share)


@pytest.mark.parametrize(("share", "is_told"), [(None, False), (0.5, False), (0.51, True)])
def test_evaluations_that_take_more_than_the_training_are_told(share: float | None, is_told: bool) -> None:
    found = advice.evaluation_warnings(config(), seen(share), None)
    assert [line.split(",")[0] for line in found] == (["evaluations take about 51% of the work"] if is_told else [])


def test_rows_that_tell_only_large_differences_are_told_with_the_number_that_tells_more() -> None:
    """2.33 x 0.13 / sqrt(57) is just above 0.04 nats, twice the usual gap."""
    (line,) = advice.evaluation_warnings(config(57), seen(None), None)
    assert "data.eval_examples: 57 rows" in line and "about 230 rows" in line
    # All rows of a file are not counted before they are read.
    assert [advice.evaluation_warnings(config(rows), seen(None), None) for rows in (58, None)] == [[], []]


APART = "rows tell two trials apart only where their"


@pytest.mark.parametrize(
    ("metric", "examples", "begins"),
    [
        ("exact_match", None, f"data.eval_examples: 135 {APART} exact_match differs by about 0.10"),
        ("exact_match", 40, f"evaluation.examples: 40 {APART} exact_match differs by about 0.18"),
        ("json_fields_exact", 9, "evaluation.examples: 9 rows cannot tell trials apart"),
        ("json_fields", 9, None),  # how far it varies is not known
    ],
)
def test_a_score_is_told_in_its_own_unit(metric: str, examples: int | None, begins: str | None) -> None:
    evaluation = {"metrics": ["exact_match", "json_fields"], "examples": examples}
    objective = {"metric": metric, "mode": "max"}
    scored = SweepConfig.model_validate(config(135).model_dump() | {"objective": objective, "evaluation": evaluation})
    found = advice.evaluation_warnings(scored, seen(None), None)
    assert [line.startswith(str(begins)) for line in found] == ([] if begins is None else [True])
    assert all(line.endswith("differ by 0.05, which takes about 543 rows") and "nats" not in line for line in found)


@pytest.mark.parametrize(("rows", "told"), [(1, "1 row cannot"), (9, "9 rows cannot"), (10, "10 rows")])
def test_rows_too_few_for_an_interval_tell_nothing(rows: int, told: str) -> None:
    """As the answer of their sweep will say of each difference."""
    (line,) = advice.evaluation_warnings(config(), seen(None), SHAPE.model_copy(update={"eval_rows": rows}))
    assert line.startswith(f"data.eval_examples: {told} tell t")


def test_where_groups_count_nothing_is_said_of_the_rows() -> None:
    """How many groups there are is not known before the data is read."""
    shape, alone = SHAPE.model_copy(update={"eval_rows": 20}), config(20)
    grouped = alone.model_copy(update={"data": alone.data.model_copy(update={"group_by": "document"})})
    assert [len(advice.evaluation_warnings(of, seen(None), shape)) for of in (alone, grouped)] == [1, 0]
    assert len(advice.evaluation_warnings(grouped, seen(0.51), shape)) == 1


SPACE = {"adapter.r": {"randint": [1, 64]}, **RATES}


def told_of_points(points: list[dict[str, Any]], trials: int, starts_with_default: bool = True) -> list[str]:
    searcher = {"kind": "random", "points": points, "start_with_default": starts_with_default}
    config, space = toy(SPACE, searcher=searcher, budget={"trials": trials})
    found = plan(config, space, NEED, HERE)
    return [line for line in found.warnings if line.startswith("searcher.points")]


def test_points_beyond_the_trials_are_counted() -> None:
    listed = [{"adapter.r": rank} for rank in (1, 2, 3, 4)]
    assert told_of_points(listed, 5) == []
    assert told_of_points(listed, 4, starts_with_default=False) == []
    assert told_of_points(listed, 3) == [
        "searcher.points: 2 of 4 are beyond budget.trials 3, which counts the default configuration too, and are never "
        "tried: raise budget.trials to 5, or list fewer points"
    ]
    (line,) = told_of_points(listed, 3, starts_with_default=False)
    assert line.startswith("searcher.points: 1 of 4 are beyond budget.trials 3, and are never tried: ")


def of_rows(folder: Path, text: str = "") -> LoadedSweep:
    write_rows(folder)
    return loaded(folder, QLORA + text)


@pytest.mark.parametrize(
    ("steps", "rows", "train_rows", "says"),
    [
        (None, 336, 672, "a trial trains on 336 rows: 0.5 epochs of all 672 rows"),
        (1, 8, 8, "a trial of 1 step trains on 8 rows: 1 epoch of all 8 rows"),
        (9, 324, 2_000_000, "a trial of 9 steps trains on 324 rows: 0.00016 epochs of all 2,000,000 rows"),
        (900, 7200, 600, "a trial of 900 steps trains on 7,200 rows: 12 epochs of all 600 rows"),
        (81, 324, None, "a trial of 81 steps trains on 324 rows; how many epochs that is, launch says when"),
    ],
)
def test_epochs_in_words(steps: int, rows: int, train_rows: int | None, says: str) -> None:
    found = epochs(steps, rows, train_rows)
    assert found.startswith(says) if train_rows is None else found == says


def test_rows_of_a_trial_follow_its_steps_and_batch_or_are_equal_whatever_the_batch(tmp_path: Path) -> None:
    accumulated = of_rows(tmp_path, "training: {gradient_accumulation_steps: 2}\n").config
    searched = of_rows(tmp_path, "search_space: {training.batch_size: {choice: [2, 16]}}\n").config
    assert [resource.rows_per_trial(config) for config in (accumulated, searched)] == [648, 336]


def test_a_plan_speaks_of_rows_and_epochs_and_a_launch_once_all_are_ready(tmp_path: Path) -> None:
    planned, launched = (this_machine.plan_here(of_rows(tmp_path), to_launch) for to_launch in (False, True))
    assert (planned.rows_per_trial, planned.train_rows, planned.as_json()["epochs"]) == (324, 25, 12.96)
    assert "      a trial of 81 steps trains on 324 rows: 13 epochs of all 25 rows" in plan_lines(planned)
    told = [any("5 rows to evaluate on" in line for line in found.warnings) for found in (planned, launched)]
    assert (told, [line for line in plan_lines(launched) if "epochs" in line]) == ([True, False], [])


def test_a_plan_counts_the_rows_of_each_part(tmp_path: Path) -> None:
    write_rows(tmp_path, rows=1305)
    found = this_machine.plan_here(loaded(tmp_path, QLORA))
    assert "      1,100 rows to train on, 5 to evaluate on, 200 to test on" in plan_lines(found)
    assert [found.as_json()[f"{part}_rows"] for part in ("train", "eval", "test")] == [1100, 5, 200]


@pytest.mark.parametrize(
    ("trials", "top", "data", "drawn", "times"),
    [
        (32, 3, {}, 0, "1.5"),  # (3.602 / 2.935) ** 2
        (128, 1, {}, 0, "2.4"),  # (3.949 / 2.576) ** 2
        (3, 3, {}, 0, None),  # all that are ranked are promoted from
        (2, 3, {}, 0, None),
        (32, 3, {}, 200, None),
        (32, 3, {"test_examples": None}, 0, None),
    ],
)
def test_a_launch_says_what_it_costs_to_decide_on_rows_that_chose(
    trials: int, top: int, data: dict[str, Any], drawn: int, times: str | None
) -> None:
    raw = config().model_dump() | {"budget": {"trials": trials}, "promotion": {"top": top}}
    asked = SweepConfig.model_validate({**raw, "data": {**raw["data"], "test_examples": "auto", **data}})
    lines = advice.cost_of_seen_rows(asked, drawn)
    says = (
        f"promotion will decide on rows that chose the winner: about {times} times as many rows for the same certainty"
    )
    assert [line.startswith(says) for line in lines] == ([] if times is None else [True])
    assert all(
        line.endswith(" (data.test, or data.test_examples=N of data.train, gives it rows of its own)") for line in lines
    )


def sweep(**sections: Any) -> LoadedSweep:
    data = {"train": "hub/rows", "eval": "hub/more", "text": "{text}", "eval_examples": None}
    return LoadedSweep(*toy(RATES, **{"data": data, **sections}))


def known(asked: LoadedSweep, **rows: Any) -> RowsAndRates:
    key = rate_key(asked.config, "here")
    measured = rate(key, tokens_per_step=20.0, evaluation_rows=100, row_tokens=5.0)
    return RowsAndRates([measured], key, **rows)


def planned(**rows: Any) -> Any:
    asked = sweep()
    return plan(asked.config, asked.space, NEED, HERE, known(asked, **rows))


def test_rows_that_nobody_has_counted_leave_the_time_and_the_share_unknown() -> None:
    found = planned()
    assert (found.forecast.seconds, found.forecast.evaluation_share) == (None, None)
    (line,) = [line.strip() for line in plan_lines(found) if "time: " in line]
    assert line.startswith("time: unknown, as is the share of evaluation: data.eval_examples null takes all rows of ")
    assert line.endswith("not counted yet: give data.eval_examples, or run `qsweep plan FILE --calibrate`")
    assert not [line for line in plan_lines(found) if "of the work is evaluation" in line]


@pytest.mark.parametrize(
    ("fewer", "more"),
    [
        ({"eval_rows": 7}, {"eval_rows": 700}),
        ({"rows": SHAPE.model_copy(update={"eval_rows": 7}), "eval_rows": 9_000}, {"rows": SHAPE}),
    ],
)
def test_rows_that_were_counted_or_prepared_are_evaluated(fewer: dict[str, Any], more: dict[str, Any]) -> None:
    few, seen = planned(**fewer).forecast, planned(**more).forecast
    assert seen.seconds.expected > few.seconds.expected
    assert seen.evaluation_share > few.evaluation_share > 0


def test_without_a_rate_an_evaluated_token_is_half_of_a_trained_one() -> None:
    """3 steps of 4 rows, and 12 rows for the trial and for the base."""
    asked = sweep(scheduler={"kind": "fifo"}, budget={"trials": 1, "steps_per_trial": 3})
    found = plan(asked.config, asked.space, NEED, HERE, RowsAndRates(eval_rows=12))
    assert found.forecast.evaluation_share == pytest.approx(0.5)


@pytest.mark.parametrize(("asked", "counted"), [(None, 12), (5, 5), (200, 12)])
def test_a_look_at_a_local_file_counts_the_rows_of_an_evaluation(tmp_path, monkeypatch, asked, counted) -> None:
    files = {"train": write_rows(tmp_path), "eval": write_rows(tmp_path, "more.jsonl", 12, 100)}
    paths = {split: str(path) for split, path in files.items()}
    data = DataSpec.model_validate({**paths, "text": "{question}", "eval_examples": asked})
    assert preview(data).eval_rows == counted
    monkeypatch.setattr("trainables.data.preview.LOOKED_ROWS", 3)
    assert preview(data).eval_rows == counted
