"""How fast a host is by arithmetic, where no rate was measured: what it computes over what its GPU can. Pure.

A pass takes at least what its operations take at a part of the GPU's peak, and what the process takes to launch its
operators, which decides for small models and few tokens. Each is a range that packed-training on one GPU was seen in:

- MOST: 41 % of an H100's peak for LoRA on 8B (NVIDIA NeMo AutoModel), 33 % of an A100's for QLoRA on 3B (torchtune),
  12 % of an A100's for QLoRA on 7B, one row of 512 tokens at a time (Qwen's README).
- LAUNCH_SECONDS: 7 to 25 microseconds of the process for each operator.
- GENERATED: 2 % of an H100's peak for 32 answers of 8B at a time in bfloat16, 0.9 % in 4 bits (bitsandbytes' README).

docs/planning.md has what this comes to at 1 and 8 slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cluster.gpu_table import GPUS
from sweeps.planning.rates import RAY_SECONDS, TRIAL_SECONDS, Load, Range, Speed, overhead
from trainables.contract import Work

MOST = 0.4
"""Part of the peak that training and evaluation reach at most."""
GENERATED = 0.03
"""The same where answers are generated: each token of the rows that are answered together reads all weights."""
LAUNCH_SECONDS = 7.5e-6
"""What an operator takes of the process at least."""
SLOWER = 10 / 3
"""How much slower all of it may be."""


def speed(work: Work, types: Sequence[str], dtype: str, load: Load, answered: float | None) -> Speed:
    """The speed of a host on one of these types of GPU, none of which is known to be the one.

    Args:
        types: one at least, as in `gpu_table.GPUS`.
        dtype: `quantization.compute_dtype`.
        answered: tokens that are generated in an evaluation; None where nothing bounds them.
    """
    peaks = [GPUS[name].peak(dtype) for name in types]
    best, worst = (_least(work, peak, load, answered) for peak in (max(peaks), min(peaks)))
    slower = SLOWER * max(slow / fast for slow, fast in zip(worst, best, strict=True) if fast)
    middle = math.sqrt(slower)
    used = work.trained * load.tokens_per_step / best[0] / max(peaks)
    peak = "its peak speed" if len(types) == 1 else "their peak speeds"
    of_peak = f"{_percent(used / SLOWER)} to {_percent(used)}% of {peak}"
    start, each = overhead([], RAY_SECONDS), overhead([], TRIAL_SECONDS)
    words = f"by arithmetic, not measured: {_either(types)} at {of_peak}; loading the base comes on top"
    step, evaluation, answers = (seconds * middle for seconds in best)
    known = None if answered is None else answers
    return Speed(step, evaluation, start, each, Range(1, 1 / middle, middle), words, answer_seconds=known)


def _least(work: Work, peak: float, load: Load, answered: float | None) -> tuple[float, float, float]:
    """The least seconds of a trial's step among neighbours, of an evaluation, and of its answers."""
    micro = max(1.0, work.micro_batch * load.row_tokens)
    batches = max(1.0, load.tokens_per_step / micro)
    passes = batches * math.ceil(load.slots * micro / work.pass_tokens)
    operators = passes * work.pass_operators / load.slots + batches * work.slot_operators
    tokens = load.evaluation_rows * load.row_tokens
    forward = math.ceil(tokens / work.pass_tokens) * work.forward_operators
    return (
        max(work.trained * load.tokens_per_step / (MOST * peak), operators * LAUNCH_SECONDS),
        max(work.evaluated * tokens / (MOST * peak), forward * LAUNCH_SECONDS),
        work.generated * (answered or 0.0) / (GENERATED * peak),
    )


def _percent(share: float) -> str:
    return f"{float(f'{100 * share:.2g}'):g}"


def _either(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
