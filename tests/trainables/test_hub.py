"""What the hub has to say of a model and of data is told before a sweep starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import hub_servers
import pytest
from hub_servers import COMMIT, GATED, Hub
from huggingface_hub import constants
from known_models import LLAMA_8B
from model_folders import LLAMA, write_folder
from model_folders import cached as put_into_cache

from trainables import qlora
from trainables.base import base_model
from trainables.contract import LookedUp
from trainables.specs import DataSpec, ModelSpec, TrialSpec

NOTHING = "http://127.0.0.1:9"
SPEC = TrialSpec(model=ModelSpec(source="owner/name"), data=DataSpec(train="rows.jsonl", text="{text}"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with the model owner/name and the data set owner/rows."""
    with hub_servers.serving() as found:
        hub_servers.use(monkeypatch, found.url, tmp_path / "hub")
        found.models["owner/name"] = model()
        found.datasets.add("owner/rows")
        yield found


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub; the folder of its cache."""
    hub_servers.use(monkeypatch, NOTHING, tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "hub"


def model(**config: object) -> dict[str, bytes]:
    content = json.dumps(LLAMA | config).encode()
    return {"config.json": content, "model.safetensors": b"", "tokenizer.json": b"{}"}


def look_up(tmp_path: Path, source: str = "owner/name", data: str = "rows.jsonl", **fields: Any) -> LookedUp:
    rows = DataSpec(train=data, text="{text}", revision=None if data.endswith(".jsonl") else "main")
    spec = TrialSpec(model=ModelSpec(source=source, **fields), data=rows)
    return qlora.look_up(spec, tmp_path / "cache")


def cached(folder: Path, *others: str) -> None:
    """Puts owner/name into a cache of the hub: its configuration, and these other files."""
    put_into_cache(folder, LLAMA, {name: model()[name] for name in others})


def test_a_model_that_is_there_is_known_from_now_on(hub: Hub, tmp_path: Path) -> None:
    for revision in (None, COMMIT):
        assert look_up(tmp_path, revision=revision) == LookedUp()
    found = qlora.model_source.facts(ModelSpec(source="owner/name"))
    assert found is not None and found.layers == 2
    (problem,) = look_up(tmp_path, revision="nope").problems
    assert problem == "model.source: 'owner/name': the hub says: Invalid rev id: nope: check the revision"


def test_a_local_model_and_local_data_ask_nobody(hub: Hub, tmp_path: Path) -> None:
    assert look_up(tmp_path, str(write_folder(tmp_path / "base"))) == LookedUp()
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("owner/nope", None, "the hub says: Repository not found: check the name; for a private one, log in with `hf"),
        ("owner/gated", (401, {"X-Error-Code": "GatedRepo", "X-Error-Message": GATED}), f"the hub says: {GATED[:-1]}"),
        ("owner/gated", (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": GATED}), "ask for access on its page"),
        ("owner/x", (401, {"X-Error-Message": "Invalid username or password."}), "Invalid username or password: log"),
        ("owner/off", (403, {"X-Error-Message": "Access to this resource is disabled."}), "this resource is disabled"),
    ],
)
def test_the_hubs_own_reason_is_told_in_one_line(hub, tmp_path, name, error, said):
    if error is not None:
        hub.errors[name] = error
    (problem,) = look_up(tmp_path, name).problems
    assert problem.startswith(f"model.source: {name!r}: the hub says: ")
    assert said in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.gguf": b""}, "needs config.json"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, "only .bin weights"),
        ({"config.json": b"{}", "model.safetensors": b""}, "needs a tokenizer"),
        ({"config.json": b"{}", "onnx/model.safetensors": b"", "tokenizer.json": b""}, "needs weights"),
        (model(model_type="bert"), "is not a decoder"),
    ],
)
def test_a_model_that_cannot_be_used_is_told(hub: Hub, tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    hub.models["owner/name"] = files
    (problem,) = look_up(tmp_path).problems
    assert problem.startswith("model.source: 'owner/name': ")
    assert said in problem


def test_code_of_its_own_is_a_notice(hub: Hub, tmp_path: Path) -> None:
    hub.models["owner/name"] = model(model_type="own", auto_map={"AutoModelForCausalLM": "own.Own"})
    assert "allow it with model.trust_remote_code=true" in look_up(tmp_path).problems[0]
    found = look_up(tmp_path, trust_remote_code=True)
    assert found.problems == ()
    assert found.notices[0].startswith("model.source owner/name: it brings its own code: whether it is a causal ")


@pytest.mark.parametrize("answer", ["nothing", "offline", "proxy"])
def test_a_model_out_of_reach_is_told_unless_it_is_cached(unreachable, tmp_path, monkeypatch, answer):
    with hub_servers.serving() as proxy:
        if answer == "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        if answer == "proxy":  # it answers for everybody, and knows nothing of the hub
            hub_servers.use(monkeypatch, proxy.url, unreachable)
            proxy.errors["owner/name"] = (404, {})
        (line,) = look_up(tmp_path).unreachable
        assert line.startswith("model.source: 'owner/name': the hub cannot be reached (")
        assert line.endswith(", and the model is not in its cache on this machine: connect, or name a folder")
        assert ("(it is switched off by HF_HUB_OFFLINE)" in line) is (answer == "offline")
        cached(unreachable, "model.safetensors", "tokenizer.json")
        assert look_up(tmp_path) == LookedUp()


def test_a_part_in_the_cache_is_not_enough(unreachable: Path, tmp_path: Path) -> None:
    cached(unreachable)
    (line,) = look_up(tmp_path).unreachable
    assert "its cache on this machine holds only a part of the model (a model folder needs weights" in line


def test_a_base_that_was_quantised_before_needs_no_hub(unreachable: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / "bases" / base_model._key(SPEC, "torch.bfloat16")).mkdir(parents=True)
    assert look_up(tmp_path) == LookedUp()


def test_data_on_the_hub_is_asked_for_once(hub: Hub, tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path / "base"))
    assert look_up(tmp_path, folder, data="owner/rows:main") == LookedUp()
    assert len([path for path in hub.asked if path.startswith("/api/datasets/owner/rows")]) == 1
    (problem,) = look_up(tmp_path, folder, data="owner/nope").problems
    assert problem.startswith("data.train: 'owner/nope': the hub says: Repository not found: check the name")


def test_data_out_of_reach_is_told_unless_it_is_cached(unreachable: Path, tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path / "base"))
    (line,) = look_up(tmp_path, folder, data="owner/My-Rows").unreachable
    assert line.startswith("data.train: 'owner/My-Rows': the hub cannot be reached (")
    (tmp_path / "datasets" / "owner___my-rows").mkdir(parents=True)
    assert look_up(tmp_path, folder, data="owner/My-Rows") == LookedUp()


def test_a_plan_has_the_configuration_fetched_that_it_lacks(hub: Hub) -> None:
    assert qlora.need(SPEC, [], "cuda") is None
    assert qlora.fetch_config(SPEC)
    assert qlora.need(SPEC, [], "cuda") is not None
    asked = len(hub.asked)
    assert not qlora.fetch_config(SPEC), "it is in the cache"
    assert len(hub.asked) == asked


def test_a_plan_that_lacks_nothing_asks_no_hub(hub: Hub) -> None:
    facts = LLAMA_8B.model_copy(update={"model_type": "llama"})
    assert not qlora.fetch_config(TrialSpec(model=ModelSpec(source="owner/name", facts=facts)))
    assert hub.asked == []
    untyped = TrialSpec(model=ModelSpec(source="owner/name", facts=LLAMA_8B))
    assert qlora.fetch_config(untyped), "they name no model type"
