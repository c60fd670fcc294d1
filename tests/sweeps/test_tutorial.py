"""The tutorial, command by command, as whoever reads it types them; a tiny random model stands for the real one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.tracking import registry

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL | re.MULTILINE)
FILES = ("make_rows.py", "tickets.yaml")
QUEUES = ("billing", "delivery", "returns", "account", "technical", "praise")


def run(*words: str) -> str:
    """What Python prints, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def typed(line: str) -> str:
    """What a line of a shell prints. Only a launch has a process of its own: each one takes seconds to start."""
    program, *words = shlex.split(line, comments=True)
    if program == "python":
        return run(*words)
    assert program == "qsweep", line
    if words[0] == "launch":
        return run("-m", "sweeps", *words)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (line, done.output)
    return done.output


def test_each_command_of_the_tutorial_does_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_models.save("llama", tmp_path / "model")
    champions, printed = [], ""
    for kind, text in BLOCKS:
        name = text.partition("\n")[0].removeprefix("# ")
        if name in FILES:
            text, count = re.subn(r"source: package:\S+?(?=})", "source: model", text)
            assert count == (name == "tickets.yaml")
            Path(name).write_text(text)
            continue
        printed += run("-c", text) if kind == "python" else "".join(map(typed, filter(None, text.splitlines())))
        if "promote" in text or "rollback" in text:
            champions.append(champion(tmp_path))
    assert champions == ["1", "2", "1"]
    assert Path("results/tickets/report.html").is_file()
    assert "best: t0" in printed and "choice: best" in printed
    # What the champion answers is a label, which a random model would not generate.
    (answer,) = re.findall(r"^\['(.*)'\]$", printed, re.MULTILINE)
    assert answer in QUEUES


def champion(work: Path) -> str:
    """The version of the model `tickets` that its alias names."""
    version = registry.Registry(f"sqlite:///{work / 'mlflow.db'}").at("tickets", "champion")
    assert version is not None
    return version.number
