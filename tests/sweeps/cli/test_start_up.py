"""What the project promises of itself: names that are its own, fast imports, help for every command."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import python_imports
import typer
from sweep_files import QLORA, write_rows
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.config import load

ROOT = Path(load.__file__).parents[2]
NAMES = ("cluster", "qsweep", "search_spaces", "sweeps", "trainables")

# Names


@pytest.fixture
def distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("qlora-sweeps")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("qlora-sweeps is not installed as a distribution")


@pytest.mark.usefixtures("distribution")
def test_no_other_distribution_has_our_import_names() -> None:
    """Unrelated distributions called sweeps and cluster exist: installed beside ours, one would shadow the other."""
    installed = importlib.metadata.packages_distributions()
    # An editable install names its modules nowhere, so ours may be missing here.
    assert {name for name in NAMES if set(installed.get(name, [])) - {"qlora-sweeps"}} == set()


def test_the_installed_command_is_ours(distribution: importlib.metadata.Distribution) -> None:
    (script,) = distribution.entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("qsweep", "sweeps.cli:main")


def test_what_is_built_is_the_packages() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(built["packages"]) == sorted(NAMES)


# Imports


def test_a_fresh_python_would_tell_of_heavy_imports() -> None:
    """So that the tests below can fail."""
    assert python_imports.heavy("import sys; sys.modules['ray'] = sys") == {"ray"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ["validate", "s.yaml"]),
        (0, ["plan", "s.yaml", "--json"]),
        (2, ["launch", "s.yaml", "budget.trials=many"]),
    ],
)
def test_looking_imports_nothing_heavy(code: int, words: list[str], tmp_path: Path) -> None:
    write_rows(tmp_path)
    (tmp_path / "s.yaml").write_text(QLORA)
    before = sorted(tmp_path.rglob("*"))
    assert python_imports.heavy_in_command(tmp_path, *words, code=code) == set()
    assert sorted(tmp_path.rglob("*")) == before


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    modules = "config.load", "planning.plan", "supply.trial_source", "report.page_file", "report.charts"
    program = "import sys, sweeps.cli, " + ", ".join(f"sweeps.{module}" for module in modules)
    assert python_imports.heavy(program) == set()


# Commands


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = group.commands
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert commands()[name].help.strip().endswith(".")
    for parameter in commands()[name].params:
        assert getattr(parameter, "help", None), parameter.name


def test_python_can_run_the_package_itself() -> None:
    done = subprocess.run([sys.executable, "-m", "sweeps", "ls"], capture_output=True, text=True, check=True)
    titles = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert titles == ["recipes", "search spaces", "trainables", "schedulers", "searchers", "graders"]
    assert "  toy " in done.stdout and "  asha " in done.stdout and "  lora_core " in done.stdout


def test_the_schema_is_printed_whole() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert json.loads(result.stdout)["title"] == "SweepConfig"
