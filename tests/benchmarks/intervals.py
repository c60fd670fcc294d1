"""How often the interval over rows errs, and how often the gate sees a gain.

Gains of rows are drawn from distributions of mean 0 with the long tail on the bad side. These columns are printed:

- The gate: the percentage of repetitions in which the interval of a candidate that is equal lies above 0, and of the
  best of three. Brackets: fewer than ten bad rows are expected. A bad row is one of the tail: worse than the mean, or
  of the rare kind.
- The closing table: the percentage in which not all intervals hold at once, of the best of 16 equal trials against the
  base and the ten next ones.
- Power: the percentage in which one candidate passes that is better on normal rows.

With "uneven lengths" the tokens of a row are lognormal (log-sd 1), drawn anew for each ten repetitions.

    python -m tests.benchmarks.intervals
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sweeps.statistics.comparison import MOST_COMPARED, comparisons
from sweeps.statistics.confidence import confidence_of
from sweeps.statistics.intervals import intervals

Numbers = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Numbers]
ROWS = (80, 200, 500)
BEST_OF, TRIALS = 3, 16
REPETITIONS = 2000
SIDES = {"bad": 1.0, "good": -1.0}
"""Where the long tail is, and the sign that brings it there."""
GROUPS = 20
_UNEVEN = ", uneven lengths"
_PART = 10
"""Repetitions that share the lengths of their rows."""


class Kind(NamedTuple):
    """A distribution of the gain per token."""

    draw: Draw
    bad: float
    """Share of bad rows."""
    is_grouped: bool = False
    """Whether two thirds of a row's variance belong to its group, one of `GROUPS`."""


def _lognormal(deviation: float) -> Draw:
    return lambda rng, shape: math.exp(deviation**2 / 2) - rng.lognormal(0, deviation, shape)


def _some(share: float, draw: Draw, noise: float = 0.0) -> Draw:
    """A share of the rows has the drawn gain minus its mean over all rows, which the others make up for."""

    def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> Numbers:
        return np.where(rng.random(shape) < share, draw(rng, shape), 0.0) + rng.normal(0, noise, shape)

    return drawn


def rare(share: float) -> Kind:
    """This share of the rows is 1 nat worse, and the others are better by as much as makes the mean 0."""
    worse = _some(share, lambda rng, shape: np.full(shape, -1.0), noise=2 / 3 * share)
    return Kind(lambda rng, shape: share + worse(rng, shape), share)


def _huge(rng: np.random.Generator, shape: tuple[int, ...]) -> Numbers:
    return 0.05 * math.exp(0.5) + _some(0.05, lambda r, s: -r.lognormal(size=s), noise=0.02)(rng, shape)


_NORMAL: Draw = lambda rng, shape: rng.normal(size=shape)  # noqa: E731
_BEYOND_HALF, _BEYOND_THREE_QUARTERS = 0.309, 0.227
"""Share of a lognormal distribution beyond its mean, with log-sd 1 and 1.5."""
_ALONE = {
    "normal": Kind(_NORMAL, 0.5),
    "Student's t, 3 df": Kind(lambda rng, shape: rng.standard_t(3, shape), 0.5),
    "0/1": Kind(lambda rng, shape: rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=shape), 0.1),
    "exponential": Kind(lambda rng, shape: 1 - rng.exponential(size=shape), 0.368),
    "lognormal": Kind(_lognormal(1.0), _BEYOND_HALF),
    "lognormal, log-sd 1.5": Kind(_lognormal(1.5), _BEYOND_THREE_QUARTERS),
    "5% of the rows lognormal": Kind(_huge, 0.05),
    "nine in ten unmoved, the others lognormal": Kind(_some(0.1, _lognormal(1.0)), 0.1 * _BEYOND_HALF),
}
KINDS = {
    **{name + end: kind for name, kind in _ALONE.items() for end in ("", _UNEVEN)},
    "20 groups, normal": Kind(_NORMAL, 0.5, True),
    "20 groups, lognormal": Kind(_lognormal(1.0), _BEYOND_HALF, True),
    **{f"{100 * share:g}% of the rows 1 nat worse": rare(share) for share in (0.03, 0.02, 0.01, 0.005, 0.003)},
}


class Drawn(NamedTuple):
    """Gains of rows."""

    gains: Numbers
    """[repetition, candidate, row]: per token times tokens, without the gain of `passing`."""
    weights: Numbers
    units: Sequence[int]


