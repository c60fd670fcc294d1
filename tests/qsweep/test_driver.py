"""The driver is a process of its own: what interrupts or ends the process that launched it leaves it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chaos_runs as runs
import pytest

import qsweep as qs
from sweeps.record.folder import SweepFolder, is_driven

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

BEGUN = """
import qsweep as qs

def right_queue(row, answer):
    return float(answer.strip() == row["queue"])

from pathlib import Path
from qsweep import _travel
print(Path(_travel.metric(right_queue, Path("kept")).rpartition(":")[0]).read_text())
from trainables import catalogue

class Curves(type(catalogue.find("toy"))):
    def fingerprint(self, base):
        return {"mine": "1"}

sweep = qs.launch(
    "toy", trainable=Curves, scheduler="fifo", trials=2, steps=10_000, training={"step_seconds": 0.2}, wait=False,
    cluster={"slots_per_host": 2},
)
print(sweep.yaml())
"""
FOLLOWED = """
import os, signal, threading

def interrupt():
    while [trial.state for trial in sweep.trials] != ["RUNNING", "RUNNING"]:
        threading.Event().wait(0.1)
    os.killpg(0, signal.SIGINT)  # as Jupyter, or a terminal, sends it

threading.Thread(target=interrupt).start()
sweep.wait()
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


def in_a_script(folder: Path) -> str:
    """What the sweep's launch and its following print, in a script that is interrupted."""
    (folder / "script.py").write_text(BEGUN + FOLLOWED)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, start_new_session=True)
    assert done.returncode != 0
    assert done.stdout.startswith("def right_queue(row, answer):")
    return done.stdout


def in_a_notebook(folder: Path) -> str:
    """What the cells of a notebook show, whose kernel is interrupted and then ended."""
    client = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install -e '.[dev]'")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: pip install -e '.[dev]'")
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (BEGUN, FOLLOWED)])
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    shown = "".join(str(output) for cell in notebook.cells for output in cell.outputs)
    assert "text/html" in shown
    return shown


@pytest.mark.usefixtures("hears_signals")
@pytest.mark.parametrize("launched", [in_a_script, in_a_notebook])
def test_whoever_is_interrupted_leaves_its_sweep_which_is_found_steered_and_stopped(here, launched):
    folder, told = here / "results" / "toy", launched(here)
    assert "plan: 2 trials" in told
    assert re.search(r"trainable: \S+/from_python/Curves_\w+\.py:Curves", told)
    assert f'the sweep goes on: sweep = qs.load("{folder}") finds it; sweep.wait() follows it' in told

    sweep = qs.load("toy")
    assert sweep.status()["state"] == "RUNNING"
    assert [trial.state for trial in qs.load(folder).trials] == ["RUNNING", "RUNNING"]
    with pytest.raises(qs.QsweepError, match=r"refused: budget\.trials"):
        sweep.extend(trials=1)
    assert "budget.trials is 3" in sweep.extend(trials=3)
    assert sweep.stop("t01")
    assert sweep.stop()
    assert sweep.wait().status()["state"] == "INTERRUPTED"
    assert runs.record(folder).planned is not None


def test_the_page_is_true(here):
    """Its blocks run in order, with the toy in place of the model where a block trains."""
    page = (Path(qs.__file__).parents[1] / "docs" / "python.md").read_text()
    first, *blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert blocks
    (here / "tickets.csv").write_text("message,queue\n" + "".join(f"m{n},bills\n" for n in range(40)))
    names: dict[str, object] = {}
    # The model of the first block is not here: its sweep is checked, and not run.
    checked = first.replace("qs.launch(", "qs.validate(").partition("sweep.table()")[0]
    (here / "checked.py").write_text(f"import json, sys\n{checked}\nprint(json.dumps(sweep))")
    done = subprocess.run([sys.executable, "checked.py"], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    for block in blocks:
        exec(block.replace("trials=6", "trials=2"), names)  # fewer take less long
    sweep = names["sweep"]
    assert isinstance(sweep, qs.Sweep)
    assert sweep.status()["state"] == "FINISHED"
