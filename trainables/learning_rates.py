"""The learning rate of a step. Pure."""

from __future__ import annotations

import math

from trainables.specs import TrainingSpec


def warmup_steps(warmup_ratio: float, steps: int) -> int:
    """Steps in which the learning rate rises; the last of them has the full rate, so 1 is no warm-up."""
    return math.ceil(warmup_ratio * steps)


def learning_rate(training: TrainingSpec, step: int, steps: int) -> float:
    """The learning rate of optimizer step `step` (1 to `steps`).

    Rises linearly over the first warmup_ratio x steps, rounded up, then falls to 0 as `schedule` says, or stays. As
    transformers' get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup (optimization.py, 5.24), but
    counted so that the first step already moves and the last one still does.
    """
    warmup = warmup_steps(training.warmup_ratio, steps)
    if step <= warmup:
        return training.learning_rate * step / warmup
    if training.schedule == "constant":
        return training.learning_rate
    done = (step - 1 - warmup) / (steps - warmup)
    factor = 1.0 - done if training.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return training.learning_rate * factor
