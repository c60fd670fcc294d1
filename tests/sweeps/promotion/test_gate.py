"""The gate: pure, on made-up losses."""

from __future__ import annotations

import numpy as np
import pytest

from sweeps.promotion.gate import CHAMPION, agreement, decide, tolerance
from sweeps.promotion.registration import difference
from trainables.scoring.requests import BASE, Scores

ROWS = 200
TOKENS = np.random.default_rng(1).integers(5, 40, ROWS)


def scores(per_token: float, noise: float = 0.0, seed: int = 0, rows: int = ROWS) -> Scores:
    """Rows with about this loss per token, uneven by their own difficulty and by `noise`."""
    hard = np.random.default_rng(7).normal(0, 0.5, ROWS)[:rows]
    own = np.random.default_rng(seed).normal(0, noise, rows) if noise else 0.0
    losses = TOKENS[:rows] * (per_token + hard + own)
    return Scores(row_losses=tuple(losses.tolist()), row_tokens=tuple(TOKENS[:rows].tolist()))


def verdict(min_gain: float = 0.0, groups: tuple[int, ...] = (), /, **found: Scores):
    names = [name for name in found if name not in (BASE, CHAMPION)]
    return decide(found, names, min_gain, groups)


def test_a_clear_gain_on_base_and_champion_passes():
    found = verdict(base=scores(3.0), champion=scores(2.5), t00=scores(2.0, 0.3, 1), t01=scores(2.2, 0.3, 2))
    assert (found.winner, found.passed, found.reasons) == ("t00", True, ())
    assert [(each.candidate, each.against) for each in found.comparisons][:2] == [("t00", BASE), ("t00", CHAMPION)]
    assert found.of("t00")[1].gain == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("champion", "reason"),
    [(1.5, "t00 is not better than the champion"), (2.01, "t00's gain on the champion may be chance")],
)
def test_both_references_must_be_beaten(champion, reason):
    found = verdict(base=scores(3.0), champion=scores(champion, 0.5, 3), t00=scores(2.0, 0.5, 1))
    assert not found.passed
    assert found.reasons[0].startswith(reason)


def test_a_gain_below_min_gain_fails_and_one_of_exactly_that_passes():
    base, better = scores(3.0), scores(2.5)
    assert verdict(0.6, base=base, t00=better).reasons == ("t00 gains 0.5000 on the base, less than min_gain 0.6",)
    gain = verdict(0.0, base=base, t00=better).of("t00")[0].gain
    assert verdict(gain, base=base, t00=better).passed


def test_an_equal_adapter_fails():
    assert verdict(base=scores(3.0), t00=scores(3.0)).reasons == ("t00 is not better than the base: gain +0.0000",)


def test_choosing_among_more_candidates_takes_a_wider_interval():
    def of(count: int):
        others = {f"t{n:02d}": scores(2.5, 0.3, n) for n in range(1, count)}
        return verdict(base=scores(2.2, 0.3, 99), t00=scores(2.0, 0.3, 0), **others)

    one, ten = of(1), of(10)
    assert (one.confidence, ten.confidence) == (0.99, 0.999)
    widths = [found.of("t00")[0].high - found.of("t00")[0].low for found in (one, ten)]
    # Normal quantiles of 99.9 and 99 %: 3.29 and 2.58.
    assert widths[1] / widths[0] == pytest.approx(3.29 / 2.58, rel=0.1)


def test_rows_weigh_by_their_tokens():
    base = Scores(row_losses=(10.0, 300.0), row_tokens=(1, 99))
    better = Scores(row_losses=(0.0, 310.0), row_tokens=(1, 99))
    assert verdict(base=base, t00=better).of("t00")[0].gain == 0.0


def test_the_same_losses_give_the_same_verdict():
    found = [verdict(base=scores(3.0), t00=scores(2.9, 0.5, 1)) for _ in range(2)]
    assert found[0] == found[1]


def test_few_rows_are_warned_of():
    assert verdict(base=scores(3.0, rows=29), t00=scores(2.0, rows=29)).warnings
    assert not verdict(base=scores(3.0, rows=30), t00=scores(2.0, 0.3, rows=30)).warnings


def test_copies_of_a_row_are_no_further_evidence():
    def of(per_token: float, noise: float, rows: int, times: int) -> Scores:
        one = scores(per_token, noise, 1, rows)
        return Scores(row_losses=one.row_losses * times, row_tokens=one.row_tokens * times)

    found = verdict(base=of(3.0, 0.0, 3, 4), t00=of(2.0, 0.3, 3, 4))
    assert (found.passed, found.rows) == (False, 3)
    assert found.reasons[0] == "only 3 rows decide (12 with copies): at least 10 are needed"
    once, often = (verdict(base=of(3.0, 0.0, 40, times), t00=of(2.0, 0.3, 40, times)) for times in (1, 9))
    assert often.rows == 40
    for before, now in zip(once.comparisons, often.comparisons, strict=True):
        assert [now.gain, now.low, now.high] == pytest.approx([before.gain, before.low, before.high])


def test_rows_of_a_group_are_one_unit():
    """Each group shares its gain: fifty rows of ten groups are no more evidence than ten."""
    groups = tuple(row // 5 for row in range(50))
    own = np.random.default_rng(3).normal(0.1, 0.15, 10)
    tokens = (10,) * 50
    base = Scores(row_losses=tuple(30.0 + row for row in range(50)), row_tokens=tokens)
    better = Scores(
        row_losses=tuple(30.0 + row - 10 * own[row // 5] - 0.1 * (row % 5) for row in range(50)), row_tokens=tokens
    )
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
    (warning,) = verdict(base=base, t00=Scores(row_losses=losses, row_tokens=base.row_tokens)).warnings
    assert warning.startswith("t00's gain on the base has the 99% interval ")
    assert "on 100 rows, of which 2 carry 80% of its variance: the interval hangs on how many such rows" in warning
    assert not verdict(base=scores(3.0), t00=scores(2.5, 0.3)).warnings


def test_a_gain_that_is_the_same_on_every_row_says_that_chance_cannot_be_told():
    (warning,) = verdict(base=scores(3.0), t00=scores(2.5)).warnings
    assert warning.endswith("on 200 rows, the same on each: chance cannot be told")


def test_other_rows_are_never_compared():
    with pytest.raises(ValueError, match="not scored on the same rows"):
        verdict(base=scores(3.0), t00=scores(2.0, rows=50))


# A second evaluation


def test_what_differs_cannot_cancel_out():
    one = Scores(row_losses=(10.0, 10.0), row_tokens=(10, 10))
    other = Scores(row_losses=(11.0, 9.0), row_tokens=(10, 10))
    found = agreement(one, "cpu float32", other, "cpu float32")
    assert one.loss == other.loss
    assert found.difference == pytest.approx(0.1)
    assert not found.holds


def test_other_rows_do_not_agree():
    assert not agreement(scores(3.0), "cpu float32", scores(3.0, rows=50), "cpu float32").holds


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
    told = Scores(row_losses=(1.0,) * 9, row_tokens=(*tokens, *(99,) * (9 - len(tokens))))
    assert difference(losses, told, 0.02) == says
