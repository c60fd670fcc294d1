"""What a plan says where data.eval_examples: null takes all rows of a file, counted or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measured_rates import rate
from sweep_files import toy, write_rows

from sweeps.config.load import Sweep
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import RowsAndRates
from sweeps.planning.plan import Plan, plan
from sweeps.planning.rates import rate_key
from sweeps.report.plan_lines import plan_lines
from trainables.contract import Need, RowShape
from trainables.data.preview import preview
from trainables.specs import DataSpec

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=1)
HERE = Machine("cpu", 1, 10**6)
SHAPE = RowShape(longest=9, mean=5.0, labelled=0.5, train_rows=30, eval_rows=700)
RATES = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}


def sweep(**sections: Any) -> Sweep:
    data = {"train": "hub/rows", "eval": "hub/more", "text": "{text}", "eval_examples": None}
    return Sweep(*toy(RATES, **{"data": data, **sections}))


def known(asked: Sweep, **rows: Any) -> RowsAndRates:
    key = rate_key(asked.config, "here")
    measured = rate(key, tokens_per_step=20.0, evaluation_rows=100, row_tokens=5.0)
    return RowsAndRates([measured], key, **rows)


def planned(**rows: Any) -> Plan:
    asked = sweep()
    return plan(asked.config, asked.space, NEED, HERE, known(asked, **rows))


def test_rows_that_nobody_has_counted_leave_the_time_and_the_share_unknown() -> None:
    found = planned()
    assert (found.forecast.seconds, found.forecast.evaluation_share) == (None, None)
    (line,) = [line.strip() for line in plan_lines(found) if "time: " in line]
    assert line == (
        "time: unknown, as is the share of evaluation: data.eval_examples null takes all rows of data.eval, which are "
        "not counted yet: give data.eval_examples, or run `qsweep plan FILE --calibrate`"
    )
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
    assert seen.seconds is not None
    assert few.seconds is not None
    assert seen.seconds.expected > few.seconds.expected
    assert seen.evaluation_share is not None
    assert few.evaluation_share is not None
    assert seen.evaluation_share > few.evaluation_share > 0


def test_without_a_rate_an_evaluated_token_is_half_of_a_trained_one() -> None:
    """3 steps of 4 rows, and 12 rows for the trial and for the base."""
    asked = sweep(scheduler={"kind": "fifo"}, budget={"trials": 1, "steps_per_trial": 3})
    found = plan(asked.config, asked.space, NEED, HERE, RowsAndRates(eval_rows=12))
    assert found.forecast.evaluation_share == pytest.approx(0.5)


@pytest.mark.parametrize(("asked", "counted"), [(None, 12), (5, 5), (200, 12)])
def test_a_look_at_a_local_file_counts_the_rows_of_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None, counted: int
) -> None:
    files = {"train": write_rows(tmp_path), "eval": write_rows(tmp_path, "more.jsonl", 12, 100)}
    paths = {split: str(path) for split, path in files.items()}
    data = DataSpec.model_validate({**paths, "text": "{question}", "eval_examples": asked})
    assert preview(data).eval_rows == counted
    monkeypatch.setattr("trainables.data.preview.LOOKED_ROWS", 3)
    assert preview(data).eval_rows == counted
