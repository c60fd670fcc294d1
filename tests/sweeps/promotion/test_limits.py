"""Guards and slices: adapters that were made worse on purpose, and what catches them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sweeps.config.model import Promotion, Slices
from sweeps.promotion import cards, gate
from sweeps.promotion.gate import CHAMPION, Guarded, Verdict
from trainables import qlora_metrics
from trainables.contract import Evaluation
from trainables.objective import LOWEST_LOSS, Objective
from trainables.scoring.requests import BASE

ROWS = 120
LANGUAGES = tuple(("de", "en", "fr")[row % 3] for row in range(ROWS))
ANSWERS_ENDED = Objective(metric="answers_ended", mode="max")


def evaluation(gain: Sequence[float] | float, seed: int = 1, rows: int = ROWS) -> Evaluation:
    """Rows whose loss is this much below what they cost under the base, give or take some noise."""
    gains = np.broadcast_to(gain, rows)
    hard = np.random.default_rng(7).normal(3, 0.5, rows)
    losses = 10 * (hard - gains + np.random.default_rng(seed).normal(0, 0.1, rows))
    return qlora_metrics.evaluation(tuple(losses.tolist()), (10,) * rows, hardware="cpu float32")


def ended(one: Evaluation, share: float) -> Evaluation:
    """The same, where so many answers ended by themselves."""
    values = tuple(float(row < share * ROWS) for row in range(ROWS))
    metrics = one.metrics | {"answers_ended": sum(values) / ROWS}
    return one.model_copy(update={"metrics": metrics, "row_values": {**one.row_values, "answers_ended": values}})


def decided(scores: Mapping[str, Evaluation], *guarded: Guarded, **slices: Any) -> Verdict:
    """The gate's verdict on rows of three languages."""
    names = [name for name in scores if name not in (BASE, CHAMPION)]
    sliced = gate.Sliced(of=Slices(by="language", **slices), values=LANGUAGES) if slices else None
    return gate.decide(scores, names, 0.0, LOWEST_LOSS, sliced, guarded)


def guard(worse_by: float, objective: Objective = LOWEST_LOSS, **scores: Evaluation) -> Guarded:
    return Guarded(name="guard general.jsonl", objective=objective, worse_by=worse_by, scores=scores)


BETTER = {BASE: evaluation(0), "t01": evaluation(0.5, 2), "t00": evaluation(0.4)}


def test_an_adapter_that_forgot_another_task_is_caught_by_the_guard():
    plain = decided(BETTER)
    assert plain.passed
    verdict = decided(BETTER, guard(0.05, base=evaluation(0, 3), t01=evaluation(-0.3, 4)))
    assert (verdict.outcome, verdict.passed) == ("not_better", False)
    assert verdict.words == "not better (guard general.jsonl)"
    (reason,) = verdict.reasons
    assert reason.startswith(
        "t01 is worse than the base on guard general.jsonl (eval_loss, 120 rows) by more than worse_by 0.05: gain -0.3"
    )
    passed = decided(BETTER, guard(0.05, base=evaluation(0, 3), t01=evaluation(0, 4)))
    assert passed.as_json()["guards"][0]["holds"] is True
    assert dataclasses.replace(passed, guards=()) == plain


def test_a_guard_on_rows_that_are_too_few_says_how_many_more_would_tell():
    verdict = decided(BETTER, guard(0.05, base=evaluation(0, 3, 20), t01=evaluation(0, 4, 20)))
    assert verdict.outcome == "cannot_tell"
    assert verdict.rows_needed is not None and 5 < verdict.rows_needed < 200
    more = f"cannot be told yet: about {verdict.rows_needed} more rows would tell"
    assert verdict.words == f"{more} (guard general.jsonl)"
    assert verdict.reasons[0].startswith(
        "t01 may be worse than the base on guard general.jsonl (eval_loss, 20 rows) by"
    )
    verdict = decided(BETTER, guard(0.05, base=evaluation(0, 3, 4), t01=evaluation(0, 4, 4)))
    assert (verdict.outcome, verdict.rows_needed) == ("cannot_tell", 6)


def test_a_guard_is_held_against_the_champion_too():
    scores = {**BETTER, CHAMPION: evaluation(0.2, 5)}
    there = guard(0.1, base=evaluation(0), champion=evaluation(0.4, 5), t01=evaluation(0.1, 2))
    verdict = decided(scores, there)
    assert verdict.outcome == "not_better"
    assert verdict.reasons[0].startswith("t01 is worse than the champion on guard general.jsonl")


