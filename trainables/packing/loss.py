"""Defines what a pack trains its adapters for. Another objective is another `Loss`, which a trainable gives its pack.

A loss sees the log-probabilities of one adapter's labelled tokens, never logits, so the logits of a pass need not exist
at one time. What a loss compares with beside them, such as the base's own log-probabilities, the trainable computes
before it opens the pack: an engine gives them for a segment without a slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from trainables import qlora_metrics
from trainables.data.dataset import TokenRow
from trainables.qlora_metrics import Metric


class Loss(Protocol):
    """A loss of examples, which a step of an adapter lowers on average over its effective batch."""

    rows_per_example: int
    """Rows that make one example, neighbours in the data: 1, or 2 for a preference. They share a micro-batch, and
    `training.batch_size` counts examples."""
    metrics: Mapping[str, Metric]
    """What an evaluation says by name, `eval_loss` among them."""

    def weight(self, rows: Sequence[TokenRow]) -> float:
        """Returns what these rows count in the average of an effective batch; more than 0."""

    def total(self, rows: Sequence[TokenRow], token_losses: torch.Tensor) -> torch.Tensor:
        """Returns the sum of the losses of these examples: (). The average is this sum over the weights.

        Args:
            rows: of one micro-batch.
            token_losses: the negative log-probability of each labelled token, row after row: (labels,), float32. It
                has a gradient.
        """


class CompletionLoss:
    """The mean negative log-likelihood of the labelled tokens, each counted alike."""

    rows_per_example = 1
    metrics: Mapping[str, Metric] = qlora_metrics.METRICS

    def weight(self, rows: Sequence[TokenRow]) -> float:
        """Returns the number of labelled tokens."""
        return sum(row.labels for row in rows)

    def total(self, rows: Sequence[TokenRow], token_losses: torch.Tensor) -> torch.Tensor:
        """See `Loss.total`."""
        return token_losses.sum()
