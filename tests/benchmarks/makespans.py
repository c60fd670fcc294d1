"""How long 32 trials take on 1, 4 and 8 GPUs by the slots of each, on the virtual clock that plans are played on.

    python -m tests.benchmarks.makespans

A GPU with 1, 2, 4 and 8 trials is 1, 1.8, 3 and 4.2 times as fast as with one: assumed, not measured. Time is that of a
step of a trial that trains alone.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from statistics import fmean

import numpy as np

from sweeps.planning.forecast import Hosts, Lengths, play
from sweeps.schedulers import Rule
from sweeps.schedulers.asha import Promote
from sweeps.schedulers.fifo import Fifo

POINTS = (9, 27, 81, 243)
TRIALS, PLAYS = 32, 40
SLOTS, SPEEDS = (1, 2, 4, 8), (1.0, 1.8, 3.0, 4.2)
GPUS = (1, 4, 8)
RULES: dict[str, Callable[[], Rule]] = {
    "`promote`, `breadth`": lambda: Promote(POINTS, 3, "breadth"),
    "`promote`, `paper`": lambda: Promote(POINTS, 3, "paper"),
    "`fifo`": lambda: Fifo(POINTS),
}
EVERY = tuple(float(np.interp(count, SLOTS, SPEEDS)) for count in range(1, SLOTS[-1] + 1))
"""Speed with 1 to 8 trials."""


def makespan(rule: str, gpus: int, slots: int) -> float:
    """The mean of random orders of arrival."""
    rng, taken = Random(0), []
    for _ in range(PLAYS):
        qualities = [float(quality) for quality in rng.sample(range(TRIALS), TRIALS)]
        hosts = Hosts(gpus, slots, EVERY)
        taken.append(play(RULES[rule](), qualities, hosts, True, Lengths()).makespan)
    return fmean(taken)


def main() -> None:
    """Prints the table."""
    print(f"| rule | GPUs | {' | '.join(f'{slots} slots each' for slots in SLOTS)} |\n|---|---|---|---|---|---|")
    for rule in RULES:
        for gpus in GPUS:
            times = [makespan(rule, gpus, slots) for slots in SLOTS]
            cells = [f"{time:,.0f} ({times[0] / time:.1f} x)" for time in times]
            print(f"| {rule} | {gpus} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