def drawn(name: str, rng: np.random.Generator, candidates: int, rows: int) -> Drawn:
    """Draws the gains of one part."""
    kind, shape = KINDS[name], (_PART, candidates, rows)
    weights = rng.lognormal(size=rows) if name.endswith(_UNEVEN) else np.ones(rows)
    if not kind.is_grouped:
        return Drawn(kind.draw(rng, shape) * weights, weights, ())
    units = np.arange(rows) % GROUPS
    shared = kind.draw(rng, (_PART, candidates, GROUPS))[..., units]
    gains = math.sqrt(2 / 3) * shared + math.sqrt(1 / 3) * kind.draw(rng, shape)
    return Drawn(gains * weights, weights, units.tolist())


def passing(
    name: str, rows: int, repetitions: int = REPETITIONS, gain: float = 0.0, candidates: Sequence[int] = (1,)
) -> dict[tuple[int, str], float]:
    """How many in 100 repetitions pass: of the best of so many candidates, with the long tail on so which side.

    Args:
        gain: by which all candidates are better, per token.
    """
    passed = {(count, side): 0 for count in candidates for side in SIDES}
    rng = np.random.default_rng([rows, *name.encode()])
    for _ in range(repetitions // _PART):
        found = drawn(name, rng, max(candidates), rows)
        for count, side in passed:
            gains = SIDES[side] * found.gains + gain * found.weights
            best = gains[np.arange(_PART), gains[:, :count].sum(axis=2).argmax(axis=1)]
            spans = intervals(best, found.weights.tolist(), confidence_of(count), found.units)
            # Rounding of a sum of 0/1 differences is no gain.
            passed[count, side] += sum(span.low > 1e-12 for span in spans)
    return {key: 100 * count / repetitions for key, count in passed.items()}


def missing(name: str, rows: int, repetitions: int = REPETITIONS) -> float:
    """How many in 100 closing tables of equal trials have an interval that excludes 0."""
    rng = np.random.default_rng([rows, TRIALS, *name.encode()])
    confidence, missed = confidence_of(comparisons(TRIALS, has_base=True)), 0
    for _ in range(repetitions // _PART):
        found = drawn(name, rng, TRIALS, rows)
        order = (-found.gains.sum(axis=2)).argsort(axis=1)[:, : MOST_COMPARED + 1]
        ranked = np.take_along_axis(found.gains, order[..., None], axis=1)
        best = ranked[:, :1]
        pairs = np.concatenate([best, best - ranked[:, 1:]], axis=1)  # the base gains nothing on itself
        spans = intervals(pairs.reshape(-1, rows), found.weights.tolist(), confidence, found.units)
        excludes = [span.low > 1e-12 or span.high < -1e-12 for span in spans]
        missed += int(np.reshape(excludes, pairs.shape[:2]).any(axis=1).sum())
    return 100 * missed / repetitions


def main() -> None:
    """Prints the tables."""
    began = time.monotonic()
    heads = " / ".join(map(str, ROWS))
    print(f"Of {heads} rows\n\n| gains per row | bad rows | equal one passes | best of three | closing table misses |")
    print("|---|---|---|---|---|")
    for name, kind in KINDS.items():
        cells = []
        found = [passing(name, rows, candidates=(1, BEST_OF)) for rows in ROWS]
        passed = [[each[count, "bad"] for each in found] for count in (1, BEST_OF)]
        for shares in (*passed, [missing(name, rows) for rows in ROWS]):
            told = zip(ROWS, shares, strict=True)
            few = {rows: (GROUPS if kind.is_grouped else rows) * kind.bad < 10 for rows in ROWS}
            cells.append(" / ".join(f"({share:.1f})" if few[rows] else f"{share:.1f}" for rows, share in told))
        print(f"| {name} | {100 * kind.bad:.3g}% | {' | '.join(cells)} |", flush=True)
    print(f"\n| gain of normal rows | better ones that pass, {heads} rows |\n|---|---|")
    for gain in (0.5, 0.25):
        powers = (f"{passing('normal', rows, gain=gain)[1, 'bad']:.0f}" for rows in ROWS)
        print(f"| {gain} standard deviations | {' / '.join(powers)} |", flush=True)
    print(f"\n{REPETITIONS} repetitions a cell; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
