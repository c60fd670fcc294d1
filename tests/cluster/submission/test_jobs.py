"""The cluster's answers, from a server of the test's own: what is said of each, and what happens when one is lost."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConnectionFailed, ServiceFailed, SubmissionFailed
from cluster.submission.following import Printed, exit_code, follow, give_up, wait
from cluster.submission.jobs import RETRY_SECONDS, Job, Jobs, Seen, driving

JOB = Job("x-1", "x-1", ("launch", "submitted:abc", "--json"), {"content": "abc"})
PACKAGE = "gcs://_ray_pkg_abc.zip"
Answer = tuple[int, Any]


class Dashboard:
    """Answers as `answer` says; keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.answers: Callable[[str, str], Answer | None] = lambda _method, _path: None
        self.loses_answers = 0

    def reply(self, method: str, path: str, body: Any) -> Answer | None:
        """None for an answer that is lost."""
        self.asked.append((method, path))
        given = self.answers(method, path)
        if given is not None:
            return given
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "x"}
        if method == "POST" and path == "/api/jobs/":
            if body["submission_id"] in self.jobs:
                return 500, "Traceback ...\nValueError: Job with submission_id x-1 already exists."
            self.jobs[body["submission_id"]] = {**body, "status": "RUNNING", "type": "SUBMISSION"}
            self.loses_answers -= 1
            return (
                None
                if self.loses_answers >= 0
                else (200, dict.fromkeys(("job_id", "submission_id"), body["submission_id"]))
            )
        if (method, path) == ("GET", "/api/jobs/"):
            drivers = [{"submission_id": None, "job_id": "01000000", "status": "RUNNING", "type": "DRIVER"}]
            return 200, [*drivers, *({"submission_id": key, **job} for key, job in self.jobs.items())]
        job = self.jobs.get(path.split("/")[3])
        return (200, job) if job is not None else (404, "no such job")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.submission.jobs.BACKOFF_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def dashboard() -> Iterator[tuple[Dashboard, str]]:
    board = Dashboard()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(length)
            body = json.loads(sent) if sent.startswith(b"{") else None
            answer = board.reply(self.command, self.path, body)
            if answer is None:
                self.close_connection = True
                return
            content = json.dumps(answer[1]).encode() if not isinstance(answer[1], str) else answer[1].encode()
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - as the server calls them

        def log_message(self, *_arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield board, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_job_brings_its_package_and_its_time_to_stop(dashboard: tuple[Dashboard, str]) -> None:
    board, address = dashboard
    assert Jobs(address).submit(JOB, PACKAGE) is True
    job = board.jobs["x-1"]
    assert job["metadata"] == {"qsweep": "launch", "content": "abc"}
    assert job["runtime_env"]["working_dir"] == PACKAGE
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "900"}
    assert "entrypoint_num_cpus" not in job, "a driver with CPUs of its own may leave the head node"
    assert "-m cluster.submission.on_node x-1 launch submitted:abc --json" in job["entrypoint"]


@pytest.mark.parametrize(
    ("pythons", "code", "said"),
    [
        ({}, 2, "no python with Ray in PATH"),
        ({"python": "exit 1"}, 2, "no python with Ray in PATH"),
        # The first without Ray, the second with it: asked for Ray by -c, and then run.
        ({"python": "exit 1", "python3": '[ "$1" = -c ] || { echo "$@"; exit 7; }'}, 7, "-P -m cluster.submission"),
    ],
)
def test_the_head_node_runs_the_python_that_has_ray(
    tmp_path: Path, pythons: dict[str, str], code: int, said: str
) -> None:
    for name, script in pythons.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", JOB.entrypoint], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done


def test_a_lost_answer_starts_no_second_job(dashboard: tuple[Dashboard, str]) -> None:
    board, address = dashboard
    board.loses_answers = 1
    assert Jobs(address).submit(JOB, PACKAGE) is False
    assert len(board.jobs) == 1
    assert Jobs(address).submit(JOB, PACKAGE) is False


