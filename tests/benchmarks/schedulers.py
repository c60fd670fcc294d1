"""Schedulers and searchers side by side on the simulator: steps, makespan, and how good the answer is at each time.

    python -m tests.benchmarks.schedulers --results DIR [--minutes 3] [--only TEXT ...]

Each case is kept in DIR/CASE.json, and one that is there is not simulated again, so that it can be done in pieces. The
tables of docs/simulator.md are printed from what is there, and written to DIR/tables.md; see `simulator_tables`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
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
SLOTS = (1, 2, 4, 8, 64)
FEW_SLOTS = (1, 8)
COSTLY = 3.0
"""Time of an evaluation that costs, in steps: as much as a trial's training up to the first rung."""
NOISE, LITTLE_NOISE, MUCH_NOISE = 0.03, 0.01, 0.1
RULES: dict[str, Callable[[], Rule]] = {
    "promote, breadth": lambda: Promote(POINTS, 3, "breadth"),
    "promote, paper": lambda: Promote(POINTS, 3, "paper"),
    "stop": lambda: Stop(POINTS, 3),
    "median": lambda: Median(POINTS),
    "fifo": lambda: Fifo(POINTS),
}
SEARCHED_RULES = tuple(rule for rule in RULES if rule != "median")
SEARCHERS: dict[str, tuple[str, float]] = {
    "random": ("random", 1.0e-3),
    "tpe": ("tpe", 1.0e-3),
    "prior": ("prior", 1.0e-3),
    "prior, off by 10": ("prior", 1.0e-4),
}
"""Searcher, and the learning rate that its prior expects."""


@dataclass(frozen=True)
class Case:
    """What is simulated, once for each seed."""

    rule: str
    arrival: str
    """One of ARRIVALS, or "by" and one of SEARCHERS."""
    slots: int
    evaluation: float = 0.0
    noise: float = NOISE
    trials: int = TRIALS

    @property
    def seeds(self) -> int:
        """Sweeps to simulate; fewer of the cases that take most of the time."""
        return 30 if self.arrival not in ARRIVALS and self.trials == TRIALS else 100

    @property
    def name(self) -> str:
        words = f"{self.rule} {self.arrival} {self.slots} slots cost {self.evaluation:g} noise {self.noise:g}"
        return f"{words} {self.trials} trials".replace(",", "").replace(" ", "-")


class Outcome(NamedTuple):
    """How one simulated sweep went."""

    steps: int
    makespan: float
    path: list[list[float]]
    """When its answer changed, and how far the new one's true loss lay above the best there is."""

    def regret(self, until: float = math.inf) -> float:
        """Of the answer at that time; infinite before the first one."""
        known = [regret for at, regret in self.path if at <= until]
        return known[-1] if known else math.inf


def cases() -> list[Case]:
    """All that the tables need."""
    of_rules = [
        *(Case(rule, arrival, slots) for arrival, rule, slots in itertools.product(ARRIVALS, RULES, SLOTS)),
        *(Case(rule, "random", slots, COSTLY) for rule, slots in itertools.product(RULES, SLOTS)),
        *(Case(rule, "random", 1, noise=MUCH_NOISE) for rule in RULES),
    ]
    of_searchers = [
        Case(rule, f"by {searcher}", slots, cost, LITTLE_NOISE, trials)
        for rule, searcher in itertools.product(SEARCHED_RULES, SEARCHERS)
        for slots, cost, trials in [
            *((slots, 0.0, TRIALS) for slots in SLOTS),
            *((slots, COSTLY, TRIALS) for slots in FEW_SLOTS),
            *((slots, 0.0, FEW_TRIALS) for slots in FEW_SLOTS),
        ]
    ]
    return [*of_rules, *of_searchers]


def simulated(case: Case, seed: int) -> Outcome:
    """One sweep."""
    setting = Setting(case.slots, case.noise, case.evaluation)
    rule = RULES[case.rule]()
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
    path: list[list[float]] = []
    lowest = math.inf
    for at, trial, steps, value in done.measured:
        if value < lowest:
            lowest = value
            path.append([round(at, 6), done.curves[trial].loss(steps) - best])
    return Outcome(done.steps, done.makespan, path)


def read(results: Path, case: Case) -> list[Outcome]:
    """What was simulated of a case, a sweep for each seed."""
    path = results / f"{case.name}.json"
    return [Outcome(*each) for each in json.loads(path.read_text())[: case.seeds]] if path.is_file() else []


def run(chosen: Sequence[Case], results: Path, until: float) -> int:
    """Simulates what is missing of these cases, as far as time lasts; how many still are."""
    missing = [case for case in chosen if not (results / f"{case.name}.json").is_file()]
    for count, case in enumerate(missing):
        if time.monotonic() > until:
            return len(missing) - count
        done = [simulated(case, seed) for seed in range(case.seeds)]
        partial = results / f"{case.name}.part"
        partial.write_text(json.dumps(done))
        partial.rename(results / f"{case.name}.json")
    return 0


def main() -> None:
    """Simulates what is missing, and prints the tables."""
    from . import simulator_tables

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of simulated cases")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no case after so many")
    parser.add_argument("--only", nargs="+", default=[], help="simulate only cases with one of these in their name")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in cases() if not arguments.only or any(text in case.name for text in arguments.only)]
    left = run(chosen, arguments.results, time.monotonic() + 60 * arguments.minutes)
    tables = simulator_tables.tables(arguments.results)
    (arguments.results / "tables.md").write_text(tables)
    print(f"{left} cases are left\n\n{tables}")


if __name__ == "__main__":
    main()
