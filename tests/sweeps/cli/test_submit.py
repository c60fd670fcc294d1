"""`qsweep submit` on the laptop: what ends it before the cluster is asked, what is sent, how a sweep is followed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_dashboards import LOST, Dashboard, dashboard
from sweep_files import QLORA, TOY, write_rows
from typer.testing import CliRunner

from sweeps.cli import app

NOBODY = "http://127.0.0.1:1"
# What a laptop has that follows docs/cluster.md.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "mlflow", "peft", "bitsandbytes", "datasets", "optuna",
                                      "accelerate", "safetensors", "tokenizers", "gguf", "pandas"}:
            raise ModuleNotFoundError(f"no {name} on a laptop", name=name)

sys.meta_path.insert(0, Absent())
sys.argv = ["qsweep", *sys.argv[1:]]
from sweeps.cli import main
main()
"""


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*words])
    return result.exit_code, result.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(TOY)
    return tmp_path


@pytest.fixture
def board(folder: Path) -> Iterator[Dashboard]:
    with dashboard() as started:
        yield started


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["toy.yaml"], "--address: is needed"),
        (["toy.yaml", "--address", "head:8265"], "http://HOST:8265"),
        (["toy.yaml", "--address", "ray://head:10001"], "http://HOST:8265"),
        (["toy.yaml", "--address", "http://h:9/?token=secret"], "'http://h:9/?***' must be"),
        (["toy.yaml", "--address", "http://me:secret@h:9"], "'http://***@h:9' must be"),
        (["toy.yaml", "--address", "me:sec/ret?secret@h:9"], "'***@h:9' must be"),
        (["toy.yaml", "--address", NOBODY, "--submission-id", "a/b"], "--submission-id: 'a/b'"),
        (["toy.yaml", "--address", NOBODY, "cluster.profile=local"], "cluster.profile=attached"),
        (["toy.yaml", "--address", NOBODY, "budget.trials=none"], "budget.trials"),
        (["nowhere.yaml", "--address", NOBODY], "no such file"),
        (["toy.yaml", "--address", NOBODY, "tracking.uri=http://me:secret@mlflow"], "holds a password"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_mistake_is_told(words: list[str], said: str) -> None:
    code, told = run("submit", *words)
    assert (code, said in told, "secret" in told) == (2, True, False), told
    assert "note: " not in told, "a mistake is told before the places on the head node"
    assert "--address: " not in told or "http://HOST:8265" in told


def test_a_large_file_is_refused(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(QLORA)
    rows = write_rows(folder)
    with rows.open("a") as file:
        file.write(rows.read_text() * 50_000)
    code, told = run("submit", "sweep.yaml", "--address", NOBODY)
    assert (code, "at most 50 MB" in told, "--no-files" in told) == (2, True, True), told


def test_a_laptop_needs_no_torch(folder: Path) -> None:
    """It gets as far as asking the cluster, which does not answer."""
    (folder / "sweep.yaml").write_text(QLORA)
    write_rows(folder)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "submit", "sweep.yaml", "--address", NOBODY],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, "no Ray dashboard answers" in done.stderr) == (2, True), done.stderr
    assert "rows.jsonl" in done.stderr
    assert "what travels stays on each node" in done.stderr


def test_a_sweep_is_followed_and_ends_as_its_job(board: Dashboard) -> None:
    """Its last lines name a folder and commands, which are not there on the laptop."""
    board.prints('go on with:\n  qsweep resume /home/ray/results/x\n{"dir": "/home/ray/results/x"}\n', 130)
    words = ["submit", "toy.yaml", "--address", board.address, "--submission-id", "x-1", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 130, done.stderr
    assert json.loads(done.stdout) == {"dir": "/home/ray/results/x", "submission_id": "x-1", "address": board.address}
    *_, last, where = done.stderr.splitlines()
    assert last == "  qsweep resume /home/ray/results/x"
    assert where == "the folders and commands above are those of the cluster's head node"
    assert "on the head node, or x-2, ... beside it where it is taken: ~/results/x; MLflow there: " in done.stderr
    sent = next(name for name in board.brought() if name.startswith("submitted/")).split("/")[1]
    assert board.words() == ["x-1", "launch", f"submitted:{sent}", "--json"]
    metadata = {"qsweep": "launch", "name": "x", "storage": "results", "content": sent, "trainable": "toy"}
    assert board.submitted[0]["metadata"] == metadata
    code, told = run("logs", "x-1", "--address", board.address, "--follow")
    assert (code, told.splitlines()[-1]) == (130, where)
    code, told = run(*words)
    assert (code, "x-1 was submitted already: no second sweep is started" in told) == (130, True)


def test_a_sweep_that_may_have_been_submitted_is_not_said_not_to_be(board: Dashboard) -> None:
    board.answers = lambda method, _path: LOST if method == "POST" else None
    words = ("submit", "toy.yaml", "--address", board.address, "--submission-id", "x-1")
    code, told = run(*words)
    assert (code, "no Ray dashboard answers there" in told, "--submission-id x-1 is safe" in told) == (1, True, True)
    board.answers = lambda method, _path: (500, "no") if method == "POST" else None
    code, told = run(*words)
    assert (code, "not known" in told) == (2, False), told


def test_logs_are_printed_as_they_are(board: Dashboard) -> None:
    board.knows("x-1")
    board.logs["x-1"] = 'Running entrypoint for job x-1\none\n\n{"dir": "r"}\n'
    done = CliRunner().invoke(app, ["logs", "x-1", "--address", board.address])
    assert (done.exit_code, done.stdout, done.stderr) == (0, 'one\n\n{"dir": "r"}\n', "")


def test_logs_of_a_sweep_here_say_where_its_events_are(folder: Path) -> None:
    sweep = folder / "results" / "x"
    sweep.mkdir(parents=True)
    (sweep / "config.json").write_text('{"format": 1, "sweep_id": "x-1", "config": {"name": "x"}}')
    result = CliRunner().invoke(app, ["logs", "x-1"])
    assert (result.exit_code, result.stdout.strip()) == (0, str(sweep / "events.jsonl"))
