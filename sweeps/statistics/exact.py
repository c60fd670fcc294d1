"""The exact test of two models on rows that each model answers right or wrong. Pure.

Only rows on which one model is right and the other wrong are evidence. If both models are equally good, such a row
falls to either side like a coin (McNemar, Psychometrika 12, 153-157, 1947; the exact form is the sign test). The shares
of such rows bound the gain and the loss (Clopper and Pearson, Biometrika 26, 404-413, 1934), each with half of the
error. Test and bounds hold for any number of rows, even if no row differs.

Other scores between 0 and 1, such as F1, are often equal on most rows. If few rows differ, the interval alone errs too
often. The same shares then bound the difference, because a row changes by at most 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.objective import FEW_ROWS

_MOST_TIMES = 1000
"""No larger multiple of the present rows is tried in `rows_needed`."""


@dataclass(frozen=True)
class Exact:
    """Test and bounds of the difference of two models, one against the other. Copies of a row count once."""

    higher: int
    """Rows on which the one model's score is higher."""
    lower: int
    """Rows on which the one model's score is lower."""
    rows: int
    confidence: float
    """Such as 0.99; half of the error lies on either side."""
    is_whole: bool = True
    """Whether no row is a copy and scores differ by 0 or 1 only, so that the difference is a mean over all rows."""

    @property
    def p_value(self) -> float:
        """Returns the two-sided probability of rows like these, or clearer ones, if both models are equally good."""
        from scipy.special import bdtr  # takes a quarter of a second, and most commands compare nothing

        return min(1.0, 2 * float(bdtr(min(self.higher, self.lower), self.higher + self.lower, 0.5)))

    @property
    def low(self) -> float:
        """Returns the lower bound of the difference."""
        return self.is_whole * self._share(self.higher, upper=False) - self._share(self.lower, upper=True)

    @property
    def high(self) -> float:
        """Returns the upper bound of the difference."""
        return self._share(self.higher, upper=True) - self.is_whole * self._share(self.lower, upper=False)

    def _share(self, count: int, *, upper: bool) -> float:
        """Returns one end of the interval of a share, with a quarter of the error."""
        from scipy.special import betaincinv

        tail, rest = (1 - self.confidence) / 4, self.rows - count
        if upper:
            return 1.0 if rest == 0 else float(betaincinv(count + 1, rest, 1 - tail))
        return 0.0 if count == 0 else float(betaincinv(count, rest + 1, tail))

    def above(self, bound: float) -> bool | None:
        """Tells whether the difference is above `bound`; None if undecided."""
        if bound == 0:
            return None if self.p_value > 1 - self.confidence else self.higher > self.lower
        return True if self.low > bound else False if self.high < bound else None

    def rows_needed(self, bound: float) -> int | None:
        """Estimates the rows that would decide, if more rows differ as often as these; None if far too many."""
        times = 1.0
        while times < _MOST_TIMES:
            times *= 1.1
            higher, lower, rows = (round(count * times) for count in (self.higher, self.lower, self.rows))
            more = Exact(higher, lower, rows, self.confidence, self.is_whole)
            if more.above(bound) is not None:
                return more.rows
        return None

    @property
    def p_in_words(self) -> str:
        """Formats the test: "p = 0.065 in the exact test, which must be below 0.01"."""
        return f"p = {self.p_value:.3g} in the exact test, which must be below {1 - self.confidence:.2g}"

    @property
    def counts_in_words(self) -> str:
        """Formats the rows: "better on 9 of 80 rows and worse on 2"."""
        return f"better on {self.higher} of {self.rows} rows and worse on {self.lower}"


def exact(values: Sequence[float], others: Sequence[float], units: Sequence[int], confidence: float) -> Exact | None:
    """Tests how much higher `values` are than `others`, the scores of each row by two models.

    None if a score is not between 0 and 1. None also if FEW_ROWS or more rows differ and the test is not whole: the
    interval holds there.

    Args:
        units: unit of each row from `units_of`; copies of a row count once.
    """
    one_R, other_R = np.asarray(values, float), np.asarray(others, float)
    both_R = np.concatenate([one_R, other_R])
    gains_R = one_R - other_R
    signs_U = np.sign(np.bincount(units, gains_R))
    is_whole = len(signs_U) == len(gains_R) and bool(np.isin(gains_R, (-1.0, 0.0, 1.0)).all())
    if both_R.min() < 0 or both_R.max() > 1 or (not is_whole and np.count_nonzero(signs_U) >= FEW_ROWS):
        return None
    return Exact(int((signs_U > 0).sum()), int((signs_U < 0).sum()), len(signs_U), confidence, is_whole)
