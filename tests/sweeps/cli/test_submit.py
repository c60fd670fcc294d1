"""`qsweep submit` on the laptop: what ends it before the cluster is asked, and what it needs there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from sweep_files import QLORA, TOY, write_rows
from typer.testing import CliRunner

from cluster.errors import ConnectionFailed, ServiceFailed, SubmissionFailed
from cluster.submission.following import Printed
from cluster.submission.jobs import Job, Seen
from sweeps.cli import app, submit
from sweeps.steering.remote import RemoteAnswer
from sweeps.steering.stop import Interrupted

NOBODY = "http://127.0.0.1:1"
# What a laptop has that follows docs/submit.md.
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
    result = CliRunner().invoke(app, ["submit", *words])
    return result.exit_code, result.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(TOY)
    return tmp_path


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
    code, told = run(*words)
    assert (code, said in told, "secret" in told) == (2, True, False), told
    assert "note: " not in told, "a mistake is told before the places on the head node"
    assert "--address: " not in told or "http://HOST:8265" in told


def test_a_large_file_is_refused(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(QLORA)
    rows = write_rows(folder)
    with rows.open("a") as file:
        file.write(rows.read_text() * 50_000)
    code, told = run("sweep.yaml", "--address", NOBODY)
    assert (code, "at most 50 MB" in told, "--no-files" in told) == (2, True, True), told


@pytest.mark.parametrize("verb", ["submit", "doctor"])
def test_a_laptop_needs_no_torch(folder: Path, verb: str) -> None:
    """It gets as far as asking the cluster, which does not answer."""
    (folder / "sweep.yaml").write_text(QLORA)
    write_rows(folder)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, verb, "sweep.yaml", "--address", NOBODY],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, "no Ray dashboard answers" in done.stderr) == (2, True), done.stderr
    if verb == "submit":
        assert "rows.jsonl" in done.stderr
        assert "what travels stays on each node" in done.stderr


def test_a_sweep_whose_cluster_is_lost_may_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Exit code 2 would say that nothing was started."""

    def lose(*_arguments: object) -> None:
        raise ConnectionFailed("http://head: no answer for 300 s")

    monkeypatch.setattr("cluster.submission.following.follow", lose)
    with pytest.raises(typer.Exit) as end:
        submit.follow(SimpleNamespace(address="http://head"), "x-1", as_json=False)  # type: ignore[arg-type]
    assert end.value.exit_code == 1
    told = capsys.readouterr().err
    assert "no answer for 300 s" in told
    assert "qsweep logs x-1 --address http://head --follow" in told


class Cluster:
    """The jobs of a cluster of the test's own: each method answers, or raises, what it was given."""

    def __init__(self, **answers: object) -> None:
        self.address, self.version, self.answers = "http://head", "2.60.0", {"listed": {}, **answers}
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        def answer(*_arguments: object) -> object:
            self.asked.append(name)
            given = self.answers.get(name)
            given = given.pop(0) if isinstance(given, list) and len(given) > 1 else given
            given = given[0] if isinstance(given, list) else given
            if isinstance(given, BaseException):
                raise given
            return given

        return answer


RUNNING, STOPPED = (Seen(status, None, "", {}, None) for status in ("RUNNING", "STOPPED"))
SWEEP = Seen("RUNNING", None, "", {"qsweep": "launch", "storage": "results"}, "gcs://package.zip")
LOST = ConnectionFailed("http://head: no Ray dashboard answers there")


def asked(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, *words: str) -> tuple[int, str]:
    monkeypatch.setattr("cluster.submission.connect", lambda _address: cluster)
    monkeypatch.setattr("cluster.submission.following.TURN_SECONDS", 0.0)
    result = CliRunner().invoke(app, [*words, "--address", "http://head:8265"])
    return result.exit_code, result.stderr


