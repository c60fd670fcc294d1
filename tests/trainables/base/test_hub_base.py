"""A base from the hub is what its name stood for when it was loaded, wherever its branch points to later."""

from __future__ import annotations

import shutil
from pathlib import Path

import data_rows
import pytest
import tiny_models
import torch
from data_rows import write
from huggingface_hub import constants

from sweeps.tracking import model_package, served
from trainables import qlora
from trainables.base.base_model import ORIGIN
from trainables.errors import ModelError
from trainables.scoring.requests import BaseFacts
from trainables.specs import ModelSpec

FIRST, SECOND = "1" * 40, "2" * 40
NAME = "owner/name"


class Hub:
    """A hub cache with two commits of one model; nothing else is reachable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models--owner--name"
        for commit in (FIRST, SECOND):
            model = tiny_models.build("llama")
            if commit == SECOND:
                torch.nn.init.zeros_(model.lm_head.weight)
            model.save_pretrained(self.snapshot(commit))
            tiny_models.tokenizer().save_pretrained(self.snapshot(commit))
            for path in list(self.snapshot(commit).iterdir()):
                blob = self.folder / "blobs" / f"{commit}-{path.name}"
                blob.parent.mkdir(exist_ok=True)
                path.rename(blob)
                path.symlink_to(blob)
        self.point(FIRST)

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def point(self, commit: str) -> None:
        """Moves main."""
        (self.folder / "refs").mkdir(exist_ok=True)
        (self.folder / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Hub(tmp_path / "hub")


def facts(folder: Path, scheme: str = "nf4", revision: str | None = None) -> BaseFacts:
    """What is recorded of the base that a promotion loads."""
    rows = write(folder / "rows.jsonl", data_rows.pairs(1))
    fields = {"model": ModelSpec(source=NAME, revision=revision), "data": data_rows.spec(rows, eval=rows)}
    spec = tiny_models.trial_on(NAME, scheme=scheme).model_copy(update=fields)
    return qlora.open_scorer(spec, folder / "cache").base_facts()


def head_of(parts: BaseFacts) -> float:
    """0 for the head of the second commit, once it is served."""
    return float(served._load(model_package.base_json(parts)).get_parameter("lm_head.weight").detach().abs().sum())


@pytest.mark.parametrize("scheme", ["none", "nf4"])
def test_the_commit_that_was_loaded_is_served_after_the_branch_has_moved(hub, tmp_path, scheme):
    before = facts(tmp_path, scheme)
    assert (before.kind, before.revision, list(before.files)) == ("hub", FIRST, ["model.safetensors"])
    hub.point(SECOND)
    assert head_of(before) > 0
    pinned = facts(tmp_path, "none", SECOND)
    assert (pinned.revision, head_of(pinned)) == (SECOND, 0)
    if scheme == "nf4":  # which was made of the first commit, and knows that without the hub
        assert facts(tmp_path).revision == FIRST
        shutil.rmtree(hub.folder)
        assert (facts(tmp_path).revision, facts(tmp_path).files) == (FIRST, before.files)


def test_another_base_at_the_same_commit_is_refused(hub, tmp_path):
    recorded = model_package.base_json(facts(tmp_path))
    weights = hub.snapshot(FIRST) / "model.safetensors"
    weights.unlink()
    shutil.copy(hub.snapshot(SECOND) / "model.safetensors", weights)
    with pytest.raises(ValueError, match=rf"owner/name at {FIRST} is not the one .*: model.safetensors differs"):
        served._load(recorded)


def test_a_commit_that_nobody_knows_is_an_error_with_the_way_out(hub, tmp_path):
    for revision in (None, FIRST):
        facts(tmp_path, revision=revision)
    for origin in (tmp_path / "cache" / "bases").glob(f"*/{ORIGIN}"):
        origin.unlink()
    with pytest.raises(ModelError, match=r"commit of 'owner/name' .* pin model.revision to a commit, or have the"):
        facts(tmp_path)
    assert facts(tmp_path, revision=FIRST).revision == FIRST
    shutil.rmtree(tmp_path / "cache" / "bases")
    assert facts(tmp_path).revision == FIRST