def test_a_request_that_was_lost_is_sent_again(dashboard: tuple[Dashboard, str]) -> None:
    board, address = dashboard
    jobs, lost = Jobs(address), iter([(500, "No available agent to submit job, please try again later.")])
    board.answers = lambda method, _path: next(lost, None) if method == "POST" else None
    pauses: list[float] = []
    assert jobs.submit(JOB, PACKAGE, pauses.append) is True, "no job of this id was there before"
    assert list(board.jobs) == ["x-1"]
    assert pauses == [RETRY_SECONDS]


@pytest.mark.parametrize(
    ("said", "asked"), [("No available agent to submit job, please try again later.", 30), ("broken", 2)]
)
def test_a_head_node_that_takes_no_job_is_asked_three_times_and_one_that_starts_for_a_minute(
    dashboard: tuple[Dashboard, str], said: str, asked: int
) -> None:
    board, address = dashboard
    jobs = Jobs(address)
    board.answers = lambda method, _path: (500, said) if method == "POST" else None
    pauses: list[float] = []
    with pytest.raises(SubmissionFailed, match=said):
        jobs.submit(JOB, PACKAGE, pauses.append, clock=lambda: sum(pauses))
    assert pauses == [RETRY_SECONDS] * asked
    refusals = iter([(500, said)] * asked)
    board.answers = lambda method, _path: next(refusals, None) if method == "POST" else None
    assert jobs.submit(JOB, PACKAGE, lambda _seconds: None) is True


def test_an_answer_that_says_nothing_leaves_it_open_whether_the_job_was_submitted(
    dashboard: tuple[Dashboard, str],
) -> None:
    """As of a proxy before a head node that went away."""
    board, address = dashboard
    jobs = Jobs(address)
    board.answers = lambda _method, _path: (502, "Bad Gateway")
    with pytest.raises(ConnectionFailed, match="502"):
        jobs.submit(JOB, PACKAGE)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_request_that_a_proxy_answered_is_sent_again(dashboard: tuple[Dashboard, str], status: int) -> None:
    board, address = dashboard
    jobs, page = Jobs(address), "<html><title>no upstream</title></html>"
    board.jobs["x-1"] = {"status": "RUNNING", "metadata": {"qsweep": "launch"}, "driver_node_id": "abc"}
    lost = iter([(status, page)] * 3)
    board.answers = lambda _method, _path: next(lost, None)
    assert jobs.find("x-1").node == "abc"
    board.answers = lambda _method, _path: (status, page)
    board.asked.clear()
    with pytest.raises(ServiceFailed, match=rf"{address}: answers with HTTP {status}: \w+ \w+") as told:
        jobs.stop("x-1")
    assert "html" not in str(told.value)
    assert board.asked == [("POST", "/api/jobs/x-1/stop")] * 4


def test_a_head_node_that_fails_itself_is_not_asked_again(dashboard: tuple[Dashboard, str]) -> None:
    board, address = dashboard
    jobs = Jobs(address)
    board.asked.clear()
    board.answers = lambda _method, _path: (500, "Traceback ...\nTimeoutError: no agent")
    with pytest.raises(ServiceFailed, match="HTTP 500: TimeoutError: no agent"):
        jobs.find("x-1")
    assert len(board.asked) == 1


def test_a_package_goes_by_itself(dashboard: tuple[Dashboard, str]) -> None:
    """Ray removes one some minutes after it was asked whether it is there."""
    board, address = dashboard
    jobs, path = Jobs(address), "/api/packages/gcs/qsweep-1.zip"
    board.asked.clear()
    board.answers = lambda method, _path: (404, "no such package") if method == "GET" else (200, "")
    jobs.put("qsweep-1.zip", b"request")
    assert board.asked == [("GET", path), ("PUT", path)]


def test_files_of_a_nodes_log_folder_are_read(dashboard: tuple[Dashboard, str]) -> None:
    board, address = dashboard
    jobs = Jobs(address)
    kinds = {"internal": ["qsweep/1/listening"], "agent": ["qsweep/1/agent.json"]}
    board.answers = lambda _method, _path: (200, {"result": True, "msg": "", "data": {"result": kinds}})
    assert jobs.files("abc", "qsweep/1") == {"listening", "agent.json"}
    assert board.asked[-1][1] == "/api/v0/logs?node_id=abc&glob=qsweep%2F1%2F%2A"
    board.answers = lambda _method, _path: (200, '{"state": "é"}')
    assert jobs.file("abc", "qsweep/1/agent.json") == '{"state": "é"}'


