"""`qsweep submit` on the laptop, and how a submitted sweep is asked: by small jobs on the cluster's head node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_dashboards import LOST, Answer, Dashboard, dashboard
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


TOLD = ("no Ray dashboard answers", "rows.jsonl", "what travels stays on each node")


MISSING = "error: x-1: no sweep of this id or name in /home/ray/results; name its folder\n"
NOT_KNOWN = "it is not known whether the request was taken: qsweep status x-1 --address "


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def asked(board: Dashboard, *words: str) -> tuple[int, str]:
    return run(*words, "--address", board.address)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(TOY)
    (tmp_path / "sweep.yaml").write_text(QLORA)
    write_rows(tmp_path)
    return tmp_path


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    """A cluster that runs the sweep x-1, which is looked at without a pause."""
    monkeypatch.setattr("sweeps.cli.status.TURN_SECONDS", 0.0)
    with dashboard() as started:
        started.knows("x-1")
        yield started


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["toy.yaml"], "--address: is needed"),
        (["toy.yaml", "--address", "head:8265"], "http://HOST:8265"),
        (["toy.yaml", "--address", "http://h:9/?token=secret"], "'http://h:9/?***' must be"),
        (["toy.yaml", "--address", "me:sec/ret?secret@h:9"], "'***@h:9' must be"),
        (["toy.yaml", "--address", NOBODY, "--submission-id", "a/b"], "--submission-id: 'a/b'"),
        (["toy.yaml", "--address", NOBODY, "cluster.profile=local"], "cluster.profile=attached"),
        (["toy.yaml", "--address", NOBODY, "budget.trials=none"], "budget.trials"),
        (["nowhere.yaml", "--address", NOBODY], "no such file"),
        (["toy.yaml", "--address", NOBODY, "tracking.uri=http://me:secret@mlflow"], "holds a password"),
    ],
)
def test_a_mistake_is_told(words: list[str], said: str) -> None:
    code, told = run("submit", *words)
    assert (code, said in told, "secret" in told) == (2, True, False), told
    assert "note: " not in told, "a mistake is told before the places on the head node"
    assert "--address: " not in told or "http://HOST:8265" in told


def test_a_large_file_is_refused(folder: Path) -> None:
    rows = folder / "rows.jsonl"
    rows.write_text(rows.read_text() * 50_000)
    code, told = run("submit", "sweep.yaml", "--address", NOBODY)
    assert (code, "at most 50 MB" in told, "--no-files" in told) == (2, True, True), told


def test_a_laptop_needs_no_torch(folder: Path) -> None:
    """It gets as far as asking the cluster, which does not answer."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "submit", "sweep.yaml", "--address", NOBODY],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert [told for told in TOLD if told not in done.stderr] == [], done.stderr


