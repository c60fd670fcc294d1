"""The interval over rows: what it must hold to whatever the rows are, and how often it errs."""

from __future__ import annotations

import math
from random import Random
from statistics import NormalDist, stdev

import numpy as np
import pytest
from benchmarks.intervals import of_groups, passing
from hypothesis import assume, given
from hypothesis import strategies as st

from sweeps.statistics.intervals import (
    ERROR_RATE,
    Interval,
    counted_units,
    in_words,
    intervals,
    percent,
    pooled,
    units_of,
    unseen,
)

ROWS = st.lists(
    st.tuples(st.floats(-100, 100).map(lambda gain: round(gain, 3)), st.integers(1, 500)), min_size=10, max_size=60
)
"""A gain per token and the tokens of each row."""
CONFIDENCES = st.sampled_from([0.9, 0.99, 0.9967, 1 - 0.01 / 55])


def interval(rows: list[tuple[float, int]], confidence: float = 0.99) -> Interval:
    (found,) = intervals([[gain * tokens for gain, tokens in rows]], [tokens for _, tokens in rows], confidence)
    return found


def same(found: tuple[float, float], expected: tuple[float, float], scale: float) -> bool:
    """Whether two intervals are equal but for the rounding of sums of 60 numbers as large as `scale`."""
    return found == pytest.approx(expected, rel=1e-6, abs=1e-7 * scale)


@given(ROWS, CONFIDENCES)
def test_it_holds_the_estimate_and_grows_with_confidence(rows: list[tuple[float, int]], confidence: float) -> None:
    estimate = sum(gain * tokens for gain, tokens in rows) / sum(tokens for _, tokens in rows)
    found, surer = interval(rows, confidence), interval(rows, confidence + 0.9 * (1 - confidence))
    rounding = 1e-9 * max(1, *(abs(gain) for gain, _ in rows))
    assert found.low - rounding <= estimate <= found.high + rounding
    assert surer.low <= found.low + rounding and found.high <= surer.high + rounding


@given(ROWS, CONFIDENCES, st.floats(-50, 50), st.floats(0.01, 100), st.randoms(use_true_random=False))
def test_it_follows_the_gains_whatever_the_order_of_rows_and_more_of_them_make_it_narrower(
    rows: list[tuple[float, int]], confidence: float, shift: float, scale: float, rng: Random
) -> None:
    low, high, _ = interval(rows, confidence)
    assume(high - low > 1e-3)  # a spread that rounding of the shifted gains does not touch
    moved = interval([((gain + shift) * scale, tokens) for gain, tokens in rows], confidence)
    assert same(moved[:2], ((low + shift) * scale, (high + shift) * scale), 150 * scale)
    mirror = interval([(-gain, tokens) for gain, tokens in rows], confidence)
    assert same((-mirror.high, -mirror.low), (low, high), 100)
    assert same(interval(rng.sample(rows, len(rows)), confidence)[:2], (low, high), 100)
    often = interval(rows * 3, confidence)
    assert often.high - often.low < high - low


@pytest.mark.parametrize(("confidence", "quantile"), [(0.95, 2.20099), (0.99, 3.10581)])
def test_of_rows_without_skewness_it_is_that_of_students_t(confidence: float, quantile: float) -> None:
    """`quantile` is that of 11 degrees of freedom."""
    gains = [NormalDist(0.1).inv_cdf((row + 0.5) / 12) for row in range(12)]
    ((low, high, _),) = intervals([gains], [3] * 12, confidence)
    half = quantile * stdev(gains) / math.sqrt(12) / 3
    # Where the skewness is 0, what takes its place is 1e-6.
    assert [low, high] == pytest.approx([0.1 / 3 - half, 0.1 / 3 + half], rel=1e-5)


def test_of_skewed_rows_it_is_longer_on_the_side_of_the_tail() -> None:
    """Rows whose skewness is 1: the ends of Hall's cubic, solved by hand."""
    gains = np.array([0.0] * 5 + [1.0] * 4 + [3.0])
    left = gains - gains.mean()
    a = (left**3).sum() / (left**2).sum() ** 1.5
    error = math.sqrt((left**2).sum() / 9 / 10)
    ((low, high, _),) = intervals([gains.tolist()], [1] * 10, 0.99)
    for end, quantile in ((low, 3.2498), (high, -3.2498)):
        t = (gains.mean() - end) / error
        assert t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6 == pytest.approx(quantile, rel=1e-4)
    assert high - gains.mean() > gains.mean() - low


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_gains_that_are_the_same_on_every_row_have_an_interval_without_width_that_says_so(rows: int) -> None:
    tokens = [10 + row % 7 for row in range(rows)]
    (found,) = intervals([[0.1 * count for count in tokens]], tokens, 0.99)
    assert found.carried_by == 0
    assert found.high == found.low == pytest.approx(0.1)
    assert in_words(found[:2], 0.99, counted_units(rows, False), 0).endswith(", the same on each")


