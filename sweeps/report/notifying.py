"""Tells a webhook or a command of a sweep's end, its failure and each new best value: see `Notify`.

A thread delivers the messages. The sweep waits for the thread only for a moment at its end. A failed delivery is one
line of the sweep's output.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from sweeps import timeouts
from sweeps.config.model import Notify, SweepConfig
from sweeps.config.number_words import counted
from sweeps.config.passwords import hidden
from sweeps.errors import ConfigError
from sweeps.record.events import Event, SweepEnded, TrialReported, TrialScored, TrialState
from sweeps.record.journal import Journal
from sweeps.record.run_names import label
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord
from sweeps.report.best_compared import in_words
from trainables.inputs.legible import MOST_SHOWN, legible

_REASONS = {"finished": "finished", "budget": "ended by its budget", "interrupted": "interrupted", "failed": "failed"}


def check_notify(notify: Notify | None) -> None:
    """Raises ConfigError if the webhook has no valid URL, or the command's program does not exist."""
    if notify is None:
        return
    if notify.command is not None and shutil.which(notify.command[0]) is None:
        wrong = "no such program: give its path (no shell expands ~ or $HOME), or leave it out"
        raise ConfigError([f"notify.command: {notify.command[0]}: {wrong}"])
    _url(notify)


@contextmanager
def telling(config: SweepConfig, sweep_id: str, journal: Journal, say: Callable[[str], object]) -> Iterator[None]:
    """Sends messages on the journal's events while the block runs, if the sweep file asks for them."""
    if config.notify is None:
        yield
        return
    notifier = Notifier(config.notify, sweep_id, config.name, journal.record, say)
    journal.listen(notifier)
    try:
        yield
    finally:
        notifier.close()


def _url(notify: Notify) -> str | None:
    """Returns the webhook's URL; None for a command. The URL is a secret, so no error shows it."""
    if notify.url_env is None:
        return None
    given = os.environ.get(notify.url_env, "")
    with suppress(ValueError):
        parts = urlsplit(given)
        is_plain = re.fullmatch("[!-~]+", given) and "@" not in parts.netloc
        if is_plain and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return given
    wrong = "has no URL such as https://HOST/PATH, in ASCII without spaces or a user's name" if given else "is not set"
    raise ConfigError([f"notify.url_env: the environment variable {notify.url_env} {wrong}: set it, or leave it out"])


def message(kind: str, sweep_id: str, name: str, record: SweepRecord) -> dict[str, Any]:
    """Returns the message as plain data: the sweep, its best trial, and all of that in a line of text."""
    best = choose(record).winner
    metric = record.objective.metric if best is None else record.judges(best).metric
    told = "no best trial" if best is None else f"best {in_words(record, best)}"
    return {
        "event": kind,
        "sweep": sweep_id,
        "name": name,
        "state": "RUNNING" if record.ended is None else record.ended.reason.upper(),
        "trial": None if best is None else label(best.number),
        "metric": metric,
        "value": None if best is None else best.value(metric),
        "step": None if best is None else best.best_step,
        "text": hidden(f"sweep {name}: {_how(record)}{told}"),
    }


def _how(record: SweepRecord) -> str:
    """Says how the sweep has ended, as the start of a sentence that ends with the best trial."""
    if record.ended is None:
        return "new "
    how, why = _REASONS[record.ended.reason], record.ended.message
    failed = sum(trial.state is TrialState.FAILED for trial in record.trials.values())
    parts = (f"{how}: {why}" if why and why != how else how, f"{counted(failed, 'trial')} failed" if failed else "")
    return "".join(f"{part}; " for part in parts if part)


class Notifier:
    """Listens to the journal, and sends the messages that `notify.events` names."""

    def __init__(
        self, notify: Notify, sweep_id: str, name: str, record: SweepRecord, say: Callable[[str], object]
    ) -> None:
        self._notify, self._sweep_id, self._name, self._say = notify, sweep_id, name, say
        self._best = _best_value(record)
        self._latest: dict[str, Any] = {}
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._deliver_all, name="notify", daemon=True)
        self._thread.start()

    def __call__(self, event: Event, record: SweepRecord) -> None:
        """Queues the message on an event, if there is one."""
        if isinstance(event, SweepEnded):
            kind = "failure" if _has_failed(event, record) else "end"
        elif "best" in self._notify.events and isinstance(event, TrialReported | TrialScored) and self._is_new(record):
            kind = "best"
        else:
            return
        if kind in self._notify.events:
            self._latest = message(kind, self._sweep_id, self._name, record)
            self._waiting.put(self._latest)

    def _is_new(self, record: SweepRecord) -> bool:
        value = _best_value(record)
        if value is None or (self._best is not None and not record.objective.is_better(value, self._best)):
            return False
        self._best = value
        return True

    def close(self) -> None:
        """Waits until the queued messages are delivered, for `timeouts.NOTIFY_END_SECONDS` at most."""
        self._waiting.put(None)
        self._thread.join(timeouts.NOTIFY_END_SECONDS)

    def _deliver_all(self) -> None:
        while (told := self._waiting.get()) is not None:
            if told["event"] == "best" and told is not self._latest:
                continue  # A later message waits in the queue, with the present best.
            why = _deliver(self._notify, told)
            if why is not None:
                to = f"the command {self._notify.command[0]}" if self._notify.command else self._notify.url_env
                self._say(f"notify: {to} was not told of {told['event']}: {legible(why, MOST_SHOWN)}")


def _best_value(record: SweepRecord) -> float | None:
    best = choose(record).winner
    return None if best is None or record.judges(best) != record.objective else best.value(record.objective.metric)


def _has_failed(event: SweepEnded, record: SweepRecord) -> bool:
    """Tells whether a launch would exit with code 1, whatever MLflow and the mirror lack."""
    if event.reason == "interrupted":
        return False
    has_failed = any(trial.state is TrialState.FAILED or trial.lacking for trial in record.trials.values())
    return event.reason == "failed" or has_failed or choose(record).winner is None


def _deliver(notify: Notify, told: Mapping[str, Any]) -> str | None:
    """Sends a message to the webhook or the command. Returns why this failed, without the URL; None after success."""
    body = json.dumps(told).encode()
    try:
        address = _url(notify)
        return _run(notify.command or (), body) if address is None else _post(address, body)
    except ConfigError as error:
        return error.problems[0]
    except TimeoutError:
        return f"no answer within {timeouts.NOTIFY_SECONDS:g} s"
    except (OSError, ValueError, HTTPException) as error:  # Their messages may hold the URL; strerror does not.
        return getattr(error, "strerror", None) or type(error).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Turns a redirect into an HTTPError: urllib would follow the redirect by GET, and so lose the message."""

    def redirect_request(self, *_arguments: object) -> None:
        """Returns None: there is no next request."""


def _post(address: str, body: bytes) -> str | None:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeouts.NOTIFY_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP status {error.code}"
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from None


def _run(command: tuple[str, ...], body: bytes) -> str | None:
    """Runs a command; returns why it failed, or None.

    The command has its own session, so Ctrl-C does not end it. At a time-out its child processes are killed, too.
    """
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, start_new_session=True
    )  # fmt: skip
    try:
        process.communicate(body, timeout=timeouts.NOTIFY_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"it ran for more than {timeouts.NOTIFY_SECONDS:g} s"
    return None if process.returncode == 0 else f"exit code {process.returncode}"
