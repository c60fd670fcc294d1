"""Runs several passes at the same time on a CPU, each in a thread of its own with a part of the processor's threads.

Threads that share one pass wait for each other after every operator, and its small operators keep one of them busy.
Passes of their own do not wait. What runs beside a pass changes its results by rounding alone: products round otherwise
with another number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class AtOnce:
    """Calls a function for several items, some of them at the same time."""

    def __init__(self, count: int) -> None:
        """Takes the threads that torch computes with now.

        Args:
            count: so many calls at the same time, if there are as many threads; 1 calls one after the other in the
                caller's thread.
        """
        self._threads = torch.get_num_threads()
        count = min(count, self._threads)
        own = math.ceil(self._threads / count)  # Of an odd number none idles.
        self._workers = ThreadPoolExecutor(count, "pass", torch.set_num_threads, (own,)) if count > 1 else None

    def run(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Returns the result of each item, in order. A single item gets all threads.

        Raises:
            Exception: what the first item that failed raised, once no call runs any more.
        """
        if self._workers is None or len(items) < 2:
            # The number is kept for each thread; one that is new to torch takes what any thread has set last.
            if torch.get_num_threads() != self._threads:
                torch.set_num_threads(self._threads)
            return [work(item) for item in items]
        calls = [self._workers.submit(work, item) for item in items]
        wait(calls)
        return [call.result() for call in calls]
