"""The winner is scored on its base without quantisation too: both losses are told, and nothing is decided by it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import promotions
import pytest
from mlflow import MlflowClient
from promotion_worlds import World, package_of
from sweep_files import toy

from cluster.errors import HostError
from cluster.scoring import scoring
from sweeps.promotion import evidence, registration
from sweeps.promotion.promote import promote
from sweeps.promotion.request import PromotionRequest
from sweeps.tracking import stores
from trainables import qlora, qlora_metrics
from trainables.scoring.requests import ScoringRequest, ScoringResult
from trainables.specs import ModelSpec

ROWS = ScoringRequest(rows="test", adapters={"t00": {}, "t01": {}}, with_base=True, samples=4)


def answer(*losses: float) -> ScoringResult:
    scores = {"t01": qlora_metrics.evaluation(losses, (10, 10), hardware="cpu float32")} if losses else {}
    return ScoringResult(scores=scores, hardware="cpu float32", fingerprint="", not_finite=() if losses else ("t01",))


def told(scored: Any, scheme: str = "nf4") -> tuple[float | None, list[str]]:
    """What comes back of a winner with losses 5 and 7 on the base as trained, and what is said."""
    said: list[str] = []
    config = toy()[0].model_copy(update={"model": ModelSpec(source="owner/name")})
    context: Any = SimpleNamespace(sweep=SimpleNamespace(config=config), say=said.append)
    candidate: Any = SimpleNamespace(label="t01", adapter={"adapter_config.json": b"{}"})
    found = evidence.Evidence((candidate,), ROWS, answer(5.0, 7.0), "data.test", "base nf4")
    base: Any = SimpleNamespace(quantization={"scheme": scheme, "compute_dtype": "float32"}, revision="0123abc")
    winner: Any = SimpleNamespace(candidate=candidate, evidence=found)
    return registration.unquantised(context, winner, base, scored), said


def test_a_loss_beyond_the_gate_s_tolerance_is_warned_of() -> None:
    scored = Mock()
    scored.score_apart.return_value = answer(6.0, 9.0)
    loss, said = told(scored)
    assert loss == 0.75
    assert said[1:] == [
        "warning: t01: loss 0.6000 on the base in nf4, 0.7500 on the base without quantisation; "
        "rows differ by 0.15 per token, more than 0.0001: what was evaluated is nf4: serve it so"
    ]
    base, request = scored.score_apart.call_args.args
    assert (base.quantization.scheme, base.quantization.compute_dtype) == ("none", "float32")
    assert base.model.revision == "0123abc"
    assert (request.rows, list(request.adapters), request.with_base, request.samples) == ("test", ["t01"], False, 0)


def test_a_loss_within_the_tolerance_is_told() -> None:
    scored = Mock()
    scored.score_apart.return_value = answer(5.0005, 7.0005)
    _, said = told(scored)
    assert said[1:] == ["t01: loss 0.6000 on the base in nf4, 0.6000 on the base without quantisation"]


@pytest.mark.parametrize(
    ("becomes", "words"),
    [
        (
            {"side_effect": HostError("needs 16 GB")},
            "the loss of t01 on the base without quantisation is not known: ne",
        ),
        ({"return_value": answer()}, "warning: the loss of t01 on the base without quantisation is not finite: serve "),
    ],
)
def test_what_keeps_it_from_being_known_is_told_and_fails_nothing(becomes: dict[str, Any], words: str) -> None:
    loss, said = told(Mock(score_apart=Mock(**becomes)))
    assert loss is None
    assert said[1].startswith(words)


def test_a_base_that_is_not_quantised_is_not_scored_again() -> None:
    scored = Mock()
    assert told(scored, "none") == (None, [])
    assert not scored.score_apart.called


@pytest.mark.slow
def test_a_winner_on_nf4_has_the_loss_on_the_plain_base_in_its_json_and_card(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real processes, and the losses that a scorer on the plain base finds."""
    monkeypatch.setenv("QSWEEP_CACHE", str(tmp_path / "cache"))
    promotions.write_data(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = promotions.config(tmp_path, uri, quantization={"scheme": "nf4", "compute_dtype": "float32"})
    trained = promotions.train(config, tmp_path / "cache")["strong"]
    fingerprint = qlora.prepare(config.base, tmp_path / "cache").summary.fingerprint
    promotions.deliver(config, "first-1", tmp_path / "results" / "first", [promotions.Trial(trained)], fingerprint)
    said: list[str] = []
    outcome = promote(PromotionRequest(stores.find("first-1", uri)), said.append, scored_by=scoring)
    assert outcome.exit_code == 0
    quantization = config.quantization.model_copy(update={"scheme": "none"})
    plain = qlora.open_scorer(config.base.model_copy(update={"quantization": quantization}), tmp_path / "cache")
    asked = ScoringRequest(rows="test", adapters={"t00": trained.files})
    expected = plain.score(asked).scores["t00"].loss
    found = outcome.as_json()["unquantised_loss"]
    # Another number of threads adds up in another order.
    assert found == pytest.approx(expected, abs=1e-5)
    on_nf4 = outcome.verdict.losses["t00"]
    assert on_nf4 != pytest.approx(found, abs=1e-3)
    (line,) = [line for line in said if line.startswith("warning: t00: loss ")]
    assert f"{on_nf4:.4f} on the base in nf4, {found:.4f} on the base without quantisation" in line
    card = (package_of(World(uri, tmp_path, MlflowClient(uri)), "1") / "README.md").read_text()
    assert f"On the base without quantisation t00 has loss {found:.4f} on these rows." in card
