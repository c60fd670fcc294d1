"""Models that cannot be trained, through the command line: one line, exit code 2, nothing started."""

from __future__ import annotations

from pathlib import Path

import hub_servers
import pytest
from model_folders import LLAMA, write_folder
from sweep_files import QLORA, write_rows
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.config import load
from sweeps.errors import ConfigError
from sweeps.planning import this_machine


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a sweep file whose model is ./base."""
    write_rows(tmp_path)
    (tmp_path / "s.yaml").write_text(QLORA.replace("hub/model", "./base"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistake(command: str, *changes: str) -> str:
    """The one mistake that a command tells."""
    result = CliRunner().invoke(app, [command, "s.yaml", *changes])
    error, count = result.stderr.splitlines()
    assert (result.exit_code, result.stdout, count) == (
        2,
        "",
        "1 problem; nothing was started" if command == "launch" else "1 problem",
    )
    return error


@pytest.mark.parametrize("command", ["plan", "launch"])
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bart", "is_encoder_decoder": True}, "an encoder-decoder (is_encoder_decoder in config.json)"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "(saved as BertForMaskedLM) is not a decoder"),
    ],
    ids=["bart", "bert"],
)
def test_a_model_that_is_no_decoder_is_told(here: Path, command: str, config: dict[str, object], said: str) -> None:
    write_folder(here / "base", LLAMA | config)
    line = mistake(command)
    assert line.startswith(f"error: model.source: {str(here / 'base')!r}: ")
    assert said in line
    assert line.endswith("is needed, such as Llama, Qwen, Gemma, Mistral or GPT-2")


@pytest.mark.parametrize(("file", "source"), [("models/bse", None), ("owner/name", "models/bse")])
def test_a_mistyped_path_is_no_hub_id(here: Path, file: str, source: str | None) -> None:
    """In the file, from whose folder it goes, and on the command line."""
    write_folder(here / "models" / "base")
    (here / "s.yaml").write_text(QLORA.replace("hub/model", file))
    line = mistake("validate", *([f"model.source={source}"] if source else []))
    assert f"'{here}/models/bse': no such file or folder; did you mean {here}/models/base?" in line


def test_a_model_in_the_current_folder_is_not_beside_a_file_elsewhere(here: Path) -> None:
    write_folder(here / "models" / "base")
    (here / "sweeps").mkdir()
    (here / "sweeps" / "s.yaml").write_text(QLORA.replace("hub/model", "models/base"))
    (here / "s.yaml").unlink(missing_ok=True)
    result = CliRunner().invoke(app, ["validate", "sweeps/s.yaml"])
    assert result.exit_code == 2
    assert (
        f"error: model.source: 'models/base' is in the current folder, but a path in a sweep file is relative to the "
        f"file, so to {here}/sweeps: write {here}/models/base"
    ) in result.stderr


def test_a_hub_that_cannot_be_reached_is_told_before_ray_starts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "s.yaml").write_text(QLORA)
    hub_servers.use(monkeypatch, "http://127.0.0.1:9", here / "hub")
    before = sorted(here.rglob("*"))
    line = mistake("launch")
    assert line.startswith("error: model.source: 'hub/model': the hub cannot be reached (")
    assert sorted(here.rglob("*")) == before
    # Its nodes may reach what this machine does not.
    config = load.load("s.yaml", ["cluster.profile=attached"], here)
    (warning,) = this_machine.look_up(config)
    assert warning.endswith("connect, or name a folder; the nodes of the Ray cluster may reach it")


def test_a_model_that_the_hub_does_not_have_is_told_before_ray_starts(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "s.yaml").write_text(QLORA)
    with hub_servers.serving() as hub:
        hub_servers.use(monkeypatch, hub.url, here / "hub")
        assert "'hub/model': the hub says: Repository not found: check the name" in mistake("launch")
        with pytest.raises(ConfigError):
            this_machine.look_up(load.load("s.yaml", ["cluster.profile=attached"], here))
