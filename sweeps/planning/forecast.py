"""How many trials reach each rung, and what that takes. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from sweeps.planning.time_cost import Range, Work, steps_of
from sweeps.planning.virtual_sweep import Play

LEAST_FOR_QUANTILES = 20
"""Plays from which a range is the middle 80 % of them; of fewer, it is all."""


@dataclass(frozen=True)
class Forecast:
    """What the scheduler is expected to let through."""

    points: Sequence[int]
    """Where trials report and are ranked."""
    plays: Sequence[Play]
    """The ways in which it may go; one where the rule leaves no choice."""
    hosts: int
    """On which they were played."""

    @property
    def reaching(self) -> list[float]:
        """Expected trials at each point."""
        return [fmean(column) for column in zip(*(play.counts for play in self.plays), strict=True)]

    def work(
        self, trials: int, worst: int, steps_per_unit: float = 1.0, repeats: Callable[[int], int] = lambda _: 0
    ) -> Work:
        """Steps and evaluations of so many trials; the base is evaluated once.

        Args:
            worst: optimizer steps that the whole sweep takes at most.
            steps_per_unit: optimizer steps for each unit in which `points` count.
            repeats: trials that are added when so many reach the last point. `worst` counts them.
        """
        reports, longest = len(self.points), steps_per_unit * self.points[-1]
        played = [(play, repeats(play.counts[-1])) for play in self.plays]
        # Plays of a part of very many trials are scaled up, and what is rounded may go beyond what is possible.
        totals = [
            min(float(worst), steps_per_unit * steps_of(self.points, play.counts) + again * longest)
            for play, again in played
        ]
        makespan = _range([steps_per_unit * play.makespan + self._turns(again) * longest for play, again in played])
        evaluations = [
            self._turns(play.counts[0] + 1) + sum(map(self._turns, play.counts[1:])) + self._turns(again) * reports
            for play, again in played
        ]
        expected_again, most = fmean(again for _, again in played), trials + repeats(trials)
        return Work(
            steps=_range(totals),
            evaluations=sum(self.reaching) + expected_again * reports + 1,
            makespan=makespan,
            worst_makespan=max(makespan.high, self._worst_makespan(worst, most, longest)),
            evaluation_turns=fmean(evaluations),
            worst_evaluation_turns=self._turns(most + 1) + self._turns(most) * (reports - 1),
            trials=trials + expected_again,
            totals=tuple(sorted({*map(round, totals)})),
        )

    def _turns(self, count: int) -> int:
        """How often a host takes its turn when all of them share so many."""
        return math.ceil(count / self.hosts)

    def _worst_makespan(self, worst: int, trials: int, longest: float) -> float:
        """Steps that follow one another at most: hosts share all but those of one trial, or train whole trials."""
        return min((worst - longest) / self.hosts + longest, self._turns(trials) * max(longest, worst / trials))


def _range(values: Sequence[float]) -> Range:
    """Their mean, and where they lie."""
    many = len(values) >= LEAST_FOR_QUANTILES
    low, *_, high = quantiles(values, n=10) if many else (min(values), max(values))
    return Range(fmean(values), low, high)
