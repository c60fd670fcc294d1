"""A real Jupyter kernel launches a sweep, is interrupted, restarted, and finds the sweep again."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
CELLS = [
    """
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

pace = {"step_seconds": 0.2}
sweep = qs.launch("toy", trainable=Curves, scheduler="fifo", trials=1, steps=10_000, training=pace, wait=False)
print(sweep.status()["state"])
print(sweep.yaml())
""",
    """
import _thread, threading
timer = threading.Timer(5.0, _thread.interrupt_main)
timer.start()
sweep.wait()
""",
    """
import qsweep as qs
sweep = qs.load("toy")
print(sweep.status()["state"])
sweep.stop()
sweep.wait()
print(sweep.status()["state"])
""",
]


def test_a_kernel_that_is_interrupted_and_restarted_loses_nothing(tmp_path: Path, empty_database: Path) -> None:
    client = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install -e '.[dev]'")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: pip install -e '.[dev]'")
    import nbformat

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    shown = []
    for cells in (CELLS[:2], CELLS[2:]):  # two kernels, one after the other
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
        shown.append(["".join(str(output) for output in cell.outputs) for cell in notebook.cells])
    (begun, followed), (found,) = shown
    assert "def right_queue(row, answer):" in begun
    assert "RUNNING" in begun
    assert re.search(r"trainable: \S+/from_python/Curves_\w+\.py:Curves", begun)
    assert "the sweep goes on: sweep = qs.load(" in followed
    assert "text/html" in followed
    assert found.index("RUNNING") < found.index("INTERRUPTED")
