"""Decides which rows and adapters go through the model together, and runs several passes at the same time on a CPU.

Threads that share one pass wait for each other after every operator, and small operators keep only one thread busy.
Threads with passes of their own do not wait. Parallel passes change each other's results by rounding alone: products
round differently with another number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from trainables.data.dataset import TokenRow
from trainables.packing.engine import Engine, Segment
from trainables.packing.pass_limits import EVALUATION_TOKENS, SHARED_TOKENS
from trainables.slot_failures import SlotOrBase

Item = TypeVar("Item")
Result = TypeVar("Result")

_MUCH_MORE = 1.1
"""Even passes may be about this many times as many as the fewest possible passes."""


PlacedRows = tuple[list[int], list[TokenRow]]
"""Places of rows, and the rows."""


def evaluation_passes(rows: Sequence[TokenRow], parallel: int = 1) -> list[PlacedRows]:
    """Groups evaluation rows of similar length into passes of at most EVALUATION_TOKENS tokens, padding included.

    If several passes run at the same time, their number is a multiple of `parallel` and all have about as many tokens,
    unless that takes many more passes. A longer row has a pass for itself.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i))
    fewest: list[PlacedRows] = []
    for place in order:
        if not fewest or not _fits([*fewest[-1][1], rows[place]]):
            fewest.append(([], []))
        fewest[-1][0].append(place)
        fewest[-1][1].append(rows[place])
    if parallel == 1:
        return fewest
    count = parallel * math.ceil(len(fewest) / parallel)
    while count < _MUCH_MORE * len(fewest) + parallel:
        even = _even(rows, order, count)
        if all(_fits(own) for _, own in even):
            return even
        count += parallel * math.ceil(len(fewest) / 100)
    return fewest


def _fits(rows: Sequence[TokenRow]) -> bool:
    """Tells whether rows, the longest first, may be one evaluation pass."""
    return len(rows) == 1 or len(rows) * len(rows[0].ids) <= EVALUATION_TOKENS


def _even(rows: Sequence[TokenRow], order: Sequence[int], count: int) -> list[PlacedRows]:
    """Cuts the rows, in this order, into at most `count` passes with about as many tokens each."""
    total, before = sum(len(row.ids) for row in rows), 0
    even: list[PlacedRows] = [([], []) for _ in range(count)]
    for place in order:
        own = len(rows[place].ids)
        places, chosen = even[(2 * before + own) * count // (2 * total)]
        places.append(place)
        chosen.append(rows[place])
        before += own
    return [each for each in even if each[0]]


def share_passes(
    slots: Sequence[SlotOrBase], rows: Sequence[TokenRow], device: torch.device
) -> list[Sequence[SlotOrBase]]:
    """Groups slots that are evaluated on `rows` into passes of at most SHARED_TOKENS tokens, or a single slot."""
    tokens = len(rows) * max(len(row.ids) for row in rows)
    count = max(1, SHARED_TOKENS[device.type] // tokens)
    return [slots[first : first + count] for first in range(0, len(slots), count)]


def training_passes(engine: Engine, segments: Sequence[Segment], most_tokens: int) -> list[list[Segment]]:
    """Groups the segments of a step into passes of at least one segment.

    Passes that run at the same time get about as many tokens each, and at most `most_tokens` together. A segment with
    more tokens is never cut.
    """
    parts: list[list[Segment]] = [[] for _ in range(engine.parallel_passes)]
    for segment in segments if len(parts) == 1 else sorted(segments, key=lambda each: -each.tokens):
        min(parts, key=lambda part: sum(each.tokens for each in part)).append(segment)
    groups: list[list[Segment]] = []
    for part in parts:
        first = len(groups)
        for segment in part:
            joined = [*groups[-1], segment] if len(groups) > first else []
            if joined and engine.pass_tokens(joined) <= most_tokens // engine.parallel_passes:
                groups[-1] = joined
            else:
                groups.append([segment])
    return groups


class PassThreads:
    """Calls a function for several items, several calls at a time."""

    def __init__(self, count: int) -> None:
        """Divides torch's present threads among the calls.

        Args:
            count: the most calls at the same time, at most the number of threads; 1 makes all calls in the caller's
                thread.
        """
        self._threads = torch.get_num_threads()
        count = min(count, self._threads)
        own = math.ceil(self._threads / count)  # With an odd number no thread idles.
        self._workers = ThreadPoolExecutor(count, "pass", torch.set_num_threads, (own,)) if count > 1 else None

    def run(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Returns the result of each item, in order. A single item gets all threads.

        Raises:
            Exception: the error of the first failed item, once all calls have ended.
        """
        if self._workers is None or len(items) < 2:
            # torch keeps this number per thread; a thread new to torch takes the number that any thread has set last.
            if torch.get_num_threads() != self._threads:
                torch.set_num_threads(self._threads)
            return [work(item) for item in items]
        calls = [self._workers.submit(work, item) for item in items]
        wait(calls)
        return [call.result() for call in calls]
