"""Calls a function for several values at once, in threads that do not keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

Value = TypeVar("Value")
Answer = TypeVar("Answer")
AT_ONCE = 4


def at_once(function: Callable[[Value], Answer], values: Iterable[Value]) -> list[Answer]:
    """The function's answers, in order. Raises the first error; values that were not begun by then are left out."""
    waiting = list(enumerate(values))[::-1]
    answers: dict[int, Answer] = {}
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                place, value = waiting.pop()
            except IndexError:
                return
            try:
                answers[place] = function(value)
            except BaseException as error:
                errors.append(error)

    # A single value needs no thread.
    threads = [
        threading.Thread(target=work, name="mirror-send", daemon=True) for _ in range(min(AT_ONCE, len(waiting)))
    ]
    if len(threads) < 2:
        work()
    else:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return [answers[place] for place in sorted(answers)]
