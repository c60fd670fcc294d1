"""A champion is compared with on its own base only; the rows that decide and what is evaluated on them are told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
from promotions import MODEL, base_facts, config, write_data
from sweep_files import toy

from cluster.scoring import Scoring
from sweeps.config.model import Promotion
from sweeps.errors import SweepError
from sweeps.promotion import evidence, versions
from sweeps.promotion.gate import CHAMPION
from sweeps.promotion.request import Context
from sweeps.record import digests
from sweeps.tracking.registry import IDENTITY, Version
from trainables import qlora
from trainables.contract import Evaluation
from trainables.objective import LOWEST_LOSS, Objective
from trainables.scoring.requests import BASE, BaseFacts, ScoringRequest, ScoringResult
from trainables.specs import DataSpec, EvaluationSpec, ModelSpec, QuantizationSpec, TrialSpec

OLD, NEW = "a" * 40, "b" * 40
WEIGHTS, OTHERS = ({"model.safetensors": digit * 64} for digit in "12")


def facts(revision: str | None, files: dict[str, str], **changed: Any) -> BaseFacts:
    return base_facts(revision=revision, files=files, **changed)


BRANCH, PINNED, IN_PACKAGE = "hub:owner/name@main", f"hub:owner/name@{OLD}", "package:pkg/m.gguf@7"
PACKAGE = {"source": "package:pkg/m.gguf", "kind": "gguf"}
LOCAL, RENAMED = (facts(None, {f"{name}.gguf": "1"}, source=f"/{name}.gguf", kind="gguf") for name in "ab")
TEMPLATES = [{"chat_template.jinja": text, "tokenizer.model": b"1"} for text in (b"new", b"old")]
MOVED = rf"version 1, is on another base \(owner/name at {OLD}, this sweep at {NEW}: one with model.revision={OLD}"


@pytest.mark.parametrize(
    ("theirs", "ours", "told", "model", "before"),
    [
        # A branch moves: commits with the same weights are one base.
        (facts(OLD, WEIGHTS), facts(OLD, WEIGHTS), None, BRANCH, BRANCH),
        (facts(OLD, WEIGHTS), facts(NEW, WEIGHTS), None, BRANCH, BRANCH),
        (facts(OLD, {}), facts(OLD, WEIGHTS), None, BRANCH, BRANCH),
        (facts(OLD, WEIGHTS), facts(NEW, OTHERS), MOVED, BRANCH, BRANCH),
        (facts(OLD, {}), facts(NEW, {}), MOVED, BRANCH, BRANCH),
        # Who pins the champion's commit, since the branch has moved, can compare with it.
        (facts(OLD, WEIGHTS), facts(OLD, WEIGHTS), None, PINNED, BRANCH),
        (facts(OLD, WEIGHTS), facts(OLD, WEIGHTS), r"\(hub:owner/b@main none\) than this", BRANCH, "hub:owner/b@main"),
        # The fingerprint of a file in a package holds its name and size, which another version of it may share.
        (facts(None, WEIGHTS, **PACKAGE), facts(None, WEIGHTS, **PACKAGE), None, IN_PACKAGE, IN_PACKAGE),
        (
            *(facts(None, WEIGHTS, **PACKAGE), facts(None, OTHERS, **PACKAGE)),
            *(r"another base \(package:pkg/m.gguf of another version of the package", IN_PACKAGE, IN_PACKAGE),
        ),
        # The identity of a local file is its content.
        (LOCAL, RENAMED, None, "gguf:1f", "gguf:1f"),
        # On rows in another form, or as another template writes them, it would look worse than it is in use.
        (
            *(facts(OLD, WEIGHTS, form={"prompt": "Q: {question}"}), facts(OLD, WEIGHTS)),
            *(r"version 1, reads rows in another form", BRANCH, BRANCH),
        ),
        (
            *(facts(OLD, WEIGHTS, tokenizer=each) for each in TEMPLATES),
            *(r"version 1, was trained with another chat template than this sweep", BRANCH, BRANCH),
        ),
    ],
)
def test_a_champion_is_compared_with_on_its_own_base_and_rows_only_and_left_out_when_forced(
    tmp_path: Path, theirs: BaseFacts, ours: BaseFacts, told: str | None, model: str, before: str
) -> None:
    package = {f"artifacts/tokenizer/{name}": content for name, content in theirs.tokenizer.items()}
    package["artifacts/base.json"] = json.dumps(theirs.model_dump(exclude={"tokenizer"})).encode()
    tags = {"base.identity": f"{before} none", IDENTITY: "id", versions.DIGEST: digests.of_files(package)}
    lookup: Any = SimpleNamespace(files=lambda *_: package)
    scored: Any = SimpleNamespace(fingerprint=lambda: {"model": model}, base_facts=lambda: ours)
    sweep: Any = SimpleNamespace(config=config(tmp_path, "sqlite:///none.db"), fingerprints=scored.fingerprint())
    policy: Any = SimpleNamespace(alias="champion", guards=(), slices=None)
    unused: Any = None

    def checked(force: bool) -> tuple[Any, list[str]]:
        """The adapter that is compared with, and what was forced."""
        asked: Any = SimpleNamespace(eval_data=None, force=force)
        context = Context(asked, policy, LOWEST_LOSS, MODEL, sweep, lookup, unused, print)
        return evidence.check_base_and_rows(context, Version("1", "run", tags), scored).champion_adapter, context.forced

    if told is None:
        assert checked(force=False) == ({}, [])
        return
    with pytest.raises(SweepError, match=f"{told}.*; --force does it all the same"):
        checked(force=False)
    adapter, (reason,) = checked(force=True)
    assert adapter is None
    assert re.search(told, reason)


def test_a_champion_on_another_model_is_scored_there_by_bits_per_byte_or_a_score_and_refused_by_a_loss_per_token(
    tmp_path: Path,
) -> None:
    write_data(tmp_path)
    other, data = tmp_path / "other", config(tmp_path, "sqlite:///none.db").data
    theirs = facts(None, {}, source=str(tiny_models.save("gpt2", other)), kind="folder")
    identity = qlora.fingerprint(TrialSpec(model=ModelSpec(source=str(other)), data=data))["model"]
    package = {"artifacts/base.json": json.dumps(theirs.model_dump(exclude={"tokenizer"})).encode()}
    tags = {"base.identity": f"{identity} nf4 double", IDENTITY: "id", versions.DIGEST: digests.of_files(package)}
    scored: Any = SimpleNamespace(fingerprint=lambda: {"model": BRANCH})
    sweep: Any = SimpleNamespace(config=config(tmp_path, "sqlite:///none.db"), fingerprints=scored.fingerprint())
    policy: Any = SimpleNamespace(alias="champion", guards=(), slices=None)
    unused: Any = None
    asked: Any = SimpleNamespace(eval_data=None, force=False)
    lookup: Any = SimpleNamespace(files=lambda *_: package)
    said: list[str] = []

    def checked(metric: str) -> TrialSpec | None:
        context = Context(asked, policy, Objective(metric=metric), MODEL, sweep, lookup, unused, said.append)
        return evidence.check_base_and_rows(context, Version("1", "run", tags), scored).champion_base

    with pytest.raises(
        SweepError, match=r"another base .*a loss per token.*give --metric eval_bits_per_byte or a score"
    ):
        checked("eval_loss")
    base = checked("eval_bits_per_byte")
    assert base is not None and base.base_name == f"{other} nf4 float32"
    assert base.data == sweep.config.data
    assert said == [f"the champion was trained on {other}: it is evaluated there, on the same rows"]
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    with pytest.raises(SweepError, match="on a base whose content has changed"):
        checked("exact_match")

    def call(method: str, words: tuple[Any, ...]) -> ScoringResult:
        cut = 4 if method == "score_apart" else 5
        rows = Evaluation(metrics={"eval_loss": 1.0}, row_losses=(1.0, 1.0), row_tokens=(1, 1), row_bytes=(5, cut))
        return ScoringResult(scores=dict.fromkeys(words[-1].adapters, rows), hardware="cpu float32", fingerprint="f")

    request = ScoringRequest(rows="test", adapters={"t01": {}, CHAMPION: {}})
    with pytest.raises(SweepError, match=r"do not read the same rows whole: data\.max_length cuts them"):
        evidence.ChampionApart(Scoring(call), base).score(request)


@pytest.mark.parametrize(
    ("before", "its", "words"),
    [
        ("nf4 double", {"scheme": "nf4", "double_quant": True, "compute_dtype": "float32"}, "nf4, float32"),
        # The identity of a version does not name the type.
        ("none", {"scheme": "none", "double_quant": True, "compute_dtype": "bfloat16"}, "none, bfloat16"),
    ],
)
def test_a_champion_in_another_quantisation_or_type_of_the_model_is_scored_on_its_own_base_without_force(
    tmp_path: Path, before: str, its: dict[str, Any], words: str
) -> None:
    ours = facts(OLD, WEIGHTS)
    package = {"artifacts/base.json": json.dumps(facts(OLD, WEIGHTS, quantization=its).model_dump()).encode()}
    tags = {"base.identity": f"{BRANCH} {before}", IDENTITY: "id", versions.DIGEST: digests.of_files(package)}
    scored: Any = SimpleNamespace(fingerprint=lambda: {"model": BRANCH}, base_facts=lambda: ours, _call=None)
    sweep: Any = SimpleNamespace(config=config(tmp_path, "sqlite:///none.db"), fingerprints=scored.fingerprint())
    policy: Any = SimpleNamespace(alias="champion", guards=(), slices=None)
    unused: Any = None
    asked: Any = SimpleNamespace(eval_data=None, force=False)
    lookup: Any = SimpleNamespace(files=lambda *_: package)
    said: list[str] = []
    context = Context(asked, policy, LOWEST_LOSS, MODEL, sweep, lookup, unused, said.append)
    found = evidence.check_base_and_rows(context, Version("1", "run", tags), scored)
    assert said == [f"the champion was trained in {words}: it is evaluated on its own base, on the same rows"]
    base = found.champion_base
    assert base is not None
    assert base.quantization.model_dump(exclude={"residency"}) == its
    assert base.model == sweep.config.model

    asked_of: list[tuple[str, tuple[str, ...]]] = []

    def call(method: str, words: tuple[Any, ...]) -> ScoringResult:
        request: ScoringRequest = words[-1]
        asked_of.append((method, tuple(request.adapters)))
        names = [*request.adapters, *([BASE] if request.with_base else [])]
        losses = {name: Evaluation(metrics={"eval_loss": float(len(name))}) for name in names}
        return ScoringResult(scores=losses, hardware="cpu float32", fingerprint="f")

    apart = evidence.ChampionApart(Scoring(call), base)
    request = ScoringRequest(rows="test", adapters={"t01": {}, CHAMPION: {}}, with_base=True)
    assert set(apart.score(request).scores) == {"t01", BASE, CHAMPION}
    assert asked_of == [("score", ("t01",)), ("score_apart", (CHAMPION,))]
    asked_of.clear()
    apart.score(request.model_copy(update={"adapters": {"t01": {}}}))
    assert asked_of == [("score", ("t01",))], "nothing of the champion is asked for"


def context_of(config: Any, **more: Any) -> tuple[Any, list[str]]:
    """A promotion of a sweep of this configuration, and what it says."""
    said: list[str] = []
    return SimpleNamespace(sweep=SimpleNamespace(config=config, sweep_id="demo-1"), say=said.append, **more), said


@pytest.mark.parametrize(
    ("files", "given", "rows", "words"),
    [
        ({"eval": "eval.jsonl"}, None, "held_out", "data.eval, all of it"),
        ({}, None, "held_out", "the rows held out of data.train"),
        ({"test": "test.jsonl"}, None, "test", "data.test"),
        ({"test": "test.jsonl"}, Path("/somewhere/mine.jsonl"), "/somewhere/mine.jsonl", "mine.jsonl"),
    ],
)
def test_the_rows_that_decide_are_named(files: dict[str, Any], given: Path | None, rows: str, words: str) -> None:
    data = DataSpec(train="train.jsonl", text="{text}", **files)
    context, _ = context_of(toy()[0].model_copy(update={"data": data}), request=SimpleNamespace(eval_data=given))
    assert evidence.deciding_rows(context) == (rows, words)


@pytest.mark.parametrize(
    ("metric", "guards", "beside"),
    [
        ("eval_loss", [], {"choice": "max", "exact_match": "max"}),
        ("eval_loss", [{"metric": "choice", "worse_by": 0.1}], {"exact_match": "max"}),
        ("exact_match", [], {"choice": "max"}),
        ("choice_macro_f1", [], {"exact_match": "max"}),
    ],
)
def test_scores_of_the_file_that_neither_decide_nor_have_a_guard_are_limits(metric, guards, beside, tmp_path) -> None:
    """Neither the further scores of a grader nor `answers_ended`, which nobody named."""
    made = config(tmp_path, "sqlite:///none.db", evaluation={"metrics": ["choice", "exact_match"]})
    policy = Promotion.model_validate({"guards": guards})
    context, _ = context_of(made, objective=Objective(metric=metric, mode="max"), policy=policy)
    names = ["choice", "choice_macro_f1", "exact_match", "answers_ended"]
    assert {each.metric: each.mode for each in evidence.scores_beside(context, names)} == beside


@pytest.mark.parametrize(
    ("metric", "beside"),
    [
        ("eval_loss", ["plain_right", "plain_words", "json_valid", "json"]),
        ("json_valid", ["plain_right", "plain_words", "json"]),
        ("plain_right", ["plain_words", "json_valid", "json"]),
    ],
)
def test_scores_that_a_function_did_not_declare_are_limits_and_so_is_one_whose_name_begins_another(
    metric: str, beside: list[str], tmp_path: Path
) -> None:
    (tmp_path / "fns.py").write_text(
        "def plain(row, answer):\n    return {}\n\n\ndef json(row, answer):\n    return 1\n"
    )
    metrics = [f"{tmp_path}/fns.py:plain", "json_valid", f"{tmp_path}/fns.py:json"]
    made = config(tmp_path, "sqlite:///none.db", evaluation={"metrics": metrics})
    context, _ = context_of(made, objective=Objective(metric=metric, mode="max"), policy=Promotion())
    names = ["json", "json_valid", "plain_right", "plain_words", "answers_ended"]
    assert [each.metric for each in evidence.scores_beside(context, names)] == beside
    bare, _ = context_of(config(tmp_path, "sqlite:///none.db"), objective=LOWEST_LOSS, policy=Promotion())
    assert evidence.scores_beside(bare, ["eval_row_loss"]) == (), "the file scores no answers"


@pytest.mark.parametrize(
    ("objective", "beside"),
    [
        (LOWEST_LOSS, ["  eval_loss decides; choice and tone are scored beside it"]),
        (Objective(metric="choice", mode="max"), ["  choice decides; tone is scored beside it"]),
        (Objective(metric="tone_warm", mode="max"), ["  tone_warm decides; choice is scored beside it"]),
    ],
)
def test_what_is_scored_beside_what_decides_is_told(objective: Objective, beside: list[str]) -> None:
    base = SimpleNamespace(quantization=QuantizationSpec())
    config = SimpleNamespace(
        name="demo", evaluation=EvaluationSpec(metrics=("choice", "own:tone")), base=base, storage="none"
    )
    request = SimpleNamespace(place=SimpleNamespace(folder=None))
    context, said = context_of(config, request=request, objective=objective)
    evidence.announce(context, {"t01": {}}, evidence.Content("", None, ("test", "data.test"), None, {}))
    assert said == ["evaluating base and candidates on data.test", *beside]


class Asked(Exception):  # noqa: N818 - reads as what happened
    """What was to be scored."""


@pytest.mark.parametrize(("all_rows", "left_out"), [(True, ("train",)), (False, ("train", "eval"))])
def test_the_test_rows_that_a_refit_on_all_rows_was_evaluated_on_still_decide(tmp_path, all_rows, left_out) -> None:
    """They are its evaluation rows, too: leaving those out would leave none. It was evaluated on them once."""
    made = config(tmp_path, "sqlite:///none.db")
    data = made.base.data_spec.model_copy(update={"all_rows": all_rows})
    request = SimpleNamespace(place=SimpleNamespace(folder=None), eval_data=None, trial=None)
    known: dict[str, Any] = {"request": request, "objective": LOWEST_LOSS, "policy": Promotion()}
    context, _ = context_of(made.model_copy(update={"data": data}), **known)

    def call(method: str, words: tuple[Any, ...]) -> Any:
        raise Asked(words[-1])

    content = evidence.Content("", None, ("test", "data.test"), None, {})
    with pytest.raises(Asked) as asked:
        evidence.collect(context, [], content, Scoring(call))
    assert asked.value.args[0].leave_out == left_out
