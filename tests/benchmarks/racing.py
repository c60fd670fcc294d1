"""What ending an evaluation early would save, once it is certain that the trial will not go on from its rung.

    python -m tests.benchmarks.racing [--seeds 100]

Sweeps of the simulator are gone through report by report. An evaluation is paired, row by row, with the trial at the
cutoff: the best one that would keep the trial from going on whatever comes later. It ends at the first look at which
the mean difference lies above zero by 2.8 standard errors, corrected for the rows being a finite number (Cochran,
Sampling Techniques, 1977, section 2.6); at most four looks, so an end is wrong in one of a hundred even at a tie.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, stdev

from simulator import ARRIVALS, Listed, Setting, SimulatedSweep, curves, simulate

from sweeps.halving.asha_stop import cutoff

from .schedulers import FULL, NOISE, POINTS, RULES, TRIALS

FACTOR = 3
LOOKS = (16, 32, 64, 128)
ERRORS = 2.8
SPREAD = 0.13
"""Standard deviation, in nats, of the difference between two adapters' losses on one row: LoRA adapters of
SmolLM2-135M on GSM8K."""
ROWS = (16, 32, 64, 256)
SLOTS = (1, 8)
COMPARED = ("promote, breadth", "promote, paper", "stop")


@dataclass
class Saved:
    """What was seen of the evaluations of several sweeps."""

    rows: dict[int, list[float]]
    """Rows in a full evaluation -> the part of them that was left out, one figure per evaluation."""
    wrong: dict[int, int]
    """Rows in a full evaluation -> evaluations that ended early though all rows would have let the trial go on."""
    evaluations: int = 0
    lost: int = 0
    """Evaluations of trials that would not have gone on, whatever came later."""


def rows_looked_at(difference: float, rows: int, rng: Random) -> int:
    """Rows after which an evaluation ends: all of them when it never becomes certain that the trial is worse.

    Args:
        difference: the trial's loss on all rows, less that of the trial at the cutoff.
        rows: number of rows.
        rng: draws how the rows differ.
    """
    drawn = [rng.gauss(0.0, SPREAD) for _ in range(rows)]
    off = difference - fmean(drawn)
    for look in LOOKS:
        if look >= rows:
            break
        seen = [each + off for each in drawn[:look]]
        error = stdev(seen) / math.sqrt(look) * math.sqrt(1 - look / rows)
        if fmean(seen) > ERRORS * error:
            return look
    return rows


def differences(rule: str, done: SimulatedSweep) -> Iterator[float | None]:
    """How far each evaluation was above the cutoff that it met; None where there was none yet, as at the last point.

    Under `promote` a parked trial goes on when it ranks in the first third of its rung, however many come later. So the
    cutoff is the last of as many trials as may go on from the rung in the whole sweep.
    """
    places = {point: TRIALS // FACTOR ** (number + 1) for number, point in enumerate(POINTS[:-1])}
    known: dict[int, list[float]] = {point: [] for point in POINTS}
    for _, _, point, value in done.measured:
        before = sorted(known[point])
        known[point].append(value)
        if point == POINTS[-1]:
            yield None
        elif rule == "stop":
            yield value + cutoff([-each for each in reversed(before)], FACTOR) if before else None
        else:
            yield value - before[places[point] - 1] if len(before) >= places[point] else None


def saved(rule: str, arrival: str, slots: int, seeds: Sequence[int]) -> Saved:
    """What one rule would save under one order of arrival."""
    found = Saved(rows={rows: [] for rows in ROWS}, wrong=dict.fromkeys(ROWS, 0))
    for seed in seeds:
        trials = ARRIVALS[arrival](list(curves(TRIALS, Random(seed), FULL)))
        done = simulate(RULES[rule](), Listed(trials), Setting(slots, NOISE), Random(seed))
        rng = Random(seed)
        for difference in differences(rule, done):
            found.evaluations += 1
            found.lost += difference is not None and difference > 0
            for rows in ROWS:
                looked = rows if difference is None else rows_looked_at(difference, rows, rng)
                found.rows[rows].append(1 - looked / rows)
                found.wrong[rows] += difference is not None and difference <= 0 and looked < rows
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    arguments = parser.parse_args()
    heads = ["order", "rule", "slots", "certain to lose", *(f"{rows} rows" for rows in ROWS), "wrong ends"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for arrival, rule, slots in itertools.product(ARRIVALS, COMPARED, SLOTS):
        found = saved(rule, arrival, slots, range(arguments.seeds))
        cells = [f"{100 * fmean(found.rows[rows]):.0f} %" for rows in ROWS]
        wrong = 100 * sum(found.wrong.values()) / found.evaluations / len(ROWS)
        lost = f"{100 * found.lost / found.evaluations:.0f} %"
        print(f"| {arrival} | `{rule}` | {slots} | {lost} | {' | '.join(cells)} | {wrong:.2f} % |")


if __name__ == "__main__":
    main()
