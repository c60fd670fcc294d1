"""FIFO: no trial is stopped. Pure."""

from __future__ import annotations

from sweeps.halving.rule import Decision, Rule


class Fifo(Rule):
    """Every trial goes on to the last point."""

    def _judge(self, name: str, point: int, loss: float) -> Decision:
        return Decision.GO_ON
