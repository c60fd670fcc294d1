"""A rate that was measured, in few words, for the tests of plans that tell time."""

from __future__ import annotations

from typing import Any

from sweeps.planning.rates import Rate, RateKey


def rate(key: RateKey, **fields: Any) -> Rate:
    """A sweep without rows: 20 s to start, 2 s for a step, 1 s for an evaluation, and 1 s of each trial beside them."""
    given: dict[str, Any] = {
        "tokens_per_step": 0.0, "slots": 1.0, "step_seconds": 2.0, "evaluation_seconds": 1.0, "evaluation_rows": 0,
        "row_tokens": 0.0, "start_seconds": 20.0, "trial_seconds": 1.0, "steps": 126, "time": 1.0,
    }  # fmt: skip
    given["host_slots"] = fields.get("slots", given["slots"])
    return Rate(key=key, **given | fields)
