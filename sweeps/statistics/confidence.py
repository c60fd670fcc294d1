"""How sure the intervals of a comparison are, all of them together. Pure."""

from __future__ import annotations

from statistics import NormalDist

ERROR_RATE = 0.01
"""Error of all intervals together. Half of the error is on the side of equal candidates that pass. On skewed rows up to
2.5 % pass, if ten bad rows are expected among 80 rows or more; with fewer bad rows more pass (docs/promotion.md)."""


def confidence_of(comparisons: int) -> float:
    """Returns the confidence of each of k intervals with which all hold at once in 99 of 100 cases.

    1 - 0.01 / k (Bonferroni; Dunn, JASA 56, 1961).
    """
    return 1 - ERROR_RATE / comparisons


def times_as_many(comparisons: int, fewer: int) -> float:
    """Returns how many times as many rows tell the same difference among k comparisons as among fewer ones.

    Half the width of an interval is a quantile over the square root of the rows; the quantiles are the normal ones.
    """
    wide, narrow = (NormalDist().inv_cdf(0.5 + confidence_of(each) / 2) for each in (comparisons, fewer))
    return (wide / narrow) ** 2


def percent(confidence: float) -> str:
    """Formats a confidence, with two digits of its error: 99%, 99.67%, 99.982%."""
    return f"{100 * (1 - float(f'{1 - confidence:.2g}')):.10g}%"
