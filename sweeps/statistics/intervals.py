"""Confidence intervals of a difference, over the rows on which it was measured and over seeds. Pure.

Rows are compared in pairs. The interval is Student's t of the differences, corrected for their skewness: a few large
differences make the plain interval too narrow on one side (Hall, On the Removal of Skewness by Transformation, JRSS B
54, 221-228, 1992). The interval covers the value on other rows of the same kind.
Copies of a row, and rows of one group, are one unit, because they are no further evidence (`units_of`). The spread over
seeds is known if points were trained several times (`SeedNoise`).

The worst rows of a long tail are often not among those at hand, so each end is computed with one further unit beyond
the worst unit of its side. A further unit is the idea of the adjusted empirical likelihood (Chen, Variyath and Abraham,
JCGS 17, 426-443, 2008). How far it lies follows from the mean excess of the worst units, which is large if the tail is
long (Davison and Smith, JRSS B 52, 393-442, 1990); the factor was chosen by simulation. `python -m
tests.benchmarks.intervals` prints how often the interval errs, and docs/promotion.md has its table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from sweeps.statistics.confidence import percent
from trainables.objective import digits

# NumPy is imported where it is used: plans and most pages read the words of this module alone.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.float64]
_MOST, _FEW = 0.8, 0.1
"""If a tenth of the rows carries 80 % of the variance, the interval depends on how many such rows there happen to be.
A tenth does so never on normal rows, in 4 % of cases on exponential rows, and in 87 to 100 % of cases if 3 % of the
rows are far off."""
_WORST, _BEYOND = 3, 2.5
"""The further unit lies beyond the worst one by 2.5 times the mean excess of the worst three over the fourth."""
_FURTHER = 2.0
"""The further unit widens the interval of n normal rows by about 2 / sqrt(n) of its width without the unit."""
_NO_WIDTH = 1e-9
"""A spread below this share of the difference counts as rounding."""


class Interval(NamedTuple):
    """Confidence interval of a value."""

    low: float
    high: float
    carried_by: int | None
    """Number of units that carry most of the variance, if few do; 0 if all units are equal, else None."""


@dataclass(frozen=True)
class SeedNoise:
    """Spread of a metric over seeds, pooled over the points that were trained several times."""

    deviation: float
    """Standard deviation of a trial's value, in the metric's unit."""
    freedom: int
    """Degrees of freedom: trials minus points."""
    points: int

    def margin(self, confidence: float, trials: int) -> float:
        """Returns half the width of the interval over seeds, of one trial's value or of the difference of two."""
        return student(0.5 + confidence / 2, self.freedom) * self.deviation * math.sqrt(trials)


def pooled(groups: Sequence[Sequence[float]]) -> SeedNoise | None:
    """Pools the spread within groups of values, each of one point; None if no group has two values."""
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0:
        return None
    squares = sum((value - fmean(group)) ** 2 for group in groups for value in group)
    return SeedNoise(math.sqrt(squares / freedom), freedom, len(groups))


def widened(difference: float, span: Interval, margin: float) -> Interval:
    """Widens an interval over rows by seeds. Both errors are independent, so the squares of half-widths add."""
    low = difference - math.hypot(difference - span.low, margin)
    return Interval(low, difference + math.hypot(span.high - difference, margin), span.carried_by)


def rows_needed(difference: float, half: float, rows: int, of_seeds: float = 0.0) -> int | None:
    """Estimates the rows that would show a difference; None if no number of rows would.

    The error of rows shrinks with the square root of their number, and the effect of the further unit with the number.
    The error of seeds, `Comparison.of_seeds`, does not. `half` is half the width of an interval over `rows` rows.
    """
    if abs(difference) <= of_seeds:
        return None
    gap, now = (math.sqrt(max(0.0, width**2 - of_seeds**2)) for width in (difference, half))
    # Over n rows the width is error / sqrt(n) * (1 + _FURTHER / sqrt(n)); where it equals the gap, n follows.
    error = now * rows / (math.sqrt(rows) + _FURTHER)
    return math.ceil(((error + math.sqrt(error**2 + 4 * gap * error * _FURTHER)) / (2 * gap)) ** 2)


def student(probability: float, freedom: int) -> float:
    """Returns the quantile of Student's t distribution."""
    from scipy.special import stdtrit  # takes a quarter of a second, and most commands compare nothing

    return float(stdtrit(freedom, probability))


def units_of(tokens: Sequence[int], losses: Sequence[Sequence[float]], groups: Sequence[int] = ()) -> list[int]:
    """Returns the number of each row's unit, from 0.

    Rows of one group are one unit, and so are copies of a row. Copies have equally many tokens and, in each evaluation,
    the same loss to five digits. In single precision the rows beside a row change its loss in the sixth digit at most.

    Args:
        losses: for each evaluation, the total negative log-likelihood of each row.
        groups: group of each row; empty if rows are not grouped.
    """
    first: dict[object, int] = {}  # copies and groups -> their first row
    root = list(range(len(tokens)))

    def found(row: int) -> int:
        while root[row] != row:
            root[row] = row = root[root[row]]
        return row

    for row, (count, *each) in enumerate(zip(tokens, *losses, strict=True)):
        for key in ((count, *(f"{loss:.5g}" for loss in each)), *groups[row : row + 1]):
            root[found(row)] = found(first.setdefault(key, row))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(found(row), len(numbers)) for row in root]


