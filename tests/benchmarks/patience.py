"""What `budget.patience` saves and what it costs: on the simulator, and on the replay of a public grid.

    python -m tests.benchmarks.patience [--sweeps 30]

No trial begins once so many trials in a row were no better at their first report than the best one before them, beyond
the 99 % interval of a difference. Prints the table of docs/simulator.md; takes some ten minutes.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from random import Random
from statistics import fmean

import replay
from simulator import SPACE, Curve, Searched, Setting, Source, simulate

from search_spaces.space import SearchSpace
from sweeps.config import components

from .schedulers import FULL, LITTLE_NOISE, POINTS, RULES, TRIALS

PATIENCES = (2, 3, 5, 8, 12, None)
CASES = (
    *itertools.product(("promote, breadth", "fifo"), ("random", "prior")),
    ("promote, paper", "random"),
    ("stop", "random"),
)
SLOTS = 4
Z = 2.58 * math.sqrt(2)
"""Half of the interval of a difference, in standard deviations of an evaluation."""
MOST_RUNS, SEEDS = 16, 5
"""Runs of a replayed search, `budget.trials` by default, and seeds for each model."""


class Patience:
    """Counts trials without a gain."""

    def __init__(self, most: int | None, margin: float) -> None:
        self._most, self._margin = most, margin
        self._best, self._without = math.inf, 0

    @property
    def is_used_up(self) -> bool:
        """Whether no further trial begins."""
        return self._most is not None and self._without >= self._most

    def take(self, value: float) -> None:
        """The first report of a trial; one that diverged before has none."""
        if value < self._best - self._margin or self._best == math.inf:
            self._best, self._without = value, 0
        else:
            self._without += 1


class Patient:
    """A source that gives no more trials once its patience is used up."""

    def __init__(self, source: Source, patience: Patience) -> None:
        self._source, self._patience = source, patience

    def next(self) -> Curve | None:
        """As that of `Source`."""
        return None if self._patience.is_used_up else self._source.next()

    def tell(self, trial: int, steps: int, value: float, is_final: bool) -> None:
        """As that of `Source`."""
        self._source.tell(trial, steps, value, is_final)
        if steps == POINTS[0] and math.isfinite(value):
            self._patience.take(value)


def simulated(rule: str, searcher: str, most: int | None, seed: int) -> tuple[int, float, float]:
    """Trials, steps and regret of one sweep."""
    config = components.modules("searchers")[searcher].Config()
    source = Searched(config.build(SearchSpace.parse(SPACE), seed), TRIALS, Random(seed), FULL)
    patient = Patient(source, Patience(most, Z * LITTLE_NOISE))
    done = simulate(RULES[rule](), patient, Setting(SLOTS, LITTLE_NOISE, protects_first=True), Random(seed))
    answer = done.answer()
    assert answer is not None
    return len(done.curves), done.steps, answer.loss - source.least()


def of_simulator(sweeps: int) -> None:
    """Trials / steps / regret, by rule and searcher."""
    for rule, searcher in CASES:
        cells = []
        for most in PATIENCES:
            columns = zip(*(simulated(rule, searcher, most, seed) for seed in range(sweeps)), strict=True)
            trials, steps, regret = map(fmean, columns)
            cells.append(f"{trials:.0f} / {steps:.0f} / {regret:.3f}".replace(" 0.", " ."))
        print(f"| {rule} | {searcher} | {' | '.join(cells)} |", flush=True)


def of_replay() -> None:
    """Runs / regret of searchers that train each run to its end."""
    grids = replay.grids()
    for searcher in ("random", "prior"):
        told = []
        for model, cells in grids.items():
            known = replay.space(cells, replay.known_rates(grids, replay.family(model)))
            for seed in range(SEEDS):
                found = replay.losses(searcher, cells, known, seed)
                told.append((cells, list(itertools.islice(found, MOST_RUNS))))
        cells_of_row = [_replayed(told, most) for most in PATIENCES]
        print(f"| {searcher} | {' | '.join(cells_of_row)} |", flush=True)


def _replayed(told: Sequence[tuple[replay.Cells, Sequence[float | None]]], most: int | None) -> str:
    runs, regrets = [], []
    for cells, losses in told:
        patience, best, count = Patience(most, Z * replay.NOISE), math.inf, 0
        for loss in losses:
            if patience.is_used_up:
                break
            count += 1
            if loss is not None:
                patience.take(loss)
                best = min(best, loss)
        runs.append(count)
        regrets.append(best - replay.best(cells))
    return f"{fmean(runs):.1f} / {fmean(regrets):.4f}".replace(" 0.", " .")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=30, help="simulated sweeps of each case")
    arguments = parser.parse_args()
    of_simulator(arguments.sweeps)
    of_replay()


if __name__ == "__main__":
    main()