def test_a_sweep_is_followed_and_ends_as_its_job(board: Dashboard) -> None:
    """Its last lines name a folder and commands, which are not there on the laptop."""
    board.prints('go on with:\n  qsweep resume /home/ray/results/x\n{"dir": "/home/ray/results/x"}\n', 130)
    words = ["submit", "toy.yaml", "--address", board.address, "--submission-id", "new", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 130, done.stderr
    assert json.loads(done.stdout) == {"dir": "/home/ray/results/x", "submission_id": "new", "address": board.address}
    *_, last, where = done.stderr.splitlines()
    assert last == "  qsweep resume /home/ray/results/x"
    assert where == "the folders and commands above are those of the cluster's head node"
    assert "on the head node, or x-2, ... beside it where it is taken: ~/results/x; MLflow there: " in done.stderr
    sent = next(name for name in board.brought() if name.startswith("submitted/")).split("/")[1]
    assert board.words() == ["new", "launch", f"submitted:{sent}", "--json"]
    metadata = {"qsweep": "launch", "name": "x", "storage": "results", "content": sent, "trainable": "toy"}
    assert board.submitted[0]["metadata"] == metadata
    code, told = asked(board, "logs", "new", "--follow")
    assert (code, told.splitlines()[-1]) == (130, where)
    code, told = run(*words)
    assert (code, "new was submitted already: no second sweep is started" in told) == (130, True)


def test_a_sweep_that_may_have_been_submitted_is_not_said_not_to_be(board: Dashboard) -> None:
    words = ("submit", "toy.yaml", "--submission-id", "new")
    board.answers = lambda method, _path: LOST if method == "POST" else None
    code, told = asked(board, *words)
    assert (code, "no Ray dashboard answers there" in told, "--submission-id new is safe" in told) == (1, True, True)
    board.answers = lambda method, _path: (500, "no") if method == "POST" else None
    code, told = asked(board, *words)
    assert (code, "not known" in told) == (2, False), told


def test_logs_are_printed_as_they_are(board: Dashboard) -> None:
    board.logs["x-1"] = 'Running entrypoint for job x-1\none\n\n{"dir": "r"}\n'
    done = CliRunner().invoke(app, ["logs", "x-1", "--address", board.address])
    assert (done.exit_code, done.stdout, done.stderr) == (0, 'one\n\n{"dir": "r"}\n', "")


@pytest.mark.parametrize("more", [[], ["--follow"]])
def test_logs_of_a_sweep_here_are_those_of_its_drivers(folder: Path, more: list[str]) -> None:
    sweep = folder / "results" / "x"
    sweep.mkdir(parents=True)
    (sweep / "config.json").write_text('{"format": 2, "sweep_id": "x-1", "config": {"name": "x"}}')
    result = CliRunner().invoke(app, ["logs", "x-1", *more])
    assert (result.exit_code, result.stdout) == (2, "")
    where = f"error: {sweep}/driver.log: is not there yet; qsweep status {sweep} shows the sweep"
    assert result.stderr.splitlines()[0] == where
    (sweep / "driver.log").write_text("one\ntwo\n")
    result = CliRunner().invoke(app, ["logs", "x-1", *more])
    assert (result.exit_code, result.output) == (0, "one\ntwo\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["status", "x-1"], 0),
        (["compare", "x-1", "t9", "t01"], 2),
        (["stop", "x-1", "t00"], 2),
        (["add", "x-1", "learning_rate=1e-4", "r=8"], 0),
        (["extend", "x-1", "budget.trials=32"], 1),
    ],
)
def test_a_command_is_the_same_command_on_the_head_node(board: Dashboard, words: list[str], code: int) -> None:
    board.knows("again", "RUNNING", "resume", sweep="x-1", storage="shared")
    board.prints('Running entrypoint for job x\nwords\n{"dir": "r", "accepted": true}\n', code)
    for job, storage in (("x-1", "results"), ("again", "shared")):
        done = CliRunner().invoke(app, [words[0], job, *words[2:], "--address", board.address, "--json"])
        assert (done.exit_code, done.stderr) == (code, "words\n")
        assert json.loads(done.stdout) == {"dir": "r", "accepted": True}
        assert board.words()[1:] == [*words, "--storage", storage, "--json"]
    assert [job["metadata"] for job in board.submitted] == [{"qsweep": words[0], "of": of} for of in ("x-1", "again")]
    assert board.submitted[0]["runtime_env"]["working_dir"] == "gcs://known.zip", "the package of the sweep"
    assert set(board.jobs) == {"x-1", "again"}, "small jobs are no longer listed"


def test_a_sweep_that_has_ended_is_asked_with_the_code_of_this_machine(board: Dashboard) -> None:
    """Its package may be gone. How it goes on is said as a command of this machine."""
    board.knows("x-1", "STOPPED")
    board.prints("interrupted: qsweep resume goes on\n")
    code, said = asked(board, "status", "x-1")
    assert (code, said.splitlines()[1:]) == (0, [f"from here: qsweep resume x-1 --address {board.address}"])
    assert "sweeps/cli/status.py" in board.brought()


@pytest.mark.parametrize(("verb", "lost"), [("add", LOST), ("compare", (502, "<html>"))])
def test_a_request_that_may_be_granted_is_not_said_to_be_refused(board: Dashboard, verb: str, lost: Answer) -> None:
    """And an answer of one that only reads is not said to be a request."""
    board.answers = lambda method, path: lost if f"x-1-{verb}-" in path else None
    code, told = asked(board, verb, "x-1", *(["learning_rate=1e-4"] if verb == "add" else []))
    assert (code, f"error: {board.address}: " in told, NOT_KNOWN in told) == (1, True, verb == "add"), told


def test_a_job_that_could_not_start_and_a_cluster_that_does_not_answer_are_told(board: Dashboard) -> None:
    board.runs = lambda _job_id: {"status": "FAILED", "message": "no space left"}
    code, told = asked(board, "status", "x-1")
    assert (code, told.partition(": ")[2]) == (1, "FAILED: no space left\n")
    board.address = "http://127.0.0.1:1"
    for verb in ("status", "stop"):
        code, told = asked(board, verb, "x-1")
        assert (code, "no Ray dashboard answers" in told) == (2, True)


