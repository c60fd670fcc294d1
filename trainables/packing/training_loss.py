"""Defines the training objective of a pack's adapters. A trainable with another objective gives its pack a subclass.

A loss sees the log-probabilities of one adapter's labelled tokens, never logits, so the logits of a pass need not exist
at one time. A loss may also need other numbers, such as the base's own log-probabilities. The trainable computes them
before it opens the pack: an engine gives them for a segment without a slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trainables import evaluation_metrics
from trainables.evaluation_metrics import Metric

if TYPE_CHECKING:
    import torch

    from trainables.data.dataset import TokenRow


class Loss:
    """The mean negative log-likelihood of the labelled tokens, each with the same weight.

    A step of an adapter lowers the average over its effective batch: the sum of `total` / the sum of `weight`.
    """

    rows_per_example: int = 1
    """Number of neighbouring rows that make one example, such as 2 for a preference. They share a micro-batch, and
    `training.batch_size` counts examples."""
    metrics: Mapping[str, Metric] = evaluation_metrics.METRICS
    """Name -> metric of an evaluation, the loss among them."""

    def weight(self, rows: Sequence[TokenRow]) -> float:
        """Returns the weight of a micro-batch's rows in the average; more than 0."""
        return sum(row.labels for row in rows)

    def total(self, rows: Sequence[TokenRow], token_losses: torch.Tensor) -> torch.Tensor:
        """Returns the sum of the losses of a micro-batch's examples: ().

        Args:
            token_losses: the negative log-probability of each labelled token, row after row: (labels,), float32, with
                gradients.
        """
        return token_losses.sum()
