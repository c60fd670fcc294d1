"""A champion is compared with on its own base only."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from promotions import MODEL, config

from sweeps.errors import SweepError
from sweeps.promotion import evidence, versions
from sweeps.promotion.request import Context
from sweeps.record import digests
from sweeps.tracking.registry import IDENTITY, Version
from trainables.scoring.requests import BaseFacts

OLD, NEW = "a" * 40, "b" * 40
WEIGHTS = {"model.safetensors": "1" * 64}


def facts(revision: str, files: dict[str, str]) -> BaseFacts:
    return BaseFacts(
        source="owner/name", revision=revision, kind="hub", files=files, quantization={"scheme": "nf4"},
        trust_remote_code=False, licence=None, form={}, columns=(), tokenizer={},
    )  # fmt: skip


def found(
    tmp_path: Path, theirs: BaseFacts, ours: BaseFacts, model: str, before: str | None = None
) -> evidence.Content:
    """What promotion finds of a champion on a base with this fingerprint, or the one that it had `before`."""
    package = {f"artifacts/tokenizer/{name}": content for name, content in theirs.tokenizer.items()}
    package["artifacts/base.json"] = json.dumps(theirs.model_dump(exclude={"tokenizer"})).encode()
    tags = {
        "base.identity": f"{before or model} none",
        IDENTITY: "id",
        versions.DIGEST: digests.of_files(package),
    }
    champion = Version("1", "run", tags)
    lookup: Any = SimpleNamespace(files=lambda *_: package)
    scored: Any = SimpleNamespace(fingerprint=lambda: {"model": model}, base_facts=lambda: ours)
    asked: Any = SimpleNamespace(eval_data=None, force=False)
    sweep: Any = SimpleNamespace(config=config(tmp_path, "sqlite:///none.db"), fingerprints=scored.fingerprint())
    policy: Any = SimpleNamespace(alias="champion", guards=(), slices=None)
    unused: Any = None
    context = Context(asked, policy, unused, MODEL, sweep, lookup, unused, print)
    return evidence.check(context, champion, scored)


@pytest.mark.parametrize(
    ("theirs", "ours", "is_other"),
    [
        (facts(OLD, WEIGHTS), facts(OLD, WEIGHTS), False),
        (facts(OLD, WEIGHTS), facts(NEW, WEIGHTS), False),
        (facts(OLD, WEIGHTS), facts(NEW, {"model.safetensors": "2" * 64}), True),
        (facts(OLD, {}), facts(NEW, {}), True),
        (facts(OLD, {}), facts(OLD, WEIGHTS), False),
    ],
)
def test_a_champion_on_another_commit_of_a_branch_is_on_another_base(
    tmp_path: Path, theirs: BaseFacts, ours: BaseFacts, is_other: bool
) -> None:
    if not is_other:
        assert found(tmp_path, theirs, ours, "hub:owner/name@main").champion_adapter == {}
        return
    with pytest.raises(SweepError, match=rf"version 1, is on another base \(owner/name at {OLD}, this sweep at {NEW}"):
        found(tmp_path, theirs, ours, "hub:owner/name@main")


def test_a_revision_that_names_the_commit_of_a_branch_is_the_same_base(tmp_path: Path) -> None:
    """Who pins the champion's commit, since the branch has moved, can compare with it."""
    branch, pinned = "hub:owner/name@main", f"hub:owner/name@{OLD}"
    same, moved = facts(OLD, WEIGHTS), facts(NEW, {"model.safetensors": "2" * 64})
    assert found(tmp_path, same, same, pinned, branch).champion_adapter == {}
    assert found(tmp_path, same, same, branch, pinned).champion_adapter == {}
    with pytest.raises(SweepError, match=rf"this sweep at {NEW}: one with model.revision={OLD} compares with it"):
        found(tmp_path, same, moved, branch, pinned)
    with pytest.raises(SweepError, match=r"is on another base \(hub:owner/other@main none\) than this sweep \(hub:"):
        found(tmp_path, same, same, branch, "hub:owner/other@main")


def test_a_file_of_a_package_with_other_weights_is_another_base(tmp_path: Path) -> None:
    """Its fingerprint holds its name and size, which another version of the package may share."""
    base = {"source": "package:pkg/m.gguf", "revision": None, "kind": "gguf"}
    theirs = facts(OLD, WEIGHTS).model_copy(update=base)
    ours = theirs.model_copy(update={"files": {"model.safetensors": "2" * 64}})
    assert found(tmp_path, theirs, theirs, "package:pkg/m.gguf@7").champion_adapter == {}
    with pytest.raises(SweepError, match=r"is on another base \(package:pkg/m.gguf of another version of the package"):
        found(tmp_path, theirs, ours, "package:pkg/m.gguf@7")


def test_a_champion_of_another_tokenizer_is_not_compared(tmp_path: Path) -> None:
    """On rows as this sweep's tokenizer and chat template write them it would look worse than it is in use."""
    template, rules = "chat_template.jinja", "tokenizer.model"
    ours = facts(OLD, WEIGHTS).model_copy(update={"tokenizer": {template: b"new", rules: b"1"}})
    same, other = dict(ours.tokenizer), {template: b"old", rules: b"1"}
    champion = found(tmp_path, ours.model_copy(update={"tokenizer": same}), ours, "folder:0123")
    assert champion.champion_adapter == {}
    with pytest.raises(SweepError, match=r"version 1, was trained with another chat template than this sweep; --force"):
        found(tmp_path, ours.model_copy(update={"tokenizer": other}), ours, "folder:0123")
