"""A webhook or a command is told of a sweep's end, failure and best; one that does not listen costs a line."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
from sweep_events import begun, ended, reported, started
from sweep_files import toy
from web_servers import Request, answering, answering_by

from sweeps import timeouts
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError
from sweeps.record.events import Event, SweepEnded, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.report import notifying

FINISHED = SweepEnded(time=9.0, reason="finished")


def end(reason: Literal["budget", "interrupted", "failed"], message: str) -> SweepEnded:
    """The sweep's end, with its reason in words."""
    return SweepEnded(time=9.0, reason=reason, message=message)


TRAINED: list[Event] = [begun(), started("a"), reported("a", 3, 2.0)]
COMPLETED: list[Event] = [*TRAINED, ended("a", TrialState.COMPLETED), FINISHED]
SECRET = "T024BE7LD"
LINE = "notify: HOOK was not told of end: "


def told(folder: Path, log: list[Event], before: int = 0, **notify: Any) -> list[str]:
    """What a sweep says that adds these events and tells of them, but not of those `before`."""
    journal, said = Journal(SweepFolder(folder)), list[str]()
    for event in log[:before]:
        journal.add(event)
    with notifying.telling(toy(notify=notify)[0], "toy-1", journal, said.append):
        for event in log[before:]:
            journal.add(event)
    journal.close()
    return said


def received(folder: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event], before: int = 0, *kinds: str) -> Any:
    """The messages that a real receiver gets."""
    bodies: list[dict[str, Any]] = []

    def take(request: Request) -> tuple[int, str]:
        assert request.path == f"/{SECRET}"
        bodies.append(json.loads(request.body))
        return 200, "ok"

    with answering_by(take) as address:
        monkeypatch.setenv("HOOK", f"http://{address}/{SECRET}")
        assert told(folder, events, before, url_env="HOOK", **({"events": list(kinds)} if kinds else {})) == []
    return bodies


def test_a_webhook_is_told_of_the_end_with_the_best_trial(tmp_path, monkeypatch):
    assert received(tmp_path, monkeypatch, COMPLETED) == [
        {
            "event": "end",
            "sweep": "toy-1",
            "name": "x",
            "state": "FINISHED",
            "trial": "t00",
            "metric": "eval_loss",
            "value": 2.0,
            "step": 3,
            "text": "sweep x: finished; best t00, eval_loss 2.0000 at step 3",
        }
    ]


BEST = "best t00, eval_loss 2.0000 at step 3"


@pytest.mark.parametrize(
    ("events", "event", "text"),
    [
        ([*TRAINED, ended("a", TrialState.FAILED), FINISHED], "failure", "finished; 1 trial failed; no best trial"),
        ([begun(), FINISHED], "failure", "finished; no best trial"),
        ([*COMPLETED[:-1], end("failed", "the disk is full")], "failure", f"failed: the disk is full; {BEST}"),
        ([*TRAINED, end("failed", "the disk is full")], "failure", f"failed: the disk is full; {BEST}"),
        ([*COMPLETED[:-1], end("budget", "4h are over")], "end", f"ended by its budget: 4h are over; {BEST}"),
        ([*TRAINED, ended("a", TrialState.PAUSED), end("interrupted", "interrupted")], "end", f"interrupted; {BEST}"),
        (
            [*TRAINED, ended("a", TrialState.PAUSED), end("interrupted", "stopped by request")],
            "end",
            f"interrupted: stopped by request; {BEST}",
        ),
    ],
)
def test_a_failure_is_an_end_without_a_best_or_with_a_failed_trial(tmp_path, monkeypatch, events, event, text):
    (message,) = received(tmp_path, monkeypatch, events)
    assert (message["event"], message["text"]) == (event, f"sweep x: {text}")


def test_each_new_best_is_told_once_and_the_last_one_in_any_case(tmp_path, monkeypatch):
    later: list[Event] = [started("b", 1), reported("b", 3, 1.5), started("c", 2), reported("c", 3, 1.75)]
    messages = received(tmp_path, monkeypatch, [*TRAINED, *later], 0, "best")
    assert messages[-1]["text"] == "sweep x: new best t01, eval_loss 1.5000 at step 3"
    values = [message["value"] for message in messages]
    # Those that come while another one is delivered are left out, but for the last.
    assert values in ([2.0, 1.5], [1.5])


def test_of_bests_that_come_while_one_is_delivered_only_the_last_is_told(tmp_path, monkeypatch):
    values, is_asked, may_answer = list[float](), threading.Event(), threading.Event()

    def take(request: Request) -> tuple[int, str]:
        values.append(json.loads(request.body)["value"])
        is_asked.set()
        assert may_answer.wait(60)
        return 200, "ok"

    config, journal = toy(notify={"url_env": "HOOK", "events": ["best"]})[0], Journal(SweepFolder(tmp_path))
    with answering_by(take) as address:
        monkeypatch.setenv("HOOK", f"http://{address}/{SECRET}")
        with notifying.telling(config, "toy-1", journal, pytest.fail):
            for event in TRAINED:
                journal.add(event)
            assert is_asked.wait(60)
            for number, loss in enumerate((1.5, 1.25), 1):
                journal.add(started(f"b{number}", number))
                journal.add(reported(f"b{number}", 3, loss))
            may_answer.set()
    assert values == [2.0, 1.25]