def test_it_is_said_where_the_folders_of_a_followed_sweep_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last lines name a folder and commands, which are not there on the laptop."""

    def ended(_jobs: object, _job_id: str, printed: Printed, _say: object) -> Seen:
        printed.take('go on with:\n  qsweep resume /home/ray/results/x\n{"dir": "/home/ray/results/x"}\n')
        return Seen("FAILED", 130, "", {}, None)

    monkeypatch.setattr("cluster.submission.following.follow", ended)
    with pytest.raises(typer.Exit) as end:
        submit.follow(SimpleNamespace(address="http://head"), "x-1", as_json=False)  # type: ignore[arg-type]
    assert end.value.exit_code == 130
    assert capsys.readouterr().err.splitlines()[-1].endswith("are those of the cluster's head node")


@pytest.mark.usefixtures("folder")
def test_a_sweep_that_may_have_been_submitted_is_not_said_not_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    code, told = asked(monkeypatch, Cluster(submit=LOST), "submit", "toy.yaml", "--submission-id", "x-1")
    assert (code, "error: http://head: no Ray" in told, "--submission-id x-1 is safe" in told) == (1, True, True), told
    assert "on the head node, or x-2, ... beside it where it is taken: ~/results/x; MLflow there: " in told
    code, told = asked(monkeypatch, Cluster(submit=SubmissionFailed("no")), "submit", "toy.yaml")
    assert (code, "not known" in told) == (2, False)


@pytest.mark.parametrize(
    "answers",
    [
        {"submit": LOST, "look_up": LOST},
        {"submit": True, "look_up": LOST},
        {"submit": True, "look_up": SubmissionFailed("http://head: 502 Bad Gateway")},
    ],
)
def test_a_request_that_may_be_granted_is_not_said_to_be_refused(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, object]
) -> None:
    code, told = asked(monkeypatch, Cluster(find=SWEEP, **answers), "add", "x-1", "learning_rate=1e-4")
    assert code == 1, told
    assert "error: http://head: " in told
    assert "not known whether the request was taken: qsweep status x-1 --address http://head shows it" in told
    assert "ray job delete x-1-add-" in told, "the cluster could not be told to stop the job"


def test_a_request_that_is_refused_was_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(find=SWEEP, submit=SubmissionFailed("http://head: no room"))
    assert asked(monkeypatch, cluster, "add", "x-1", "r=8") == (2, "error: http://head: no room\n")


def test_a_stop_whose_answer_is_lost_may_have_been_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    code, told = asked(monkeypatch, Cluster(find=SWEEP, stop=LOST), "stop", "x-1")
    assert (code, "not known whether the request was taken" in told) == (1, True), told


def test_a_job_that_could_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Seen("FAILED", None, "Failed to set up runtime environment: no space left", {}, None)
    cluster = Cluster(find=SWEEP, submit=True, look_up=failed, logs="")
    code, told = asked(monkeypatch, cluster, "status", "x-1")
    assert (code, told.partition(": ")[2]) == (1, "FAILED: Failed to set up runtime environment: no space left\n")


def test_ctrl_c_leaves_no_job_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(find=SWEEP, submit=True, stop=True, look_up=[Interrupted(2), RUNNING, STOPPED])
    code, told = asked(monkeypatch, cluster, "add", "x-1", "r=8")
    assert code == 130, told
    assert cluster.asked == ["find", "submit", "look_up", "look_up", "stop", "look_up", "delete"]
    assert "not known whether the request was taken" in told
    assert "ray job" not in told


@pytest.mark.parametrize("verb", ["status", "stop", "logs"])
def test_nobody_at_the_address_is_told(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "x-1", "--address", NOBODY])
    assert (result.exit_code, "no Ray dashboard answers" in result.stderr) == (2, True)


def answer(exit_code: int = 0, **closing: object) -> str:
    return RemoteAnswer(lines=(f"said {closing}",), closing=closing, exit_code=exit_code).model_dump_json()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the driver answers, one after the other."""
    answers: list[object] = []

    def ask(*_arguments: object) -> object:
        given = answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    monkeypatch.setattr("cluster.submission.remote_mailbox.ask", ask)
    monkeypatch.setattr("sweeps.cli.status.TURN_SECONDS", 0.0)
    return answers


DRIVEN = replace(SWEEP, node="abc")


def test_a_driver_that_listens_is_asked_without_a_job(monkeypatch: pytest.MonkeyPatch, told: list[object]) -> None:
    cluster = Cluster(find=DRIVEN)
    told[:] = [answer(state="RUNNING"), answer(2, accepted=False), answer(accepted=True)]
    assert asked(monkeypatch, cluster, "status", "x-1") == (0, "said {'state': 'RUNNING'}\n")
    assert asked(monkeypatch, cluster, "stop", "x-1", "t09")[0] == 2
    assert asked(monkeypatch, cluster, "add", "x-1", "r=8")[0] == 0
    assert cluster.asked == ["find"] * 3


