"""`qsweep resume SWEEP --address URL` on the laptop: what it refuses, and which job it submits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_dashboards import Dashboard, dashboard
from typer.testing import CliRunner

from sweeps.cli import app


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of the laptop, and a current folder elsewhere."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work" / "results" / "toy").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def board() -> Iterator[Dashboard]:
    with dashboard() as started:
        yield started


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["resume", *words])
    return result.exit_code, result.stderr


def submitted(board: Dashboard, *words: str) -> str:
    """The id of the job of a command that submits one."""
    code, told = run(*words, "--address", board.address, "--detach")
    assert code == 0, told
    return str(board.submitted[-1]["submission_id"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["results/toy"], "results/toy: is a path of this machine"),
        (["./toy"], "is a path of this machine"),
        (["/"], "is a path of this machine"),
        (["s3://B"], "must be s3://BUCKET/PREFIX"),
        (["toy", "--tracking-uri", "http://me:secret@mlflow"], "--tracking-uri: holds a password"),
        (["toy", "--submission-id", "a/b"], "--submission-id: 'a/b'"),
        (["toy", "--promote"], "--promote: not with --address"),
    ],
)
def test_what_cannot_go_on_there_is_refused(board: Dashboard, words: list[str], said: str) -> None:
    code, told = run(*words, "--address", board.address)
    assert (code, said in told, "secret" in told, board.submitted) == (2, True, False, []), told


def test_a_folder_that_the_shell_found_in_this_home_is_refused(board: Dashboard, home: Path) -> None:
    code, told = run(f"{home}/results/toy", "--address", board.address)
    assert (code, "'~/results/NAME', in quotes" in told, board.submitted) == (2, True, []), told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--address", "head:8265"], "http://HOST:8265"),
        (["--detach"], "--detach: needs --address"),
        (["--submission-id", "x"], "--submission-id: needs --address"),
    ],
)
def test_an_address_that_is_none_is_told(words: list[str], said: str) -> None:
    code, told = run("toy", *words)
    assert (code, said in told) == (2, True), told


def test_a_sweep_goes_on_where_its_job_has_put_it(board: Dashboard) -> None:
    board.knows("x-1", "STOPPED", storage="shared")
    board.knows("again", "STOPPED", "resume", sweep="x-1", storage="shared")
    for sweep in ("x-1", "again"):
        job_id = submitted(board, sweep)
        assert job_id.startswith(f"{sweep}-resumed-")
        assert board.words() == [job_id, "resume", "x-1", "--storage", "shared", "--json"]
        metadata = {"qsweep": "resume", "sweep": "x-1", "storage": "shared", "trainable": ""}
        assert board.submitted[-1]["metadata"] == metadata
    submitted(board, "x-1", "--storage", "/mnt/x")
    assert board.words()[3:5] == ["--storage", "/mnt/x"], "what is given wins"
    assert not [name for name in board.brought(0) if name.startswith("submitted/")]
    assert "sweeps/cli/resume.py" in board.brought(0)


@pytest.mark.parametrize("sweep", ["toy", "s3://bucket/p/toy", "~/results/toy", "/mnt/shared/toy"])
def test_a_sweep_that_ray_knows_nothing_of_is_looked_for_by_the_head_node(board: Dashboard, sweep: str) -> None:
    options = ("--tracking-uri", "http://mlflow:5000", "--resend")
    submitted(board, sweep, *options, "--submission-id", "mine")
    assert board.words() == ["mine", "resume", sweep, "--storage", "results", *options, "--json"]


def test_a_trainable_of_ones_own_travels_again(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ours").mkdir()
    Path("ours/toy.py").write_text("")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    board.knows("x-1", "STOPPED", trainable="ours.toy")
    submitted(board, "x-1")
    assert board.submitted[-1]["metadata"]["trainable"] == "ours.toy"
    assert "ours/toy.py" in board.brought()


def test_a_sweep_that_runs_or_is_none_is_refused(board: Dashboard) -> None:
    board.knows("x-1")
    board.knows("x-1-add-3f", "SUCCEEDED", "add")
    code, told = run("x-1", "--address", board.address)
    said = f"has not ended (RUNNING): qsweep status x-1 --address {board.address} shows it"
    assert (code, said in told) == (2, True), told
    code, told = run("x-1-add-3f", "--address", board.address)
    assert (code, "is no sweep" in told, board.submitted) == (2, True, []), told
