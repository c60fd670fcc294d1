"""The exact test of two models on rows that each answers right or wrong. Pure.

Only rows that one of the two answers right and the other wrong tell anything. If the two are equally good, such a row
falls to either side as a coin does (McNemar, Psychometrika 12, 153-157, 1947; the exact form is the sign test). How
much is gained or lost at most follows from the shares of such rows (Clopper and Pearson, Biometrika 26, 404-413, 1934),
each with half of the error. Both hold for any number of rows, also where no row differs.

Other scores between 0 and 1, such as F1, are often equal on most rows. Where few differ, the interval alone errs too
often, and the same shares bound it: a row changes by 1 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.statistics.intervals import FEW_ROWS

_MOST_TIMES = 1000
"""So many times the rows is as good as never."""


@dataclass(frozen=True)
class Exact:
    """What rows of 0/1 scores tell of the difference of two models."""

    higher: int
    lower: int
    """Rows on which the one model's score is higher than the other's, and lower; copies of a row count once."""
    rows: int
    confidence: float
    """Such as 0.99: the error is half of the rest on either side."""
    is_whole: bool = True
    """Whether all rows that differ do so by 1, and none is a copy: the difference is a mean of all rows."""

    @property
    def p_value(self) -> float:
        """How likely rows like these, or clearer ones, are where both models are equally good; two-sided."""
        from scipy.special import bdtr  # takes a quarter of a second, and most commands compare nothing

        return min(1.0, 2 * float(bdtr(min(self.higher, self.lower), self.higher + self.lower, 0.5)))

    @property
    def low(self) -> float:
        """The least that the difference may be."""
        return self.is_whole * self._share(self.higher, upper=False) - self._share(self.lower, upper=True)

    @property
    def high(self) -> float:
        """The most that the difference may be."""
        return self._share(self.higher, upper=True) - self.is_whole * self._share(self.lower, upper=False)

    def _share(self, count: int, *, upper: bool) -> float:
        """The end of the interval of a share, each with a quarter of the error."""
        from scipy.special import betaincinv

        tail, rest = (1 - self.confidence) / 4, self.rows - count
        if upper:
            return 1.0 if rest == 0 else float(betaincinv(count + 1, rest, 1 - tail))
        return 0.0 if count == 0 else float(betaincinv(count, rest + 1, tail))

    def above(self, bound: float) -> bool | None:
        """Whether the difference is above `bound`; None where that cannot be told."""
        if bound == 0:
            return None if self.p_value > 1 - self.confidence else self.higher > self.lower
        return True if self.low > bound else False if self.high < bound else None

    def rows_needed(self, bound: float) -> int | None:
        """About how many rows would tell, if rows go on to differ as these do; None where too many would be needed."""
        times = 1.0
        while times < _MOST_TIMES:
            times *= 1.1
            higher, lower, rows = (round(count * times) for count in (self.higher, self.lower, self.rows))
            more = Exact(higher, lower, rows, self.confidence, self.is_whole)
            if more.above(bound) is not None:
                return more.rows
        return None

    @property
    def words(self) -> str:
        """The test for people: "of 80 rows 9 are better and 2 worse, p = 0.065 in the exact test"."""
        told = f"{self.higher} are better and {self.lower} worse"
        return f"of {self.rows} rows {told}, p = {self.p_value:.2g} in the exact test"


def exact(values: Sequence[float], others: Sequence[float], units: Sequence[int], confidence: float) -> Exact | None:
    """The exact test of how much higher `values` are than `others`.

    None where a score is not between 0 and 1, or where many rows differ and the test is not whole: the interval holds
    there.

    Args:
        values, others: the score of each row by one model, and by the other.
        units: of each row, as `units_of` numbers them: copies of a row count once.
    """
    one_R, other_R = np.asarray(values, float), np.asarray(others, float)
    both_R = np.concatenate([one_R, other_R])
    gains_R = one_R - other_R
    signs_U = np.sign(np.bincount(units, gains_R))
    is_whole = len(signs_U) == len(gains_R) and bool(np.isin(gains_R, (-1.0, 0.0, 1.0)).all())
    if both_R.min() < 0 or both_R.max() > 1 or (not is_whole and np.count_nonzero(signs_U) >= FEW_ROWS):
        return None
    return Exact(int((signs_U > 0).sum()), int((signs_U < 0).sum()), len(signs_U), confidence, is_whole)
