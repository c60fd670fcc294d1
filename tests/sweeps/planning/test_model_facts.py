"""Sizes that a sweep file gives of its model belong to that model: another one does not inherit them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import hub_servers
import pytest
from model_folders import LLAMA
from sweep_files import QLORA, write_rows
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.config import load
from sweeps.planning import this_machine

ID = "meta-llama/Llama-3.1-8B-Instruct"
OTHERS = (
    "{parameters: 9, layers: 1, hidden_size: 8, intermediate_size: 8, vocab_size: 8, attention_heads: 1, "
    "key_value_heads: 1, model_type: mistral}"
)

Recipe = Callable[..., load.Sweep]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Loads the recipe of the 8B model, without the name of the model in its facts."""

    def write(*overrides: str, change: Callable[[str], str] = str) -> load.Sweep:
        text = (load.RECIPES / "llama-3.1-8b-qlora.yaml").read_text().replace(f"of: {ID}, ", "")
        (tmp_path / "s.yaml").write_text(change(text))
        return load.load("s.yaml", overrides, tmp_path)

    return write


def test_facts_without_a_model_type_are_those_of_a_llama_with_a_word(recipe: Recipe) -> None:
    stated = this_machine.plan_here(recipe())
    assumed = this_machine.plan_here(recipe(change=lambda text: text.replace("model_type: llama, ", "")))
    assert stated.memory is not None
    assert (assumed.memory, assumed.engine) == (stated.memory, stated.engine)
    assert not [line for line in stated.warnings if "model_type" in line]
    (told,) = [line for line in assumed.warnings if "model_type" in line]
    assert told.startswith(
        "model.facts name no model_type: memory and engine are planned as for llama; give model_type"
    )
    other = this_machine.plan_here(recipe(change=lambda text: text.replace("model_type: llama", "model_type: gpt2")))
    assert other.engine == "peft"


def test_another_source_on_the_command_line_leaves_the_facts_behind(recipe: Recipe) -> None:
    planned = this_machine.plan_here(recipe("model.source=owner/seventy"))
    assert planned.memory_bytes is None
    (told,) = [line for line in planned.warnings if line.startswith("model.facts are")]
    assert told.startswith(f"model.facts are of {ID}, not of model.source owner/seventy: they are not used")


def test_facts_that_come_with_the_other_source_are_used(recipe: Recipe) -> None:
    planned = this_machine.plan_here(recipe("model.source=owner/seventy", f"model.facts={OTHERS}"))
    assert planned.memory_bytes is not None
    assert not [line for line in planned.warnings if "model.facts" in line]


def test_a_plan_reads_the_configuration_that_the_hub_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    (tmp_path / "s.yaml").write_text(QLORA)
    with hub_servers.serving() as hub:
        hub_servers.use(monkeypatch, hub.url, tmp_path / "cached")
        hub.models["hub/model"] = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b""}
        told = CliRunner().invoke(app, ["plan", "s.yaml"]).stderr
    assert "engine, which computes the losses: flat" in told
    assert "      memory by part: " in told
    assert "not in the hub's cache" not in told
