"""How often the gate would pass candidates that are equal to the champion, and ones that are better, by each interval.

Gains of rows are drawn from distributions of mean 0, for 10 to 1,000 rows and the best of 1 to 5 candidates, chosen as
the gate chooses it: the lowest loss. A cell is the percentage of repetitions in which the interval of the best one
lies above zero. Each distribution is drawn in both directions; rows of uneven length weigh 10 to 100 tokens. `product`
is the interval of `sweeps.statistics.intervals` itself; the others are `percentile` (of the bootstrap, as wide as
Student's t), Student's `t`, `johnson` (Johnson, Modified t Tests and Confidence Intervals for Asymmetrical Populations,
JASA 73, 536-544, 1978) and `bootstrap-t` (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 12).

    python -m tests.benchmarks.intervals [--methods product johnson ...] [--rates 0.01 0.05 ...] [--full]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

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


def _moments(gains: Numbers, weights: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Ratio, standard error, and skewness / sqrt(rows)."""
    rows, ratio = gains.shape[1], gains.sum(axis=1) / weights.sum()
    left = gains - ratio[:, None] * weights
    squares = np.maximum((left**2).sum(axis=1), 1e-30)
    return ratio, np.sqrt(squares * rows / (rows - 1)) / weights.sum(), (left**3).sum(axis=1) / squares**1.5


def _t(gains: Numbers, weights: Numbers, rate: float) -> Numbers:
    ratio, error, _ = _moments(gains, weights)
    return ratio - student(1 - rate / 2, gains.shape[1] - 1) * error


def _johnson(gains: Numbers, weights: Numbers, rate: float) -> Numbers:
    """Only the sign means something: whether his statistic for a ratio of 0 lies beyond the quantile."""
    ratio, error, skew = _moments(gains, weights)
    t = ratio / error
    return t + skew * (1 + 2 * t**2) / 6 - student(1 - rate / 2, gains.shape[1] - 1)


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


def _bootstrap_t(gains: Numbers, weights: Numbers, rate: float) -> Numbers:
    ratio, error, _ = _moments(gains, weights)
    counts = _counts(gains.shape[1])
    ratios = gains @ counts / (weights @ counts)
    # sum((g - ratio w)^2) of each resample.
    squares = (gains**2) @ counts - 2 * ratios * ((gains * weights) @ counts) + ratios**2 * ((weights**2) @ counts)
    rows, total = gains.shape[1], weights @ counts
    errors = np.sqrt(np.maximum(squares, 1e-12) * rows / (rows - 1)) / total
    return ratio - error * np.quantile((ratios - ratio[:, None]) / errors, 1 - rate / 2, axis=1)


METHODS = {
    "product": _product,
    "percentile": _percentile,
    "t": _t,
    "johnson": _johnson,
    "bootstrap-t": _bootstrap_t,
}


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


def table(methods: Sequence[tuple[str, float]], repetitions: int, rows: Sequence[int], full: bool) -> str:
    """The table in Markdown: for each method the worst cell of all candidates and sides, or all of them."""
    lines = ["| gains | rows | " + " | ".join(f"{method} {rate:g}" for method, rate in methods) + " |"]
    lines.append("|---" * (2 + len(methods)) + "|")
    for name in DRAWN:
        for count in rows:
            cells = []
            for method, rate in methods:
                found = passing(method, name, count, rate, repetitions)
                better = passing(method, name, count, rate, repetitions // 4, BETTER)
                by_side = [" ".join(f"{found[number, side]:.1f}" for number in CANDIDATES) for side in SIDES]
                equal = " / ".join(by_side) if full else f"{max(found.values()):.1f}"
                cells.append(f"{equal}, power {better[1, 'bad']:.0f} / {better[1, 'good']:.0f}")
            lines.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table: each method at its error rate (both sides together, one comparison)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["percentile", "product"], choices=list(METHODS))
    parser.add_argument("--rates", nargs="+", type=float, default=[0.05, ERROR_RATE], help="one for each method")
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--full", action="store_true", help="1 to 5 candidates, the long tail on the bad / good side")
    given: Any = parser.parse_args(arguments)
    methods = list(zip(given.methods, given.rates, strict=True))
    print(table(methods, given.repetitions, given.rows, given.full))


if __name__ == "__main__":
    main()