def test_an_adapter_that_never_ends_its_answer_is_caught_by_a_guard_on_that():
    base, own = ended(BETTER[BASE], 0.95), BETTER["t01"]
    verdict = decided(BETTER, guard(0.1, ANSWERS_ENDED, base=base, t01=ended(own, 0.0)))
    assert verdict.outcome == "not_better"
    assert "of 120 rows 0 are better and 114 worse, p = " in verdict.reasons[0]
    assert decided(BETTER, guard(0.1, ANSWERS_ENDED, base=base, t01=ended(own, 0.95))).passed


def test_an_adapter_that_is_worse_in_one_language_is_caught_by_the_slice():
    of = [-0.3 if language == "de" else 0.6 for language in LANGUAGES]
    scores = {BASE: evaluation(0), "t01": evaluation(of, 2)}
    shown = decided(scores, worse_by=None)
    assert shown.passed, "without worse_by the worst is only named"
    (worst,) = shown.shown_limits
    assert (worst.words, worst.rows) == ("slice language=de (eval_loss, 40 rows)", 40)
    assert worst.lowest == pytest.approx(-0.3, abs=0.1)
    verdict = decided(scores, worse_by=0.1)
    assert (verdict.outcome, verdict.words) == ("not_better", "not better (slice language=de)")
    assert verdict.reasons[0].startswith("t01 is worse than the base on slice language=de (eval_loss, 40 rows) by more")
    told = verdict.as_json()
    assert told["decided_by"] == "slice language=de"
    holds = {each["name"].removeprefix("slice language="): each["holds"] for each in told["slices"]}
    assert holds == {"de": False, "en": True, "fr": True}


def test_a_broken_slice_decides_where_the_metric_cannot_be_told():
    of = [-0.6 if language == "de" else 0.3 for language in LANGUAGES]
    verdict = decided({BASE: evaluation(0), "t01": evaluation(of, 2)}, worse_by=0.1)
    assert verdict.best.holds is None
    assert verdict.words == "not better (slice language=de)"


def test_a_slice_has_the_rows_and_the_values_of_its_own():
    base, own = BETTER[BASE], BETTER["t01"]
    (de, _, _) = decided({BASE: base, "t01": own}, worse_by=None).slices
    rows = range(0, ROWS, 3)
    expected = sum(base.row_losses[row] - own.row_losses[row] for row in rows) / 400
    assert de.gains[0].difference == pytest.approx(expected)
    assert de.value == pytest.approx(sum(own.row_losses[row] for row in rows) / 400)
    assert de.confidence == pytest.approx(1 - 0.01 / 3), "the intervals of all slices hold at once"
    answered = {
        name: each.model_copy(
            update={"row_values": {"answers_ended": (value,) * 30}, "row_places": tuple(range(90, ROWS))}
        )
        for name, each, value in ((BASE, base, 0.0), ("t01", own, 1.0))
    }
    sliced = gate.Sliced(of=Slices(by="language"), values=LANGUAGES)
    found = gate.slices(sliced, ANSWERS_ENDED, answered, "t01", 1)
    assert [(each.rows, each.value) for each in found] == [(10, 1.0)] * 3


def test_the_table_shows_guards_and_the_worst_slice_and_leaves_no_candidate_without_a_verdict():
    scores = {BASE: evaluation(0), "t01": evaluation(0.5, 2), "t00": evaluation(0.001, 8)}
    verdict = decided(scores, guard(0.1, base=scores[BASE], t01=scores["t01"]), worse_by=None)
    columns = [list(column.cells) for column in cards.table(verdict).columns]
    assert [each for each in columns[-1] if each] == ["better", "cannot tell", "holds"]
    assert columns[0][-2:] == ["guard general.jsonl (eval_loss, 120 rows)", verdict.shown_limits[-1].words]


@pytest.mark.parametrize(
    ("raw", "match"),
    [({"guards": [{"data": "a.jsonl"}]}, "worse_by"), ({"slices": {"by": "a", "worse_by": -1}}, "greater than 0")],
)
def test_a_limit_without_what_it_needs_is_refused(raw: dict[str, Any], match: str):
    with pytest.raises(ValidationError, match=match):
        Promotion.model_validate(raw)
