"""How often the gate's verdicts err, for each kind of metric, and how often they are right.

Rows are scored by a reference and by one to five candidates, of which the gate takes the best. A cell is the percentage
of repetitions, the worst of one to five candidates and of both directions of the tail. `better` errs for candidates
that are equal to the reference; `not better` for ones that are better by exactly `min_gain`; and a limit for ones that
are worse by exactly `worse_by`, which it lets pass (one candidate).

The second table is of candidates that are chosen by their loss among all trials of a sweep, which are all equal to the
reference. They are decided on the rows that ranked the trials, with each candidate or with each trial as a comparison,
or on as many fresh rows.

    python -m tests.benchmarks.verdicts
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sweeps.statistics.comparison import Comparison
from sweeps.statistics.confidence import confidence_of
from sweeps.statistics.exact import exact
from sweeps.statistics.intervals import intervals

Numbers = npt.NDArray[np.float64]
CANDIDATES = (1, 2, 3, 4, 5)


class Scored(NamedTuple):
    """The scores of rows."""

    reference: Numbers
    """[row]"""
    candidates: Numbers
    """[candidate, row]"""


Draw = Callable[[np.random.Generator, int, int, float], Scored]
"""Draws the scores of so many candidates on so many rows, where each candidate is better by so much."""


def _losses(rng: np.random.Generator, candidates: int, rows: int, gain: float) -> Scored:
    """Losses whose differences have standard deviation 1."""
    return Scored(np.zeros(rows), rng.normal(size=(candidates, rows)) + gain)


def _of_answers(moved: float) -> Draw:
    """Right and wrong answers, of which a share `moved` changes by chance to either side."""

    def draw(rng: np.random.Generator, candidates: int, rows: int, gain: float) -> Scored:
        reference = (rng.random(rows) < 0.5).astype(float)
        # Half of the rows can rise, and half fall.
        rate = np.where(reference == 0, moved + 2 * max(gain, 0), moved + 2 * max(-gain, 0))
        return Scored(reference, np.abs(reference - (rng.random((candidates, rows)) < rate)))

    return draw


def _of_f1(moved: float) -> Draw:
    """F1 of records of five fields, of which a share of the rows is answered anew."""

    def draw(rng: np.random.Generator, candidates: int, rows: int, gain: float) -> Scored:
        def fresh(shape: tuple[int, ...]) -> Numbers:
            return rng.binomial(5, rng.beta(2, 0.7, shape)) / 5

        reference = fresh((rows,))
        own = np.where(rng.random((candidates, rows)) < moved, fresh((candidates, rows)), reference)
        if gain > 0:  # the rows that are wholly wrong or right in part become right, as many as make up the gain
            room = 1 - own
            return Scored(reference, own + room * (rng.random(own.shape) < gain / _ROOM))
        return Scored(reference, own * (rng.random(own.shape) >= -gain / (1 - _ROOM)))

    return draw


_ROOM = 1 - 2 / 2.7
"""What an F1 lacks of 1 on average: the mean of the beta distribution is 2 / 2.7."""


class Kind(NamedTuple):
    """A kind of metric."""

    name: str
    draw: Draw
    step: float
    """`min_gain` and `worse_by`, in the metric's unit."""
    is_score: bool = True


KINDS = (
    Kind("loss, normal", _losses, 0.25, False),
    Kind("0/1, 2% of the rows move", _of_answers(0.02), 0.05),
    Kind("0/1, 20% of the rows move", _of_answers(0.2), 0.05),
    Kind("F1, 5% of the rows move", _of_f1(0.05), 0.05),
    Kind("F1, all rows move", _of_f1(1.0), 0.05),
)


class Share(NamedTuple):
    """So many in 100 repetitions."""

    by_gate: float


