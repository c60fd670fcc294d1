"""The exact test of 0/1 scores, and how often verdicts by it err."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from benchmarks.verdicts import KINDS, share
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sweeps.statistics.comparison import Comparison, Pair, compare
from sweeps.statistics.exact import Exact, exact
from sweeps.statistics.intervals import SeedNoise
from trainables.contract import Evaluation
from trainables.objective import EVAL_BITS, Objective

MOVED = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200)).filter(lambda each: sum(each) >= 10)
"""Rows that rise, that fall, and that stay."""


@settings(max_examples=30)
@given(MOVED, st.sampled_from([0.0, 0.05, -0.05, 0.3]))
def test_it_is_mcnemars_with_clopper_and_pearsons_shares_and_says_the_opposite_the_other_way_round(
    moved: tuple[int, int, int], bound: float
) -> None:
    (up, down, _), rows = moved, sum(moved)
    found, other = Exact(up, down, rows, 0.99), Exact(down, up, rows, 0.99)
    assert found.p_value == pytest.approx(binomtest(up, up + down).pvalue if up + down else 1.0)
    shares = [binomtest(count, rows).proportion_ci(0.995, "exact") for count in (up, down)]
    assert found.low == pytest.approx(shares[0].low - shares[1].high)
    assert found.high == pytest.approx(shares[0].high - shares[1].low)
    assert found.low <= (up - down) / rows <= found.high
    told = found.above(bound)
    assert other.above(-bound) == (None if told is None else not told)
    assert found.rows_needed(bound) == other.rows_needed(-bound)


@pytest.mark.parametrize(
    ("up", "down", "bound"), [(3, 0, 0.0), (20, 10, 0.0), (5, 9, 0.0), (0, 0, -0.02), (3, 3, 0.05), (10, 4, -0.01)]
)
def test_the_rows_that_are_said_to_be_needed_tell(up: int, down: int, bound: float) -> None:
    """A quarter more do so surely; the estimate is for shares that stay what they are."""
    before = Exact(up, down, 100, 0.99)
    needed = before.rows_needed(bound)
    assert before.above(bound) is None and needed is not None and needed > 100
    for rows, told in ((1.25 * needed, True), (0.75 * needed, False)):
        times = max(1.0, rows / 100)
        after = Exact(round(up * times), round(down * times), round(100 * times), 0.99)
        assert (after.above(bound) is not None) == told, after
    assert Exact(5, 5, 100, 0.99).rows_needed(0.0) is None, "no number of them would"


def test_what_scores_have_it() -> None:
    units = range(12)
    zeros, ones = [0.0] * 12, [1.0] * 12
    assert exact(ones, zeros, units, 0.99) == Exact(12, 0, 12, 0.99)
    assert exact([0.3] * 12, [0.3] * 12, units, 0.99) == Exact(0, 0, 12, 0.99)
    assert exact([0.3] * 12, zeros, units, 0.99) == Exact(12, 0, 12, 0.99, is_whole=False)
    assert exact([0.3] * 30, [0.0] * 30, range(30), 0.99) is None, "enough rows differ for the interval"
    assert exact([2.0] * 12, ones, units, 0.99) is None
    # The copies of a row count once, and the difference is a mean of all rows.
    assert exact(ones, zeros, [0, 0, 0, *range(1, 10)], 0.99) == Exact(10, 0, 10, 0.99, is_whole=False)


def right(*values: float, losses: Sequence[float] = (), groups: Sequence[int] = ()) -> Evaluation:
    """An evaluation with a score, 0 or 1, of each row."""
    return Evaluation(
        metrics={"eval_loss": 1.0, "right": sum(values) / len(values)},
        row_losses=tuple(losses), row_tokens=(1,) * len(losses), row_values={"right": values}, row_groups=tuple(groups),
    )  # fmt: skip


def compared(pair: Pair, confidence: float) -> tuple[Comparison, int]:
    (found,), rows, _ = compare(Objective(metric="right"), [pair], confidence)
    return found, rows


def test_the_interval_of_a_score_stays_between_scores() -> None:
    """Of few rows with one that is right under one model, the interval for skewed values would reach beyond 1."""
    five, one = (right(*(float(row < count) for row in range(10)), losses=range(10)) for count in (5, 1))
    (found,), *_ = compare(Objective(metric="right"), [Pair("b", 0.4, five, one)], 0.995, SeedNoise(0.01, 4, 2))
    assert found.low is not None and found.high is not None
    assert -1 <= found.low < 0.4 < found.high == 1


def test_rows_with_copies_are_not_told_by_the_exact_test_alone() -> None:
    """Ten rows of 61 are won, and one with 60 copies is lost: by different rows a gain, by all rows a loss of 0.42."""
    won = right(*(float(row < 10) for row in range(120)), losses=[min(row, 60) + 1 for row in range(120)])
    lost = right(*(float(row >= 60) for row in range(120)), losses=[min(row, 60) for row in range(120)])
    found, rows = compared(Pair("a", -50 / 120, won, lost), 0.99)
    assert rows == 61
    assert found.above(-0.1) is not True and found.above(0.0) is not True


@pytest.mark.parametrize("groups", [(), tuple(row // 2 for row in range(40))], ids=["alone", "grouped"])
def test_groups_of_rows_have_the_interval_alone(groups: tuple[int, ...]) -> None:
    two_thirds, none = (right(*(value * (row % 3 > 0) for row in range(40)), groups=groups) for value in (1.0, 0.0))
    found, _ = compared(Pair("a", 0.65, two_thirds, none), 0.99)
    assert (found.exact is None) == bool(groups)
    assert found.apart and found.above(0.0)


@pytest.mark.parametrize("kind", [each for each in KINDS if each.is_score], ids=lambda kind: kind.name)
@pytest.mark.parametrize(("gain", "wrong"), [(0.0, True), (0.05, False), (-0.05, True)])
def test_verdicts_by_scores_err_no_more_often_than_they_may(kind, gain: float, wrong: bool) -> None:
    """Better of equal candidates, not better of better ones, and a limit that holds for worse ones."""
    found = share(kind, 40, gain, gain, wrong, repetitions=300, most=2)
    # Half of the 1 in 100 that both sides together may err, and three standard errors of a share of 300.
    assert found.by_gate <= 0.5 + 3 * 100 * math.sqrt(0.005 * 0.995 / 300), found


@pytest.mark.parametrize("loss", ["eval_row_loss", EVAL_BITS])
def test_a_loss_has_no_exact_test_also_where_it_is_below_1_on_every_row(loss: str) -> None:
    """A row of a loss may change by any amount, so that its rows are not bounded as those of a score are."""
    mine, its = (
        Evaluation(
            metrics={"eval_loss": 0.05}, row_losses=losses, row_tokens=(1,) * 12, row_bytes=(1,) * 12,
            row_values={"eval_row_loss": losses},
        )
        for losses in ((0.1,) * 12, tuple(0.3 + place / 100 for place in range(12)))
    )  # fmt: skip
    (found,), *_ = compare(Objective(metric=loss), [Pair("b", 0.2, its, mine)], 0.99)
    assert found.exact is None and found.low is not None
