"""How many trials reach each rung. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from sweeps.planning.time_cost import Range, Work, steps_of
from sweeps.planning.trial_source import REPEATED

LEAST_FOR_QUANTILES = 20
"""Plays from which a range is the middle 80 % of them; of fewer, it is all."""


@dataclass(frozen=True)
class Forecast:
    """What the scheduler is expected to let through."""

    points: tuple[int, ...]
    """Where trials report and are ranked."""
    reaching: tuple[float, ...]
    """Expected trials at each point."""
    plays: tuple[tuple[int, ...], ...]
    """Trials at each point in each of the ways in which it may go; one where the rule leaves no choice."""

    def work(self, trials: int, worst: int, steps_per_unit: float = 1.0, repeats: int = 0) -> Work:
        """Steps and evaluations of so many trials; the base is evaluated once.

        Args:
            worst: optimizer steps that the whole sweep takes at most.
            steps_per_unit: optimizer steps for each unit in which `points` count.
            repeats: `searcher.repeats`: only trials that reach the last point are repeated. `worst` counts them.
        """
        again = [repeats * min(REPEATED, play[-1]) for play in self.plays]
        expected_again = sum(again) / len(again)
        # Plays of a part of very many trials are scaled up, and what is rounded may go beyond what is possible.
        totals = sorted(
            min(float(worst), steps_per_unit * (steps_of(self.points, play) + more * self.points[-1]))
            for play, more in zip(self.plays, again, strict=True)
        )
        low, high = totals[0], totals[-1]
        if len(totals) >= LEAST_FOR_QUANTILES:
            tenths = quantiles(totals, n=10)
            low, high = tenths[0], tenths[-1]
        return Work(
            steps=Range(sum(totals) / len(totals), low, high),
            worst_steps=worst,
            evaluations=sum(self.reaching) + expected_again * len(self.points) + 1,
            worst_evaluations=(trials + repeats * min(REPEATED, trials)) * len(self.points) + 1,
            trials=trials + expected_again,
        )


def forecast(points: Sequence[int], plays: Sequence[Sequence[int]]) -> Forecast:
    """The forecast of as many plays of a scheduler's rule, each with its trials at each point."""
    columns = zip(*plays, strict=True)
    expected = tuple(sum(column) / len(plays) for column in columns)
    return Forecast(tuple(points), expected, tuple(tuple(play) for play in plays))
