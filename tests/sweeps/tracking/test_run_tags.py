"""The tags of runs are named in one file. What stands in MLflow is in `test_sink.py`."""

from __future__ import annotations

import ast
from pathlib import Path

from sweeps.tracking import run_tags

TRACKING = Path(run_tags.__file__).parent
NAMES = {
    value
    for name, value in vars(run_tags).items()
    if name.isupper() and isinstance(value, str) and name not in ("OF_A_SWEEP", "FINGERPRINT")
}


def texts(file: Path) -> list[str]:
    """The strings of a file's code, those of f-strings included, without its docstrings."""
    tree = ast.parse(file.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
    ]


def test_no_other_file_spells_the_name_of_a_tag():
    assert {"sweep.id", "sweep.state", "mlflow.parentRunId"} <= NAMES
    assert set(texts(Path(run_tags.__file__))) >= NAMES
    others = [file for file in TRACKING.glob("*.py") if file.name != "run_tags.py"]
    assert len(others) > 10
    spelled = [(file.name, text) for file in others for text in texts(file) for name in NAMES if name in text]
    assert spelled == []
