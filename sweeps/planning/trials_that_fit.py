"""`budget.trials: auto`: as many trials as fill a budget of time. Pure: what trials take is an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_TRIALS = 1_000
"""A plan of more is a slip of the pen, and their rates are not known that well."""
FILLED = 0.95
"""Part of the budget that is planned with: a sweep that ends by itself gives a whole answer."""


@dataclass(frozen=True)
class Filled:
    """What was chosen."""

    trials: int
    first: int
    """The first rung, in what rungs count."""
    seconds: float
    """What the sweep is expected to take."""


def fill(
    seconds: float, firsts: Sequence[int], takes: Callable[[int, int], float], enough: Callable[[int, int], bool],
    most: int = MOST_TRIALS,
) -> Filled | None:  # fmt: skip
    """The most trials that fit, under the lowest first rung that leaves enough of them to rank; None if none fits.

    The first rung of the sweep file comes first. Where the budget holds so few trials that nobody would come to the
    last rung by rank, the next higher one is tried: fewer rungs, each with a ranking that says something. The last
    one is taken whatever it gives.

    Args:
        seconds: the budget.
        firsts: first rungs to try, ascending.
        takes: expected seconds of a sweep of so many trials with this first rung.
        enough: whether so many trials are enough for the rungs that follow from it.
        most: trials that are there at all.
    """
    best = None
    for first in firsts:
        trials = _most(seconds * FILLED, min(most, MOST_TRIALS), lambda count, first=first: takes(count, first))  # type: ignore[misc]
        if trials == 0:
            continue
        best = Filled(trials, first, takes(trials, first))
        if enough(trials, first):
            break
    return best


def _most(seconds: float, most: int, takes: Callable[[int], float]) -> int:
    """The largest number of trials, 0 to `most`, that take at most `seconds`; few trials are tried first."""
    low, high = 0, 1
    while high < most and takes(high) <= seconds:
        low, high = high, 2 * high
    high = min(high, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if takes(middle) <= seconds else (low, middle - 1)
    return low
