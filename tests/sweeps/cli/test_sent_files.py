"""What was sent with a submitted sweep is sent again when it is resumed, as long as it is the same."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from sweep_files import QLORA, write_rows
from typer.testing import CliRunner

from cluster.errors import ConnectionFailed, SubmissionFailed
from cluster.submission.jobs import Job, Seen
from sweeps.cli import app

HEAD = "http://head:8265"


class Cluster:
    """A cluster that has forgotten all its jobs; it keeps what it was sent."""

    address, version = HEAD, "2.60.0"

    def __init__(self) -> None:
        self.sent: list[dict[str, bytes]] = []
        """Of each job, path -> content of the files that travelled with it, but for the code."""
        self.words: list[tuple[str, ...]] = []
        """Of each job, its command."""
        self.error: Exception | None = None

    def look_up(self, _job_id: str) -> Seen | None:
        return None

    def submit(self, job: Job, archive: Path) -> bool:
        if self.error is not None:
            raise self.error
        self.words.append(job.words)
        package = zipfile.ZipFile(archive)
        self.sent.append({name: package.read(name) for name in package.namelist() if name.startswith("submitted/")})
        return True


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setenv("QSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("cluster.submission.connect", lambda _address: found)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write_rows(Path.cwd())
    Path("s.yaml").write_text(QLORA)
    return found


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*words, "--address", HEAD, "--detach"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


def submit(*words: str) -> None:
    code, told = run("submit", "s.yaml", "--submission-id", "x-1", *words)
    assert code == 0, told


def test_whether_to_start_without_mlflow_travels_with_the_sweep(cluster: Cluster) -> None:
    """The address is one of the cluster's: it is looked at there."""
    submit("tracking.uri=http://127.0.0.1:1")
    submit("tracking.uri=http://127.0.0.1:1", "--offline")
    assert [words[2:] for words in cluster.words] == [("--json",), ("--offline", "--json")]


NAME = "x" if "name: x" in QLORA else QLORA.split("name: ")[1].split()[0]


@pytest.mark.parametrize("sweep", ["x-1", "s3://bucket/p/NAME", "NAME", "~/results/NAME", "/data/results/NAME-2/"])
def test_the_same_files_travel_again(cluster: Cluster, sweep: str) -> None:
    submit("storage=s3://bucket/p")
    code, told = run("resume", sweep.replace("NAME", NAME))
    assert code == 0, told
    assert "travel again, for nodes that lack them" in told
    first, again = cluster.sent
    assert again == first
    assert len(first) > 1


def test_files_that_have_changed_or_are_gone_are_not_sent_and_it_is_said(cluster: Cluster) -> None:
    submit()
    rows = next(path for path in sorted(Path.cwd().rglob("*.jsonl")))
    content = rows.read_bytes()
    rows.write_bytes(content + content)
    _, told = run("resume", "x-1")
    assert "not sent again: they have changed here since" in told
    rows.unlink()
    _, told = run("resume", "x-1")
    assert f"not sent again: {rows} is not here any more" in told
    rows.write_bytes(content)
    run("resume", "x-1")
    assert cluster.sent[1:3] == [{}, {}]
    assert cluster.sent[3] == cluster.sent[0]


def test_a_sweep_that_sent_none_or_was_submitted_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    code, told = run("submit", "toy", "--submission-id", "toy-1")
    assert code == 0, told
    assert not (tmp_path / "cache" / "sent").exists()
    for sweep in ("toy-1", "y-1"):
        assert f"no files travel: this machine has sent none with {sweep}; a data file" in run("resume", sweep)[1]
    assert cluster.sent[1:] == [{}, {}]


def test_a_folder_or_mirror_that_no_note_fits_is_not_said_to_have_sent_none_for_sure(cluster: Cluster) -> None:
    submit("storage=s3://bucket/p")
    for sweep in ("~/results/renamed", f"s3://other/p/{NAME}"):
        assert "if they were sent from here, name the sweep by its id" in run("resume", sweep)[1]
    assert cluster.sent[1:] == [{}, {}]


def test_of_several_sweeps_of_a_name_it_is_said_whose_files_travel(cluster: Cluster) -> None:
    submit()
    rows = next(path for path in sorted(Path.cwd().rglob("*.jsonl")))
    run("submit", "s.yaml", "--submission-id", "x-2")
    assert "may be meant" not in run("resume", f"~/results/{NAME}")[1], "both have sent the same"
    rows.write_bytes(rows.read_bytes() + b"\n")
    code, told = run("submit", "s.yaml", "--submission-id", "x-3")
    assert code == 0, told
    for sweep in (NAME, f"~/results/{NAME}-2"):
        told = run("resume", sweep)[1]
        assert f"3 sweeps that this machine has submitted may be meant by {sweep}" in told
        assert "those of x-3, the last one, are taken; for another, name the sweep by its id" in told
    assert "may be meant" not in run("resume", "x-3")[1]


def test_an_id_that_is_refused_keeps_the_note_of_its_sweep_and_a_lost_answer_leaves_one(cluster: Cluster) -> None:
    submit()
    cluster.error = SubmissionFailed("x-1 is the id of another job")
    assert run("submit", "toy", "--submission-id", "x-1")[0] == 2
    cluster.error = ConnectionFailed("no answer")
    assert run("submit", "s.yaml", "--submission-id", "x-2")[0] == 1
    cluster.error = None
    run("resume", "x-1")
    run("resume", "x-2")
    assert cluster.sent == [cluster.sent[0]] * 3
