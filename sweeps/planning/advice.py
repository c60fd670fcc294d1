"""What the plan warns of in an evaluation: that it costs more than the training, or tells too little. Pure."""

from __future__ import annotations

from sweeps.config.model import SweepConfig
from sweeps.planning import evaluation_noise
from sweeps.planning.outlook import Outlook
from trainables.contract import RowShape

MOST_EVALUATION = 0.5
"""Part of the work from which evaluations are more than the training."""
COARSE = 2 * evaluation_noise.USUAL_GAP
"""Differences that a sweep should tell at least, in nats per token."""


def of_evaluation(config: SweepConfig, seen: Outlook, rows: RowShape | None) -> list[str]:
    """The warnings, a line each.

    Args:
        config: the sweep.
        seen: what is expected of it.
        rows: its rows, where they are known.
    """
    warnings = []
    share = seen.evaluation_share
    if share is not None and share > MOST_EVALUATION:
        warnings.append(
            f"evaluations take about {share:.0%} of the work, more than the training: lower data.eval_examples, or "
            "raise scheduler.grace_steps or reduction_factor for fewer of them"
        )
    count = rows.eval_rows if rows is not None else config.data.eval_examples if config.data is not None else None
    if count is not None and evaluation_noise.smallest_gap(count) > COARSE:
        warnings.append(
            f"data.eval_examples: {count} rows tell two trials apart whose losses differ by about "
            f"{evaluation_noise.smallest_gap(count):.2f} nats per token or more; the best trials are often "
            f"{evaluation_noise.USUAL_GAP:g} apart, which takes about "
            f"{evaluation_noise.rows_for(evaluation_noise.USUAL_GAP)} rows"
        )
    return warnings
