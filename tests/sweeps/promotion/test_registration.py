"""What registration asks of a winner: its loss on the base without quantisation, and how near its served model must be.

The first is only told. `test_promote_for_real` shows it with real processes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from promotions import base_facts
from sweep_files import toy

from cluster.errors import HostError
from sweeps.promotion import evidence, registration
from sweeps.promotion.gate import GateRule
from trainables import evaluation_metrics
from trainables.objective import LOWEST_LOSS
from trainables.scoring.requests import ScoringRequest, ScoringResult
from trainables.specs import ModelSpec

ROWS = ScoringRequest(rows="test", adapters={"t00": {}, "t01": {}}, with_base=True, samples=4)


def answer(*losses: float) -> ScoringResult:
    scores = {"t01": evaluation_metrics.evaluation(losses, (10, 10), hardware="cpu float32")} if losses else {}
    return ScoringResult(scores=scores, hardware="cpu float32", fingerprint="", not_finite=() if losses else ("t01",))


RULE = GateRule(objective=LOWEST_LOSS, min_gain=0.0, candidates=("t01",))


def told(scored: Any, scheme: str = "nf4") -> tuple[float | None, list[str]]:
    """What comes back of a winner with losses 5 and 7 on the base as trained, and what is said."""
    said: list[str] = []
    config = toy()[0].model_copy(update={"model": ModelSpec(source="owner/name")})
    context: Any = SimpleNamespace(sweep=SimpleNamespace(config=config), say=said.append)
    candidate: Any = SimpleNamespace(label="t01", adapter={"adapter_config.json": b"{}"})
    found = evidence.Evidence((candidate,), ROWS, answer(5.0, 7.0), "data.test", "base nf4", RULE)
    base = base_facts(quantization={"scheme": scheme, "compute_dtype": "float32"}, revision="0123abc")
    winner: Any = SimpleNamespace(candidate=candidate, evidence=found)
    return registration.unquantised(context, winner, base, scored), said


def test_a_loss_beyond_the_gate_s_tolerance_says_to_which_base_the_adapter_belongs() -> None:
    scored = Mock(score_apart=Mock(return_value=answer(6.0, 9.0)))
    loss, said = told(scored)
    assert loss == 0.75
    assert said[1:] == [
        "t01: loss 0.6000 on the base in nf4, 0.7500 on the base without quantisation; this adapter belongs to the "
        "base in nf4: serve it so"
    ]
    base, request = scored.score_apart.call_args.args
    assert (base.quantization.scheme, base.quantization.compute_dtype) == ("none", "float32")
    assert base.model.revision == "0123abc"
    assert (request.rows, list(request.adapters), request.with_base, request.samples) == ("test", ["t01"], False, 0)


@pytest.mark.parametrize(
    ("becomes", "loss", "words"),
    [
        ({"return_value": answer(5.0005, 7.0005)}, 0.60005, "t01: loss 0.6000 on the base in nf4, 0.6000 on the base "),
        ({"side_effect": HostError("16 GB")}, None, "the loss of t01 on the base without quantisation is not known: 1"),
        ({"return_value": answer()}, None, "warning: the loss of t01 on the base without quantisation is not finite: "),
    ],
)
def test_what_is_known_of_it_is_told_and_fails_nothing(becomes: dict[str, Any], loss: float | None, words: str) -> None:
    found, said = told(Mock(score_apart=Mock(**becomes)))
    assert found == (None if loss is None else pytest.approx(loss))
    assert said[1].startswith(words)


def test_a_base_that_is_not_quantised_is_not_scored_again() -> None:
    scored = Mock()
    assert told(scored, "none") == (None, [])
    assert not scored.score_apart.called


@pytest.mark.parametrize(
    ("texts", "losses", "says"),
    [
        (["no", "yes"], [[1.0, 2.0], [2.0, 1.0]], None),
        (["no", "no"], [[1.0, 2.0], [1.0, 2.0]], "row 2 gets 'no', and got 'yes' in the evaluation"),
        # As likely but for rounding: 0.0064 of two sums of logits in float32.
        (["no", "no"], [[1.0, 2.0], [1.0, 1.005]], None),
        (["no", "no"], [[1.0, 2.0], [1.0, 1.007]], "row 2 gets 'no', and got 'yes' in the evaluation"),
        (["music", "yes"], [[1.0, 2.0], [2.0, 1.0]], "row 1 gets 'music', and got 'no' in the evaluation"),
    ],
)
def test_a_served_model_gives_the_labels_that_were_counted(texts, losses, says) -> None:
    answers = [(text, dict(zip(("no", "yes"), own, strict=True))) for text, own in zip(texts, losses, strict=True)]
    assert registration.other_label(answers, {0: "no", 1: "yes"}, 1e-4) == says
    # Of a row that the evaluation did not answer, and of a model that generates, nothing is known.
    assert registration.other_label(answers[1:], {1: "no"}, 1e-4) is None
    assert registration.other_label([("music", {})], {}, 1e-4) is None


@pytest.mark.parametrize(
    ("tokens", "losses", "says"),
    [
        ((1, 1, 1, 1), (1.1, 1.0, 1.0, 1.0), None),  # one logit of a label, one step of bfloat16 away
        ((1, 1, 1, 1), (1.0, 1.4, 1.0, 1.0), "its 4 rows differ by 0.1 per token, row 2 the most, and 0.08 is allowed"),
        ((9, 9, 9, 9), (1.0, 1.0, 1.7, 1.0), None),
        ((9, 9, 9, 9), (1.0, 1.0, 1.8, 1.0), "its 4 rows differ by 0.022 per token, row 3 the most, and 0.02 is"),
        # One word that is wrong, beside many that are right.
        ((1, 200, 200, 200), (11.0, 1.0, 1.0, 1.0), "its row 1 differs by 10 per token, much more than rounding does"),
        ((20,), (1.5,), "its row differs by 0.025 per token, row 1 the most, and 0.02 is allowed"),
        ((20,), (float("nan"),), "its row differs by nan per token, row 1 the most, and 0.02 is allowed"),
    ],
)
def test_a_served_model_may_differ_by_rounding(
    tokens: tuple[int, ...], losses: tuple[float, ...], says: str | None
) -> None:
    told = evaluation_metrics.evaluation((1.0,) * 9, (*tokens, *(99,) * (9 - len(tokens))), hardware="cpu float32")
    found = registration.difference(losses, told, 0.02)
    assert found is None if says is None else found is not None and found.startswith(says)
