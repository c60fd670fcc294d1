"""Schedulers and searchers side by side on the simulator: steps, makespan, and how good the answer is.

The tables in docs/schedulers.md and docs/searchers.md come from here:

    python -m tests.benchmarks.schedulers schedulers [--seeds 300]
    python -m tests.benchmarks.schedulers searchers [--seeds 30] [--noise 0.01] [--trials 12]
    python -m tests.benchmarks.schedulers cut [--seeds 300]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from random import Random
from statistics import fmean, stdev

from simulator import ARRIVALS, SPACE, Listed, Searched, Setting, SimulatedSweep, curves, simulate

from search_spaces.space import SearchSpace
from sweeps.config import components
from sweeps.halving.asha_promote import Promote
from sweeps.halving.asha_stop import Stop
from sweeps.halving.fifo import Fifo
from sweeps.halving.median import Median
from sweeps.halving.rule import Rule

POINTS = (3, 9, 27, 81)
FULL = POINTS[-1]
TRIALS = 64
RULES: dict[str, Callable[[], Rule]] = {
    "fifo": lambda: Fifo(POINTS),
    "median": lambda: Median(POINTS),
    "stop": lambda: Stop(POINTS, 3),
    "promote, paper": lambda: Promote(POINTS, 3, "paper"),
    "promote, breadth": lambda: Promote(POINTS, 3, "breadth"),
}
SEARCHERS = ("random", "tpe", "prior")
PRIORS = {"right": 1.0e-3, "off by 10": 1.0e-4}


def listed(rule: str, arrival: str, setting: Setting, seed: int) -> SimulatedSweep:
    """One sweep over curves that come in this order."""
    trials = ARRIVALS[arrival](list(curves(TRIALS, Random(seed), FULL)))
    return simulate(RULES[rule](), Listed(trials), setting, Random(seed))


def searched(
    rule: str, searcher: str, rate: float, setting: Setting, seed: int, trials: int = TRIALS
) -> tuple[SimulatedSweep, float]:
    """One sweep of a searcher whose prior expects this learning rate; with its regret."""
    raw = {**SPACE, "training.learning_rate": {**SPACE["training.learning_rate"], "prior": rate}}
    config = components.modules("searchers")[searcher].Config()
    source = Searched(config.build(SearchSpace.parse(raw), seed), trials, Random(seed), FULL)
    outcome = simulate(RULES[rule](), source, setting, Random(seed))
    answer = outcome.answer()
    return outcome, math.inf if answer is None else answer.loss - source.least()


def spread(values: Iterable[float]) -> str:
    """Mean and standard error."""
    numbers = list(values)
    return f"{fmean(numbers):.4f} ± {stdev(numbers) / math.sqrt(len(numbers)):.4f}"


def of_schedulers(seeds: int) -> None:
    """Every rule, order of arrival, noise and number of slots."""
    print("| arrival | noise | slots | rule | steps | makespan | regret | complete | first complete at |")
    print("|---|---|---|---|---|---|---|---|---|")
    settings = [("random", noise, slots) for noise in (0.0, 0.03, 0.1) for slots in (1, 2, 4, 8, 64)]
    settings += [(arrival, 0.03, slots) for arrival in ("improving", "worsening") for slots in (1, 4, 64)]
    for arrival, noise, slots in settings:
        for rule in RULES:
            done = [listed(rule, arrival, Setting(slots, noise), seed) for seed in range(seeds)]
            print(
                f"| {arrival} | {noise} | {slots} | {rule} | {fmean(each.steps for each in done):.0f} "
                f"| {fmean(each.makespan for each in done):.0f} | {spread(each.regret(FULL) for each in done)} "
                f"| {fmean(each.complete for each in done):.1f} "
                f"| {fmean(min(each.first_complete, each.makespan) for each in done):.0f} |",
                flush=True,
            )


def of_cuts(seeds: int) -> None:
    """The answer that a sweep has when it is cut short, at shares of the time that `promote, breadth` takes in all."""
    shares = (0.25, 0.5, 0.75, 1.0)
    print("| evaluation | slots | rule | " + " | ".join(f"regret at {share:.0%}" for share in shares) + " |")
    print("|---|---|---|---|---|---|---|")
    for evaluation in (0.0, 3.0):
        for slots in (1, 4):
            setting = Setting(slots, 0.03, evaluation)
            whole = [listed("promote, breadth", "random", setting, seed).makespan for seed in range(seeds)]
            for rule in RULES:
                done = [listed(rule, "random", setting, seed) for seed in range(seeds)]
                cells = []
                for share in shares:
                    regrets = [each.regret(FULL, share * time) for each, time in zip(done, whole, strict=True)]
                    cells.append(f"{fmean(regret for regret in regrets if math.isfinite(regret)):.4f}")
                print(f"| {evaluation:.0f} | {slots} | {rule} | " + " | ".join(cells) + " |", flush=True)


def of_searchers(seeds: int, noise: float, trials: int) -> None:
    """Every searcher under each rule, with a prior that is right and one that is not."""
    print("| rule | slots | searcher | steps | makespan | regret |")
    print("|---|---|---|---|---|---|")
    for rule in ("fifo", "stop", "promote, paper", "promote, breadth"):
        for slots in (1, 4):
            for searcher in SEARCHERS:
                for name, rate in PRIORS.items() if searcher == "prior" else [("", 1.0e-3)]:
                    setting = Setting(slots, noise)
                    done = [searched(rule, searcher, rate, setting, seed, trials) for seed in range(seeds)]
                    print(
                        f"| {rule} | {slots} | {searcher}{f', {name}' if name else ''} "
                        f"| {fmean(each.steps for each, _ in done):.0f} "
                        f"| {fmean(each.makespan for each, _ in done):.0f} | {spread(regret for _, regret in done)} |",
                        flush=True,
                    )


def main() -> None:
    """Prints one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["schedulers", "searchers", "cut"])
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--noise", type=float, default=0.03, help="of an evaluation, for the table of searchers")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each sweep, for the table of searchers")
    arguments = parser.parse_args()
    if arguments.table == "searchers":
        of_searchers(arguments.seeds, arguments.noise, arguments.trials)
    else:
        {"schedulers": of_schedulers, "cut": of_cuts}[arguments.table](arguments.seeds)


if __name__ == "__main__":
    main()
