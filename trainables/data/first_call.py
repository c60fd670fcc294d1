"""Calls a user's function on one row before a sweep starts, in a process of its own that the function may break."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from subprocess import TimeoutExpired
from tempfile import TemporaryFile
from typing import Any

from trainables import timeouts
from trainables.asked_process import asking, last_line, question
from trainables.grading.function import Function
from trainables.inputs.legible import legible


def problem(function: Function, row: Mapping[str, Any], completion: str) -> str | None:
    """Returns why a row's own completion gets no score, or None."""
    call = json.dumps([function.path, row, completion])
    with TemporaryFile() as said, TemporaryFile() as errors, asking((__name__,), call, said, errors) as process:
        try:
            code = process.wait(timeouts.FIRST_CALL)
        except TimeoutExpired:
            return f"it has not returned after {timeouts.FIRST_CALL:.0f} s"
        if code != 0:
            return legible(f"exit code {code} of its process: {last_line(errors)}".rstrip(": "), 500)
        why: str | None = json.loads(last_line(said))
        return why


def main() -> None:
    """Prints the answer of `problem` last: the function may print, and may leave threads that never end."""
    path, row, completion = json.loads(question())
    why = None
    try:
        Function(path=path).grade(row, completion, completion)
    except Exception as error:
        why = legible(f"{type(error).__name__}: {error}", 500)
    print(f"\n{json.dumps(why)}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
