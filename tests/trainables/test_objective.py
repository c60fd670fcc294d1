"""Which of two values is better, and what is said of their difference."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from trainables.contract import Evaluation
from trainables.objective import Objective, wrong_names

LOWEST = Objective(metric="eval_loss", mode="min")
HIGHEST = Objective(metric="eval_accuracy", mode="max")


@pytest.mark.parametrize(("objective", "better", "worse"), [(LOWEST, 1.0, 2.0), (HIGHEST, 2.0, 1.0)])
def test_the_mode_says_which_value_is_better(objective, better, worse):
    assert objective.is_better(better, worse) and not objective.is_better(worse, better)
    assert objective.loss(better) < objective.loss(worse)
    assert objective.gain(worse, better) == 1.0 == -objective.gain(better, worse)


@pytest.mark.parametrize("objective", [LOWEST, HIGHEST])
def test_a_value_that_is_not_finite_ranks_last_and_nothing_is_better_than_itself(objective):
    assert [objective.loss(value) for value in (math.nan, math.inf, -math.inf)] == [math.inf] * 3
    assert not objective.is_better(1.0, 1.0)
    assert not objective.is_better(math.nan, 1.0)


def test_a_gain_is_said_in_the_direction_of_the_metric():
    assert [LOWEST.words(0.75), LOWEST.words(-0.25)] == ["0.7500 lower", "0.2500 higher"]
    assert [HIGHEST.words(0.75), HIGHEST.words(-0.25)] == ["0.7500 higher", "0.2500 lower"]


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        *((name, "letters, digits") for name in ("pass@1", "eval//f1", "", 1)),
        ("x" * 246, "at most 245 characters"),
        *((name, "a sweep writes something else") for name in ("steps", "best_eval_loss", "base_eval_loss")),
        # Other keys of a saved evaluation.
        *((name, "a sweep writes something else") for name in Evaluation.model_fields),
    ],
)
def test_a_name_that_cannot_be_logged_is_refused(metric: Any, why: str) -> None:
    told = wrong_names(["eval_loss", metric]) or ""
    assert f"has {metric!r}: " in told and why in told


def test_an_evaluation_has_no_metric_that_cannot_be_logged() -> None:
    for metric, value, why in (("pass@1", 0.5, r"has 'pass@1': .*letters, digits"), ("f1", math.nan, r"metrics\.f1")):
        with pytest.raises(ValidationError, match=why):
            Evaluation(metrics={"eval_loss": 1.0, metric: value})


def test_an_evaluation_without_groups_and_values_is_written_without_them():
    bare = Evaluation(metrics={"eval_loss": 1.0}, row_losses=(2.0,), row_tokens=(2,))
    assert bare.document() == {"eval_loss": 1.0, "row_losses": [2.0], "row_tokens": [2], "hardware": ""}
    whole = bare.model_copy(update={"row_groups": (0,), "row_values": {"f1": (0.5,)}})
    assert (whole.document()["row_groups"], whole.document()["row_values"]) == ([0], {"f1": [0.5]})
    assert Evaluation.of_document(whole.document()) == whole


def test_each_metric_is_the_weighted_mean_of_its_rows():
    found = Evaluation(metrics={"eval_loss": 1.5, "f1": 0.75}, row_losses=(2.0, 4.0), row_tokens=(1, 3),
                       row_values={"f1": (0.5, 1.0)})  # fmt: skip
    assert found.rows_of("eval_loss") == ((2.0, 4.0), (1, 3))
    assert found.rows_of("f1") == ((0.5, 1.0), (1, 1))
    assert found.rows_of("another") is None
    assert Evaluation(metrics={"eval_loss": 1.5}).rows_of("eval_loss") is None
