"""How far a promotion's evaluation has come is told while the call goes on, from the process that evaluates."""

from __future__ import annotations

import pytest

from cluster.errors import HostError
from cluster.scoring import scoring
from trainables.scoring.requests import BASE, ScoringProgress, ScoringRequest
from trainables.specs import TrialSpec

MODULE = """
from trainables.errors import ModelError
from trainables.scoring.requests import BASE, Scores, ScoringProgress, ScoringResult
from trainables.toy import *


class Scorer:
    def score(self, request, tell):
        for done in (0, 2, 3):
            tell(ScoringProgress(name=BASE, done=done, rows=3))
        if not request.with_base:
            raise ModelError("no base was asked for")
        scores = {BASE: Scores(row_losses=(1.0,), row_tokens=(1,))}
        return ScoringResult(scores=scores, hardware="cpu float32", fingerprint="0")


def open_scorer(base, cache):
    return Scorer()


def scoring_bytes(base, device):
    return None
"""


def test_what_is_told_comes_before_the_answer_also_of_a_call_that_fails(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "trainable.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    told: list[ScoringProgress] = []
    passes = [ScoringProgress(name=BASE, done=done, rows=3) for done in (0, 2, 3)]
    with scoring(TrialSpec(trainable="mine.trainable"), tell=told.append) as elsewhere:
        assert elsewhere.score(ScoringRequest(rows="test", with_base=True)).scores.keys() == {BASE}
        assert told == [ScoringProgress(), *passes]  # the first: the base is loaded
        with pytest.raises(HostError, match="no base was asked for"):
            elsewhere.score(ScoringRequest(rows="test"))
        assert told[4:] == passes
