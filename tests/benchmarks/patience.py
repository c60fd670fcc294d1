"""What `budget.patience` saves and what it costs: on the simulator, and on the replay of a public grid.

    python -m tests.benchmarks.patience

No trial begins once so many trials in a row were no better at their first report than the best one before them, beyond
the 99 % interval of a difference. Prints the table of docs/simulator.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from random import Random
from statistics import fmean

import replay
from simulator import SPACE, Curve, Searched, Setting, Source, simulate

from search_spaces.space import SearchSpace
from sweeps.config import components

from .schedulers import BREADTH, FULL, LITTLE_NOISE, POINTS, RULES, TRIALS

PATIENCES = (2, 5, 8, None)
SWEEPS, SLOTS = 30, 4
"""Of each simulated case."""
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


def simulated(rule: str, most: int | None, seed: int) -> tuple[int, float]:
    """Steps and regret of one sweep with the searcher `prior`."""
    config = components.modules("searchers")["prior"].Config()
    source = Searched(config.build(SearchSpace.parse(SPACE), seed), TRIALS, Random(seed), FULL)
    patient = Patient(source, Patience(most, Z * LITTLE_NOISE))
    done = simulate(RULES[rule](), patient, Setting(SLOTS, LITTLE_NOISE, protects_first=True), Random(seed))
    answer = done.answer()
    assert answer is not None
    return done.steps, answer.loss - source.least()


def replayed(told: Sequence[tuple[replay.Cells, Sequence[float | None]]], most: int | None) -> str:
    """Runs / regret of searches that train each run to its end."""
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
    """Prints the table."""
    grids = replay.grids()
    for searcher in ("prior", "random"):
        told = []
        for model, cells in grids.items():
            known = replay.space(cells, replay.known_rates(grids, replay.family(model)))
            for seed in range(SEEDS):
                losses = replay.losses(searcher, cells, known, seed)
                told.append((cells, list(itertools.islice(losses, MOST_RUNS))))
        row = " | ".join(replayed(told, most) for most in PATIENCES)
        print(f"| public grid, {len(grids)} models, `{searcher}`: runs / regret | {row} |", flush=True)
    for rule in (BREADTH, "fifo"):
        row = ""
        for most in PATIENCES:
            steps, regrets = zip(*(simulated(rule, most, seed) for seed in range(SWEEPS)), strict=True)
            row += f" {fmean(steps):,.0f} / {fmean(regrets):.3f} |".replace(" 0.", " .")
        print(f"| simulated, {TRIALS} trials, `{rule}`, `prior`: steps / regret |{row}", flush=True)


if __name__ == "__main__":
    main()
