"""Estimates a host's speed by arithmetic where no rate was measured: its work over the speed of its GPU. Pure.

A pass takes at least the time of its operations at a part of the GPU's peak, and at least the time in which the process
launches its operators. The launches decide for small models and few tokens. Ranges seen in training on one GPU:

- LARGEST_SHARE: 41 % of an H100's peak for LoRA on 8B (NVIDIA NeMo AutoModel), 33 % of an A100's for QLoRA on 3B
  (torchtune), 12 % of an A100's for QLoRA on 7B, one row of 512 tokens at a time (Qwen's README).
- LAUNCH_SECONDS: 7 to 25 microseconds of the process for each operator.
- LOADED: Llama 2 70B, 138 GB of weights, is in 4 bits on an A6000 after about 60 s (bitsandbytes, issue 628), so a fast
  disk gives 2 GB/s and quantising takes no longer; a network of 1.6 Gbit/s gives 0.2 GB/s.
- GENERATED: 2 % of an H100's peak for 32 answers of 8B at a time in bfloat16, 0.9 % in 4 bits (bitsandbytes' README).

docs/planning.md shows the resulting times for 1 and 8 slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cluster.gpu_table import GPUS
from sweeps.config.number_words import size
from sweeps.planning.rates import RAY_SECONDS, TRIAL_SECONDS, Load, Range, Speed
from trainables.contract import Work

LARGEST_SHARE = 0.4
"""Largest part of the peak that training and evaluation reach."""
GENERATED = 0.03
"""Largest part of the peak that generation reaches: each token, for all rows of a batch, reads all weights."""
LAUNCH_SECONDS = 7.5e-6
"""Least seconds in which the process launches an operator."""
LOADED = (0.2e9, 2e9)
"""Least and most bytes per second that a host reads, quantises and writes until its base is ready."""
SLOWER = 10 / 3
"""Factor by which all of these may be slower."""


def speed(work: Work, types: Sequence[str], dtype: str, load: Load, answered: float | None) -> Speed:
    """Returns the speed of a host whose GPU is one of these types of `gpu_table.GPUS`.

    `answered` are the tokens that an evaluation generates; None if nothing bounds them.
    """
    peaks = [GPUS[name].peak(dtype) for name in types]
    best, worst = (_least(work, peak, load, answered) for peak in (max(peaks), min(peaks)))
    slower = SLOWER * max(slow / fast for slow, fast in zip(worst, best, strict=True) if fast)
    factor = math.sqrt(slower)
    used = work.trained * load.tokens_per_step / best[0] / max(peaks)
    peak = "its peak speed" if len(types) == 1 else "their peak speeds"
    of_peak = f"{_percent(used / SLOWER)} to {_percent(used)}% of {peak}"
    slowest, fastest = (work.loaded_bytes / speed for speed in LOADED)
    speeds = " to ".join(f"{speed / 1e9:g}" for speed in LOADED)
    step, evaluation, answers = (seconds * factor for seconds in best)
    return Speed(
        step_seconds=step,
        evaluation_seconds=evaluation,
        start_seconds=Range.about(RAY_SECONDS, factor).plus(Range(math.sqrt(slowest * fastest), fastest, slowest)),
        trial_seconds=TRIAL_SECONDS,
        factor=factor,
        source=f"by arithmetic, not measured: {_either(types)} at {of_peak}",
        answer_seconds=None if answered is None else answers,
        start_source=f"by arithmetic: {size(work.loaded_bytes)} from disk or network at {speeds} GB/s",
    )


def _least(work: Work, peak: float, load: Load, answered: float | None) -> tuple[float, float, float]:
    """Returns the least seconds of a trial's step in a shared pass, of an evaluation, and of its answers."""
    micro = max(1.0, work.micro_batch * load.row_tokens)
    batches = max(1.0, load.tokens_per_step / micro)
    passes = batches * math.ceil(load.slots * micro / work.pass_tokens)
    operators = passes * work.pass_operators / load.slots + batches * work.slot_operators
    tokens = load.evaluation_rows * load.row_tokens
    forward = math.ceil(tokens / work.pass_tokens) * work.forward_operators
    return (
        max(work.trained * load.tokens_per_step / (LARGEST_SHARE * peak), operators * LAUNCH_SECONDS),
        max(work.evaluated * tokens / (LARGEST_SHARE * peak), forward * LAUNCH_SECONDS),
        work.generated * (answered or 0.0) / (GENERATED * peak),
    )


def _percent(share: float) -> str:
    return f"{float(f'{100 * share:.2g}'):g}"


def _either(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
