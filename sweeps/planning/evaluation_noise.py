"""How small a difference between two trials the evaluation rows can tell. Pure."""

from __future__ import annotations

import math

PAIRED_SPREAD = 0.13
"""Standard deviation of the difference of two trials' losses on one row, in nats per token, where it has not been
measured: seven LoRA adapters of SmolLM2-135M on 96 rows of GSM8K. Unpaired it is 0.34."""
QUANTILE = 2.33
"""Of the normal distribution at 99 %: several trials are compared with the best at once."""
USUAL_GAP = 0.02
"""Nats between the best trials of a sweep that is worth its name; a tuned learning rate gains more."""


def smallest_gap(rows: int) -> float:
    """The difference of two trials' losses, in nats per token, that `rows` evaluation rows can tell from chance."""
    return QUANTILE * PAIRED_SPREAD / math.sqrt(rows)


def rows_for(gap: float) -> int:
    """Rows that tell a difference of `gap` nats per token from chance."""
    return math.ceil((QUANTILE * PAIRED_SPREAD / gap) ** 2)
