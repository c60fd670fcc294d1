"""`qsweep resume SWEEP --address URL` on the laptop: what it refuses, and which job it submits."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import ConnectionFailed, SubmissionFailed
from cluster.submission.jobs import Job, Seen
from sweeps.cli import app

HEAD = "http://head:8265"


class Cluster:
    """The jobs of a cluster of the test's own."""

    address, version = HEAD, "2.60.0"

    def __init__(self, **known: Seen) -> None:
        self.known = known
        self.error: Exception | None = None
        self.jobs: list[Job] = []
        self.sent: list[str] = []
        """The files that travelled."""

    def look_up(self, job_id: str) -> Seen | None:
        return self.known.get(job_id)

    def listed(self) -> dict[str, Seen]:
        return self.known

    def find(self, job_id: str) -> Seen:
        if not self.known[job_id].is_sweep:
            raise SubmissionFailed(f"{job_id}: is no sweep")
        return self.known[job_id]

    def submit(self, job: Job, archive: Path) -> bool:
        if self.error is not None:
            raise self.error
        self.jobs.append(job)
        self.sent = zipfile.ZipFile(archive).namelist()
        return True


def ended(kind: str = "launch", **metadata: str) -> Seen:
    return Seen("STOPPED", None, "", {"qsweep": kind, "storage": "results", **metadata}, None)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of the laptop, and a current folder elsewhere."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work" / "results" / "toy").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setattr("cluster.submission.connect", lambda _address: found)
    return found


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["resume", *words])
    return result.exit_code, result.stderr


def submitted(cluster: Cluster, *words: str) -> Job:
    """The job of a command that submits one."""
    code, told = run(*words, "--address", HEAD, "--detach")
    assert code == 0, told
    return cluster.jobs[-1]


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
def test_what_cannot_go_on_there_is_refused(cluster: Cluster, words: list[str], said: str) -> None:
    code, told = run(*words, "--address", HEAD)
    assert (code, said in told, "secret" in told, cluster.jobs) == (2, True, False, []), told


def test_a_folder_that_the_shell_found_in_this_home_is_refused(cluster: Cluster, home: Path) -> None:
    code, told = run(f"{home}/results/toy", "--address", HEAD)
    assert (code, "'~/results/NAME', in quotes" in told, cluster.jobs) == (2, True, []), told


def test_an_address_that_is_none_is_told() -> None:
    code, told = run("toy", "--address", "head:8265")
    assert (code, HEAD.replace("head", "HOST") in told) == (2, True), told


@pytest.mark.parametrize("words", [["--detach"], ["--submission-id", "x"]])
def test_an_option_of_jobs_needs_the_address(words: list[str]) -> None:
    code, told = run("toy", *words)
    assert (code, f"{words[0]}: needs --address" in told) == (2, True), told


def test_a_sweep_goes_on_where_its_job_has_put_it(cluster: Cluster) -> None:
    cluster.known = {"x-1": ended(storage="shared"), "again": ended("resume", sweep="x-1", storage="shared")}
    words = ("resume", "x-1", "--storage", "shared", "--json")
    for sweep in ("x-1", "again"):
        job = submitted(cluster, sweep)
        assert job.words == words
        assert job.metadata == {"sweep": "x-1", "storage": "shared", "trainable": ""}
        assert job.job_id == job.sweep_id
        assert job.job_id.startswith(f"{sweep}-resumed-")
    assert submitted(cluster, "x-1", "--storage", "/mnt/x").words[3] == "/mnt/x", "what is given wins"
    assert not [name for name in cluster.sent if name.startswith("submitted/")]
    assert "sweeps/cli/resume.py" in cluster.sent


@pytest.mark.parametrize("sweep", ["toy", "s3://bucket/p/toy", "~/results/toy", "/mnt/shared/toy"])
def test_a_sweep_that_ray_knows_nothing_of_is_looked_for_by_the_head_node(cluster: Cluster, sweep: str) -> None:
    job = submitted(cluster, sweep, "--tracking-uri", "http://mlflow:5000", "--resend", "--submission-id", "mine")
    tracking = ("--tracking-uri", "http://mlflow:5000", "--resend")
    assert job.words == ("resume", sweep, "--storage", "results", *tracking, "--json")
    assert job.job_id == "mine"


def test_a_trainable_of_ones_own_travels_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ours").mkdir()
    Path("ours/toy.py").write_text("")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    cluster.known = {"x-1": ended(trainable="ours.toy")}
    assert submitted(cluster, "x-1").metadata["trainable"] == "ours.toy"
    assert "ours/toy.py" in cluster.sent


def test_a_sweep_that_runs_or_is_none_is_refused(cluster: Cluster) -> None:
    cluster.known = {
        "x-1": Seen("RUNNING", None, "", {"qsweep": "launch"}, None),
        "x-1-add-3f": Seen("SUCCEEDED", 0, "", {"qsweep": "add"}, None),
    }
    code, told = run("x-1", "--address", HEAD)
    assert (code, f"has not ended (RUNNING): qsweep status x-1 --address {HEAD} shows it" in told) == (2, True), told
    code, told = run("x-1-add-3f", "--address", HEAD)
    assert (code, "is no sweep" in told, cluster.jobs) == (2, True, []), told


def test_a_sweep_that_another_job_runs_is_refused(cluster: Cluster) -> None:
    second = Seen("RUNNING", None, "", {"qsweep": "resume", "sweep": "x-1"}, None)
    cluster.known = {"x-1": ended(), "again": ended("resume", sweep="x-1"), "second": second}
    for sweep in ("x-1", "again"):
        code, told = run(sweep, "--address", HEAD, "--submission-id", "third", "--detach")
        assert (code, cluster.jobs) == (2, []), told
        assert f"the job second runs it: qsweep status second --address {HEAD} shows it" in told
    assert submitted(cluster, "x-1", "--submission-id", "second"), "the cluster says that it has this job already"


def test_a_job_that_may_have_been_submitted_is_not_said_not_to_be(cluster: Cluster) -> None:
    cluster.error = ConnectionFailed("http://head: no Ray dashboard answers there")
    code, told = run("toy", "--address", HEAD, "--submission-id", "mine")
    assert (code, "the same command with --submission-id mine is safe" in told) == (1, True), told


def test_a_bucket_may_give_a_sweep_any_name(cluster: Cluster) -> None:
    assert submitted(cluster, "s3://bucket/p/a!(b)'c/").job_id.startswith("a--b--c-resumed-")