def share(kind: Kind, rows: int, gain: float, bound: float, wrong: bool, repetitions: int, most: int = 5) -> Share:
    """How many in 100 repetitions say of the best candidate that it is (`wrong`), or is not, above `bound`.

    The worst of one to `most` candidates and both tails.

    Args:
        gain: the true one, in the unit of the metric.
    """
    rng = np.random.default_rng([rows, round(1e4 * abs(gain)), *kind.name.encode()])
    signs = (1,) if kind.is_score else (1, -1)  # the long tail on the one side, and on the other
    drawn = [[kind.draw(rng, most, rows, sign * gain) for sign in signs] for _ in range(repetitions)]
    found = []
    for count in CANDIDATES[:most]:
        for place, sign in enumerate(signs):
            best = []
            for each in drawn:
                own = sign * each[place].candidates[:count]
                best.append((own[own.mean(axis=1).argmax()], each[place].reference))
            spans = intervals([own - reference for own, reference in best], [1.0] * rows, confidence_of(count))
            told = 0
            for (own, reference), span in zip(best, spans, strict=True):
                compared = Comparison("base", float((own - reference).mean()), span.low, span.high)
                compared = replace(compared, carried_by=span.carried_by)
                if kind.is_score:
                    test = exact(own.tolist(), reference.tolist(), range(rows), confidence_of(count))
                    compared = replace(compared, exact=test)
                told += compared.above(bound) is wrong
            found.append(told)
    return Share(100 * max(found) / repetitions)


def row(kind: Kind, rows: int, repetitions: int) -> str:
    """A line of the table: better, not better, limit and power."""
    cells = []
    for gain, bound, wrong, most in (
        (0.0, 0.0, True, 5),
        (kind.step, kind.step, False, 5),
        (-kind.step, -kind.step, True, 1),
        (2 * kind.step, 0.0, True, 1),
    ):
        cells.append(f"{share(kind, rows, gain, bound, wrong, repetitions, most).by_gate:.1f}")
    return f"| {kind.name} | {rows} | {' | '.join(cells)} |"


RANKED_ROWS = 200
SKEWS: dict[str, Callable[[Numbers], Numbers]] = {
    "normal": lambda drawn: drawn,
    # A few rows of each trial are far worse than under the reference.
    "lognormal": lambda drawn: math.exp(0.5) - np.exp(drawn),
}
"""The distribution of the gains of rows, of mean 0, from normal numbers."""


def passing(gains: Numbers, comparisons: int) -> int:
    """How many of the gains [repetition, row] pass, with so many comparisons counted."""
    spans = intervals(gains, [1.0] * gains.shape[1], confidence_of(comparisons))
    return sum(span.low > 0 for span in spans)


def chosen(skew: str, trials: int, repetitions: int) -> dict[int, tuple[float, float, float]]:
    """How many in 100 sweeps of equal trials promote one.

    Number of candidates -> with each candidate as a comparison, with each trial, and on fresh rows.
    """
    rng = np.random.default_rng([trials, *skew.encode()])
    best: list[Numbers] = []
    fresh: dict[int, list[Numbers]] = {top: [] for top in (1, 3)}
    for _ in range(repetitions):
        ranked, others = (SKEWS[skew](rng.normal(size=(count, RANKED_ROWS))) for count in (trials, max(fresh)))
        best.append(ranked[ranked.mean(axis=1).argmax()])
        for top, found in fresh.items():
            found.append(others[:top][others[:top].mean(axis=1).argmax()])  # the trials are equal: any of them will do

    def share(gains: list[Numbers], comparisons: int) -> float:
        return 100 * passing(np.array(gains), comparisons) / repetitions

    return {top: (share(best, top), share(best, trials), share(found, top)) for top, found in fresh.items()}


def main() -> None:
    """Prints the tables."""
    print("| metric | rows | better | not better | limit | power |\n|---|---|---|---|---|---|")
    for kind in KINDS:
        for rows in (30, 80, 200):
            print(row(kind, rows, 2000), flush=True)
    print("\n| gains | trials | candidates | each candidate | each trial | fresh rows |\n|---|---|---|---|---|---|")
    for skew in SKEWS:
        for trials in (32, 64, 128):
            for top, cells in chosen(skew, trials, 2000).items():
                print(f"| {skew} | {trials} | {top} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
