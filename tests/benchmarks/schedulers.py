"""Schedulers and searchers side by side on the simulator: steps, and how good the answer is.

    python -m tests.benchmarks.schedulers --results DIR

The tables of docs/simulator.md are printed, and written to DIR/tables.md.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import NamedTuple

from simulator import ARRIVALS, SPACE, Listed, Searched, Setting, SimulatedSweep, curves, simulate

from search_spaces.space import SearchSpace
from sweeps.config import components
from sweeps.schedulers import Rule
from sweeps.schedulers.asha import Promote, Stop
from sweeps.schedulers.fifo import Fifo
from sweeps.schedulers.median import Median

POINTS = (3, 9, 27, 81)
FULL = POINTS[-1]
TRIALS, FEW_TRIALS = 64, 12
SLOTS = (1, 8)
NOISE, LITTLE_NOISE, MUCH_NOISE = 0.03, 0.01, 0.1
BREADTH = "promote, breadth"
RULES: dict[str, Callable[[], Rule]] = {
    BREADTH: lambda: Promote(POINTS, 3, "breadth"),
    "promote, paper": lambda: Promote(POINTS, 3, "paper"),
    "stop": lambda: Stop(POINTS, 3),
    "median": lambda: Median(POINTS),
    "fifo": lambda: Fifo(POINTS),
}
SEARCHERS: dict[str, tuple[str, float]] = {
    "random": ("random", 1.0e-3),
    "tpe": ("tpe", 1.0e-3),
    "prior": ("prior", 1.0e-3),
    "prior, off by 10": ("prior", 1.0e-4),
}
"""Searcher, and the learning rate that its prior expects."""


class Case(NamedTuple):
    """What is simulated, once for each seed."""

    rule: str
    arrival: str
    """One of ARRIVALS, or of SEARCHERS after "by "."""
    slots: int
    noise: float = NOISE
    trials: int = TRIALS

    @property
    def seeds(self) -> int:
        """Sweeps to simulate; fewer of the cases that take most of the time."""
        return 30 if self.arrival not in ARRIVALS and self.trials == TRIALS else 100


class Outcome(NamedTuple):
    """How one simulated sweep went."""

    steps: int
    makespan: float
    path: list[tuple[float, float]]
    """When its answer changed, and how far the new one's true loss lay above the best there is."""

    def regret(self, until: float = math.inf) -> float:
        """Of the answer at that time; infinite before the first one."""
        known = [regret for at, regret in self.path if at <= until]
        return known[-1] if known else math.inf


def simulated(case: Case, seed: int) -> Outcome:
    """One sweep."""
    setting, rule = Setting(case.slots, case.noise), RULES[case.rule]()
    if case.arrival in ARRIVALS:
        trials = ARRIVALS[case.arrival](list(curves(case.trials, Random(seed), FULL)))
        done = simulate(rule, Listed(trials), setting, Random(seed))
        return _outcome(done, min(curve.loss(FULL) for curve in done.curves))
    searcher, rate = SEARCHERS[case.arrival.removeprefix("by ")]
    raw = {**SPACE, "training.learning_rate": {**SPACE["training.learning_rate"], "prior": rate}}
    config = components.modules("searchers")[searcher].Config()
    source = Searched(config.build(SearchSpace.parse(raw), seed), case.trials, Random(seed), FULL)
    done = simulate(rule, source, setting, Random(seed))
    return _outcome(done, source.least())


def _outcome(done: SimulatedSweep, best: float) -> Outcome:
    path: list[tuple[float, float]] = []
    lowest = math.inf
    for at, trial, steps, value in done.measured:
        if value < lowest:
            lowest = value
            path.append((at, done.curves[trial].loss(steps) - best))
    return Outcome(done.steps, done.makespan, path)


def of_rules() -> list[str]:
    """Every rule under two orders in which good trials come; with noise; and cut short after half of breadth's time."""
    orders = list(itertools.product(("random", "improving"), SLOTS))
    heads = [f"{order}, {_slots(slots)}" for order, slots in orders] + ["noise 0.1", "cut short"]
    lines, errors, half = _head(["rule", *heads]), list[float](), 0.0
    for rule in RULES:
        told = [_told(_sweeps(Case(rule, *order))) for order in orders]
        errors += [error for _, error in told]
        cells = [words for words, _ in told] + [_told(_sweeps(Case(rule, "random", 1, MUCH_NOISE)))[0]]
        done = _sweeps(Case(rule, "random", 1))
        half = half or fmean(each.makespan for each in done) / 2  # breadth comes first
        cells.append(_short(fmean(each.regret(half) for each in done)))
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return [*lines, "", f"standard error of a regret: {max(errors):.4f} at most, without the noise"]


def of_searchers() -> list[str]:
    """Every searcher under breadth, with few trials and with many."""
    columns = list(itertools.product((FEW_TRIALS, TRIALS), SLOTS))
    lines = _head(["searcher", *(f"{trials} trials, {_slots(slots)}" for trials, slots in columns)])
    for searcher in SEARCHERS:
        cases = [Case(BREADTH, f"by {searcher}", slots, LITTLE_NOISE, trials) for trials, slots in columns]
        lines.append(f"| {searcher} | {' | '.join(_told(_sweeps(case))[0] for case in cases)} |")
    return lines


def _sweeps(case: Case) -> list[Outcome]:
    return [simulated(case, seed) for seed in range(case.seeds)]


def _told(done: Sequence[Outcome]) -> tuple[str, float]:
    """Steps / regret, and the standard error of the regret."""
    regrets = [each.regret() for each in done]
    told = f"{fmean(each.steps for each in done):.0f} / {_short(fmean(regrets))}"
    return told, stdev(regrets) / math.sqrt(len(regrets))


def _head(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def _short(regret: float) -> str:
    """Without the zero before the point."""
    return f"{regret:.3f}".removeprefix("0")


def _slots(count: int) -> str:
    return f"{count} slot{'s' if count > 1 else ''}"


def main() -> None:
    """Simulates and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    results = parser.parse_args().results
    results.mkdir(parents=True, exist_ok=True)
    tables = "\n".join([*of_rules(), "", *of_searchers()])
    (results / "tables.md").write_text(tables + "\n")
    print(tables)


if __name__ == "__main__":
    main()
