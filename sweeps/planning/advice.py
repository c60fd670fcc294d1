"""What the plan warns of: evaluations that cost much or tell little, rsLoRA by a ratio, GPUs that wait. Pure."""

from __future__ import annotations

from search_spaces.space import SearchSpace
from sweeps.config.model import SweepConfig
from sweeps.planning import evaluation_noise
from sweeps.planning.outlook import Outlook
from trainables.contract import Need, RowShape

MOST_EVALUATION = 0.5
"""Part of the work from which evaluations are more than the training."""
COARSE = 2 * evaluation_noise.USUAL_GAP
"""Differences that a sweep should tell at least, in nats per token."""


def of_evaluation(config: SweepConfig, seen: Outlook, rows: RowShape | None) -> list[str]:
    """The warnings, a line each."""
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


def of_rslora(config: SweepConfig, space: SearchSpace) -> list[str]:
    """A line where ranks, or LoRA and rsLoRA, are compared whose updates grow with r, which rsLoRA is to prevent."""
    adapter, searched = config.base.adapter, space.domains
    kinds = searched["adapter.use_rslora"].extremes() if "adapter.use_rslora" in searched else (adapter.use_rslora,)
    ranks = searched["adapter.r"].extremes() if "adapter.r" in searched else (adapter.r,)
    # A value that is searched takes the place of the other form of it in the file.
    is_ratio = "adapter.lora_alpha" not in searched and (
        "adapter.alpha_over_r" in searched or adapter.lora_alpha is None
    )
    if True not in kinds or len({*ranks}) == len({*kinds}) == 1 or not is_ratio:
        return []
    return [
        "adapter.use_rslora scales by alpha / sqrt(r): with alpha_over_r, the default, this is alpha_over_r x sqrt(r), "
        "so that updates grow with r; give adapter.lora_alpha, or search it in place of alpha_over_r"
    ]


def of_spread(gpus: int, alone: Need | None, free_bytes: int | None) -> list[str]:
    """A line where hosts of several GPUs are asked for and one GPU holds the base: the others would wait.

    Args:
        gpus: of each host.
        alone: the memory of the largest trials on one GPU; None where it is unknown, or hosts hold one.
        free_bytes: what may be planned with on the fullest of them; None where it is unknown.
    """
    if alone is None or free_bytes is None or alone.total(1) > free_bytes:
        return []
    return [
        f"cluster.gpus_per_host {gpus}: the base with one adapter takes {alone.total(1) / 1e9:.1f} GB, which one GPU "
        f"holds; a host computes on one of its GPUs at a time, so {gpus} hosts of one GPU train up to {gpus} times as "
        "much: set cluster.gpus_per_host=1"
    ]
