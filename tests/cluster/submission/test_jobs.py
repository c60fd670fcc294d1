"""The cluster's answers, from a server of the test's own: what is said of each, and what happens when one is lost."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from ray_dashboards import LOST, Dashboard, dashboard

from cluster.errors import ConnectionFailed, ServiceFailed, SubmissionFailed
from cluster.submission.following import follow, put_away
from cluster.submission.jobs import Job, JobState, check_address, check_id, connect
from cluster.timeouts import AGENT_AGAIN_SECONDS

JOB = Job("x-1", ("launch", "submitted:abc", "--json"), {"content": "abc"})
PACKAGE = "gcs://_ray_pkg_abc.zip"
NO_AGENT = "No available agent to submit job, please try again later."


@pytest.fixture
def board() -> Iterator[Dashboard]:
    with dashboard() as started:
        yield started


def test_a_job_brings_its_package_and_its_time_to_stop(board):
    jobs = connect(f"{board.address}/")
    assert jobs.submit(JOB, {"a.py": b"x"}) is True
    (job,) = board.submitted
    assert job["metadata"] == {"qsweep": "launch", "content": "abc"}
    assert board.brought() == {"a.py": b"x"}
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "900"}
    assert "entrypoint_num_cpus" not in job, "a driver with CPUs of its own may leave the head node"
    assert board.words() == ["x-1", "launch", "submitted:abc", "--json"]
    jobs.submit(Job("x-1-add", ("add", "a b")), PACKAGE)
    assert board.submitted[-1]["runtime_env"]["working_dir"] == PACKAGE
    assert board.words() == ["x-1-add", "add", "a b"]


@pytest.mark.parametrize(
    ("pythons", "code", "said"),
    [
        ({}, 2, "no python with Ray in PATH"),
        ({"python": "exit 1"}, 2, "no python with Ray in PATH"),
        # The first without Ray, the second with it: asked for Ray by -c, and then run.
        ({"python": "exit 1", "python3": '[ "$1" = -c ] || { echo "$@"; exit 7; }'}, 7, "-P -m cluster.submission"),
    ],
)
def test_the_head_node_runs_the_python_that_has_ray(tmp_path, pythons, code, said):
    for name, script in pythons.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", JOB.entrypoint], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done


def test_a_lost_answer_starts_no_second_job_and_the_id_of_another_job_is_refused(board):
    board.loses_answers = 1
    jobs = connect(board.address)
    assert [jobs.submit(JOB, PACKAGE) for _ in range(2)] == [False, False]
    assert len(board.submitted) == 1
    with pytest.raises(SubmissionFailed, match=r"x-1 is the id of another job.*new one"):
        jobs.submit(Job("x-1", ("launch",), {"content": "other"}), PACKAGE)


@pytest.mark.parametrize(
    ("refusals", "error", "pauses"),
    [
        ([(500, NO_AGENT)] * 2, None, 2),
        (itertools.repeat((500, NO_AGENT)), SubmissionFailed, 30),
        (itertools.repeat((500, "broken")), SubmissionFailed, 0),
        (itertools.repeat(LOST), ConnectionFailed, 0),
    ],
)
def test_a_head_node_that_starts_is_waited_for_a_minute_and_no_other(board, refusals, error, pauses):
    jobs, left, paused = connect(board.address), iter(refusals), list[float]()
    board.answers = lambda method, _path: next(left, None) if method == "POST" else None
    with nullcontext() if error is None else pytest.raises(error) as told:
        jobs.submit(JOB, PACKAGE, paused.append, lambda: sum(paused))
    assert told is None or told.type is error, "a head node that answers says that it has no such job"
    assert paused == [AGENT_AGAIN_SECONDS] * pauses


@pytest.mark.parametrize(
    ("status", "text", "error", "said"),
    [
        (401, "Unauthorized: Missing authentication token", ConnectionFailed, r"got none \(401\)"),
        (403, "Forbidden: Invalid authentication token", ConnectionFailed, r"does not accept this token \(403\)"),
        (404, "not here", (ConnectionFailed, SubmissionFailed), "404"),
        (200, "<html>another server</html>", ConnectionFailed, "no Ray dashboard answers"),
        (502, "<html>no upstream</html>", ServiceFailed, "answers with HTTP 502: Bad Gateway; try again"),
        (500, "Traceback ...\nTimeoutError: no agent", ServiceFailed, "HTTP 500: TimeoutError: no agent"),
    ],
)
def test_a_server_that_lets_nobody_in_or_fails_is_told(board, status, text, error, said):
    board.answers = lambda _method, _path: (status, text)
    with pytest.raises(error, match=f"{board.address}: .*{said}") as told:
        connect(board.address)
    assert "html" not in str(told.value)


def test_ray_address_does_not_lead_elsewhere(board, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert connect(board.address).other_version is None
    board.answers = lambda _method, _path: (200, {"version": "4", "ray_version": "2.99.1", "ray_commit": "x"})
    assert connect(board.address).other_version == "2.99.1"


def test_only_a_sweep_is_found(board):
    jobs = connect(board.address)
    with pytest.raises(SubmissionFailed, match="knows no job"):
        jobs.find("x-1")
    board.jobs["x-1"] = {"status": "RUNNING", "metadata": {}}
    with pytest.raises(SubmissionFailed, match="is no sweep"):
        jobs.find("x-1")
    board.knows("x-1", "STOPPED")
    metadata = {"qsweep": "launch", "storage": "results"}
    assert jobs.find("x-1") == JobState("x-1", "STOPPED", metadata=metadata, package="gcs://known.zip")


@pytest.mark.parametrize(
    ("status", "code", "expected", "lines"),
    [
        ("SUCCEEDED", 0, 0, []), ("FAILED", 2, 2, []), ("FAILED", -9, 137, []),
        ("STOPPED", None, 143, ["x: STOPPED: why"]), ("FAILED", None, 1, ["x: FAILED: why"]),
    ],
)  # fmt: skip
def test_the_exit_code_is_the_sweeps(status, code, expected, lines):
    state = JobState("x", status, code, "why")
    assert (state.exit_code, state.end_lines) == (expected, lines)


def test_what_was_printed_is_said_once_however_often_the_connection_breaks(board):
    job = board.knows("x")
    begins = "Running entrypoint for job x\none\n"
    ends = f'{begins}two\nthree\n{{"loss": 0.5}}\n{{"dir": "r"}}\n{{not'
    texts = iter(["", f"{begins}tw", f"{begins}two\nthree\n", ends])
    lost = iter([False, True, True, False, False])
    board.answers = lambda _method, path: LOST if path.endswith("logs") and next(lost, False) else None
    jobs, lines, said = connect(board.address), list[str](), list[int]()

    def pause(_seconds: float) -> None:
        said.append(len(lines))
        board.logs["x"] = next(texts)
        job["status"] = "RUNNING" if "{" not in board.logs["x"] else "SUCCEEDED"

    state, closing = follow(jobs, "x", lines.append, pause=pause)
    notice = "the connection is lost; the job goes on; trying to connect again"
    # JSON of a trainable is a line as any other.
    assert lines == [notice, "one", "two", "three", '{"loss": 0.5}', "{not"]
    assert said == [0, 1, 1, 4], "a line that is not whole waits"
    assert (state.status, closing) == ("SUCCEEDED", {"dir": "r"})


def test_a_cluster_that_stays_away_is_given_up_and_a_job_that_it_forgot_is_told(board):
    jobs, times = connect(board.address), itertools.count(0.0, 100.0)
    with pytest.raises(SubmissionFailed, match="does not know this job any more"):
        follow(jobs, "x", print)
    board.answers = lambda _method, _path: LOST
    with pytest.raises(ConnectionFailed, match=r"no answer for 300 s: .* the job may go on"):
        follow(jobs, "x", print, clock=lambda: next(times), pause=lambda _seconds: None)


def test_the_job_that_runs_a_resumed_sweep_is_found(board):
    jobs = connect(board.address)
    board.knows("x-1", "STOPPED")
    board.knows("first", "FAILED", "resume", sweep="x-1")
    board.knows("x-1-status-3f", "RUNNING", "status", of="x-1", sweep="x-1")
    board.knows("other", "RUNNING", "resume", sweep="y-1")
    board.knows("named", "RUNNING", "resume", sweep="y")
    board.jobs["another"] = {"status": "RUNNING"}
    assert [jobs.running_instead(jobs.find(job)) for job in ("x-1", "first")] == [None, None]
    board.knows("second", "PENDING", "resume", sweep="x-1")
    assert [jobs.running_instead(jobs.find(job)) for job in ("x-1", "first")] == ["second", "second"]
    by_name = JobState("again", "STOPPED", metadata={"qsweep": "resume", "sweep": "y"})
    assert jobs.running_instead(by_name) is None, "the newest sweep of this name may be another one by now"
    board.answers = lambda _method, _path: (500, "no")
    assert jobs.running_instead(by_name) is None, "it is not known"


def test_a_short_job_leaves_no_trace_in_the_clusters_list_and_one_that_is_given_up_is_stopped(board):
    jobs, lines = connect(board.address), list[str]()
    board.knows("x", verb="status")
    board.logs["x"] = 'a\n{"dir": "r"}\n'
    times = iter([0.0, 60.0, 121.0])
    with pytest.raises(ConnectionFailed, match="no answer within 120 s"):
        follow(jobs, "x", print, True, lambda: next(times), lambda _seconds: None)
    put_away(jobs, "x")
    assert ("POST", "/api/jobs/x/stop") in board.asked
    _, closing = follow(
        jobs, "x", lines.append, True, pause=lambda _seconds: board.jobs["x"].update(status="SUCCEEDED")
    )
    put_away(jobs, "x")
    assert (closing, lines, board.jobs) == ({"dir": "r"}, ["a"], {})
    put_away(jobs, "x")  # somebody else has removed it
    board.knows("x", "SUCCEEDED", "doctor")
    put_away(jobs, "x")
    assert board.jobs == {}


def test_an_address_is_that_of_a_dashboard_and_an_id_is_a_name():
    assert check_address("https://head.example.com/") == "https://head.example.com"
    for address in (
        "",
        "head:8265",
        "ray://head:10001",
        "http://",
        "http://me:pw@head:8265",
        "http://head:8265/#/jobs",
    ):
        with pytest.raises(SubmissionFailed, match="http://HOST:8265"):
            check_address(address)
    for job_id in ("", "-x", "a b", "a/b", "x" * 129, "a;b"):
        with pytest.raises(SubmissionFailed, match="--submission-id"):
            check_id(job_id)
