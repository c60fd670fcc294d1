"""A champion is compared with on its own base only; the rows that decide and what is evaluated on them are told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from promotions import MODEL, config
from sweep_files import toy

from sweeps.errors import SweepError
from sweeps.promotion import evidence, versions
from sweeps.promotion.request import Context
from sweeps.record import digests
from sweeps.tracking.registry import IDENTITY, Version
from trainables.objective import LOWEST_LOSS, Objective
from trainables.scoring.requests import BaseFacts
from trainables.specs import DataSpec, EvaluationSpec

OLD, NEW = "a" * 40, "b" * 40
WEIGHTS, OTHERS = ({"model.safetensors": digit * 64} for digit in "12")


def facts(revision: str | None, files: dict[str, str], **changed: Any) -> BaseFacts:
    made = BaseFacts(
        source="owner/name", revision=revision, kind="hub", files=files, quantization={"scheme": "nf4"},
        trust_remote_code=False, licence=None, form={}, columns=(), tokenizer={},
    )  # fmt: skip
    return made.model_copy(update=changed)


def found(
    tmp_path: Path, theirs: BaseFacts, ours: BaseFacts, model: str = "hub:owner/name@main", before: str | None = None
) -> evidence.Content:
    """What promotion finds of a champion on a base with this fingerprint, or the one that it had `before`."""
    package = {f"artifacts/tokenizer/{name}": content for name, content in theirs.tokenizer.items()}
    package["artifacts/base.json"] = json.dumps(theirs.model_dump(exclude={"tokenizer"})).encode()
    tags = {"base.identity": f"{before or model} none", IDENTITY: "id", versions.DIGEST: digests.of_files(package)}
    lookup: Any = SimpleNamespace(files=lambda *_: package)
    scored: Any = SimpleNamespace(fingerprint=lambda: {"model": model}, base_facts=lambda: ours)
    asked: Any = SimpleNamespace(eval_data=None, force=False)
    sweep: Any = SimpleNamespace(config=config(tmp_path, "sqlite:///none.db"), fingerprints=scored.fingerprint())
    policy: Any = SimpleNamespace(alias="champion", guards=(), slices=None)
    unused: Any = None
    context = Context(asked, policy, unused, MODEL, sweep, lookup, unused, print)
    return evidence.check(context, Version("1", "run", tags), scored)


def test_a_champion_on_another_commit_of_a_branch_is_on_another_base(tmp_path: Path) -> None:
    for theirs, ours in (
        (facts(OLD, WEIGHTS), facts(OLD, WEIGHTS)),
        (facts(OLD, WEIGHTS), facts(NEW, WEIGHTS)),
        (facts(OLD, {}), facts(OLD, WEIGHTS)),
    ):
        assert found(tmp_path, theirs, ours).champion_adapter == {}
    told = rf"version 1, is on another base \(owner/name at {OLD}, this sweep at {NEW}: one with model.revision={OLD}"
    for files in (OTHERS, {}):
        with pytest.raises(SweepError, match=told):
            found(tmp_path, facts(OLD, WEIGHTS if files else {}), facts(NEW, files))


def test_a_revision_that_names_the_commit_of_a_branch_is_the_same_base(tmp_path: Path) -> None:
    """Who pins the champion's commit, since the branch has moved, can compare with it."""
    branch, pinned, same = "hub:owner/name@main", f"hub:owner/name@{OLD}", facts(OLD, WEIGHTS)
    assert found(tmp_path, same, same, pinned, branch).champion_adapter == {}
    with pytest.raises(SweepError, match=r"is on another base \(hub:owner/other@main none\) than this sweep \(hub:"):
        found(tmp_path, same, same, branch, "hub:owner/other@main")


def test_a_file_of_a_package_with_other_weights_is_another_base(tmp_path: Path) -> None:
    """Its fingerprint holds its name and size, which another version of the package may share."""
    base = {"source": "package:pkg/m.gguf", "kind": "gguf"}
    theirs, ours = facts(None, WEIGHTS, **base), facts(None, OTHERS, **base)
    assert found(tmp_path, theirs, theirs, "package:pkg/m.gguf@7").champion_adapter == {}
    with pytest.raises(SweepError, match=r"is on another base \(package:pkg/m.gguf of another version of the package"):
        found(tmp_path, theirs, ours, "package:pkg/m.gguf@7")


def test_a_local_file_of_another_name_and_the_same_content_is_the_same_base(tmp_path: Path) -> None:
    """Its identity is its content."""
    theirs = facts(None, {"base.gguf": "1" * 64}, source="/a/base.gguf", kind="gguf")
    ours = facts(None, {"renamed.gguf": "1" * 64}, source="/b/renamed.gguf", kind="gguf")
    assert found(tmp_path, theirs, ours, "gguf:1f").champion_adapter == {}


def test_a_champion_of_another_tokenizer_is_not_compared(tmp_path: Path) -> None:
    """On rows as this sweep's tokenizer and chat template write them it would look worse than it is in use."""
    template, rules = "chat_template.jinja", "tokenizer.model"
    ours, other = (facts(OLD, WEIGHTS, tokenizer={template: each, rules: b"1"}) for each in (b"new", b"old"))
    assert found(tmp_path, ours, ours).champion_adapter == {}
    with pytest.raises(SweepError, match=r"version 1, was trained with another chat template than this sweep; --force"):
        found(tmp_path, other, ours)


@pytest.mark.parametrize(
    ("files", "given", "rows", "words"),
    [
        ({"eval": "eval.jsonl"}, None, "held_out", "data.eval, all of it"),
        ({}, None, "held_out", "the rows held out of data.train"),
        ({"test": "test.jsonl"}, None, "test", "data.test"),
        ({"test": "test.jsonl"}, "/somewhere/more/mine.jsonl", "/somewhere/more/mine.jsonl", "mine.jsonl"),
    ],
)
def test_the_rows_that_decide_are_named(files: dict[str, Any], given: str | None, rows: str, words: str) -> None:
    data = DataSpec(train="train.jsonl", text="{text}", **files)
    context: Any = SimpleNamespace(
        sweep=SimpleNamespace(config=toy()[0].model_copy(update={"data": data})),
        request=SimpleNamespace(eval_data=None if given is None else Path(given)),
        say=lambda _line: None,
    )
    assert evidence.deciding_rows(context) == (rows, words)


@pytest.mark.parametrize(
    ("objective", "beside"),
    [
        (LOWEST_LOSS, ["  eval_loss decides; choice and tone are scored beside it"]),
        (Objective(metric="choice", mode="max"), ["  choice decides; tone is scored beside it"]),
        (Objective(metric="tone_warm", mode="max"), ["  tone_warm decides; choice is scored beside it"]),
    ],
)
def test_what_is_scored_beside_what_decides_is_told(objective: Objective, beside: list[str]) -> None:
    said: list[str] = []
    context: Any = SimpleNamespace(
        sweep=SimpleNamespace(config=SimpleNamespace(evaluation=EvaluationSpec(metrics=("choice", "own:tone")))),
        request=SimpleNamespace(place=SimpleNamespace(folder=None)),
        objective=objective,
        say=said.append,
    )
    content = evidence.Content("", None, 0, ("test", "data.test"), None, {})
    evidence.announce(context, {"t01": {}}, content)
    assert said == ["evaluating base and candidates on data.test", *beside]
