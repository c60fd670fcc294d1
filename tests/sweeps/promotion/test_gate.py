"""The gate: pure, on made-up evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from sweeps.promotion.gate import CHAMPION, agreement, decide, tolerance
from sweeps.promotion.promote import PromotionResult
from sweeps.promotion.registration import Registered
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
    assert [(own.name, [each.key for each in own.gains]) for own in found.candidates] == [
        ("t00", [BASE, CHAMPION]),
        ("t01", [BASE, CHAMPION]),
    ]
    assert found.best.gains[1].difference == pytest.approx(0.5, abs=0.1)


def test_a_result_shows_in_one_line_whether_it_promoted_or_would():
    for dry_run, own, registered, ending in (
        (True, 2.0, Registered(), "a dry run that would promote; verdict on t00: better; eval_loss gain +1."),
        (False, 2.0, Registered("3", promoted=True), "promoted version 3; verdict on t00: better; eval_loss gain +1."),
        (True, 3.1, Registered(), "not promoted; verdict on t00: not better; eval_loss gain -0."),
        (True, 2.0, Registered(reasons=("rolled back",)), "not promoted; rolled back; verdict on t00: better; eval_"),
    ):
        found = verdict(base=scores(3.0), t00=scores(own, 0.3, 1))
        result = PromotionResult("m", "champion", found, registered, already=False, previous=None, dry_run=dry_run)
        assert repr(result).startswith(f"<PromotionResult m: {ending}")
        assert f" on the base, {found.best.evidence_of(found.best.gains[0])}>" in repr(result)
        assert result.would_promote == ending.startswith("a dry run")


@pytest.mark.parametrize(
    ("champion", "outcome", "reason"),
    [
        (1.5, "not_better", "t00 is not better than the champion: gain -0.4"),
        (1.9, "cannot_tell", "whether t00 is better than the champion cannot be told: gain -0.0"),
        (2.01, "cannot_tell", "t00's gain on the champion may be chance: gain +0.0"),
    ],
)
def test_both_references_must_be_beaten(champion, outcome, reason):
    found = verdict(base=scores(3.0), champion=scores(champion, 0.5, 3), t00=scores(2.0, 0.5, 1))
    assert (found.passed, found.outcome) == (False, outcome)
    assert found.reasons[0].startswith(reason), found.reasons
    assert (found.rows_needed is None) == (outcome == "not_better")


def test_a_gain_below_min_gain_fails_and_one_of_exactly_that_passes():
    base, better = scores(3.0), scores(2.5, 0.1)
    short = verdict(0.6, base=base, t00=better)
    assert short.outcome == "not_better"
    assert short.reasons[0].startswith("t00 gains less than min_gain 0.6 on the base: gain +0.4971, 99% confidence")
    gain = verdict(0.0, base=base, t00=better).best.gains[0].difference
    assert verdict(gain, base=base, t00=better).passed


def test_an_equal_adapter_fails():
    found = verdict(base=scores(3.0), t00=scores(3.0))
    assert found.outcome == "not_better"
    assert found.reasons == ("t00 is not better than the base: gain +0.0000, with the same loss on each row",)


def test_the_rows_that_are_said_to_be_needed_tell():
    """The gain is a fifth of a row's standard deviation: 80 rows leave it open."""
    base = scores(3.0, rows=80)
    gains = np.random.default_rng(6).normal(0.1, 0.5, 80) * TOKENS[:80]
    found = verdict(base=base, t00=evaluation(tuple((base.row_losses - gains).tolist()), base.row_tokens))
    assert found.outcome == "cannot_tell"
    assert found.words == f"cannot be told yet: about {found.rows_needed} more rows would tell"
    times = -(-(80 + found.rows_needed) // 80)
    # Each copy is told apart from the others by how hard its row is, which weighs on neither side.
    hard = np.concatenate([np.array(base.row_losses) + number for number in range(times)])
    more = evaluation(tuple(hard.tolist()), base.row_tokens * times)
    better = evaluation(tuple((hard - np.tile(gains, times)).tolist()), base.row_tokens * times)
    assert verdict(base=more, t00=better).passed


def test_a_gain_of_min_gain_that_is_neither_shown_nor_excluded_cannot_be_told():
    base, better = scores(3.0, 0.5, 1, 60), scores(2.86, 0.5, 2, 60)
    found = verdict(0.1, base=base, t00=better)
    gain = found.best.gains[0]
    assert 0 < gain.difference < 0.1 < gain.high
    assert found.outcome == "cannot_tell" and found.rows_needed
    assert found.reasons[0].startswith("t00 gains less than min_gain 0.1 on the base, which may be chance: gain +0.0")


def test_choosing_among_more_candidates_takes_a_wider_interval():
    def of(count: int):
        others = {f"t{n:02d}": scores(2.5, 0.3, n) for n in range(1, count)}
        return verdict(base=scores(2.2, 0.3, 99), t00=scores(2.0, 0.3, 0), **others)

    one, ten = of(1), of(10)
    assert (one.best.confidence, ten.best.confidence) == (0.99, 0.999)
    assert ten.best.gains[0].low < one.best.gains[0].low


def test_copies_of_a_row_are_no_further_evidence_and_few_rows_are_warned_of():
    def of(per_token: float, noise: float, rows: int, times: int) -> Evaluation:
        one = scores(per_token, noise, 1, rows)
        return evaluation(one.row_losses * times, one.row_tokens * times)

    found = verdict(base=of(3.0, 0.0, 3, 4), t00=of(2.0, 0.3, 3, 4))
    assert (found.passed, found.best.rows) == (False, 3)
    assert found.reasons[0] == "only 3 rows decide (12 with copies): at least 10 are needed"
    assert found.best.gains[0].low is None, "three rows have no interval"
    assert verdict(base=of(3.0, 0.0, 29, 2), t00=of(2.0, 0.3, 29, 2)).warnings
    assert not verdict(base=of(3.0, 0.0, 30, 2), t00=of(2.0, 0.3, 30, 2)).warnings


def test_rows_of_a_group_are_one_unit():
    """Each group shares its gain: fifty rows of ten groups are no more evidence than ten."""
    groups = tuple(row // 5 for row in range(50))
    own = np.random.default_rng(3).normal(0.1, 0.15, 10)
    tokens = (10,) * 50
    base = evaluation(tuple(30.0 + row for row in range(50)), tokens)
    better = evaluation(tuple(30.0 + row - 10 * own[row // 5] - 0.1 * (row % 5) for row in range(50)), tokens)
    alone, grouped = verdict(base=base, t00=better), verdict(0.0, groups, base=base, t00=better)
    assert (alone.passed, alone.best.rows, alone.best.rows_in_words) == (True, 50, "50 rows")
    assert (grouped.passed, grouped.best.rows, grouped.best.rows_in_words) == (False, 10, "10 groups of rows")
    assert grouped.reasons[0].endswith("on 10 groups of rows")
    assert grouped.warnings == ("only 10 groups of rows decide: with fewer than 30 the interval may be too narrow",)
    assert "1 group in 3 (30.0%)" in grouped.unseen


def test_a_few_rows_that_carry_the_gain_are_warned_of():
    base = scores(3.0, rows=100)
    gains = np.random.default_rng(2).normal(0.05, 0.01, 100)
    gains[[3, 50]] = -30 / TOKENS[3], 30 / TOKENS[50]
    losses = tuple(loss - gain * count for loss, gain, count in zip(base.row_losses, gains, TOKENS[:100], strict=True))
    (warning,) = verdict(base=base, t00=evaluation(losses, base.row_tokens)).warnings
    assert warning.startswith("t00's gain on the base has the 99% confidence interval ")
    assert "on 100 rows, of which 2 carry 80% of its variance: the interval hangs on how many such rows" in warning


def test_a_gain_that_is_the_same_on_every_row_does_not_pass():
    """One distinct value says nothing of chance: an interval without width would call any gain real."""
    found = verdict(base=scores(3.0), champion=scores(2.8, 0.3), t00=scores(2.5))
    (reason,) = found.reasons
    assert reason.startswith(
        "t00's gain on the base may be chance: gain +0.5000, 99% confidence interval 0.5000 to 0.5"
    )
    assert reason.endswith(" rows, the same on each: chance cannot be told")
    assert (found.words, found.rows_needed) == ("cannot be told: more rows like these would not tell", None)
    assert [each["passed"] for each in found.as_json()["comparisons"]] == [False, True]


def test_other_rows_are_never_compared():
    found = verdict(base=scores(3.0), t00=scores(2.0, rows=50))
    assert found.reasons == ("whether t00 is better than the base cannot be told: it was evaluated on other rows",)


ACCURACY = Objective(metric="accuracy", mode="max")


def answered(*right: bool, metric: str = "accuracy", seed: int = 0) -> Evaluation:
    """Rows that are answered right or wrong, each with a loss of its own."""
    losses = np.random.default_rng(seed).normal(30, 5, len(right))
    return Evaluation(
        metrics={"eval_loss": float(losses.mean() / 10), metric: sum(right) / len(right)},
        row_losses=tuple(losses.tolist()), row_tokens=(10,) * len(right),
        row_values={metric: tuple(map(float, right))}, hardware="cpu float32",
    )  # fmt: skip


def half_right(rows: int, up: int = 0, down: int = 0) -> tuple[Evaluation, Evaluation]:
    """Half of the rows are right at first; then so many rise, and so many fall."""
    before = [row % 2 == 0 for row in range(rows)]
    wrong, right = ([row for row in range(rows) if before[row] is was] for was in (False, True))
    moved = {*wrong[:up], *right[:down]}
    return answered(*before, seed=1), answered(*(was != (row in moved) for row, was in enumerate(before)))


@pytest.mark.parametrize(
    ("rows", "up", "down", "min_gain", "outcome"),
    [
        # The sign test: 8 of 8 have p = 0.0078, 7 of 7 have 0.0156.
        (200, 8, 0, 0.0, "better"),
        (200, 7, 0, 0.0, "cannot_tell"),
        (200, 0, 8, 0.0, "not_better"),
        (200, 0, 7, 0.0, "cannot_tell"),
        # The gain is 0.05, and the rows show that there is one: but less than is asked for.
        (200, 11, 1, 0.06, "cannot_tell"),
        (200, 11, 1, 0.2, "not_better"),
        # No row differs: 80 rows do not exclude that one in fourteen would.
        (80, 0, 0, 0.05, "cannot_tell"),
        (80, 0, 0, 0.1, "not_better"),
    ],
)
def test_right_and_wrong_answers_have_the_exact_test(rows, up, down, min_gain, outcome):
    base, own = half_right(rows, up, down)
    found = decide({BASE: base, "t00": own}, ["t00"], min_gain, ACCURACY)
    assert found.outcome == outcome, found.reasons
    assert found.best.gains[0].difference == pytest.approx((up - down) / rows)
    if outcome != "better" and up + down:
        assert f"of {rows} rows {up} are better and {down} worse, p = " in found.reasons[0]


def test_all_wrong_before_and_all_right_now_is_better():
    """The interval has no width there, and says nothing of chance; the exact test does."""
    found = decide({BASE: answered(*[False] * 40, seed=1), "t00": answered(*[True] * 40)}, ["t00"], 0.5, ACCURACY)
    assert found.passed


def test_of_equal_candidates_that_with_the_lower_loss_is_the_winner():
    base, own = half_right(200, 20, 0)
    lower = own.model_copy(update={"metrics": own.metrics | {"eval_loss": own.loss - 0.1}})
    assert decide({BASE: base, "t00": own, "t01": lower}, ["t00", "t01"], 0.0, ACCURACY).winner == "t01"


def test_a_gain_of_min_gain_passes_however_it_is_rounded():
    """0.6 - 0.5 is less than 0.1 by a rounding."""
    base, own = half_right(200, 20, 0)
    found = decide({BASE: base, "t00": own}, ["t00"], 0.1, ACCURACY)
    assert found.best.gains[0].difference < 0.1
    assert found.passed


def test_only_the_rows_that_were_answered_decide():
    """Of 40 rows the losses of all are known, and the answers of the last twelve."""
    base, own = half_right(40)
    rows = [{"row_values": {"accuracy": (value,) * 12}, "row_places": tuple(range(28, 40))} for value in (0.0, 1.0)]
    base, own = (each.model_copy(update=part) for each, part in zip((base, own), rows, strict=True))
    found = decide({BASE: base, "t00": own}, ["t00"], 0.0, ACCURACY)
    assert (found.best.rows, found.rows_with_copies, found.passed) == (12, 12, True)
    other = own.model_copy(update={"row_places": tuple(range(27, 39))})
    found = decide({BASE: base, "t00": other}, ["t00"], 0.0, ACCURACY)
    assert found.reasons == ("whether t00 is better than the base cannot be told: it was evaluated on other rows",)


def test_the_json_of_a_verdict_says_which_it_is_and_what_would_tell():
    base, own = half_right(200, 7, 0)
    told = json.loads(json.dumps(decide({BASE: base, "t00": own}, ["t00"], 0.0, ACCURACY).as_json()))
    assert (told["verdict"], told["passed"], told["decided_by"]) == ("cannot_tell", False, None)
    assert told["objective"] == {"metric": "accuracy", "mode": "max"}
    assert 10 < told["rows_needed"] < 60
    assert [each["verdict"] for each in told["comparisons"]] == ["cannot_tell"]


# A second evaluation


def test_what_differs_cannot_cancel_out():
    one = evaluation((10.0, 10.0), (10, 10))
    other = evaluation((11.0, 9.0), (10, 10))
    found = agreement(one, other)
    assert one.loss == other.loss
    assert found.difference == pytest.approx(0.1)
    assert not found.holds
    assert not agreement(scores(3.0), scores(3.0, rows=50)).holds, "other rows"


def test_the_tolerance_is_per_type_and_hardware():
    for before, now, allowed in (
        ("cpu float32", "cpu float32", 1e-4),
        ("cuda float32", "cpu float32", 1e-3),
        ("cuda bfloat16", "cuda bfloat16", 0.02),
        ("cuda bfloat16", "cpu bfloat16", 0.04),
        ("cuda bfloat16", "cpu float32", 0.04),
        ("", "cpu float32", 0.04),
    ):
        assert tolerance(before, now) == allowed
