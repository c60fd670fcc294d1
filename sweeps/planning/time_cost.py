"""What a sweep takes in time and GPU-hours, from the trials that reach each rung and the speed of a host. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.planning.rates import Speed


@dataclass(frozen=True)
class Range:
    """An expected value and the range that it is believed to be in."""

    expected: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """All three, multiplied."""
        return Range(self.expected * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Work:
    """What the trials of a sweep do together, and how much of it comes one after the other on its hosts."""

    steps: Range
    """Optimizer steps."""
    evaluations: float
    """Of all trials, and one of the base."""
    makespan: Range
    """Steps that follow one another. On one host these are all; on several the last trials leave some hosts idle."""
    worst_makespan: float
    """Of the most optimizer steps that the scheduler can let the whole sweep take."""
    evaluation_turns: float
    """Evaluations that follow one another."""
    worst_evaluation_turns: int
    trials: float
    """Those that are expected to be repeated included."""
    totals: tuple[int, ...] = ()
    """The different totals of steps that were played, in rising order."""


@dataclass(frozen=True)
class Cost:
    """Time that a sweep takes from its command to its answer."""

    seconds: Range
    worst_seconds: float
    """When no trial is stopped early."""
    gpu_hours: Range
    """0 on CPUs."""


def cost(work: Work, speed: Speed, hosts: int, gpus: int) -> Cost:
    """The cost of `work` on `hosts` hosts of this speed, each with so many GPUs (0: on a CPU).

    The start, and what each trial takes beside its steps, are not shared by the hosts.
    """
    evaluating = work.evaluation_turns * speed.evaluation_seconds
    trials = work.trials * speed.trial_seconds
    fixed = speed.start_seconds + trials

    def seconds(steps: float, side: int) -> float:
        """What so many steps take, with every part at its expected value (0), its lowest (-1) or its highest (1)."""
        off = speed.start_seconds * speed.start_uncertainty + trials * speed.trial_uncertainty
        return fixed + side * off + (steps * speed.step_seconds + evaluating) * (1 + side * speed.uncertainty)

    makespan = work.makespan
    taken = Range(seconds(makespan.expected, 0), seconds(makespan.low, -1), seconds(makespan.high, 1))
    worst = work.worst_makespan * speed.step_seconds + work.worst_evaluation_turns * speed.evaluation_seconds
    return Cost(seconds=taken, worst_seconds=fixed + worst, gpu_hours=taken.times(hosts * gpus / 3600))


def evaluation_share(work: Work, step: float, evaluation: float) -> float:
    """Part of the work that goes into evaluations, 0 to 1, where a step and an evaluation take so much of it."""
    trained, evaluated = work.steps.expected * step, work.evaluations * evaluation
    return evaluated / (trained + evaluated) if trained + evaluated else 0.0


def steps_of(points: Sequence[int], reaching: Sequence[float]) -> float:
    """Optimizer steps of trials of which `reaching[i]` reach `points[i]`, those that stop on the way not counted."""
    before = (0, *points)
    return sum(
        count * (point - last) for count, point, last in zip(reaching, points, before[: len(points)], strict=True)
    )
