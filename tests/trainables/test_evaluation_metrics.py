"""One entry of `evaluation_metrics` is a metric of every evaluation: of trials, and of the base, kept or not."""

from __future__ import annotations

import math

import packs
import pytest

from trainables import catalogue, evaluation_metrics
from trainables.contract import Evaluation, Failure

WORST = evaluation_metrics.Metric("min", lambda losses, tokens: max(map(float.__truediv__, losses, map(float, tokens))))


def worst(evaluation: Evaluation) -> float:
    pairs = zip(evaluation.row_losses, evaluation.row_tokens, strict=True)
    return max(loss / tokens for loss, tokens in pairs)


def test_the_loss_is_per_token_and_the_row_loss_counts_long_and_short_rows_the_same():
    found = evaluation_metrics.evaluate([6.0, 4.0], [1, 4])
    assert found == {"eval_loss": 2.0, "eval_row_loss": 3.5}
    assert {*found, "eval_bits_per_byte"} == catalogue.find("qlora").METRICS.keys()


def test_bits_per_byte_do_not_depend_on_the_tokens():
    few, many = (evaluation_metrics.evaluation([6.0, 4.0], tokens, row_bytes=[3, 2]) for tokens in ([1, 1], [3, 2]))
    assert few.loss != many.loss
    for found in (few, many):
        assert found.metrics["eval_bits_per_byte"] == pytest.approx(10 / math.log(2) / 5)
        rows = found.rows_of("eval_bits_per_byte")
        assert rows is not None and sum(rows.parts) / sum(rows.weights) == pytest.approx(
            found.metrics["eval_bits_per_byte"]
        )
        assert found.places_of("eval_bits_per_byte") == (0, 1)
        assert Evaluation.of_document(found.document()).row_bytes == (3, 2)


def test_an_evaluation_has_a_value_per_row_for_each_metric():
    evaluation = packs.pack().evaluate_base()
    assert isinstance(evaluation, Evaluation)
    for name, value in evaluation.metrics.items():
        rows = evaluation.rows_of(name)
        assert rows is not None, name
        assert sum(rows[0]) / sum(rows[1]) == pytest.approx(value, rel=1e-12)  # the same sums in another order


def test_a_metric_that_is_added_is_in_evaluations_of_trials_and_of_the_base(monkeypatch, tmp_path):
    earlier, later = (
        packs.AdapterPack(packs.PeftEngine(packs.base()), packs.rows(), known_base=tmp_path / "kept.json")
        for _ in range(2)
    )
    before = earlier.evaluate_base()
    monkeypatch.setitem(evaluation_metrics.METRICS, "eval_worst_row", WORST)
    pack = packs.pack()
    pack.open(0, packs.spec())
    # The last one was kept by a version without the metric.
    for evaluation in (pack.evaluate([0])[0], pack.evaluate_base(), later.evaluate_base()):
        assert isinstance(evaluation, Evaluation)
        assert evaluation.metrics["eval_worst_row"] == pytest.approx(worst(evaluation)) != evaluation.loss
    assert isinstance(before, Evaluation) and before.metrics.keys() == {"eval_loss", "eval_row_loss"}


def test_a_metric_that_is_not_finite_ends_the_trial_and_is_named(monkeypatch):
    monkeypatch.setitem(evaluation_metrics.METRICS, "eval_odd", evaluation_metrics.Metric("max", lambda *_: math.inf))
    pack = packs.pack()
    pack.open(0, packs.spec())
    assert pack.evaluate([0])[0] == Failure(kind="diverged", message="eval_odd inf")