def test_a_driver_that_does_not_listen_is_asked_by_a_job(monkeypatch: pytest.MonkeyPatch, told: list[object]) -> None:
    done = Seen("SUCCEEDED", 0, "", {}, None)
    for given in (None, LOST):
        told[:] = [given]
        cluster = Cluster(find=DRIVEN, submit=True, look_up=done, logs='x-1: running\n{"dir": "r"}\n')
        assert asked(monkeypatch, cluster, "status", "x-1", "--json") == (0, "x-1: running\n")
        assert cluster.asked == ["find", "submit", "look_up", "logs", "delete"]


def test_trials_of_a_submitted_sweep_are_compared_by_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    done, printed = Seen("FAILED", 2, "", {}, None), 'error: the sweep has no trial t9: it has t00\n{"dir": "r"}\n'
    submitted: list[Job] = []

    def take(_cluster: Cluster, job: Job, _archive: object) -> None:
        submitted.append(job)

    monkeypatch.setattr(Cluster, "submit", take, raising=False)
    cluster = Cluster(find=DRIVEN, look_up=done, logs=printed)
    code, said = asked(monkeypatch, cluster, "compare", "x-1", "t9", "--json")
    assert (code, said) == (2, "error: the sweep has no trial t9: it has t00\n")
    assert [job.words for job in submitted] == [("compare", "x-1", "t9", "--storage", "results", "--json")]
    assert cluster.asked == ["find", "look_up", "logs", "delete"]
    lost = asked(monkeypatch, Cluster(find=DRIVEN, look_up=LOST), "compare", "x-1")
    assert (lost[0], "whether the request was taken" in lost[1]) == (1, False)


@pytest.mark.parametrize("error", [LOST, ServiceFailed("http://head: 502")])
def test_a_request_that_the_driver_may_have_taken_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, told: list[object], error: Exception
) -> None:
    told[:] = [error]
    cluster = Cluster(find=DRIVEN)
    code, said = asked(monkeypatch, cluster, "add", "x-1", "r=8")
    assert (code, str(error) in said, "not known whether the request was taken" in said) == (1, True, True), said
    assert cluster.asked == ["find"]


def test_words_that_are_no_values_are_told_before_the_cluster_is_asked() -> None:
    result = CliRunner().invoke(app, ["add", "x-1", "r", "--address", NOBODY])
    assert (result.exit_code, "r: is not KEY=VALUE" in result.stderr) == (2, True)


def test_a_submitted_sweep_is_watched_until_it_has_ended(monkeypatch: pytest.MonkeyPatch, told: list[object]) -> None:
    """Only the time that passes is no news."""
    told[:] = [
        answer(state="RUNNING", trials=1, seconds=1.0),
        answer(state="RUNNING", trials=1, seconds=2.0),
        answer(state="RUNNING", trials=2, seconds=3.0),
        answer(state="FINISHED", trials=2, seconds=4.0),
    ]
    code, said = asked(monkeypatch, Cluster(find=DRIVEN), "status", "x-1", "--watch", "--json")
    assert (code, told) == (0, [])
    assert [line.partition("seconds': ")[2] for line in said.splitlines()] == ["1.0}", "3.0}", "4.0}"]


def test_a_connection_that_is_lost_while_one_watches_is_no_mistake(
    monkeypatch: pytest.MonkeyPatch, told: list[object]
) -> None:
    told[:] = [answer(state="RUNNING")]
    code, said = asked(monkeypatch, Cluster(find=[DRIVEN, LOST]), "status", "x-1", "--watch")
    assert (code, "the sweep may go on" in said) == (1, True), said


def test_a_proxy_that_fails_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = ServiceFailed("http://head: answers with HTTP 502: Bad Gateway")
    assert asked(monkeypatch, Cluster(find=failed), "stop", "x-1") == (1, f"error: {failed}\n")
    code, said = asked(monkeypatch, Cluster(find=SWEEP, stop=failed), "stop", "x-1")
    assert (code, "not known whether the request was taken" in said) == (1, True), said


