"""How far a difference of losses may be chance, over the rows that it was measured on. Pure.

Rows are compared in pairs and drawn again with replacement: the interval is the percentile interval of that bootstrap
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; paired as in Koehn, Statistical Significance
Tests for Machine Translation Evaluation, EMNLP 2004, section 4), made wider for few rows (`_wider`). It tells what
other rows like these would give, not what another seed would. Copies of a row are drawn together, being no further
evidence (`copies`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from sweeps.record.seeds import student

RESAMPLES = 10_000
ERROR_RATE = 0.05
LEAST_ROWS = 10
"""With fewer rows nothing is told: the interval of one row has no width at all."""
FEW_ROWS = 30
"""Of fewer rows the intervals hold where differences are about normal; a few large ones make them too narrow."""
_AT_ONCE = 2_000_000
"""Rows that are drawn at once: they and their counts take some 50 MB."""


def confidence_of(comparisons: int) -> float:
    """What each of some intervals needs for all of them to hold at once in 95 of 100 cases.

    1 - 0.05 / k (Bonferroni; Dunn, JASA 56, 1961).
    """
    return 1 - ERROR_RATE / comparisons


def copies(tokens: Sequence[int], losses: Sequence[Sequence[float]]) -> list[int]:
    """For each row the number of the different row that it is, counted from 0.

    Rows count as copies when they have as many tokens and, in each evaluation, the same loss to five digits: in single
    precision a row's loss depends on the rows beside it in the sixth at most.

    Args:
        tokens: of each row.
        losses: of each evaluation: the total negative log-likelihood of each row.
    """
    numbers: dict[tuple[object, ...], int] = {}
    rows = zip(tokens, *losses, strict=True)
    return [numbers.setdefault((count, *(f"{loss:.5g}" for loss in each)), len(numbers)) for count, *each in rows]


def intervals(
    gains: Sequence[Sequence[float]], tokens: Sequence[int], confidence: float, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """The interval of sum(gains) / sum(tokens) over resampled rows, for each of several gains.

    Args:
        gains: each of them: per row, the difference of its total negative log-likelihoods.
        tokens: of each row.
        confidence: such as 0.95.
        rng: draws the resamples, the same ones for all gains.
    """
    values_RK = np.column_stack([*np.asarray(gains, float), np.asarray(tokens, float)])
    rows = len(values_RK)
    # So many that some of them lie beyond each end of the interval.
    left = max(RESAMPLES, round(5 / (1 - confidence)))
    drawn = []
    while left > 0:
        count = min(left, max(1, _AT_ONCE // rows))
        places_SR = rng.integers(0, rows, (count, rows)) + rows * np.arange(count)[:, None]
        counts_SR = np.bincount(places_SR.ravel(), minlength=count * rows).reshape(count, rows)
        sums_SK = counts_SR.astype(float) @ values_RK
        drawn.append(sums_SK[:, :-1] / sums_SK[:, -1:])
        left -= count
    tail = (1 - confidence) / 2
    *sums, total = values_RK.sum(axis=0)
    middle_K = np.asarray(sums) / total
    ends_2K = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    low_K, high_K = middle_K + _wider(rows, confidence) * (ends_2K - middle_K)
    return list(zip(low_K.tolist(), high_K.tolist(), strict=True))


def _wider(rows: int, confidence: float) -> float:
    """How many times as wide as the percentile interval one of few rows has to be, to hold as often as it says.

    Resampled rows spread too little, by the root of (rows - 1) / rows, and no resample knows that the spread is itself
    known from these rows alone: of normal rows Student's t takes the place of the normal quantile (Hesterberg, What
    Teachers Should Know About the Bootstrap, The American Statistician 69, 2015: the expanded percentile interval).
    """
    freedom, upper = max(1, rows - 1), 0.5 + confidence / 2
    return math.sqrt(rows / freedom) * student(upper, freedom) / NormalDist().inv_cdf(upper)
