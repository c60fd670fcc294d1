"""A base from the hub is what its name stood for when it was loaded, wherever its branch points to later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import packs
import pytest
import tiny_models
import torch
from huggingface_hub import constants

from sweeps.tracking import model_package, served
from trainables import qlora
from trainables.base.base_model import ORIGIN
from trainables.errors import ModelError
from trainables.specs import DataSpec, ModelSpec, QuantizationSpec, TrialSpec

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


def spec(folder: Path, scheme: str, revision: str | None = None) -> TrialSpec:
    (folder / "rows.jsonl").write_text(json.dumps({"q": "a", "a": "b"}) + "\n")
    data = DataSpec(train=str(folder / "rows.jsonl"), eval=str(folder / "rows.jsonl"), prompt="{q}", completion="{a}")
    model = ModelSpec(source=NAME, revision=revision)
    quantization = QuantizationSpec.model_validate({"scheme": scheme, "compute_dtype": "float32"})
    return packs.spec().model_copy(update={"model": model, "quantization": quantization, "data": data})


def head(model: torch.nn.Module) -> torch.Tensor:
    return model.get_parameter("lm_head.weight").detach().float()


@pytest.mark.parametrize("scheme", ["none", "nf4"])
def test_the_commit_that_was_loaded_is_served_after_the_branch_has_moved(hub, tmp_path, scheme):
    parts = qlora.open_scorer(spec(tmp_path, scheme), tmp_path / "cache").base_facts()
    assert (parts.kind, parts.revision, list(parts.files)) == ("hub", FIRST, ["model.safetensors"])
    hub.point(SECOND)
    model = served._load(model_package.base_json(parts))
    assert float(head(model).abs().sum()) > 0, "the second commit's head is 0"


def test_another_base_at_the_same_commit_is_refused(hub, tmp_path):
    facts = model_package.base_json(qlora.open_scorer(spec(tmp_path, "nf4"), tmp_path / "cache").base_facts())
    weights = hub.snapshot(FIRST) / "model.safetensors"
    weights.unlink()
    shutil.copy(hub.snapshot(SECOND) / "model.safetensors", weights)
    with pytest.raises(ValueError, match=rf"owner/name at {FIRST} is not the one .*: model.safetensors differs"):
        served._load(facts)


def test_a_quantised_base_knows_its_commit_without_the_hub(hub, tmp_path):
    before = qlora.open_scorer(spec(tmp_path, "nf4"), tmp_path / "cache").base_facts()
    hub.point(SECOND)
    assert qlora.open_scorer(spec(tmp_path, "nf4"), tmp_path / "cache").base_facts().revision == FIRST
    shutil.rmtree(hub.folder)
    after = qlora.open_scorer(spec(tmp_path, "nf4"), tmp_path / "cache").base_facts()
    assert (after.revision, after.files) == (FIRST, before.files)


def test_a_commit_that_nobody_knows_is_an_error_with_the_way_out(hub, tmp_path):
    for revision in (None, FIRST):
        qlora.open_scorer(spec(tmp_path, "nf4", revision), tmp_path / "cache")
    for origin in (tmp_path / "cache" / "bases").glob(f"*/{ORIGIN}"):
        origin.unlink()
    with pytest.raises(ModelError, match=r"commit of 'owner/name' .* pin model.revision to a commit, or have the"):
        qlora.open_scorer(spec(tmp_path, "nf4"), tmp_path / "cache")
    assert qlora.open_scorer(spec(tmp_path, "nf4", FIRST), tmp_path / "cache").base_facts().revision == FIRST
    shutil.rmtree(tmp_path / "cache" / "bases")
    assert qlora.open_scorer(spec(tmp_path, "nf4"), tmp_path / "cache").base_facts().revision == FIRST


def test_a_pinned_commit_is_loaded_wherever_the_branch_points(hub, tmp_path):
    parts = qlora.open_scorer(spec(tmp_path, "none", SECOND), tmp_path / "cache").base_facts()
    assert parts.revision == SECOND
    assert float(head(served._load(model_package.base_json(parts))).abs().sum()) == 0
