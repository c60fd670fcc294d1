"""A small space for the toy trainable: demonstrations, tests, and the smoke run on a new cluster.

The toy's curves are formulas, and its ranges follow from them, not from studies.
"""

from __future__ import annotations

SPACE: dict[str, object] = {
    # Source: the toy's curves, whose floor falls with 1 / sqrt(r).
    "adapter.r": {"choice": [4, 8, 16]},
    # Source: alpha equal to r or twice r, the usual ratios. The toy's curves do not depend on alpha: a comparison shows
    # it as a field without effect.
    "adapter.alpha_over_r": {"choice": [1, 2]},
    # Source: the toy's curves, which tell these presets apart; the same presets as in lora_core.
    "adapter.target_modules": {"choice": ["attention-qv", "attention", "mlp", "all-linear"]},
    # Source: the toy's curves, best near 3e-4: one and a half decades on each side. They diverge above 1e-2.
    "training.learning_rate": {"loguniform": [1.0e-5, 1.0e-2]},
}
