"""Warnings of evaluations that cost too much or tell too little, of points never tried, and of rsLoRA by a ratio."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import toy

from sweeps.config.model import SweepConfig
from sweeps.planning import advice
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import Forecast
from sweeps.planning.plan import plan
from sweeps.planning.rates import Range
from sweeps.statistics.intervals import LEAST_ROWS
from trainables.contract import Need, RowShape
from trainables.data.findings import FEW_ROWS


def config(rows: int | None = 200) -> SweepConfig:
    data: dict[str, Any] = {"train": "rows.jsonl", "eval": "more.jsonl", "text": "{text}", "eval_examples": rows}
    return SweepConfig.model_validate({"name": "x", "data": data})


def seen(share: float | None) -> Forecast:
    return Forecast(
        reaching=(1.0,), steps=Range(1, 1, 1), evaluations=2.0, tokens=None, lengths_from="tokens",
        evaluation_share=share, seconds=None, gpu_hours=None, is_measured=False,
        rate="",
    )  # fmt: skip


def test_a_plan_warns_of_as_few_rows_as_have_no_interval() -> None:
    assert FEW_ROWS == LEAST_ROWS


@pytest.mark.parametrize(("share", "is_told"), [(None, False), (0.5, False), (0.51, True)])
def test_evaluations_that_take_more_than_the_training_are_told(share: float | None, is_told: bool) -> None:
    found = advice.of_evaluation(config(), seen(share), None)
    assert [line.split(",")[0] for line in found] == (["evaluations take about 51% of the work"] if is_told else [])


@pytest.mark.parametrize(("rows", "is_told"), [(57, True), (58, False)])
def test_rows_that_tell_only_large_differences_are_told_with_the_number_that_tells_more(
    rows: int, is_told: bool
) -> None:
    """2.33 x 0.13 / sqrt(57) is just above 0.04 nats, twice the usual gap."""
    found = advice.of_evaluation(config(rows), seen(None), None)
    assert [line for line in found if f"data.eval_examples: {rows} rows" in line and "about 230 rows" in line] == found
    assert len(found) == is_told


@pytest.mark.parametrize(
    ("metric", "examples", "begins"),
    [
        (
            "exact_match",
            None,
            "data.eval_examples: 135 rows tell two trials apart only where their exact_match differs by about 0.10",
        ),
        (
            "exact_match",
            40,
            "evaluation.examples: 40 rows tell two trials apart only where their exact_match differs by about 0.18",
        ),
        ("json_fields_exact", 9, "evaluation.examples: 9 rows cannot tell trials apart"),
        ("json_fields", 9, None),  # how far it varies is not known
    ],
)
def test_a_score_is_told_in_its_own_unit(metric: str, examples: int | None, begins: str | None) -> None:
    evaluation = {"metrics": ["exact_match", "json_fields"], "examples": examples}
    objective = {"metric": metric, "mode": "max"}
    scored = SweepConfig.model_validate(config(135).model_dump() | {"objective": objective, "evaluation": evaluation})
    found = advice.of_evaluation(scored, seen(None), None)
    assert [line.startswith(str(begins)) for line in found] == ([] if begins is None else [True])
    assert all(line.endswith("differ by 0.05, which takes about 543 rows") and "nats" not in line for line in found)


@pytest.mark.parametrize(
    ("rows", "told"), [(0, "0 rows cannot"), (1, "1 row cannot"), (9, "9 rows cannot"), (10, "10 rows")]
)
def test_rows_too_few_for_an_interval_tell_nothing(rows: int, told: str) -> None:
    """As the answer of their sweep will say of each difference."""
    shape = RowShape(longest=9, mean=5.0, labelled=0.5, train_rows=30, eval_rows=rows)
    (line,) = advice.of_evaluation(config(), seen(None), shape)
    assert line.startswith(f"data.eval_examples: {told} tell t")


def test_all_rows_of_a_file_are_not_counted_before_they_are_read() -> None:
    assert advice.of_evaluation(config(None), seen(None), None) == []


def test_where_groups_count_nothing_is_said_of_the_rows() -> None:
    """How many groups there are is not known before the data is read."""
    shape = RowShape(longest=9, mean=5.0, labelled=0.5, train_rows=30, eval_rows=20)
    alone = config(20)
    assert alone.data is not None
    grouped = alone.model_copy(update={"data": alone.data.model_copy(update={"group_by": "document"})})
    assert [len(advice.of_evaluation(of, seen(None), shape)) for of in (alone, grouped)] == [1, 0]
    assert len(advice.of_evaluation(grouped, seen(0.51), shape)) == 1


# searcher.points

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)
SPACE = {"adapter.r": {"randint": [1, 64]}, "training.learning_rate": {"loguniform": [1e-5, 1e-2]}}


def told_of_points(points: list[dict[str, Any]], trials: int, starts_with_default: bool = True) -> list[str]:
    searcher = {"kind": "random", "points": points, "start_with_default": starts_with_default}
    config, space = toy(SPACE, searcher=searcher, budget={"trials": trials})
    found = plan(config, space, NEED, Machine("cpu", 1, 10**6))
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
