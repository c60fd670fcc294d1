"""The tutorial, command by command, as whoever reads it types them; a tiny random model stands for the real one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

from sweeps.tracking import registry

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL | re.MULTILINE)
FILES = ("make_rows.py", "tickets.yaml")


def a_shell_in(folder: Path) -> dict[str, str]:
    """Returns an environment in which `python` is this one and `qsweep` is that of this checkout."""
    programs = folder / "bin"
    programs.mkdir()
    for name, words in {"python": "", "qsweep": " -m sweeps"}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        program.chmod(0o755)
    return os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def test_each_command_of_the_tutorial_does_what_it_says(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    shell = a_shell_in(tmp_path)
    tiny_models.save("llama", work / "model")
    champions, printed = [], ""
    for kind, text in BLOCKS:
        name = text.partition("\n")[0].removeprefix("# ")
        if name in FILES:
            text, count = re.subn(r"source: package:\S+?(?=})", "source: model", text)
            assert count == (name == "tickets.yaml")
            (work / name).write_text(text)
            continue
        program = {"bash": ["bash", "-ec"], "python": [sys.executable, "-c"]}[kind]
        done = subprocess.run([*program, text], cwd=work, env=shell, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        printed += done.stdout + done.stderr
        if "promote" in text or "rollback" in text:
            champions.append(champion(work))
    assert champions == ["1", "2", "1"]
    assert (work / "results" / "tickets" / "report.html").is_file()
    assert "best: t0" in printed and "choice: best" in printed


def champion(work: Path) -> str:
    """The version of the model `tickets` that its alias names."""
    version = registry.Registry(f"sqlite:///{work / 'mlflow.db'}").at("tickets", "champion")
    assert version is not None
    return version.number
