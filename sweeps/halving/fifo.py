"""FIFO: no trial is stopped. Pure."""

from __future__ import annotations

from sweeps.halving.rule import Rule, TrialHistory, Verdict


class Fifo(Rule):
    """Every trial goes on to the last point."""

    def _judge(self, name: str, trial: TrialHistory, point: int, loss: float) -> Verdict:
        return Verdict.GO_ON
