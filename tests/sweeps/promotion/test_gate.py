"""The gate: pure, on made-up evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sweeps.promotion.gate import CHAMPION, agreement, decide, tolerance
from sweeps.promotion.registration import difference
from trainables import qlora_metrics
from trainables.contract import Evaluation
from trainables.objective import Objective
from trainables.scoring.requests import BASE

ROWS = 200
TOKENS = np.random.default_rng(1).integers(5, 40, ROWS)


def evaluation(losses: Sequence[float], tokens: Sequence[int]) -> Evaluation:
    return qlora_metrics.evaluation(losses, tokens, hardware="cpu float32")


def scores(per_token: float, noise: float = 0.0, seed: int = 0, rows: int = ROWS) -> Evaluation:
    """Rows with about this loss per token, uneven by their own difficulty and by `noise`."""
    hard = np.random.default_rng(7).normal(0, 0.5, ROWS)[:rows]
    own = np.random.default_rng(seed).normal(0, noise, rows) if noise else 0.0
    losses = TOKENS[:rows] * (per_token + hard + own)
    return evaluation(tuple(losses.tolist()), tuple(TOKENS[:rows].tolist()))


def verdict(min_gain: float = 0.0, groups: tuple[int, ...] = (), /, **found: Evaluation):
    names = [name for name in found if name not in (BASE, CHAMPION)]
    return decide(
        {name: each.model_copy(update={"row_groups": groups}) for name, each in found.items()}, names, min_gain
    )


def test_a_clear_gain_on_base_and_champion_passes():
    found = verdict(base=scores(3.0), champion=scores(2.5), t00=scores(2.0, 0.3, 1), t01=scores(2.2, 0.3, 2))
    assert (found.winner, found.passed, found.reasons) == ("t00", True, ())
    assert [(name, [each.key for each in gains]) for name, gains in found.comparisons.items()] == [
        ("t00", [BASE, CHAMPION]),
        ("t01", [BASE, CHAMPION]),
    ]
    assert found.comparisons["t00"][1].difference == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("champion", "reason"),
    [(1.5, "t00 is not better than the champion"), (2.01, "t00's gain on the champion may be chance")],
)
def test_both_references_must_be_beaten(champion, reason):
    found = verdict(base=scores(3.0), champion=scores(champion, 0.5, 3), t00=scores(2.0, 0.5, 1))
    assert not found.passed
    assert found.reasons[0].startswith(reason)


def test_a_gain_below_min_gain_fails_and_one_of_exactly_that_passes():
    base, better = scores(3.0), scores(2.5, 0.1)
    (reason,) = verdict(0.6, base=base, t00=better).reasons
    assert reason.startswith("t00 gains 0.4971") and reason.endswith(" on the base, less than min_gain 0.6")
    gain = verdict(0.0, base=base, t00=better).comparisons["t00"][0].difference
    assert verdict(gain, base=base, t00=better).passed


def test_an_equal_adapter_fails():
    assert verdict(base=scores(3.0), t00=scores(3.0)).reasons == ("t00 is not better than the base: gain +0.0000",)


def test_choosing_among_more_candidates_takes_a_wider_interval():
    def of(count: int):
        others = {f"t{n:02d}": scores(2.5, 0.3, n) for n in range(1, count)}
        return verdict(base=scores(2.2, 0.3, 99), t00=scores(2.0, 0.3, 0), **others)

    one, ten = of(1), of(10)
    assert (one.confidence, ten.confidence) == (0.99, 0.999)
    assert ten.comparisons["t00"][0].low < one.comparisons["t00"][0].low


def test_few_rows_are_warned_of():
    assert verdict(base=scores(3.0, rows=29), t00=scores(2.0, rows=29)).warnings
    assert not verdict(base=scores(3.0, rows=30), t00=scores(2.0, 0.3, rows=30)).warnings


def test_copies_of_a_row_are_no_further_evidence():
    def of(per_token: float, noise: float, rows: int, times: int) -> Evaluation:
        one = scores(per_token, noise, 1, rows)
        return evaluation(one.row_losses * times, one.row_tokens * times)

    found = verdict(base=of(3.0, 0.0, 3, 4), t00=of(2.0, 0.3, 3, 4))
    assert (found.passed, found.rows) == (False, 3)
    assert found.reasons[0] == "only 3 rows decide (12 with copies): at least 10 are needed"
    assert found.comparisons["t00"][0].low is None, "three rows have no interval"


def test_rows_of_a_group_are_one_unit():
    """Each group shares its gain: fifty rows of ten groups are no more evidence than ten."""
    groups = tuple(row // 5 for row in range(50))
    own = np.random.default_rng(3).normal(0.1, 0.15, 10)
    tokens = (10,) * 50
    base = evaluation(tuple(30.0 + row for row in range(50)), tokens)
    better = evaluation(tuple(30.0 + row - 10 * own[row // 5] - 0.1 * (row % 5) for row in range(50)), tokens)
    alone, grouped = verdict(base=base, t00=better), verdict(0.0, groups, base=base, t00=better)
    assert (alone.passed, alone.rows, alone.rows_in_words) == (True, 50, "50 rows")
    assert (grouped.passed, grouped.rows, grouped.rows_in_words) == (False, 10, "10 groups of rows")
    assert grouped.reasons[0].endswith("on 10 groups of rows")
    assert grouped.warnings == ("only 10 groups of rows decide: with fewer than 30 the interval may be too narrow",)
    assert "rows count as independent" in alone.unseen
    assert "1 group in 3 (30.0%)" in grouped.unseen
    few = verdict(0.0, tuple(row // 10 for row in range(50)), base=base, t00=better)
    assert few.reasons[0] == "only 5 groups of rows decide: at least 10 are needed"


def test_a_few_rows_that_carry_the_gain_are_warned_of():
    base = scores(3.0, rows=100)
    gains = np.random.default_rng(2).normal(0.05, 0.01, 100)
    gains[[3, 50]] = -30 / TOKENS[3], 30 / TOKENS[50]
    losses = tuple(loss - gain * count for loss, gain, count in zip(base.row_losses, gains, TOKENS[:100], strict=True))
    (warning,) = verdict(base=base, t00=evaluation(losses, base.row_tokens)).warnings
    assert warning.startswith("t00's gain on the base has the 99% interval ")
    assert "on 100 rows, of which 2 carry 80% of its variance: the interval hangs on how many such rows" in warning
    assert not verdict(base=scores(3.0), t00=scores(2.5, 0.3)).warnings


def test_a_gain_that_is_the_same_on_every_row_does_not_pass():
    """One distinct value says nothing of chance: an interval without width would call any gain real."""
    found = verdict(base=scores(3.0), champion=scores(2.8, 0.3), t00=scores(2.5))
    (reason,) = found.reasons
    assert reason.startswith("t00's gain on the base has the 99% interval 0.5000 to 0.5000 on 200 rows, the same on")
    assert reason.endswith(" each: chance cannot be told")
    assert [each["passed"] for each in found.as_json()["comparisons"]] == [False, True]
    assert not found.warnings


def test_other_rows_are_never_compared():
    found = verdict(base=scores(3.0), t00=scores(2.0, rows=50))
    assert found.reasons == ("t00's gain on the base may be chance: it was evaluated on other rows",)


@pytest.mark.parametrize(("right", "passed"), [(150, True), (110, False), (90, False)])
def test_another_metric_is_decided_by_its_own_value_of_each_row(right, passed):
    """100 of 200 answers of the base are right; the losses of all are the same."""

    def of(count: int) -> Evaluation:
        values = tuple(float(row % ROWS < count) for row in range(ROWS))
        return Evaluation(metrics={"eval_loss": 1.0, "accuracy": count / ROWS}, row_values={"accuracy": values})

    found = decide({BASE: of(100), "t00": of(right)}, ["t00"], 0.06, Objective(metric="accuracy", mode="max"))
    assert found.passed == passed
    assert found.comparisons["t00"][0].difference == pytest.approx((right - 100) / ROWS)


# A second evaluation


def test_what_differs_cannot_cancel_out():
    one = evaluation((10.0, 10.0), (10, 10))
    other = evaluation((11.0, 9.0), (10, 10))
    found = agreement(one, other)
    assert one.loss == other.loss
    assert found.difference == pytest.approx(0.1)
    assert not found.holds


def test_other_rows_do_not_agree():
    assert not agreement(scores(3.0), scores(3.0, rows=50)).holds


@pytest.mark.parametrize(
    ("before", "now", "allowed"),
    [
        ("cpu float32", "cpu float32", 1e-4),
        ("cuda float32", "cpu float32", 1e-3),
        ("cuda bfloat16", "cuda bfloat16", 0.02),
        ("cuda bfloat16", "cpu bfloat16", 0.04),
        ("cuda bfloat16", "cpu float32", 0.04),
        ("", "cpu float32", 0.04),
    ],
)
def test_the_tolerance_is_per_type_and_hardware(before, now, allowed):
    assert tolerance(before, now) == allowed


@pytest.mark.parametrize(
    ("tokens", "losses", "says"),
    [
        ((1, 1, 1, 1), (1.1, 1.0, 1.0, 1.0), None),  # one logit of a label, one step of bfloat16 away
        ((1, 1, 1, 1), (1.0, 1.4, 1.0, 1.0), "its 4 rows differ by 0.1 per token, row 2 the most, and 0.08 is allowed"),
        ((9, 9, 9, 9), (1.0, 1.0, 1.7, 1.0), None),
        (
            (9, 9, 9, 9),
            (1.0, 1.0, 1.8, 1.0),
            "its 4 rows differ by 0.022 per token, row 3 the most, and 0.02 is allowed",
        ),
        ((1, 99, 99, 99), (1.1, 1.0, 1.0, 1.0), None),
        # One word that is wrong, beside many that are right.
        ((1, 200, 200, 200), (11.0, 1.0, 1.0, 1.0), "its row 1 differs by 10 per token, much more than rounding does"),
        ((20,), (1.0,), None),
        ((20,), (1.5,), "its row differs by 0.025 per token, row 1 the most, and 0.02 is allowed"),
        ((20,), (float("nan"),), "its row differs by nan per token, row 1 the most, and 0.02 is allowed"),
    ],
)
def test_a_served_model_may_differ_by_rounding(tokens, losses, says):
    told = evaluation((1.0,) * 9, (*tokens, *(99,) * (9 - len(tokens))))
    assert difference(losses, told, 0.02) == says
