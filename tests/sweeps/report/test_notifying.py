"""A webhook or a command is told of a sweep's end, failure and best; one that does not listen costs a line."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from sweep_events import begun, ended, reported, started
from sweep_files import toy
from web_servers import Request, answering_by

from sweeps import timeouts
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError
from sweeps.record.events import Event, SweepEnded, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.report import notifying

FINISHED = SweepEnded(time=9.0, reason="finished")


def end(reason: Literal["budget", "interrupted", "failed"], message: str) -> SweepEnded:
    return SweepEnded(time=9.0, reason=reason, message=message)


TRAINED: list[Event] = [begun(), started("a"), reported("a", 3, 2.0)]
COMPLETED: list[Event] = [*TRAINED, ended("a", TrialState.COMPLETED), FINISHED]
BEST = "best t00, eval_loss 2.0000 at step 3"
SECRET = "T024BE7LD"
LINE = "notify: HOOK was not told of end: "


def told(folder: Path, log: list[Event], before: int = 0, **notify: Any) -> list[str]:
    """What a sweep says that adds these events and tells of them, but not of those `before`."""
    said: list[str] = []
    with closing(Journal(SweepFolder(folder))) as journal:
        for event in log[:before]:
            journal.add(event)
        with notifying.telling(toy(notify=notify)[0], "toy-1", journal, said.append):
            for event in log[before:]:
                journal.add(event)
    return said


Received = tuple[list[dict[str, Any]], list[str]]


def received(folder: Path, log: list[Event], before: int = 0, status: int = 200, **notify: Any) -> Received:
    """The messages that a real receiver gets, and what the sweep says."""
    bodies: list[dict[str, Any]] = []

    def take(request: Request) -> tuple[int, str]:
        assert request.path == f"/{SECRET}"
        bodies.append(json.loads(request.body))
        return status, ""

    with answering_by(take, Location=f"/{SECRET}/moved") as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOOK", f"http://{address}/{SECRET}")
        return bodies, told(folder, log, before, url_env="HOOK", **notify)


def test_a_webhook_is_told_of_the_end_with_the_best_trial(tmp_path):
    best = {"trial": "t00", "metric": "eval_loss", "value": 2.0, "step": 3}
    text = f"sweep x: finished; {BEST}"
    message = {"event": "end", "sweep": "toy-1", "name": "x", "state": "FINISHED", **best, "text": text}
    assert received(tmp_path, COMPLETED) == ([message], [])


@pytest.mark.parametrize(
    ("events", "event", "text"),
    [
        ([*TRAINED, ended("a", TrialState.FAILED), FINISHED], "failure", "finished; 1 trial failed; no best trial"),
        ([begun(), FINISHED], "failure", "finished; no best trial"),
        ([*COMPLETED[:-1], end("failed", "the disk is full")], "failure", f"failed: the disk is full; {BEST}"),
        ([*TRAINED, end("failed", "the disk is full")], "failure", f"failed: the disk is full; {BEST}"),
        ([*COMPLETED[:-1], end("budget", "4h are over")], "end", f"ended by its budget: 4h are over; {BEST}"),
        ([*TRAINED, end("interrupted", "interrupted")], "end", f"interrupted; {BEST}"),
        ([*TRAINED, end("interrupted", "stopped by request")], "end", f"interrupted: stopped by request; {BEST}"),
    ],
)
def test_a_failure_is_an_end_without_a_best_or_with_a_failed_trial(tmp_path, events, event, text):
    ((message,), _) = received(tmp_path, events)
    assert (message["event"], message["text"]) == (event, f"sweep x: {text}")


def test_of_new_bests_that_come_while_one_is_delivered_only_the_last_is_told(tmp_path, monkeypatch):
    texts, is_asked, may_answer = list[str](), threading.Event(), threading.Event()

    def take(request: Request) -> tuple[int, str]:
        texts.append(json.loads(request.body)["text"])
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
            for number, loss in enumerate((1.5, 1.25, 1.75), 1):
                journal.add(started(f"b{number}", number))
                journal.add(reported(f"b{number}", 3, loss))
            may_answer.set()
    assert texts == [f"sweep x: new {BEST}", "sweep x: new best t02, eval_loss 1.2500 at step 3"]


def test_a_sweep_that_goes_on_tells_no_best_again(tmp_path):
    worse: list[Event] = [started("b", 1), reported("b", 3, 2.5)]
    assert received(tmp_path, [*TRAINED, *worse], len(TRAINED), events=["best"]) == ([], [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 404])
def test_a_refusal_or_a_redirect_which_is_not_followed_is_one_line_without_the_address(tmp_path, status):
    ((_,), lines) = received(tmp_path, COMPLETED, status=status)
    assert lines == [f"{LINE}HTTP status {status}"]


@pytest.mark.parametrize(
    ("listens", "limit", "lines"),
    [
        (False, "NOTIFY_SECONDS", [f"{LINE}Connection refused"]),
        (True, "NOTIFY_SECONDS", [f"{LINE}no answer within 0.05 s"]),
        (True, "NOTIFY_END_SECONDS", []),  # its thread still waits for the receiver
    ],
)
def test_a_receiver_that_is_down_or_hangs_is_left_after_its_time(tmp_path, monkeypatch, listens, limit, lines):
    monkeypatch.setattr(timeouts, limit, 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        monkeypatch.setenv("HOOK", f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}")
        assert told(tmp_path, COMPLETED, url_env="HOOK") == lines


def test_a_command_gets_the_message_on_stdin_and_one_that_fails_or_hangs_is_one_line(tmp_path, monkeypatch):
    out = tmp_path / "out; touch x"  # no shell reads it
    program = f"import sys; open({str(out)!r}, 'w').write(sys.stdin.read())"
    assert told(tmp_path, COMPLETED, command=[sys.executable, "-c", program]) == []
    assert json.loads(out.read_text())["trial"] == "t00"
    line = f"notify: the command {sys.executable} was not told of end: "
    assert told(tmp_path, COMPLETED, command=[sys.executable, "-c", "exit(3)"]) == [f"{line}exit code 3"]
    monkeypatch.setattr(timeouts, "NOTIFY_SECONDS", 0.5)
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    assert told(tmp_path, COMPLETED, command=hangs) == [f"{line}it ran for more than 0.5 s"]


@pytest.mark.parametrize(
    "url",
    [None, "", "ftp://host/x", f"https://user:{SECRET}@host/x", f"{SECRET}", f"http://host/{SECRET}\n",
     f"http://host:99999/{SECRET}", f"http://host:abc/{SECRET}", f"http://host:0/{SECRET}", f"http://a host/{SECRET}",
     f"http://host/a {SECRET}", f"http://h\N{LATIN SMALL LETTER O WITH DIAERESIS}st/{SECRET}"],
)  # fmt: skip
def test_a_variable_without_a_url_is_refused_without_its_value(monkeypatch, url):
    monkeypatch.delenv("HOOK", raising=False) if url is None else monkeypatch.setenv("HOOK", url)
    with pytest.raises(ConfigError, match=r"^notify.url_env: the environment variable HOOK ") as error:
        notifying.check_notify(toy(notify={"url_env": "HOOK"})[0].notify)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("program", ["nobody-has-this", "~/tell.sh"])
def test_a_program_that_is_not_there_is_refused(tmp_path, monkeypatch, program):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tell.sh").touch(0o700)
    with pytest.raises(ConfigError, match=rf"^notify.command: {program}: no such program: .*no shell expands ~"):
        notifying.check_notify(toy(notify={"command": f"{program} --now"})[0].notify)
    found = toy(notify={"command": f"{sys.executable} --to 'my team'", "events": ["best"]})[0].notify
    notifying.check_notify(found)
    assert (found.command, found.events) == ((sys.executable, "--to", "my team"), ("best",)), "split as a shell does"


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
