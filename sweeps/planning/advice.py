"""What the plan warns of: evaluations that cost much or tell little, points never tried, rsLoRA by a ratio, idle GPUs.

Pure.
"""

from __future__ import annotations

import math

from search_spaces.space import SearchSpace
from sweeps.config import points
from sweeps.config.model import SweepConfig
from sweeps.config.passwords import without_password
from sweeps.planning.number_words import counted
from sweeps.planning.outlook import Outlook
from trainables.contract import Need, RowShape
from trainables.data.findings import FEW_ROWS

MOST_EVALUATION = 0.5
"""Part of the work from which evaluations are more than the training."""
PAIRED_SPREAD = 0.13
"""Standard deviation of the difference of two trials' losses on one row, in nats per token, where it has not been
measured: seven LoRA adapters of SmolLM2-135M on 96 rows of GSM8K. Unpaired it is 0.34."""
QUANTILE = 2.33
"""Of the normal distribution at 99 %: several trials are compared with the best at once."""
USUAL_GAP = 0.02
"""Nats between the best trials of a sweep that is worth its name; a tuned learning rate gains more."""
COARSE = 2 * USUAL_GAP
"""Differences that a sweep should tell at least, in nats per token."""


def of_evaluation(config: SweepConfig, seen: Outlook, rows: RowShape | None) -> list[str]:
    """Lines where evaluations take most of the work, and where their rows cannot tell good trials from chance."""
    warnings = []
    share = seen.evaluation_share
    if share is not None and share > MOST_EVALUATION:
        warnings.append(
            f"evaluations take about {share:.0%} of the work, more than the training: lower data.eval_examples, or "
            "raise scheduler.grace_steps or reduction_factor for fewer of them"
        )
    count = rows.eval_rows if rows is not None else config.data.eval_examples if config.data is not None else None
    if config.data is not None and config.data.group_by is not None:
        count = None  # groups count, and how many there are is not known yet
    gap = QUANTILE * PAIRED_SPREAD / math.sqrt(max(1, count)) if count is not None else 0.0
    if count is not None and gap > COARSE:
        needed = math.ceil((QUANTILE * PAIRED_SPREAD / USUAL_GAP) ** 2)
        told = f"{count} rows tell two trials apart whose losses differ by about {gap:.2f} nats per token or more"
        if count < FEW_ROWS:
            told = f"{counted(count, 'row')} cannot tell trials apart: of fewer than {FEW_ROWS} there is no interval"
        warnings.append(
            f"data.eval_examples: {told}; the best trials are often {USUAL_GAP:g} nats apart, which takes about "
            f"{needed} rows"
        )
    return warnings


def of_points(config: SweepConfig, space: SearchSpace) -> list[str]:
    """A line where `searcher.points` are listed twice, and one where budget.trials is used up before them.

    Args:
        config: a sweep whose budget.trials is a number.
    """
    listed, first = len(config.searcher.points), config.searcher.start_with_default
    beginning = points.beginning(config, space)
    different = len({points.seed(config.seed, point) for point in beginning})
    repeated, beyond = len(beginning) - different, different - config.budget.count
    told = []
    if repeated > 0:
        others = "others or the default configuration" if first else "others"
        told.append(f"searcher.points: {repeated} of {listed} repeat {others}, and equal points run once: remove them")
    if listed and beyond > 0:
        together = ", which counts the default configuration too" if first else ""
        told.append(
            f"searcher.points: {beyond} of {listed} are beyond budget.trials {config.budget.count}{together}, and are "
            f"never tried: raise budget.trials to {different}, or list fewer points"
        )
    return told


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


def of_warm_start(config: SweepConfig) -> list[str]:
    """A line of the commands that start nothing, where a sweep names an earlier one: they do not look for it."""
    name = config.searcher.warm_start
    if name is None:
        return []
    store = without_password(config.tracking.uri)
    return [f"searcher.warm_start: {name} is not looked up here: launch looks for it in {store}"]


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
