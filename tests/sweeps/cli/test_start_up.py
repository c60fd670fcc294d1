"""What the project promises of itself: names that are its own, fast imports, help for every command."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import python_imports
import two_sweeps
from sweep_files import QLORA, write_rows
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.config import load

ROOT = Path(load.__file__).parents[2]
NAMES = ("cluster", "qsweep", "search_spaces", "sweeps", "trainables")


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


COMMANDS = f"""
import json, sys
from cluster.doctor import examine
examine.answers = lambda site, names: (_ for _ in ())  # its checks run in a process of their own
import sweeps.cli, sweeps.config.load, sweeps.planning.plan, sweeps.supply.trial_source
import sweeps.report.page_file, sweeps.report.charts
found = {{}}
for code, words in json.loads(sys.argv[1]):
    sys.argv = ["qsweep", *words]
    try:
        sweeps.cli.main()
    except SystemExit as end:
        assert (end.code or 0) == code, (words, end.code)
    found[words[0]] = [name for name in {python_imports.HEAVY!r} if name in sys.modules]
sys.modules["ray"] = sys  # so that this test can fail
found["ray"] = [name for name in {python_imports.HEAVY!r} if name in sys.modules]
print()
print(json.dumps(found))
"""


def test_looking_imports_nothing_heavy_and_writes_nothing(tmp_path: Path) -> None:
    """In one Python of its own, so that a command that imports something is the first that is named."""
    write_rows(tmp_path)
    (tmp_path / "s.yaml").write_text(QLORA)
    two_sweeps.sweep(tmp_path / "results", "x")
    before = sorted(tmp_path.rglob("*"))
    words = ["validate s.yaml", "plan s.yaml --json", "compare results/x t00 t01", "doctor toy"]
    commands = [*((0, each.split()) for each in words), (2, ["launch", "s.yaml", "budget.trials=many"])]
    program = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    nothing: dict[str, list[str]] = {each[0]: [] for _, each in commands}
    assert json.loads(done.stdout.splitlines()[-1]) == {**nothing, "ray": ["ray"]}
    assert sorted(tmp_path.rglob("*")) == before


HELP = """
import sys
from sweeps.cli import app
try:
    app(["--help"])
except SystemExit as end:
    assert end.code == 0, end.code
if sys.argv[1:]:
    import sweeps.config.model
waited = ("numpy", "pandas", "pydantic", "sweeps.config.model", "trainables.specs", *HEAVY)
print("imported:", *(name for name in waited if name in sys.modules))
""".replace("HEAVY", repr(python_imports.HEAVY))


def test_the_help_waits_for_no_library_and_for_no_class_of_the_sweep_file() -> None:
    def imported(*words: str) -> list[str]:
        command = [sys.executable, "-c", HELP, *words]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
        assert "check-serving" in told
        return told.splitlines()[-1].split()[1:]

    assert imported() == []
    assert imported("too much") == ["pydantic", "sweeps.config.model", "trainables.specs"]


def test_what_there_is_is_listed_and_the_schema_is_printed_whole() -> None:
    told = CliRunner().invoke(app, ["ls"]).stdout
    titles = [line for line in told.splitlines() if not line.startswith(" ")]
    assert titles == ["recipes", "search spaces", "trainables", "schedulers", "searchers", "graders"]
    assert "  toy " in told and "  asha " in told and "  lora_core " in told
    assert json.loads(CliRunner().invoke(app, ["schema"]).stdout)["title"] == "SweepConfig"