# How often equal candidates pass (the whole table: tests/benchmarks/intervals.py)


@pytest.mark.parametrize(
    ("gains", "rows", "most"),
    [
        *((gains, 30, 5.0) for gains in ("exponential", "0/1")),
        *((gains, 80, 2.5) for gains in ("Student's t, 3 df", "lognormal", "0/1")),
        ("exponential, uneven lengths", 80, 2.5),
        ("3 % rare bad rows", 200, 2.5),
    ],
)
def test_candidates_that_are_equal_pass_no_more_often_than_they_may(gains: str, rows: int, most: float) -> None:
    found = passing("product", gains, rows, ERROR_RATE, 2000)
    # Three standard errors of a share of 2,000 repetitions.
    allowed = most + 3 * 100 * math.sqrt(most / 100 * (1 - most / 100) / 2000)
    assert max(found.values()) <= allowed, found


def test_rows_of_a_group_pass_no_more_often_once_they_are_grouped() -> None:
    """Groups of five that share two thirds of the variance."""
    rng = np.random.default_rng(5)
    drawn = np.stack([of_groups(rng, 40) for _ in range(2000)])
    numbers = [row // 5 for row in range(200)]
    alone, grouped = (
        [span.low > 0 for span in intervals(drawn, [1] * 200, 1 - ERROR_RATE, units)] for units in ((), numbers)
    )
    assert np.mean(alone) > 0.05, "the groups must matter for the test to mean something"
    # Half of the error rate is 10 of 2,000; 25 is beyond four standard deviations.
    assert sum(grouped) < 25


def test_an_interval_of_seeds_alone_holds_as_often_as_it_says() -> None:
    rng = Random(0)
    held = 0
    for _ in range(1000):
        noise = pooled([[rng.gauss(0, 1) for _ in range(3)] for _ in range(3)])
        assert noise is not None
        held += abs(rng.gauss(0, 1) - rng.gauss(0, 1)) < noise.margin(0.95, 2)
    assert 0.92 < held / 1000 < 0.98


@pytest.mark.parametrize("rows", [20, 80, 200])
def test_a_few_rows_that_carry_the_variance_are_counted(rows: int) -> None:
    rng = np.random.default_rng(rows)
    bad = max(1, round(0.03 * rows))
    gains = np.concatenate([np.full(bad, -1.0), np.full(rows - bad, 0.03)]) + rng.normal(0, 0.02, rows)
    (found,) = intervals([gains.tolist()], [1] * rows, 0.99)
    assert found.carried_by is not None and 1 <= found.carried_by <= bad
    normal = intervals(rng.normal(size=(200, rows)), [1] * rows, 0.99)
    assert [each.carried_by for each in normal] == [None] * 200


def test_copies_and_groups_are_joined_wherever_they_touch() -> None:
    tokens = (5, 5, 6, 7, 8, 9)
    losses = [(1.0, 1.0, 2.0, 3.0, 4.0, 5.0), (2.0, 2.0, 1.0, 3.0, 4.0, 5.0)]
    assert units_of(tokens, losses) == [0, 0, 1, 2, 3, 4]
    # The copy joins the groups of both rows.
    assert units_of(tokens, losses, (0, 1, 1, 2, 0, 3)) == [0, 0, 0, 1, 0, 2]


def test_an_interval_in_words_is_never_certain() -> None:
    assert [percent(1 - 0.01 / comparisons) for comparisons in (1, 3, 55)] == ["99%", "99.67%", "99.982%"]
    words = "99.88% confidence interval -0.000021 to -0.0000041 on 32 rows"
    assert in_words((-0.0000213, -0.0000041), 0.99875, "32 rows", None) == words
    assert in_words((0.1, 0.3), 0.99, "200 rows", 3).endswith("on 200 rows, of which 3 carry 80% of its variance")
    assert in_words((0.1, 0.3), 0.99, "20 rows", 1).endswith("on 20 rows, of which 1 carries 80% of its variance")


def test_what_rows_cannot_exclude() -> None:
    assert unseen(80, False).startswith("80 rows: about 1 case in 27 (3.8%) may be worse by any amount, and these rows")
    assert "data.group_by" in unseen(80, False)
    assert unseen(15, True).startswith("15 groups of rows: about 1 group in 5 (20.0%)")
    assert "independent" not in unseen(15, True)
