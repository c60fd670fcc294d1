"""The commands in the headers of the launch files name real commands, options, files and keys."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from launch_files import FILES, LAUNCH, ROOT, commands, header
from packaging.requirements import Requirement
from ray.scripts.scripts import cli as ray_cli

import sweeps.cli
from sweeps.config.load import load
from sweeps.errors import ConfigError

OTHERS = {
    "aws": {"ssm"},
    "base64": {"--decode"},
    "cd": {"qlora-sweeps"},
    "chmod": {"600"},
    "docker": {"build", "push", "run", "compose"},
    "echo": None,
    "export": None,
    "helm": {"repo", "install"},
    "kubectl": {"apply", "create", "delete", "exec", "get", "logs", "port-forward", "rollout"},
    "make": {"sweep"},
    "umask": {"077"},
}
"""Programs that are not here, with the words that may follow."""
SBATCH_TAKES = re.compile(r"--dependency=after(any|ok|notok):\d+")


def refused(command: Any, words: list[str]) -> str:
    """Why a command of click does not take these words; empty when it does. It runs nothing."""
    context = None
    try:
        while hasattr(command, "resolve_command"):
            context = click.Context(command, info_name=command.name, parent=context)
            _, command, words = command.resolve_command(context, words)
        command.make_context(command.name, words, parent=context)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def why_not(words: list[str]) -> str:
    """What is wrong with a command of a header; empty when nothing is."""
    program = Path(words[0]).name
    if program == "ray":
        return refused(ray_cli, [word for word in words[1:] if word not in (">", "/dev/null")])
    if program == "qsweep":
        return refused(typer.main.get_command(sweeps.cli.app), words[1:]) or mistakes(words[1:])
    if program == "python":
        return "" if words[1] == "-m" and find_spec(words[2]) else f"no module {words[2]}"
    if program == "pip":
        return "" if words[1] == "install" and (ROOT / words[words.index("--constraint") + 1]).exists() else "pip"
    if program == "sbatch":
        options = [word for word in words[1:] if word.startswith("--")]
        unknown = [option for option in options if not SBATCH_TAKES.fullmatch(option)]
        file = words[1 + len(options)]
        return f"unknown: {unknown}" if unknown else "" if (ROOT / file).exists() else f"no file {file}"
    if program not in OTHERS:
        return f"an unknown program: {program}"
    allowed = OTHERS[program]
    return "" if allowed is None or words[1] in allowed else f"an unknown word: {words[1]}"


def mistakes(words: list[str]) -> str:
    try:
        if words[0] == "launch":
            load(words[1], words[2:], ROOT)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(LAUNCH)) for file in FILES])
def test_the_header_says_what_the_file_is_and_each_command_and_file_in_it_is_real(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = [words for words in commands(file) if words[0] not in ("for", "do", "done")]
    assert said or file.name == "serve.sh", "only that one has no commands: it runs in a container"
    assert {" ".join(words): reason for words in said if (reason := why_not(words))} == {}
    named = re.findall(r"\bcluster/launch/[\w/.-]+\w", "\n".join(header(file)))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_versions_are_those_that_are_tested():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    text = "\n".join(file.read_text() for file in FILES)
    said = {
        (Requirement(each).name, str(Requirement(each).specifier)) for each in re.findall(r'"([^"\s]+==[\d.]+)"', text)
    }
    assert {name for name, _ in said} == {"ray", "mlflow"}
    assert said == {(name, f"=={pins[name]}") for name in ("ray", "mlflow")}
    rayversions = {yaml.safe_load(each) for each in re.findall(r"rayVersion: (\S+)", text)}
    assert rayversions == {pins["ray"]}