def test_a_sweep_that_goes_on_tells_no_best_again(tmp_path, monkeypatch):
    worse: list[Event] = [started("b", 1), reported("b", 3, 2.5)]
    assert received(tmp_path, monkeypatch, [*TRAINED, *worse], len(TRAINED), "best") == []


def test_a_receiver_that_refuses_is_one_line_without_the_address(tmp_path, monkeypatch):
    with answering(404, "no such hook") as address:
        monkeypatch.setenv("HOOK", f"http://{address}/{SECRET}")
        assert told(tmp_path, COMPLETED, url_env="HOOK") == [f"{LINE}HTTP status 404"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_is_one_line_without_the_address(tmp_path, monkeypatch, status):
    asked: list[str] = []

    def take(request: Request) -> tuple[int, str]:
        asked.append(request.path)
        return status, ""

    with answering_by(take, Location=f"/{SECRET}/moved") as address:
        monkeypatch.setenv("HOOK", f"http://{address}/{SECRET}")
        assert told(tmp_path, COMPLETED, url_env="HOOK") == [f"{LINE}HTTP status {status}"]
    assert asked == [f"/{SECRET}"]


def test_a_receiver_that_is_down_is_one_line(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HOOK", f"http://127.0.0.1:{closed.getsockname()[1]}/{SECRET}")
        assert told(tmp_path, COMPLETED, url_env="HOOK") == [f"{LINE}Connection refused"]


def test_a_receiver_that_hangs_is_left_after_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(timeouts, "NOTIFY_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HOOK", f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}")
        assert told(tmp_path, COMPLETED, url_env="HOOK") == [f"{LINE}no answer within 0.05 s"]


def test_the_end_waits_no_longer_than_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(timeouts, "NOTIFY_END_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HOOK", f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}")
        assert told(tmp_path, COMPLETED, url_env="HOOK") == [], "its thread still waits for the receiver"


def test_a_command_gets_the_message_on_stdin_and_no_shell_reads_it(tmp_path):
    out = tmp_path / "out; touch x"
    program = f"import sys; open({str(out)!r}, 'w').write(sys.stdin.read())"
    assert told(tmp_path, COMPLETED, command=[sys.executable, "-c", program]) == []
    assert json.loads(out.read_text())["trial"] == "t00"


@pytest.mark.parametrize(
    ("program", "why"),
    [("raise SystemExit(3)", "exit code 3"), ("import time; time.sleep(600)", "it ran for more than 0.5 s")],
)
def test_a_command_that_fails_or_hangs_is_one_line(tmp_path, monkeypatch, program, why):
    if "time" in program:
        monkeypatch.setattr(timeouts, "NOTIFY_SECONDS", 0.5)
    line = f"notify: the command {sys.executable} was not told of end: {why}"
    assert told(tmp_path, COMPLETED, command=[sys.executable, "-c", program]) == [line]


@pytest.mark.parametrize(
    "url",
    [None, "", "ftp://host/x", f"https://user:{SECRET}@host/x", f"{SECRET}", f"http://host/{SECRET}\n",
     f"http://host:99999/{SECRET}", f"http://host:abc/{SECRET}", f"http://host:0/{SECRET}", f"http://a host/{SECRET}",
     f"http://host/a {SECRET}", f"http://h\N{LATIN SMALL LETTER O WITH DIAERESIS}st/{SECRET}"],
)  # fmt: skip
def test_a_variable_without_a_url_is_refused_without_its_value(monkeypatch, url):
    monkeypatch.delenv("HOOK", raising=False) if url is None else monkeypatch.setenv("HOOK", url)
    with pytest.raises(ConfigError, match=r"^notify.url_env: the environment variable HOOK ") as error:
        notifying.check(toy(notify={"url_env": "HOOK"})[0].notify)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("program", ["nobody-has-this", "~/tell.sh"])
def test_a_program_that_is_not_there_is_refused(tmp_path, monkeypatch, program):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tell.sh").touch(0o700)
    with pytest.raises(ConfigError, match=rf"^notify.command: {program}: no such program: .*no shell expands ~"):
        notifying.check(toy(notify={"command": f"{program} --now"})[0].notify)
    notifying.check(toy(notify={"command": f"{sys.executable} -c pass"})[0].notify)


def test_a_command_in_one_text_is_split_as_a_shell_does():
    found = toy(notify={"command": "tell --to 'my team'", "events": ["best"]})[0].notify
    assert (found.command, found.events) == (("tell", "--to", "my team"), ("best",))


@pytest.mark.parametrize(
    "notify",
    [{}, {"url_env": "A", "command": "b"}, {"url_env": "https://host"}, {"command": ""}, {"command": "a 'b"},
     {"url_env": "A", "events": []}, {"url_env": "A", "events": ["begin"]}],
)  # fmt: skip
def test_what_tells_nobody_is_refused(notify):
    with pytest.raises(ValueError, match="notify"):
        SweepConfig.model_validate({"name": "x", "trainable": "toy", "notify": notify})


def test_without_the_section_nobody_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    with notifying.telling(toy()[0], "toy-1", Journal(SweepFolder(tmp_path)), print):
        assert "notify" not in [thread.name for thread in threading.enumerate()]