def test_the_id_of_another_job_is_refused(dashboard: tuple[Dashboard, str]) -> None:
    _, address = dashboard
    jobs = Jobs(address)
    jobs.submit(JOB, PACKAGE)
    with pytest.raises(SubmissionFailed, match=r"x-1 is the id of another job.*new one"):
        jobs.submit(Job("x-1", "x-1", ("launch",), {"content": "other"}), PACKAGE)


def test_ray_address_does_not_lead_elsewhere(dashboard: tuple[Dashboard, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert Jobs(dashboard[1]).version == "2.60.0"


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (401, "Unauthorized: Missing authentication token", "got none (401)"),
        (403, "Forbidden: Invalid authentication token", "does not accept this token (403)"),
        (404, "not here", "404"),
        (200, "<html>another server</html>", "no Ray dashboard answers"),
    ],
)
def test_a_server_that_lets_nobody_in_is_told(
    dashboard: tuple[Dashboard, str], status: int, text: str, said: str
) -> None:
    board, address = dashboard
    board.answers = lambda _method, _path: (status, text)
    with pytest.raises((ConnectionFailed, SubmissionFailed)) as told:
        Jobs(address)
    assert said in str(told.value)
    assert address in str(told.value)


def test_nobody_at_the_address_is_told() -> None:
    with pytest.raises(ConnectionFailed, match=r"no Ray dashboard answers there \(Connection refused\)"):
        Jobs("http://127.0.0.1:1")


def test_only_a_sweep_is_found(dashboard: tuple[Dashboard, str]) -> None:
    board, address = dashboard
    jobs = Jobs(address)
    with pytest.raises(SubmissionFailed, match="knows no job"):
        jobs.find("x-1")
    board.jobs["x-1"] = {"status": "RUNNING", "metadata": {}}
    with pytest.raises(SubmissionFailed, match="is no sweep"):
        jobs.find("x-1")
    board.jobs["x-1"] = {"status": "STOPPED", "metadata": {"qsweep": "launch"}, "runtime_env": {"working_dir": "p"}}
    assert jobs.find("x-1") == Seen("STOPPED", None, "", {"qsweep": "launch"}, "p")


def test_the_job_that_runs_a_resumed_sweep_is_found(dashboard: tuple[Dashboard, str]) -> None:
    board, address = dashboard
    jobs = Jobs(address)
    board.jobs = {
        "x-1": {"status": "STOPPED", "metadata": {"qsweep": "launch"}},
        "first": {"status": "FAILED", "metadata": {"qsweep": "resume", "sweep": "x-1"}},
        "x-1-status-3f": {"status": "RUNNING", "metadata": {"qsweep": "status", "of": "x-1", "sweep": "x-1"}},
        "other": {"status": "RUNNING", "metadata": {"qsweep": "resume", "sweep": "y-1"}},
        "named": {"status": "RUNNING", "metadata": {"qsweep": "resume", "sweep": "y"}},
        "another": {"status": "RUNNING"},
    }
    for job in ("x-1", "first"):
        assert driving(jobs, job, jobs.find(job)) is None
    board.jobs["second"] = {"status": "PENDING", "metadata": {"qsweep": "resume", "sweep": "x-1"}}
    for job in ("x-1", "first"):
        assert driving(jobs, job, jobs.find(job)) == "second"
    by_name = Seen("STOPPED", None, "", {"qsweep": "resume", "sweep": "y"}, None)
    assert driving(jobs, "again", by_name) is None, "the newest sweep of this name may be another one by now"
    board.answers = lambda _method, _path: (500, "no")
    assert driving(jobs, "x-1", by_name) is None, "it is not known"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 130, 130), ("FAILED", -9, 137), ("STOPPED", None, 143),
     ("FAILED", None, 1)],
)  # fmt: skip
def test_the_exit_code_is_the_sweeps(status: str, code: int | None, expected: int) -> None:
    assert exit_code(Seen(status, code, "", {}, None)) == expected