def intervals(
    gains: Sequence[Sequence[float]] | Numbers,
    weights: Sequence[float],
    confidence: float,
    units: Sequence[int] = (),
    most: float = math.inf,
) -> list[Interval]:
    """Returns the interval of sum(gains) / sum(weights) over rows, for each of K gains; it has no width for one unit.

    Args:
        gains: K times R, such as the differences of each row's total negative log-likelihoods.
        weights: such as the tokens of each row.
        units: unit of each row from `units_of`; empty if each row is a unit.
        most: the largest gain or loss per weight that is possible, such as 1 for scores between 0 and 1.
    """
    import numpy as np

    ratio_K, left_KU, weights_U = _residuals(gains, weights, units)
    low_K, high_K = (
        ratio_K + side * _lower(side * left_KU, weights_U, confidence, -most - side * ratio_K) for side in (1, -1)
    )
    largest_KU = np.sort(left_KU**2, axis=1)[:, ::-1].cumsum(axis=1)
    carried_by_K = (largest_KU < _MOST * largest_KU[:, -1:]).sum(axis=1) + (largest_KU[:, -1] > 0)
    told_K = [count if count <= _FEW * len(weights_U) else None for count in carried_by_K.tolist()]
    return [Interval(*each) for each in zip(low_K.tolist(), high_K.tolist(), told_K, strict=True)]


def _lower(residuals: Numbers, weights: Numbers, confidence: float, least: Numbers) -> Numbers:
    """Returns the lower end of each interval minus the ratio; residuals, K times units, are gains - ratio x weights.

    Let T = (estimate - truth) / error and a = skewness / sqrt(units). Then T + a T^2 / 3 + a^2 T^3 / 27 + a / 6 has no
    skewness to second order and never falls in T (Hall 1992). The end is where it equals the quantile of Student's t.
    Error and skewness are those of the residuals, in which the ratio is linear to first order. `least` is the lowest
    possible residual per weight.
    """
    import numpy as np

    units, few = len(weights), min(_WORST, len(weights) - 1)
    sorted_KU = np.sort(residuals, axis=1)
    excess_K = sorted_KU[:, few] - sorted_KU[:, : max(1, few)].mean(axis=1)
    further_K = np.maximum(sorted_KU[:, 0] - _BEYOND * excess_K, np.minimum(sorted_KU[:, 0], least * weights.mean()))
    weights_V = np.append(weights, weights.mean())
    shift_K = further_K / weights_V.sum()
    left_KV = np.column_stack([residuals, further_K]) - shift_K[:, None] * weights_V
    squares_K = (left_KV**2).sum(axis=1)
    error_K = np.sqrt(squares_K * (units + 1) / units) / weights_V.sum()
    scale_K = np.where(squares_K > 0, np.sqrt(squares_K), 1)
    skew_K = ((left_KV / scale_K[:, None]) ** 3).sum(axis=1)
    # Nearer to 0 the cube root loses its digits, and the correction is smaller than the lost digits.
    skew_K = np.where(np.abs(skew_K) < 1e-6, 1e-6, skew_K)
    cube_K = 1 + skew_K * (student(0.5 + confidence / 2, units) - skew_K / 6)
    return np.asarray(shift_K - error_K * 3 / skew_K * (np.cbrt(cube_K) - 1))


def in_words(ends: tuple[float, float], confidence: float, rows: str, carried_by: int | None) -> str:
    """Formats an interval; `rows` are words of `counted_units`.

    Such as "99% confidence interval 0.1254 to 0.3021 on 200 rows, 3 of which make most of its width": they carry at
    least `_MOST` of its variance.
    """
    low, high = map(digits, ends)
    make = "one of which makes" if carried_by == 1 else f"{carried_by} of which make"
    uneven = f", {make} most of its width" if carried_by else ", the same on each"
    return f"{percent(confidence)} confidence interval {low} to {high} on {rows}{'' if carried_by is None else uneven}"


def counted_units(units: int, is_grouped: bool) -> str:
    """Formats a number of rows or groups: "32 rows", "8 groups of rows"."""
    return f"{units} {'group' if is_grouped else 'row'}{'' if units == 1 else 's'}{' of rows' if is_grouped else ''}"


def unseen(units: int, is_grouped: bool) -> str:
    """Formats the share of cases that this many rows may miss entirely.

    A case with the share 3 / n appears in 95 of 100 samples (rule of three; Hanley and Lippman-Hand, If Nothing Goes
    Wrong, Is Everything All Right?, JAMA 249, 1743-1745, 1983).
    """
    word = "group" if is_grouped else "case"
    alone = (
        "" if is_grouped else "; rows count as independent: name what they share, such as a document, in data.group_by"
    )
    return (
        f"{counted_units(units, is_grouped)}: about 1 {word} in {units / 3:.0f} ({3 / units:.1%}) may be worse by any "
        f"amount, and these rows would not show it{alone}"
    )


def _residuals(
    gains: Sequence[Sequence[float]] | Numbers, weights: Sequence[float], units: Sequence[int]
) -> tuple[Numbers, Numbers, Numbers]:
    """Returns the ratio of each gain, the gain of each unit minus ratio x weight, and the weights of units."""
    import numpy as np

    gains_KR, weights_R = np.asarray(gains, float), np.asarray(weights, float)
    if len(units):
        gains_KR, weights_R = (
            np.stack([np.bincount(units, each_R) for each_R in gains_KR]),
            np.bincount(units, weights_R),
        )
    total = float(weights_R.sum())
    ratio_K = gains_KR.sum(axis=1) / total
    left_KU = gains_KR - ratio_K[:, None] * weights_R
    is_rounding_K = np.abs(left_KU).sum(axis=1) < _NO_WIDTH * np.abs(ratio_K) * total
    left_KU[is_rounding_K] = 0
    return ratio_K, left_KU, weights_R