def test_a_stop_that_was_heard_at_the_first_try_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was lost, the request was sent again, and the sweep had ended by then."""
    code, said = asked(monkeypatch, Cluster(find=[SWEEP, STOPPED], stop=False), "stop", "x-1")
    assert (code, said.startswith("stopping: ")) == (0, True), said


def test_a_stop_that_comes_too_late_tells_how_the_job_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Seen("SUCCEEDED", 0, "", {}, None)
    code, said = asked(monkeypatch, Cluster(find=[SWEEP, done], stop=False), "stop", "x-1")
    where = "where another job, or a machine, has resumed the sweep, stop it there"
    assert (code, said) == (2, f"refused: its job has ended: SUCCEEDED; {where}\n")


def test_a_sweep_that_has_no_folder_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job has begun, and reads the sweep file."""
    missing = Seen("FAILED", 2, "", {}, None)
    words = "error: x-1: no sweep of this id or name in /home/ray/results; name its folder\n"
    monkeypatch.setattr("sweeps.cli.status.TURN_SECONDS", 0.0)
    look_ups = [missing, SWEEP, missing, replace(SWEEP, status="FAILED")]
    cluster = Cluster(find=SWEEP, submit=True, look_up=look_ups, logs=words)
    code, said = asked(monkeypatch, cluster, "status", "x-1", "--watch")
    waits = "x-1: waits for its job, which is RUNNING and has not made the sweep's folder yet\n"
    assert (code, said) == (2, f"{waits}{words}"), "until its job has ended, with no folder"
    resumed = replace(SWEEP, metadata={"qsweep": "resume", "sweep": "nowhere"})
    cluster = Cluster(find=resumed, submit=True, look_up=[missing, resumed], logs=words)
    assert asked(monkeypatch, cluster, "status", "x-1") == (2, words), "a sweep that is resumed must have one"
    for named, code in (((), 0), (("t01",), 2)):
        cluster = Cluster(find=SWEEP, submit=True, look_up=[missing, SWEEP], logs=words)
        assert asked(monkeypatch, cluster, "compare", "x-1", *named) == (code, waits)
    cluster.answers["look_up"] = [missing, SWEEP]
    result = CliRunner().invoke(app, ["compare", "x-1", "--address", "http://head:8265", "--json"])
    closing = json.loads(result.stdout)
    assert (closing["state"], closing["trials"]) == ("RUNNING", [])


def test_how_a_sweep_goes_on_is_said_as_a_command_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, done = replace(SWEEP, status="STOPPED"), Seen("SUCCEEDED", 0, "", {}, None)
    cluster = Cluster(find=ended, submit=True, look_up=done, logs="interrupted: qsweep resume goes on\n")
    code, said = asked(monkeypatch, cluster, "status", "x-1")
    assert (code, said.splitlines()[1:]) == (0, ["from here: qsweep resume x-1 --address http://head"])


def test_the_job_that_runs_a_resumed_sweep_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    first = replace(SWEEP, status="STOPPED")
    listed = {"x-1": first, "again": replace(SWEEP, metadata={"qsweep": "resume", "sweep": "x-1"})}
    it = "qsweep stop again --address http://head"
    code, said = asked(monkeypatch, Cluster(find=first, listed=listed), "stop", "x-1")
    assert (code, said) == (2, f"refused: its job has ended: STOPPED; again runs the sweep now: {it}\n")
    for state, more in (("RUNNING", f"the job again runs it: {it} ends it\n"), ("FINISHED", "")):
        logs = f'x-1: words\n{{"dir": "r", "state": "{state}"}}\n'
        done = Seen("SUCCEEDED", 0, "", {}, None)
        cluster = Cluster(find=first, submit=True, look_up=done, logs=logs, listed=listed)
        assert asked(monkeypatch, cluster, "status", "x-1") == (0, f"x-1: words\n{more}")


@pytest.mark.parametrize("columns", ["10", "1200"])
def test_a_terminal_of_any_width_is_answered(monkeypatch: pytest.MonkeyPatch, told: list[object], columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    told[:] = [answer(state="RUNNING")]
    assert asked(monkeypatch, Cluster(find=DRIVEN), "status", "x-1")[0] == 0


def test_logs_of_a_sweep_here_say_where_its_events_are(folder: Path) -> None:
    sweep = folder / "results" / "x"
    sweep.mkdir(parents=True)
    (sweep / "config.json").write_text('{"sweep_id": "x-1", "config": {"name": "x"}}')
    result = CliRunner().invoke(app, ["logs", "x-1"])
    assert (result.exit_code, result.stdout.strip()) == (0, str(sweep / "events.jsonl"))
