"""What `stop`, `add` and `extend` share: they ask the driver of a sweep, and tell its answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from sweeps.cli.shared import as_words, say
from sweeps.cli.submitted import Answer, end_with

if TYPE_CHECKING:
    from sweeps.record.events import RequestAnswered
    from sweeps.record.folder import SweepFolder
    from sweeps.steering.mailbox import AddPoint, ExtendSweep, Request

ANSWER_SECONDS = 30.0
"""How long to wait for the driver's answer, which usually comes within a second."""
TURN_SECONDS = 0.2
NO_JSON = "must be a finite number, true, false, null, text (a date needs quotes), or a list of such values"


def ask(folder: SweepFolder, request: Request) -> RequestAnswered:
    """The driver's answer; exit code 1 when none has come in time.

    Raises:
        SweepError: nobody answers, and why.
    """
    import threading
    import time

    from sweeps.steering import asking

    deadline, pause = time.monotonic() + ANSWER_SECONDS, threading.Event()
    answer = asking.ask(folder, request, lambda: pause.wait(TURN_SECONDS) or time.monotonic() > deadline)
    if answer is None:
        say(f"no answer within {ANSWER_SECONDS:.0f} s: the request waits in {folder.requests} and may yet be answered")
        raise typer.Exit(1)
    return answer


def ask_for_more(folder: SweepFolder, request: AddPoint | ExtendSweep) -> RequestAnswered:
    """The answer of the sweep's driver, or where nobody drives the sweep, what the next driver will take up.

    Raises:
        SweepError: see `ask`.
        ConfigError: the sweep cannot go on.
    """
    import time

    from sweeps import saved_sweep
    from sweeps.record.folder import is_driven
    from sweeps.steering import asking
    from sweeps.steering.answering import deciding
    from sweeps.supply.amendments import Amendments

    if is_driven(folder):
        return ask(folder, request)
    sweep, _ = saved_sweep.load(folder)
    decide = deciding(Amendments.of(sweep), lambda: None)
    answer = asking.answer_in_its_place(folder, request, decide, time.time())
    if answer.point is not None or answer.changes:
        say(f"the sweep is not running: qsweep resume {folder.path} goes on with it")
    return answer


def tell(folder: SweepFolder, answer: RequestAnswered, as_json: bool) -> None:
    """Prints the answer, and ends the command: exit code 0 when the request was accepted, else 2."""
    line = f"{'' if answer.is_accepted else 'refused: '}{answer.message}"
    closing = {"dir": str(folder.path), "accepted": answer.is_accepted, "message": answer.message}
    end_with(Answer((line,), closing, 0 if answer.is_accepted else 2), as_json)


def values_of(words: list[str]) -> dict[str, Any]:
    """Key -> value of words such as learning_rate=3e-4, read as YAML.

    Raises:
        ConfigError: a word is none such, or a key stands twice.
    """
    import yaml

    from sweeps.config import yaml_files
    from sweeps.errors import ConfigError

    values: dict[str, Any] = {}
    wrong = []
    for word in as_words(words):
        key, equals, text = word.partition("=")
        if not equals or not key:
            wrong.append(f"{word}: is not KEY=VALUE")
            continue
        if word.encode(errors="replace").decode() != word:
            wrong.append(f"{word!a}: holds bytes that are not UTF-8")
            continue
        if key in values:
            wrong.append(f"{key}: stands twice")
        try:
            values[key] = yaml_files.parse(text)
            # A request travels as JSON, which has no dates, and no numbers without an end.
            json.dumps(values[key], allow_nan=False)
        except yaml_files.OldNumber as error:
            wrong.append(f"{key}: {error.problem}")
        except yaml.YAMLError:
            wrong.append(f"{key}: {text!r} is not a YAML value")
        except (TypeError, ValueError):
            wrong.append(f"{key}: {text!r} {NO_JSON}")
    if wrong:
        raise ConfigError(wrong)
    return values
