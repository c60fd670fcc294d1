"""Answers are scored where a trial's specification says, and what is missing there is the trial's failure."""

from __future__ import annotations

from typing import Any

import pytest
from own import scored_toy
from pack_loops import DEADLINE, opened, trial

from cluster.errors import LeaseOver
from cluster.loop import Finalist, Judged
from trainables import toy
from trainables.contract import Evaluation, Failure
from trainables.objective import Objective, SortKey
from trainables.specs import AdapterSpec, EvaluationSpec

MATCHES = Objective(metric="exact_match", mode="max")


def scored(when="last"):
    return trial().model_copy(update={"steps": 9, "evaluation": EvaluationSpec(metrics=("exact_match",), when=when)})


def advanced(loop, target, best=None):
    outcome = loop.advance("a", target, best or SortKey(), 0, DEADLINE, Judged(MATCHES))
    assert outcome is not None
    return outcome


class Watched(scored_toy.ScoredPack):
    """Keeps how many slots were evaluated and how many scored together, and what the host was at meanwhile."""

    def __init__(self, is_silent: bool = False) -> None:
        super().__init__()
        self.asked: list[tuple[int, int]] = []
        self.at: list[Any] = []
        self.is_silent = is_silent
        self.doing = lambda: None

    def evaluate(self, slots, scored=()):
        self.asked.append((len(slots), len(scored)))
        self.at.append(self.doing())
        return super().evaluate(slots, () if self.is_silent else scored)


@pytest.mark.parametrize(("when", "at"), [("last", [9]), ("every", [3, 9]), ("best", [])])
def test_answers_are_scored_at_the_last_point_at_every_one_or_at_none(started, when, at):
    pack = Watched()
    loop = started(pack)
    pack.doing = loop.doing
    opened(loop, "a", scored(when))
    found = {step: advanced(loop, step, best=MATCHES.sort_key({"eval_loss": 0.1})) for step in (3, 9)}
    assert [step for step, outcome in found.items() if "exact_match" in outcome.evaluation.metrics] == at
    assert [step for step, outcome in found.items() if outcome.evaluation.answers] == at
    assert [step for step, outcome in found.items() if outcome.adapter] == at, "a score beats a loss that is lower"
    right = scored_toy.right_answers(scored(), 9) / 10
    assert found[9].evaluation.metrics.get("exact_match") == (right if 9 in at else None)
    # Answers take longer than losses, and no host passes for one that hangs.
    assert [doing.what for doing in pack.at] == [
        "evaluation of answers" if step in at else "evaluation" for step in (3, 9)
    ]
    loop.stop()
    assert loop.doing() is None
    assert when != "last" or [doing.usual for doing in pack.at] == [None, None], "each is the first of its kind"


def test_a_pack_that_knows_no_scores_trains_as_before(started):
    """It takes no argument for what is scored."""

    class Unscored(toy.ToyPack):
        def evaluate(self, slots):  # type: ignore[override]
            return super().evaluate(slots)

    loop = started(Unscored())
    opened(loop, "a")
    assert isinstance(loop.advance("a", 3, SortKey(), 0, DEADLINE).evaluation, Evaluation)


def test_a_score_that_is_missing_where_answers_are_scored_is_a_failure_with_its_reason(started):
    loop = started(Watched(is_silent=True))
    opened(loop, "a", scored())
    assert advanced(loop, 3).failure is None
    assert "the objective is exact_match, and the evaluation gives eval_loss" in advanced(loop, 9).failure.message


def test_answers_that_cannot_be_scored_fail_no_trial(started):
    class Unscored(scored_toy.ScoredPack):
        def evaluate(self, slots, scored=()):
            found = super().evaluate(slots)
            return {slot: each.model_copy(update={"unscored": {"exact_match": "no"}}) for slot, each in found.items()}

    loop = started(Unscored())
    opened(loop, "a", scored())
    outcome = advanced(loop, 9)
    assert (outcome.failure, outcome.evaluation.unscored) == (None, {"exact_match": "no"})
    assert outcome.adapter, "it is scored again later"


def finalist(step, **adapter):
    spec = scored("best").model_copy(update={"adapter": AdapterSpec(**adapter)})
    return Finalist(spec=spec, adapter={"toy_adapter.json": f'{{"step": {step}}}'.encode()})


def test_finalists_are_scored_together_in_all_slots_as_their_trials_would_have_been(started):
    pack = Watched()
    loop = started(pack, slots=3)
    opened(loop, "a", scored("last"))
    of_trial = advanced(loop, 9).evaluation
    pack.asked.clear()
    found = loop.evaluate_finalists([finalist(9), finalist(3), finalist(9), finalist(1)]).result(DEADLINE)
    assert pack.asked == [(3, 3), (1, 1)]
    assert (found[0].metrics, found[0].answers) == (of_trial.metrics, of_trial.answers)
    assert [each.metrics["exact_match"] for each in found] == [
        scored_toy.right_answers(scored(), step) / 10 for step in (9, 3, 9, 1)
    ]
    with pytest.raises(LeaseOver):  # A trial of which something lingers holds no slot any more.
        loop.advance("a", 9, SortKey(), 0, DEADLINE)
    assert opened(loop, "b").step == 0


def test_a_finalist_that_cannot_be_opened_is_its_own_failure(started):
    damaged = finalist(9).model_copy(update={"adapter": {}})
    found = started(Watched()).evaluate_finalists([finalist(9, r=300), finalist(9), damaged]).result(DEADLINE)
    assert [isinstance(each, Failure) for each in found] == [True, False, True]
    assert "exceeds 256" in found[0].message
