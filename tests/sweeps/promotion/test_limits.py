"""Guards and slices: adapters that were made worse on purpose, and what catches them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.errors import HostError
from sweeps.config.model import Guard, Promotion, Slices
from sweeps.errors import SweepError
from sweeps.promotion import cards, evidence, gate
from sweeps.promotion.evidence import Contender, Content, Evidence
from sweeps.promotion.gate import CHAMPION
from trainables import qlora_metrics
from trainables.contract import Evaluation
from trainables.objective import LOWEST_LOSS, Objective
from trainables.scoring.requests import BASE, ScoringRequest, ScoringResult
from trainables.specs import EvaluationSpec, TrialSpec

ROWS = 120
LANGUAGES = tuple(("de", "en", "fr")[row % 3] for row in range(ROWS))
BY_LANGUAGE = gate.Sliced(of=Slices(by="language"), values=LANGUAGES)
ANSWERS_ENDED = Objective(metric="answers_ended", mode="max")


def evaluation(gain: Sequence[float], seed: int = 1) -> Evaluation:
    """Rows whose loss is this much below what they cost under the base, give or take some noise."""
    hard = np.random.default_rng(7).normal(3, 0.5, len(gain))
    losses = 10 * (hard - np.asarray(gain) + np.random.default_rng(seed).normal(0, 0.1, len(gain)))
    found = qlora_metrics.evaluation(tuple(losses.tolist()), (10,) * len(gain), hardware="cpu float32")
    return found.model_copy(update={"answers": ()})


def ended(one: Evaluation, share: float) -> Evaluation:
    """The same, where so many answers ended by themselves."""
    values = tuple(float(row < share * len(one.row_losses)) for row in range(len(one.row_losses)))
    return one.model_copy(
        update={
            "metrics": one.metrics | {"answers_ended": sum(values) / len(values)},
            "row_values": {**one.row_values, "answers_ended": values},
        }
    )


def evenly(gain: float) -> list[float]:
    return [gain] * ROWS


def contender(scores: Mapping[str, Evaluation], slices: Slices | None = None) -> Contender:
    """The best of the candidates, on rows of three languages."""
    candidates = [SimpleNamespace(label=name, identity=name) for name in scores if name not in (BASE, CHAMPION)]
    answer = ScoringResult(
        scores=dict(scores), hardware="cpu float32", fingerprint="0" * 16, slices=LANGUAGES if slices else ()
    )
    adapters = {name: {"adapter_config.json": name.encode()} for name in scores if name != BASE}
    request = ScoringRequest(rows="test", adapters=adapters, with_base=True)
    found = Evidence(candidates, request, answer, "data.test", "folder:0 none")  # type: ignore[arg-type]
    return evidence.decide(None, found, Promotion(slices=slices), LOWEST_LOSS)


def guarded(of: Contender, guards: Sequence[Guard], rows: Mapping[str, Any]) -> Contender:
    """The verdict with guards.

    Args:
        rows: file -> name -> its evaluation there, or the error of whoever evaluates.
    """
    asked: list[ScoringRequest] = []

    def score(request: ScoringRequest) -> ScoringResult:
        asked.append(request)
        found = rows[Path(request.rows).name]
        if isinstance(found, Exception):
            raise found
        assert request.content == b"rows" and request.adapters.keys() == found.keys() - {BASE}
        return ScoringResult(scores=dict(found), hardware="cpu float32", fingerprint="1" * 16)

    files = {guard.data: b"rows" for guard in guards if guard.data is not None}
    content = Content("folder:0 none", None, 0, ("test", "data.test"), None, files)
    config = SimpleNamespace(trainable="qlora", base=TrialSpec(), evaluation=EvaluationSpec())
    context: Any = SimpleNamespace(
        policy=Promotion(guards=tuple(guards), slices=None if of.sliced is None else of.sliced.of),
        objective=LOWEST_LOSS,
        sweep=SimpleNamespace(config=config),
        say=lambda line: None,
    )
    found = evidence.guard(context, of, content, SimpleNamespace(score=score))
    assert len(asked) == len(files), "each file is evaluated once"
    return found


@pytest.fixture(autouse=True)
def known_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = {"eval_loss": "min", "answers_ended": "max"}
    monkeypatch.setattr(evidence, "direction", lambda config, metric: directions[metric])


def test_an_adapter_that_forgot_another_task_is_caught_by_the_guard():
    found = contender({BASE: evaluation(evenly(0)), "t01": evaluation(evenly(0.5), 2), "t00": evaluation(evenly(0.4))})
    assert found.verdict.passed
    guard = Guard(data="/rows/general.jsonl", worse_by=0.05)
    worse = {BASE: evaluation(evenly(0), 3), "t01": evaluation(evenly(-0.3), 4)}
    verdict = guarded(found, [guard], {"general.jsonl": worse}).verdict
    assert (verdict.outcome, verdict.passed) == ("not_better", False)
    assert verdict.words == "not better (guard general.jsonl)"
    (reason,) = verdict.reasons
    assert reason.startswith(
        "t01 is worse than the base on guard general.jsonl (eval_loss, 120 rows) by more than worse_by 0.05: gain -0.3"
    )
    kept = {BASE: evaluation(evenly(0), 3), "t01": evaluation(evenly(0.0), 4)}
    passed = guarded(found, [guard], {"general.jsonl": kept}).verdict
    assert (passed.outcome, passed.reasons) == ("better", ())
    assert passed.as_json()["guards"][0]["holds"] is True


def test_a_guard_on_rows_that_are_too_few_says_how_many_more_would_tell():
    found = contender({BASE: evaluation(evenly(0)), "t01": evaluation(evenly(0.5), 2)})
    few = {BASE: evaluation([0.0] * 20, 3), "t01": evaluation([0.0] * 20, 4)}
    verdict = guarded(found, [Guard(data="few.jsonl", worse_by=0.05)], {"few.jsonl": few}).verdict
    assert verdict.outcome == "cannot_tell"
    assert verdict.rows_needed is not None and 5 < verdict.rows_needed < 200
    assert verdict.words == f"cannot be told yet: about {verdict.rows_needed} more rows would tell (guard few.jsonl)"
    assert verdict.reasons[0].startswith("t01 may be worse than the base on guard few.jsonl (eval_loss, 20 rows) by")
    fewer = {name: evaluation([0.0] * 4, seed) for seed, name in enumerate((BASE, "t01"))}
    verdict = guarded(found, [Guard(data="few.jsonl", worse_by=0.05)], {"few.jsonl": fewer}).verdict
    assert (verdict.outcome, verdict.rows_needed) == ("cannot_tell", 6)


def test_a_guard_is_held_against_the_champion_too():
    scores = {BASE: evaluation(evenly(0)), CHAMPION: evaluation(evenly(0.2), 5), "t01": evaluation(evenly(0.5), 2)}
    there = {BASE: evaluation(evenly(0)), CHAMPION: evaluation(evenly(0.4), 5), "t01": evaluation(evenly(0.1), 2)}
    verdict = guarded(contender(scores), [Guard(data="a.jsonl", worse_by=0.1)], {"a.jsonl": there}).verdict
    assert verdict.outcome == "not_better"
    assert verdict.reasons[0].startswith("t01 is worse than the champion on guard a.jsonl")


def test_an_adapter_that_never_ends_its_answer_is_caught_by_a_guard_on_that():
    base, own = ended(evaluation(evenly(0)), 0.95), ended(evaluation(evenly(0.5), 2), 0.0)
    guard = Guard(metric="answers_ended", worse_by=0.1)
    verdict = guarded(contender({BASE: base, "t01": own}), [guard], {}).verdict
    assert (verdict.outcome, verdict.words) == ("not_better", "not better (guard the rows that decide)")
    assert "of 120 rows 0 are better and 114 worse, p = " in verdict.reasons[0]
    kept = ended(evaluation(evenly(0.5), 2), 0.95)
    assert guarded(contender({BASE: base, "t01": kept}), [guard], {}).verdict.passed


def test_an_adapter_that_is_worse_in_one_language_is_caught_by_the_slice():
    of = [-0.3 if language == "de" else 0.6 for language in LANGUAGES]
    scores = {BASE: evaluation(evenly(0)), "t01": evaluation(of, 2)}
    shown = contender(scores, Slices(by="language")).verdict
    assert shown.passed, "without worse_by the worst is only named"
    (worst,) = shown.shown_limits
    assert (worst.words, worst.rows) == ("slice language=de (eval_loss, 40 rows)", 40)
    assert worst.lowest == pytest.approx(-0.3, abs=0.1)
    verdict = contender(scores, Slices(by="language", worse_by=0.1)).verdict
    assert (verdict.outcome, verdict.words) == ("not_better", "not better (slice language=de)")
    assert verdict.reasons[0].startswith("t01 is worse than the base on slice language=de (eval_loss, 40 rows) by more")
    told = verdict.as_json()
    assert told["decided_by"] == "slice language=de"
    assert {each["name"]: each["holds"] for each in told["slices"]} == {
        "slice language=de": False, "slice language=en": True, "slice language=fr": True,
    }  # fmt: skip


def test_a_broken_slice_decides_where_the_metric_cannot_be_told():
    of = [-0.6 if language == "de" else 0.3 for language in LANGUAGES]
    verdict = contender(
        {BASE: evaluation(evenly(0)), "t01": evaluation(of, 2)}, Slices(by="language", worse_by=0.1)
    ).verdict
    assert verdict.best.holds is None
    assert verdict.words == "not better (slice language=de)"
    assert verdict.reasons[0].startswith("t01 is worse than the base on slice language=de")


def test_a_slice_has_the_rows_and_the_values_of_its_own():
    base, own = evaluation(evenly(0)), evaluation(evenly(0.5), 2)
    (de, _, _) = gate.slices(BY_LANGUAGE, LOWEST_LOSS, {BASE: base, "t01": own}, "t01", 1)
    rows = range(0, ROWS, 3)
    expected = sum(base.row_losses[row] - own.row_losses[row] for row in rows) / 400
    assert de.gains[0].difference == pytest.approx(expected)
    assert de.value == pytest.approx(sum(own.row_losses[row] for row in rows) / 400)
    assert de.confidence == pytest.approx(1 - 0.01 / 3), "the intervals of all slices hold at once"
    places = tuple(range(90, 120))
    scored = [
        each.model_copy(update={"row_values": {"answers_ended": (value,) * 30}, "row_places": places})
        for each, value in ((base, 0.0), (own, 1.0))
    ]
    found = gate.slices(BY_LANGUAGE, ANSWERS_ENDED, {BASE: scored[0], "t01": scored[1]}, "t01", 1)
    assert [(each.rows, each.value) for each in found] == [(10, 1.0)] * 3


def test_the_table_shows_guards_and_the_worst_slice_and_leaves_no_candidate_without_a_verdict():
    of = [0.1 if language == "[de]" else 0.6 for language in LANGUAGES]
    scores = {BASE: evaluation(evenly(0)), "t01": evaluation(of, 2), "t00": evaluation(evenly(0.001), 8)}
    found = contender(scores, Slices(by="language"))
    verdict = guarded(found, [Guard(metric="eval_loss", worse_by=0.1)], {}).verdict
    shown = cards.table(verdict)
    columns = [list(column.cells) for column in shown.columns]
    assert [each for each in columns[-1] if each] == ["better", "cannot tell", "holds"]
    assert columns[0][-2:] == ["guard the rows that decide (eval_loss, 120 rows)", verdict.shown_limits[-1].words]


def test_what_a_guard_cannot_be_scored_for_is_told_with_its_field():
    found = contender({BASE: evaluation(evenly(0)), "t01": evaluation(evenly(0.5), 2)})
    with pytest.raises(
        SweepError, match=r"promotion\.guards\.0\.metric: answers_ended has no value per row.*eval_loss"
    ):
        guarded(found, [Guard(metric="answers_ended", worse_by=0.1)], {})
    broken = HostError("--eval-data: all of its rows (4) are also in data.train")
    with pytest.raises(HostError, match=r"^promotion\.guards\.0\.data: all of its rows"):
        guarded(found, [Guard(data="a.jsonl", worse_by=0.1)], {"a.jsonl": broken})


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({"guards": [{"data": "a.jsonl"}]}, "worse_by"),
        ({"guards": [{"worse_by": 0}]}, "greater than 0"),
        ({"slices": {"by": "language", "worse_by": -1}}, "greater than 0"),
        ({"slices": {"worse_by": 0.1}}, "by"),
    ],
)
def test_a_limit_without_what_it_needs_is_refused(raw: dict[str, Any], match: str):
    with pytest.raises(ValidationError, match=match):
        Promotion.model_validate(raw)


def test_nothing_else_of_a_verdict_changes_with_guards():
    found = contender({BASE: evaluation(evenly(0)), "t01": evaluation(evenly(0.5), 2)})
    with_guard = guarded(found, [Guard(worse_by=0.1)], {}).verdict
    assert dataclasses.replace(with_guard, guards=()) == found.verdict
