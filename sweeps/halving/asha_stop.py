"""ASHA in its stopping form: a trial is judged once, when it comes to a rung. Pure.

The rule of Ray's AsyncHyperBandScheduler (tune/schedulers/async_hyperband.py, `_Bracket.on_result`, 2.60), after Li et
al. (MLSys 2020, arXiv 1810.05934), who pause trials instead (see `asha_promote`).
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence

from sweeps.halving.rule import Decision, Direction, Rule


class Stop(Rule):
    """Stops a trial that is below the best 1/reduction_factor of those that came to the rung before it.

    The first one at a rung always goes on, so trials that come in improving order are hardly ever stopped.
    """

    def __init__(
        self,
        points: Sequence[int],
        reduction_factor: int,
        direction: Direction = "min",
        overfit_patience: int | None = None,
    ) -> None:
        """See `Rule`; one of `reduction_factor` trials goes on at each rung."""
        super().__init__(points, direction, overfit_patience)
        self._factor = reduction_factor
        self._recorded: dict[int, list[float]] = {point: [] for point in self.points[:-1]}
        """Rung -> rewards (the higher the better) of the trials that came so far, rising."""

    def _judge(self, name: str, point: int, loss: float) -> Decision:
        if point == self.points[-1] or not math.isfinite(loss):
            return Decision.STOP  # What is not finite moves no cutoff.
        recorded = self._recorded[point]
        goes_on = not recorded or -loss >= cutoff(recorded, self._factor)
        insort(recorded, -loss)
        return Decision.GO_ON if goes_on else Decision.STOP


def cutoff(rewards: Sequence[float], factor: int) -> float:
    """The 1 - 1/factor quantile of rewards, which rise: bit for bit numpy's linear percentile, which Ray uses."""
    where = (1 - 1 / factor) * 100 / 100.0 * (len(rewards) - 1)
    low = math.floor(where)
    if low >= len(rewards) - 1:
        return rewards[-1]
    part, width = where - low, rewards[low + 1] - rewards[low]
    # numpy/lib/_function_base_impl.py, `_lerp` (2.4): from the nearer end.
    return rewards[low + 1] - width * (1 - part) if part >= 0.5 else rewards[low] + width * part
