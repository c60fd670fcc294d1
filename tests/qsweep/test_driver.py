"""The driver is a process of its own: what interrupts or ends the process that launched it leaves it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chaos_runs as runs
import pytest

import qsweep as qs
from sweeps.record.folder import SweepFolder, is_driven

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SCRIPT = """
import signal
import qsweep as qs
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
sweep = qs.launch(
    "toy", scheduler="fifo", trials=2, steps=10_000, training={"step_seconds": 0.2}, cluster={"slots_per_host": 2},
    space={"adapter.r": qs.choice([4, 8])},
)
"""


@pytest.fixture
def here(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to launch from, with a tracking database; no driver outlives the test."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for folder in (tmp_path / "results").glob("*/config.json"):
        if is_driven(SweepFolder(folder.parent)):
            qs.load(folder.parent).stop()


def test_an_interrupted_script_leaves_its_sweep_which_is_found_steered_and_stopped(here: Path) -> None:
    out, err = here / "script.out", here / "script.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        script = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=stdout, stderr=stderr, start_new_session=True)
    run = runs.Run(script, out, err)
    folder = here / "results" / "toy"
    runs.wait_for(lambda: runs.record(folder).counts() == {"RUNNING": 2}, run)
    runs.wait_for(lambda: "t01" in out.read_text(), run)
    os.killpg(script.pid, signal.SIGINT)  # as a terminal, or Jupyter, sends it
    assert script.wait(runs.DEADLINE_SECONDS) != 0
    told = out.read_text()
    assert told.startswith("plan: 2 trials")
    assert f'the sweep goes on: sweep = qs.load("{folder}") finds it; sweep.wait() follows it' in told

    sweep = qs.load("toy")
    assert sweep.status()["state"] == "RUNNING"
    again = qs.load(folder)
    assert [trial.state for trial in again.trials] == ["RUNNING", "RUNNING"]
    with pytest.raises(qs.QsweepError, match=r"refused: budget\.trials"):
        sweep.extend(trials=1)
    assert "budget.trials is 3" in sweep.extend(trials=3)
    assert sweep.stop("t01")
    assert sweep.stop()
    assert sweep.wait().status()["state"] == "INTERRUPTED"
    assert runs.record(folder).planned is not None


def test_the_page_is_true(here: Path) -> None:
    """Its blocks run in order, with the toy in place of the model where a block trains."""
    page = (Path(qs.__file__).parents[1] / "docs" / "python.md").read_text()
    first, *blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert blocks
    (here / "tickets.csv").write_text("message,queue\n" + "".join(f"m{n},bills\n" for n in range(40)))
    names: dict[str, object] = {}
    # The model of the first block is not here: its sweep is checked, and not run.
    checked = first.replace("qs.launch(", "qs.validate(").partition("sweep.table()")[0]
    program = f"import json, sys\n{checked}\nprint(json.dumps(sweep))"
    (here / "checked.py").write_text(program)
    done = subprocess.run([sys.executable, "checked.py"], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    for block in blocks:
        exec(block, names)
    sweep = names["sweep"]
    assert isinstance(sweep, qs.Sweep)
    assert sweep.status()["state"] == "FINISHED"
