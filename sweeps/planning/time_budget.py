"""Budgets of time: which one ends a sweep first, and what the plan warns of where it or its hosts are wasted. Pure."""

from __future__ import annotations

import math

from sweeps.config import resource
from sweeps.config.model import SweepConfig
from sweeps.planning.number_words import counted, duration
from sweeps.planning.outlook import Outlook, repeats
from sweeps.record.spent import HOUR
from trainables.specs import seconds


def shortest(config: SweepConfig, gpus: int) -> tuple[float, str] | None:
    """Seconds of the budget of time that is used up first, and what it is called; None where nothing bounds it.

    Args:
        gpus: of all hosts together, which share its GPU-hours; 0 on a CPU: nothing counts against them there.
    """
    budgets = []
    if config.budget.wall_clock is not None:
        budgets.append((seconds(config.budget.wall_clock), f"budget.wall_clock {config.budget.wall_clock}"))
    if config.budget.gpu_hours is not None and gpus:
        hours = config.budget.gpu_hours
        budgets.append((hours * HOUR / gpus, f"budget.gpu_hours {hours:g}"))
    return min(budgets, default=None)


def warnings(config: SweepConfig, seen: Outlook, hosts: int, gpus: int) -> list[str]:
    """Lines where a budget of time is short, and where hosts hold GPUs for nothing.

    Args:
        gpus: of each host; 0 on a CPU.
    """
    return _too_short(config, seen, hosts * gpus) + (_idle(config, seen, hosts) if gpus else [])


def _idle(config: SweepConfig, seen: Outlook, hosts: int) -> list[str]:
    """A line where more hosts are there to the end than trials are expected to come so far."""
    last = max(1, math.ceil(seen.reaching[-1]))
    again = repeats(config, last)
    most, where = (again, "at the end, as repeats of the best") if again > last else (last, "at the last report")
    if not config.scheduler.parks or most >= hosts:
        return []
    return [
        f"cluster.hosts: {hosts} hosts for {counted(most, 'trial')} that can be expected {where}: those "
        "without a trial stay until the sweep ends, and their GPU-hours count: lower cluster.hosts, or run `qsweep "
        f"extend SWEEP cluster.hosts={most}` once fewer trials train than there are hosts"
    ]


def _too_short(config: SweepConfig, seen: Outlook, gpus: int) -> list[str]:
    """A line where the budget is shorter than what is expected, or where that is unknown and the answer comes late."""
    budgeted = shortest(config, gpus)
    if budgeted is None:
        return []
    budget, words = budgeted
    is_late = (
        config.scheduler.parks
        and getattr(config.scheduler, "order", None) == "breadth"
        and len(resource.of(config).points) > 1
    )
    early = "set scheduler.order=paper, which trains a trial to its last step early"
    if seen.cost is None and is_late:
        return [
            f"{words}: whether it is long enough is unknown, and scheduler.order breadth brings the first trial to its "
            f"last step late: {early}, or run `qsweep plan FILE --calibrate` and set budget.trials=auto"
        ]
    if seen.cost is None or seen.cost.seconds.expected <= budget:
        return []
    hours = seen.cost.gpu_hours.expected
    taken = f"{float(f'{hours:.3g}'):g} GPU-hours" if "gpu_hours" in words else duration(seen.cost.seconds.expected)
    return [
        f"{words} is shorter than the {taken} that are expected: lower budget.trials or set it to auto"
        + (f", or {early}" if is_late else "")
    ]
