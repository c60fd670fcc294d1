"""Grades answers that are mathematics with math-verify, in a process of its own.

An answer such as 9^{9^{9^9}} takes math-verify forever. math-verify limits its time by a signal that only the main
thread can receive, and answers are graded in another thread. So the process is ended instead.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Self

from pydantic import model_validator

from trainables import timeouts
from trainables.grading.grader import RightOrWrong

_PROSE = re.compile(r"[$#]|\\[(\[]|\\boxed|(?<![\\A-Za-z])[A-Za-z]{3,}")
"""Matches a word or the mark of a formula: a text without either is all formula."""
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from trainables.grading.mathematics import serve; serve()"
_children: list[subprocess.Popen[str]] = []
"""The process of math-verify, once started. It ends with this process."""


class Math(RightOrWrong):
    """Grades whether the answer is mathematically equal to the completion, by math-verify.

    Not thread-safe.
    """

    metric = "math"

    @model_validator(mode="after")
    def _is_installed(self) -> Self:
        if find_spec("math_verify") is None:
            raise ValueError('needs math-verify: pip install "math-verify>=0.9"')
        return self

    def _is_right(self, row: Mapping[str, Any], expected: str, answer: str) -> bool:
        child = _child()
        assert child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps([expected, answer]), file=child.stdin, flush=True)
        line = child.stdout.readline()
        if not line:
            if child.wait() < 0:  # a signal ended it: its time or its memory was used up
                return False
            raise RuntimeError(f"the process of math-verify ended with exit code {child.returncode}")
        is_equal = json.loads(line)
        if is_equal is None:
            raise ValueError("the completion holds no mathematics that math-verify reads: write it in $...$")
        return bool(is_equal)


def _child() -> subprocess.Popen[str]:
    if not _children or _children[0].poll() is not None:
        command = [sys.executable, "-c", _CHILD, *sys.path]
        # Ctrl-C does not reach a process in a session of its own.
        pipe = subprocess.PIPE
        _children[:] = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)]
    return _children[0]


def serve() -> None:
    """Answers each line [expected, answer] on stdin with true, false, or null if `expected` has no mathematics."""
    from math_verify import parse, verify

    def read(text: str) -> Any:
        # math-verify takes x+1 for the number 1 unless it is marked as a formula.
        texts = [text, f"${text}$"] if _PROSE.search(text) else [f"${text}$", text]
        return parse(texts[0], parsing_timeout=None) or parse(texts[1], parsing_timeout=None)

    logging.disable()  # of what it cannot read, and that it sets no limit of time
    for line in sys.stdin:
        signal.alarm(timeouts.EQUAL_ANSWERS)
        expected, answer = json.loads(line)
        wanted = read(expected)
        is_equal = verify(wanted, read(answer), timeout_seconds=None) if wanted else None
        signal.alarm(0)
        print(json.dumps(is_equal), flush=True)
