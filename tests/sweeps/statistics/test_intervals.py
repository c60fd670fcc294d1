"""The interval over rows: what it must hold to whatever the rows are, and how often it errs."""

from __future__ import annotations

import math
from random import Random
from statistics import NormalDist, stdev

import numpy as np
import pytest
from benchmarks.intervals import drawn, passing
from hypothesis import assume, given
from hypothesis import strategies as st

from sweeps.statistics.confidence import ERROR_RATE, percent
from sweeps.statistics.intervals import (
    Interval,
    counted_units,
    in_words,
    intervals,
    pooled,
    rows_needed,
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
    # Nine times: among three copies of the worst row, the further unit lies further out than beside the one row.
    often = interval(rows * 9, confidence)
    assert often.high - often.low < high - low


def test_each_end_is_hall_s_over_the_units_and_one_beyond_the_worst_of_its_side() -> None:
    """Equations solved by hand: Hall's cubic equals the quantile of Student's t with 10 degrees of freedom."""
    gains = np.array([0.0] * 5 + [1.0] * 4 + [3.0])
    # The mean excess of the worst three over the fourth: 0 below, as four are equal, and (3 + 1 + 1) / 3 - 1 above.
    further = {"low": 0.0, "high": 3 + 2.5 * 2 / 3}
    ((low, high, _),) = intervals([gains.tolist()], [1] * 10, 0.99)
    for end, quantile, one_more in ((low, 3.16927, further["low"]), (high, -3.16927, further["high"])):
        all_units = np.append(gains, one_more)
        left = all_units - all_units.mean()
        a = (left**3).sum() / (left**2).sum() ** 1.5
        t = (all_units.mean() - end) / math.sqrt((left**2).sum() / 10 / 11)
        assert t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6 == pytest.approx(quantile, rel=1e-4)
    assert high - gains.mean() > gains.mean() - low, "it is longer on the side of the tail"


def test_the_further_unit_is_no_worse_than_a_row_can_be_and_has_no_effect_on_many_rows() -> None:
    gains = [-1.0] * 3 + [0.5] * 37
    (bounded,), (unbounded,) = (intervals([gains], [1] * 40, 0.99, most=most) for most in (1.0, math.inf))
    assert -1 < bounded.low > unbounded.low + 0.1 and bounded.high == unbounded.high
    normal = [NormalDist(0.1).inv_cdf((row + 0.5) / 20_000) for row in range(20_000)]
    ((low, high, _),) = intervals([normal], [1] * 20_000, 0.99)
    half = 2.576 * stdev(normal) / math.sqrt(20_000)
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), rel=0.01)


@pytest.mark.parametrize(("rows", "gain"), [(20, 0.4), (32, 0.3), (80, 0.2)])
def test_the_rows_that_are_said_to_be_needed_pass_in_half_of_the_cases(rows: int, gain: float) -> None:
    rng = np.random.default_rng(rows)
    few = rng.normal(size=(400, rows))
    few += gain - few.mean(axis=1, keepdims=True)
    needed = [rows_needed(gain, gain - span.low, rows) for span in intervals(few, [1] * rows, 0.99)]
    told = round(float(np.median([count for count in needed if count is not None])))

    def passing_share(count: int) -> float:
        return float(
            np.mean([span.low > 0 for span in intervals(rng.normal(gain, 1, (400, count)), [1] * count, 0.99)])
        )

    # Far enough from half for 400 draws and for an estimate that is half as large again.
    assert passing_share(round(0.5 * told)) < 0.5 < passing_share(round(1.4 * told))


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_gains_that_are_the_same_on_every_row_have_an_interval_without_width_that_says_so(rows: int) -> None:
    tokens = [10 + row % 7 for row in range(rows)]
    (found,) = intervals([[0.1 * count for count in tokens]], tokens, 0.99)
    assert found.carried_by == 0
    assert found.high == found.low == pytest.approx(0.1)
    assert in_words(found[:2], 0.99, counted_units(rows, False), 0).endswith(", the same on each")


# How often equal candidates pass (all tables: tests/benchmarks/intervals.py)


@pytest.mark.parametrize(
    ("gains", "rows"),
    [
        ("exponential", 30),
        *((gains, 80) for gains in ("Student's t, 3 df", "0/1", "lognormal", "lognormal, uneven lengths")),
        *(("lognormal, log-sd 1.5, uneven lengths", rows) for rows in (80, 200)),
        ("5% of the rows lognormal", 200),
        ("nine in ten unmoved, the others lognormal", 500),
        ("20 groups, lognormal", 200),
        ("3% of the rows 1 nat worse", 400),
    ],
)
def test_equal_candidates_pass_in_at_most_2_5_of_100_cases_if_ten_bad_rows_are_expected(gains: str, rows: int) -> None:
    """The claim of `ERROR_RATE`, with the long tail on either side."""
    found = passing(gains, rows, 1000)
    # Three standard errors of a share of 1,000 repetitions.
    assert max(found.values()) <= 2.5 + 3 * 100 * math.sqrt(0.025 * 0.975 / 1000), found


def test_a_gain_of_half_a_standard_deviation_passes_on_80_normal_rows() -> None:
    (power,) = {passing("normal", 80, 1000, gain=0.5)[1, "bad"]}
    assert power > 82, "85 were measured; three standard errors of 1,000 repetitions are 3.4"


def test_rows_of_a_group_pass_no_more_often_once_they_are_grouped() -> None:
    rng = np.random.default_rng(5)
    parts = [drawn("20 groups, normal", rng, 1, 200) for _ in range(100)]
    gains = np.concatenate([part.gains[:, 0] for part in parts])
    alone, grouped = (
        [span.low > 0 for span in intervals(gains, [1] * 200, 1 - ERROR_RATE, units)] for units in ((), parts[0].units)
    )
    assert np.mean(alone) > 0.05, "the groups must matter for the test to mean something"
    # Half of the error rate is 5 of 1,000; 15 is beyond four standard deviations.
    assert sum(grouped) < 15


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
    assert in_words((0.1, 0.3), 0.99, "200 rows", 3).endswith("on 200 rows, 3 of which make most of its width")
    assert in_words((0.1, 0.3), 0.99, "20 rows", 1).endswith("on 20 rows, one of which makes most of its width")


def test_what_rows_cannot_exclude() -> None:
    assert unseen(80, False).startswith("80 rows: about 1 case in 27 (3.8%) may be worse by any amount, and these rows")
    assert "data.group_by" in unseen(80, False)
    assert unseen(15, True).startswith("15 groups of rows: about 1 group in 5 (20.0%)")
    assert "independent" not in unseen(15, True)