@pytest.mark.usefixtures("hears_signals")
def test_ctrl_c_stops_the_job(board: Dashboard) -> None:
    def interrupt(method: str, path: str) -> None:
        if method == "GET" and "x-1-add-" in path and ("POST", f"{path}/stop") not in board.asked:
            os.kill(os.getpid(), signal.SIGINT)

    board.answers, board.runs = interrupt, lambda _job_id: {"status": "RUNNING"}
    code, told = asked(board, "add", "x-1", "r=8")
    (job,) = set(board.jobs) - {"x-1"}
    assert (code, NOT_KNOWN in told, ("POST", f"/api/jobs/{job}/stop") in board.asked) == (130, True, True), told


@pytest.mark.parametrize(
    ("status", "stopped", "code", "said", "jobs"),
    [
        ("RUNNING", None, 0, "stopping: trials are saved at their next step; after 900 s Ray ends what is left", 0),
        ("RUNNING", (502, "<html>"), 1, NOT_KNOWN, 0),
        ("RUNNING", (200, {"stopped": False}), 2, "refused: the sweep is not running", 1),
        ("SUCCEEDED", None, 2, "refused: the sweep is not running", 1),
    ],
)
def test_a_sweep_whose_job_runs_is_stopped_by_ray_and_any_other_is_asked_where_its_folder_is(
    board: Dashboard, status: str, stopped: Answer, code: int, said: str, jobs: int
) -> None:
    board.knows("x-1", status)
    board.prints("refused: the sweep is not running\n", 2)
    board.answers = lambda _method, path: stopped if path.endswith("x-1/stop") else None
    done = CliRunner().invoke(app, ["stop", "x-1", "--address", board.address, "--json"])
    assert (done.exit_code, said in done.stderr, len(board.submitted)) == (code, True, jobs), done.stderr
    assert code == 1 or json.loads(done.stdout) == {"submission_id": "x-1", "accepted": code == 0, "message": said}
    assert jobs == 0 or board.words()[1:] == ["stop", "x-1", "--storage", "results", "--json"]


def test_a_submitted_sweep_is_watched_until_it_has_ended(board: Dashboard) -> None:
    """Only the time that passes is no news."""
    views = iter([("RUNNING", 1, 1.0), ("RUNNING", 1, 2.0), ("RUNNING", 2, 3.0), ("FINISHED", 2, 4.0)])

    def run(job_id: str) -> dict[str, object]:
        state, trials, seconds = next(views)
        closing = json.dumps({"dir": "r", "state": state, "trials": trials, "seconds": seconds})
        board.logs[job_id] = f"after {seconds}\n{closing}\n"
        return {"status": "SUCCEEDED", "driver_exit_code": 0}

    board.runs = run
    assert asked(board, "status", "x-1", "--watch") == (0, "after 1.0\nafter 3.0\nafter 4.0\n")


def test_a_connection_that_is_lost_while_one_watches_is_no_mistake(board: Dashboard) -> None:
    board.prints('x-1: running\n{"dir": "r", "state": "RUNNING"}\n')
    board.answers = lambda _method, path: LOST if board.submitted and path == "/api/jobs/x-1" else None
    code, said = asked(board, "status", "x-1", "--watch")
    assert (code, "the sweep may go on" in said) == (1, True), said


def test_a_sweep_that_has_no_folder_yet_is_waited_for(board: Dashboard) -> None:
    """Its job has begun, and reads the sweep file."""
    waits = "x-1: waits for its job, which is RUNNING and has not made the sweep's folder yet\n"
    board.prints(MISSING, 2)
    for named, code in (((), 0), (("t01",), 2)):
        assert asked(board, "compare", "x-1", *named) == (code, waits)
    done = CliRunner().invoke(app, ["status", "x-1", "--address", board.address, "--json"])
    closing: dict[str, object] = {"sweep": "x-1", "dir": None, "state": "RUNNING", "trials": 0, "states": {}}
    assert json.loads(done.stdout) == {**closing, "waits_for": waits.strip().partition("waits for ")[2]}
    left, missing = iter([True]), board.runs

    def run(job_id: str) -> dict[str, object]:
        if not next(left, False):
            board.jobs["x-1"]["status"] = "FAILED"
        return missing(job_id)

    board.runs = run
    told = asked(board, "status", "x-1", "--watch")
    assert told == (2, f"{waits}{MISSING}"), "until its job has ended, with no folder"
    board.runs = missing
    board.knows("again", "RUNNING", "resume", sweep="nowhere")
    assert asked(board, "status", "again") == (2, MISSING), "a sweep that is resumed must have one"
