"""The metrics of qlora's evaluations. A new metric is a new entry of `METRICS`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import truediv
from typing import NamedTuple

from trainables.contract import Evaluation
from trainables.objective import EVAL_BITS, EVAL_LOSS, Direction


class Metric(NamedTuple):
    """A metric that follows from the losses of the evaluation rows. A value that is not finite ends the trial."""

    better: Direction
    """Which value is better: the lower ("min") or the higher ("max")."""
    of: Callable[[Sequence[float], Sequence[int]], float]
    """Computes the metric from each row's negative log-likelihood and each row's number of completion tokens."""
    of_row: Callable[[float, int], float] | None = None
    """Computes a row's value if the metric is the mean of these values, so that trials are compared row by row."""


def _loss(row_losses: Sequence[float], row_tokens: Sequence[int]) -> float:
    return sum(row_losses) / sum(row_tokens)


def _row_loss(row_losses: Sequence[float], row_tokens: Sequence[int]) -> float:
    """Returns the mean over rows of the loss per token, so that a long completion counts as much as a short one."""
    return sum(loss / tokens for loss, tokens in zip(row_losses, row_tokens, strict=True)) / len(row_losses)


METRICS: dict[str, Metric] = {EVAL_LOSS: Metric("min", _loss), "eval_row_loss": Metric("min", _row_loss, truediv)}


def directions() -> Mapping[str, Direction]:
    """Returns metric -> which value is better."""
    return {name: metric.better for name, metric in METRICS.items()}


def evaluate(
    row_losses: Sequence[float], row_tokens: Sequence[int], metrics: Mapping[str, Metric] = METRICS
) -> dict[str, float]:
    """Returns each metric of an evaluation by name.

    Args:
        row_losses: total negative log-likelihood of the completion tokens of each row, in nats.
        row_tokens: number of completion tokens of each row.
    """
    return {name: metric.of(row_losses, row_tokens) for name, metric in metrics.items()}


def row_values(
    row_losses: Sequence[float], row_tokens: Sequence[int], metrics: Mapping[str, Metric] = METRICS
) -> dict[str, tuple[float, ...]]:
    """Returns metric -> value of each row, for metrics that are the mean of their rows. Arguments as for `evaluate`."""
    each = {name: metric.of_row for name, metric in metrics.items() if metric.of_row is not None}
    return {name: tuple(map(of_row, row_losses, row_tokens)) for name, of_row in each.items()}


def evaluation(
    row_losses: Sequence[float],
    row_tokens: Sequence[int],
    row_groups: Sequence[int] = (),
    hardware: str = "",
    metrics: Mapping[str, Metric] = METRICS,
    row_bytes: Sequence[int] = (),
) -> Evaluation:
    """Returns an evaluation with each metric, all finite. For the arguments see `evaluate` and `Evaluation`."""
    bits = {EVAL_BITS: sum(row_losses) / math.log(2) / sum(row_bytes)} if any(row_bytes) else {}
    return Evaluation(
        metrics=evaluate(row_losses, row_tokens, metrics) | bits,
        row_losses=tuple(row_losses),
        row_tokens=tuple(row_tokens),
        row_bytes=tuple(row_bytes) if bits else (),
        row_groups=tuple(row_groups),
        row_values=row_values(row_losses, row_tokens, metrics),
        hardware=hardware,
    )
