"""Models that are planned by the facts of the file or of the hub, and those that are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import hub_servers
import pytest
from model_folders import LLAMA, write_folder
from sweep_files import QLORA, loaded, refused, write_rows
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.config import load
from sweeps.errors import ConfigError
from sweeps.planning import this_machine
from sweeps.planning.plan import Plan
from trainables.base import model_sizes

ID = "meta-llama/Llama-3.1-8B-Instruct"
OTHERS = (
    "{parameters: 9, layers: 1, hidden_size: 8, intermediate_size: 8, vocab_size: 8, attention_heads: 1, "
    "key_value_heads: 1, model_type: mistral}"
)


def planned(folder: Path, *overrides: str, old: str = "", new: str = "") -> Plan:
    """The plan of the recipe of the 8B model, without the name of the model in its facts, and with a part replaced."""
    text = (load.RECIPES / "llama-3.1-8b-qlora.yaml").read_text().replace(f"of: {ID}, ", "").replace(old, new)
    return this_machine.plan_here(loaded(folder, text, *overrides))


def of_facts(found: Plan) -> list[str]:
    return [line for line in found.warnings if line.startswith("model.facts")]


def test_facts_without_a_model_type_are_those_of_a_llama_with_a_word(tmp_path: Path) -> None:
    stated, assumed = planned(tmp_path), planned(tmp_path, old="model_type: llama, ")
    assert stated.memory is not None
    assert (assumed.memory, assumed.engine) == (stated.memory, stated.engine)
    assert of_facts(stated) == []
    (told,) = of_facts(assumed)
    assert told.startswith(
        "model.facts name no model_type: memory and engine are planned as for llama; give model_type"
    )
    assert planned(tmp_path, old="model_type: llama", new="model_type: gpt2").engine == "peft"


def test_another_source_on_the_command_line_leaves_the_facts_behind_but_not_those_that_come_with_it(tmp_path) -> None:
    source = "model.source=owner/seventy"
    left, given = planned(tmp_path, source), planned(tmp_path, source, f"model.facts={OTHERS}")
    assert (left.memory_bytes, given.memory_bytes is None, of_facts(given)) == (None, False, [])
    (told,) = of_facts(left)
    assert told.startswith(f"model.facts are of {ID}, not of model.source owner/seventy: they are not used")


def test_a_plan_reads_the_configuration_that_the_hub_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    (tmp_path / "s.yaml").write_text(QLORA)
    with hub_servers.serving() as hub:
        hub_servers.use(monkeypatch, hub.url, tmp_path / "cached")
        hub.models["hub/model"] = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b""}
        told = CliRunner().invoke(app, ["plan", "s.yaml"]).output
    assert "engine, which computes the losses: flat" in told
    assert "      memory by part: " in told
    assert "not in the hub's cache" not in told


def test_an_own_file_is_planned_by_the_name_of_a_common_base_where_no_hub_answers(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSWEEP_RATES", str(tmp_path / "rates.json"))
    hub_servers.use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cached")
    write_rows(tmp_path)
    (tmp_path / "s.yaml").write_text(QLORA.replace("hub/model", "Qwen/Qwen3-8B"))
    told = CliRunner().invoke(app, ["plan", "s.yaml", "cluster.gpu=L4", "--price", "2"]).output
    assert "engine, which computes the losses: flat" in told
    assert "1 GPU host with 3 slots" in told and "memory by part: process 0.5 GB, base 6.2 GB" in told
    assert "by arithmetic, not measured: L4 at " in told and " GPU-hours, which cost " in told
    assert "the hub's cache on this machine yet; planned with the sizes that ship with this product\n" in told
    # Not one trial fits into 24 GB, unless its host recomputes activations, as hosts do.
    assert "warning: training.gradient_checkpointing auto: not one of the largest trials fits otherwise" in told
    assert "needed per host" not in told and "memory is not known" not in told
    wide = CliRunner().invoke(app, ["plan", "s.yaml", "cluster.gpu=H100"]).output
    assert "training.gradient_checkpointing" not in wide


def test_what_the_hub_says_of_a_common_base_counts_before_what_ships(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    (tmp_path / "s.yaml").write_text(QLORA.replace("hub/model", "Qwen/Qwen3-8B"))
    with hub_servers.serving() as hub:
        hub_servers.use(monkeypatch, hub.url, tmp_path / "cached")
        hub.models["Qwen/Qwen3-8B"] = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b""}
        told = CliRunner().invoke(app, ["plan", "s.yaml", "cluster.gpu=L4"]).output
    assert "memory by part: process 0.5 GB, base" not in told, "the base of the hub has a few thousand parameters"
    assert "ship with this product" not in told


def test_the_facts_of_recipes_are_those_that_ship() -> None:
    for recipe in load.recipes():
        model = load.load(recipe, [], load.RECIPES).config.model
        if model is not None and model.facts is not None:
            assert model_sizes.shipped(model.source) == model.facts


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with rows."""
    write_rows(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistake(command: str, model: str) -> str:
    """The one mistake that a command tells of a sweep file with this model; nothing is made."""
    here = Path.cwd()
    (here / "s.yaml").write_text(QLORA.replace("hub/model", model))
    before = sorted(here.rglob("*"))
    result = CliRunner().invoke(app, [command, "s.yaml"])
    error, count = result.stderr.splitlines()
    untouched = "; nothing was started" if command == "launch" else ""
    assert (result.exit_code, result.stdout, count) == (2, "", f"1 problem{untouched}")
    assert sorted(here.rglob("*")) == before
    return error


@pytest.mark.parametrize(
    ("command", "config", "said"),
    [
        ("plan", {"is_encoder_decoder": True}, "an encoder-decoder (is_encoder_decoder in config.json)"),
        ("launch", {"model_type": "bert", "architectures": ["BertForX"]}, "(saved as BertForX) is not a decoder"),
    ],
)
def test_a_model_that_is_no_decoder_is_told(here: Path, command: str, config: dict[str, object], said: str) -> None:
    write_folder(here / "base", LLAMA | config)
    line = mistake(command, "./base")
    assert line.startswith(f"error: model.source: {str(here / 'base')!r}: ") and said in line
    assert line.endswith("is needed, such as Llama, Qwen, Gemma, Mistral or GPT-2")


def test_a_path_that_is_mistyped_or_of_another_folder_is_no_hub_id(here: Path) -> None:
    """In the file, from whose folder it goes, and on the command line."""
    write_folder(here / "models" / "base")
    for model, *changes in (["models/bse"], ["owner/name", "model.source=models/bse"]):
        (line,) = refused(here, QLORA.replace("hub/model", model), *changes)
        assert f"'{here}/models/bse': no such file or folder; did you mean {here}/models/base?" in line
    (here / "files").mkdir()
    write_rows(here / "files")
    (here / "files" / "s.yaml").write_text(QLORA.replace("hub/model", "models/base"))
    with pytest.raises(ConfigError) as told:
        load.load("files/s.yaml", [], here)
    assert told.value.problems == (
        "model.source: 'models/base' is in the current folder, but a path in a sweep file is relative to the file, so "
        f"to {here}/files: write {here}/models/base",
    )


def test_a_hub_that_cannot_be_reached_or_lacks_the_model_is_told_before_ray_starts(here, monkeypatch) -> None:
    hub_servers.use(monkeypatch, "http://127.0.0.1:9", here / "hub")
    assert mistake("launch", "hub/model").startswith("error: model.source: 'hub/model': the hub cannot be reached (")
    # Its nodes may reach what this machine does not.
    attached = load.load("s.yaml", ["cluster.profile=attached"], here)
    (warning,) = this_machine.look_up(attached)
    assert warning.endswith("connect, or name a folder; the nodes of the Ray cluster may reach it")
    with hub_servers.serving() as hub:
        hub_servers.use(monkeypatch, hub.url, here / "hub")
        assert "'hub/model': the hub says: Repository not found: check the name" in mistake("launch", "hub/model")
        with pytest.raises(ConfigError):
            this_machine.look_up(attached)
