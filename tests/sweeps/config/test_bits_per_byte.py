"""Bits per byte, which compare models with other tokenizers, may decide in a sweep and in its promotion."""

from __future__ import annotations

from pathlib import Path

import tiny_sweeps

from sweeps.config.load import load


def test_bits_per_byte_may_be_the_objective_the_metric_of_a_promotion_and_that_of_a_guard(tmp_path: Path) -> None:
    tiny_sweeps.write(tmp_path)
    bits = "eval_bits_per_byte"
    changes = [
        f"objective.metric={bits}",
        f"promotion.metric={bits}",
        f"promotion.guards=[{{metric: {bits}, worse_by: 0.1}}]",
    ]
    config = load("sweep.yaml", changes, tmp_path).config
    assert (config.objectives[0].metric, config.promotion.metric, config.promotion.guards[0].metric) == (bits,) * 3
    assert config.stops == config.objectives[0], "each report has it, so that it also stops trials"
