"""How often the gate would pass candidates that are equal to the champion, and ones that are better, by each interval.

Gains of rows are drawn from distributions of mean 0, for 10 to 1,000 rows and the best of 1 to 5 candidates, chosen as
the gate chooses it: the lowest loss. A cell is the percentage of repetitions in which the interval of the best one
lies above zero: the worst of all numbers of candidates, and of both directions of each distribution. Rows of uneven
length weigh 10 to 100 tokens. `product` is the interval of `sweeps.statistics.intervals` itself; `percentile` that of
the bootstrap, as wide as Student's t. `power` is of one candidate that is better, with the long tail on either side.

    python -m tests.benchmarks.intervals
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from sweeps.statistics.intervals import ERROR_RATE, intervals, student

Numbers = npt.NDArray[np.float64]
ROWS = (10, 20, 30, 80, 200, 1000)
CANDIDATES = (1, 2, 3, 4, 5)
SIDES = {"bad": 1.0, "good": -1.0}
"""Where the long tail is, and the sign that brings it there."""
RESAMPLES = 2000
BETTER = 0.25
"""Gain of a candidate that is better, in standard deviations of a row's gain."""


def _rare(rng: np.random.Generator, shape: tuple[int, ...]) -> Numbers:
    """3 % of the rows are 1 nat worse, the others 0.03 better, so that the mean is 0."""
    return 0.03 - (rng.random(shape) < 0.03) + rng.normal(0, 0.02, shape)


DRAWN: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Numbers]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "Student's t, 3 df": lambda rng, shape: rng.standard_t(3, shape) / 3**0.5,
    "exponential": lambda rng, shape: 1 - rng.exponential(size=shape),
    "lognormal": lambda rng, shape: (math.exp(0.5) - rng.lognormal(size=shape)) / math.sqrt(math.e * (math.e - 1)),
    "0/1": lambda rng, shape: rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=shape) / 0.2**0.5,
    "exponential, uneven lengths": lambda rng, shape: 1 - rng.exponential(size=shape),
    "3 % rare bad rows": lambda rng, shape: _rare(rng, shape) / math.hypot(math.sqrt(0.03 * 0.97), 0.02),
}
"""Gains per token of mean 0 and standard deviation 1, whose long tail is on the bad side."""


def of_groups(rng: np.random.Generator, groups: int, size: int = 5, shared: float = 2 / 3) -> Numbers:
    """Normal gains of rows in groups, group after group, of which each shares a part of the variance."""
    common, own = rng.normal(size=groups), rng.normal(size=(groups, size))
    return (math.sqrt(shared) * common[:, None] + math.sqrt(1 - shared) * own).ravel()


def _product(gains: Numbers, weights: Numbers, rate: float) -> Numbers:
    return np.asarray([span.low for span in intervals(gains, weights.tolist(), 1 - rate)])


@cache
def _counts(rows: int) -> Numbers:
    """How often each row is in each resample: [row, resample]."""
    return np.random.default_rng(0).multinomial(rows, [1 / rows] * rows, RESAMPLES).T.astype(np.float32)


def _percentile(gains: Numbers, weights: Numbers, rate: float) -> Numbers:
    rows, ratio = gains.shape[1], gains.sum(axis=1) / weights.sum()
    wider = math.sqrt(rows / (rows - 1)) * student(1 - rate / 2, rows - 1) / NormalDist().inv_cdf(1 - rate / 2)
    counts = _counts(rows)
    ratios = gains.astype(np.float32) @ counts / (weights @ counts)
    return ratio + wider * (np.quantile(ratios, rate / 2, axis=1) - ratio)


METHODS = {"product": _product, "percentile": _percentile}


def passing(
    method: str, name: str, rows: int, rate: float, repetitions: int, gain: float = 0.0
) -> dict[tuple[int, str], float]:
    """How many in 100 repetitions pass: of the best of so many candidates, with the long tail on so which side.

    Args:
        rate: two-sided, of one comparison.
        gain: by which all candidates are better, in standard deviations of a row's gain.
    """
    passed = {(count, side): 0 for count in CANDIDATES for side in SIDES}
    rng = np.random.default_rng([rows, *name.encode()])
    part, done = 100, 0  # the repetitions of a part share the lengths of their rows
    while done < repetitions:
        weights = rng.uniform(10, 100, rows) if "uneven" in name else np.ones(rows)
        drawn = DRAWN[name](rng, (part, max(CANDIDATES), rows))
        for (count, side), _ in passed.items():
            gains = (SIDES[side] * drawn + gain) * weights
            best = gains[np.arange(part), gains[:, :count].sum(axis=2).argmax(axis=1)]
            # Rounding of a sum of 0/1 differences is no gain.
            passed[count, side] += int((METHODS[method](best, weights, rate / count) > 1e-12).sum())
        done += part
    return {key: 100 * count / done for key, count in passed.items()}


def main() -> None:
    """Prints the table: both methods, where the percentile bootstrap has a nominal error of 5 in 100."""
    print("| gains | rows | percentile 0.05 | product |\n|---|---|---|---|")
    for name in DRAWN:
        for rows in ROWS:
            cells = []
            for method, rate in (("percentile", 0.05), ("product", ERROR_RATE)):
                equal = max(passing(method, name, rows, rate, 2000).values())
                better = passing(method, name, rows, rate, 500, BETTER)
                cells.append(f"{equal:.1f}, power {better[1, 'bad']:.0f} / {better[1, 'good']:.0f}")
            print(f"| {name} | {rows} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
