"""`qsweep resume SWEEP --address URL` on the laptop: what it refuses, and which job it submits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_dashboards import Dashboard, dashboard
from sweep_files import QLORA, write_rows
from typer.testing import CliRunner

from sweeps.cli import app


@pytest.fixture(autouse=True)
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder, a cache, and a current folder with s.yaml elsewhere."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work" / "results" / "toy").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "work")
    write_rows(Path.cwd())
    Path("s.yaml").write_text(QLORA)


@pytest.fixture
def board() -> Iterator[Dashboard]:
    with dashboard() as started:
        yield started


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["resume", *words])
    return result.exit_code, result.stderr


def done(board: Dashboard, *words: str) -> str:
    """What a command says that submits a job; then the cluster has forgotten all its jobs."""
    result = CliRunner().invoke(app, [*words, "--address", board.address, "--detach"])
    assert result.exit_code == 0, result.output
    board.jobs.clear()
    return result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["results/toy"], "results/toy: is a path of this machine"),
        (["./toy"], "is a path of this machine"),
        (["HOME/results/toy"], "'~/results/NAME', in quotes"),  # as the shell finds it
        (["s3://B"], "must be s3://BUCKET/PREFIX"),
        (["toy", "--tracking-uri", "http://me:secret@mlflow"], "--tracking-uri: holds a password"),
        (["toy", "--take-over"], "--take-over: needs a mirror, s3://BUCKET/PREFIX/NAME, and not toy; leave it out"),
        (["toy", "--promote"], "--promote: not with --address"),
    ],
)
def test_what_cannot_go_on_there_is_refused(board: Dashboard, words: list[str], said: str) -> None:
    code, told = run(words[0].replace("HOME", str(Path.home())), *words[1:], "--address", board.address)
    assert (code, said in told, "secret" in told, board.submitted) == (2, True, False, []), told


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
    for sweep in ("x-1", "again"):
        board.knows("x-1", "STOPPED", storage="shared")
        board.knows("again", "STOPPED", "resume", sweep="x-1", storage="shared")
        done(board, "resume", sweep)
        job_id = board.submitted[-1]["submission_id"]
        assert job_id.startswith(f"{sweep}-resumed-")
        assert board.words() == [job_id, "resume", "x-1", "--storage", "shared", "--json"]
        of = {"qsweep": "resume", "sweep": "x-1", "storage": "shared", "trainable": ""}
        assert board.submitted[-1]["metadata"] == of
    board.knows("x-1", "STOPPED", storage="shared")
    done(board, "resume", "x-1", "--storage", "/mnt/x")
    assert board.words()[3:5] == ["--storage", "/mnt/x"], "what is given wins"
    assert not [name for name in board.brought(0) if name.startswith("submitted/")]
    assert "sweeps/cli/resume.py" in board.brought(0)


@pytest.mark.parametrize("sweep", ["toy", "s3://bucket/p/toy", "~/results/toy", "/mnt/shared/toy"])
def test_a_sweep_that_ray_knows_nothing_of_is_looked_for_by_the_head_node(board: Dashboard, sweep: str) -> None:
    options = ("--tracking-uri", "http://mlflow:5000", "--resend")
    done(board, "resume", sweep, *options, "--submission-id", "mine")
    assert board.words() == ["mine", "resume", sweep, "--storage", "results", *options, "--json"]


def test_the_head_node_is_told_to_take_a_mirror_over(board: Dashboard) -> None:
    done(board, "resume", "s3://bucket/p/toy", "--take-over")
    assert board.words()[2:] == ["s3://bucket/p/toy", "--storage", "results", "--take-over", "--json"]


def test_a_trainable_of_ones_own_travels_again(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ours").mkdir()
    Path("ours/toy.py").write_text("")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    board.knows("x-1", "STOPPED", trainable="ours.toy")
    done(board, "resume", "x-1")
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


def sent(board: Dashboard) -> list[dict[str, bytes]]:
    """Of each job, path -> content of the files that travelled with it, but for the code."""
    brought = [board.brought(number) for number in range(len(board.submitted))]
    return [{name: text for name, text in each.items() if name.startswith("submitted/")} for each in brought]


SUBMIT = ("submit", "s.yaml", "--submission-id", "x-1")


def test_whether_to_start_without_mlflow_travels_with_the_sweep(board: Dashboard) -> None:
    """The address is one of the cluster's: it is looked at there."""
    for offline in ([], ["--offline"]):
        done(board, *SUBMIT, "tracking.uri=http://127.0.0.1:1", *offline)
        assert board.words()[3:] == [*offline, "--json"]


def test_the_same_files_travel_again_with_a_sweep_that_is_named_by_its_id_or_mirror(board: Dashboard) -> None:
    done(board, *SUBMIT, "storage=s3://bucket/p")
    for sweep in ("x-1", "s3://bucket/p/x/"):
        assert "sent with x-1, travel again, for nodes that lack them" in done(board, "resume", sweep)
    first, *again = sent(board)
    assert again == [first, first]
    assert len(first) > 1


def test_files_that_have_changed_or_are_gone_are_not_sent_and_it_is_said(board: Dashboard) -> None:
    done(board, *SUBMIT)
    rows = Path.cwd() / "rows.jsonl"
    content = rows.read_bytes()
    rows.write_bytes(content + content)
    assert "not sent again: they have changed here since" in done(board, "resume", "x-1")
    rows.unlink()
    assert f"not sent again: {rows} cannot be read: No such file" in done(board, "resume", "x-1")
    rows.write_bytes(content)
    done(board, "resume", "x-1")
    first, *others = sent(board)
    assert others == [{}, {}, first]


def test_a_sweep_that_sent_none_says_so(board: Dashboard, tmp_path: Path) -> None:
    done(board, "submit", "toy", "--submission-id", "toy-1")
    assert not (tmp_path / "cache" / "sent").exists()
    told = done(board, "resume", "toy-1")
    assert "no files travel: this machine has sent none with toy-1; a data file" in told
    assert "if they were sent from here, name the sweep by its id" in told
    assert sent(board)[1:] == [{}]