class Stream:
    """Jobs whose output comes in pieces, over connections that break."""

    address = "http://head"

    def __init__(self, connections: list[list[str | Exception]], seen: list[Seen | None]) -> None:
        self.connections, self.seen = connections, seen
        self.removed: list[str] = []

    async def tail(self, _job_id: str) -> Any:
        for piece in self.connections.pop(0):
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def look_up(self, _job_id: str) -> Seen | None:
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

    def logs(self, _job_id: str) -> str:
        return 'a\n{"dir": "r"}\n'

    def delete(self, job_id: str) -> None:
        self.removed.append(job_id)

    stop = delete


RUNNING, ENDED = (Seen(status, 0, "", {}, None) for status in ("RUNNING", "SUCCEEDED"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE_SECONDS", "TURN_SECONDS"):
        monkeypatch.setattr(f"cluster.submission.following.{name}", 0.0)


@pytest.mark.usefixtures("quick")
def test_what_was_printed_is_said_once_however_often_the_connection_breaks() -> None:
    stream = Stream(
        [["Running entrypoint for job x\none\ntw", OSError("gone")], ["Running entrypoint for job x\none\ntwo\nth"],
         ["Running entrypoint for job x\no", "ne\ntwo\nthree\n{\"loss\": 0.5}\n", '{"dir": "r", "best": 1}\n',
          "{not json}"]],
        [RUNNING, ENDED],
    )  # fmt: skip
    lines: list[str] = []
    notices: list[str] = []
    printed = Printed(lines.append)
    assert follow(stream, "x", printed, notices.append) == ENDED  # type: ignore[arg-type]
    assert lines == ["one", "two", "three", '{"loss": 0.5}', "{not json}"], "JSON of a trainable is a line as any other"
    assert printed.closing == {"dir": "r", "best": 1}
    assert len(notices) == 1


@pytest.mark.usefixtures("quick")
def test_a_cluster_that_stays_away_is_given_up() -> None:
    times = iter([0.0, 200.0, 301.0])
    stream = Stream([[OSError("gone")]] * 3, [RUNNING])
    with pytest.raises(ConnectionFailed, match="no answer for 300 s: gone; the job may go on"):
        follow(stream, "x", Printed(print), print, lambda: next(times))  # type: ignore[arg-type]


@pytest.mark.usefixtures("quick")
def test_a_job_that_the_cluster_forgot_is_told() -> None:
    with pytest.raises(SubmissionFailed, match="does not know this job any more"):
        follow(Stream([["one\n"]], [None]), "x", Printed(print), print)  # type: ignore[arg-type]


@pytest.mark.usefixtures("quick")
def test_a_short_job_leaves_no_trace_in_the_clusters_list() -> None:
    stream, lines = Stream([], [RUNNING, ENDED]), list[str]()
    printed = Printed(lines.append)
    assert wait(stream, "x", printed) == ENDED  # type: ignore[arg-type]
    assert (lines, printed.closing, stream.removed) == (["a"], {"dir": "r"}, ["x"])
    late = Stream([], [RUNNING])
    times = iter([0.0, 60.0, 121.0])
    with pytest.raises(ConnectionFailed, match="no answer within 120 s"):
        wait(late, "x", printed, lambda: next(times))  # type: ignore[arg-type]


@pytest.mark.usefixtures("quick")
def test_a_job_that_is_given_up_is_stopped_and_removed() -> None:
    stream = Stream([], [RUNNING, RUNNING, ENDED])
    assert give_up(stream, "x")  # type: ignore[arg-type]
    assert stream.removed == ["x", "x"], "stopped, and removed once it had ended"
    never = Stream([], [RUNNING])
    assert not give_up(never, "x")  # type: ignore[arg-type]
    assert never.removed == ["x"]
    gone = Stream([], [RUNNING, None])
    assert give_up(gone, "x")  # type: ignore[arg-type]
    assert gone.removed == ["x"], "somebody else has removed it"
