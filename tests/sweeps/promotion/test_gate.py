"""The gate: pure, on made-up evaluations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sweeps.config.model import Promotion, Slices
from sweeps.promotion import cards, words
from sweeps.promotion.evidence import agreement, tolerance
from sweeps.promotion.gate import CHAMPION, GateRule, Guarded, Sliced, Verdict, decide, slices
from sweeps.promotion.registration import PromotionResult
from trainables import evaluation_metrics
from trainables.contract import Evaluation
from trainables.objective import LOWEST_LOSS, Objective
from trainables.scoring.requests import BASE

ROWS = 200
TOKENS = np.random.default_rng(1).integers(5, 40, ROWS)


def evaluation(losses: Sequence[float], tokens: Sequence[int]) -> Evaluation:
    return evaluation_metrics.evaluation(losses, tokens, hardware="cpu float32")


def scores(per_token: float, noise: float = 0.0, seed: int = 0, rows: int = ROWS) -> Evaluation:
    """Rows with about this loss per token, uneven by their own difficulty and by `noise`."""
    hard = np.random.default_rng(7).normal(0, 0.5, ROWS)[:rows]
    own = np.random.default_rng(seed).normal(0, noise, rows) if noise else 0.0
    losses = TOKENS[:rows] * (per_token + hard + own)
    return evaluation(tuple(losses.tolist()), tuple(TOKENS[:rows].tolist()))


def rule(*candidates: str, min_gain: float = 0.0, objective: Objective = LOWEST_LOSS, **more: Any) -> GateRule:
    return GateRule(objective=objective, min_gain=min_gain, candidates=candidates, **more)


def verdict(min_gain: float = 0.0, groups: tuple[int, ...] = (), /, **found: Evaluation):
    names = [name for name in found if name not in (BASE, CHAMPION)]
    grouped = {name: each.model_copy(update={"row_groups": groups}) for name, each in found.items()}
    return decide(grouped, rule(*names, min_gain=min_gain))


def test_a_clear_gain_on_base_and_champion_passes():
    found = verdict(base=scores(3.0), champion=scores(2.5), t00=scores(2.0, 0.3, 1), t01=scores(2.2, 0.3, 2))
    assert (found.winner, found.passed, words.reasons(found)) == ("t00", True, ())
    keys = {own.name: [each.key for each in own.gains] for own in found.candidates}
    assert keys == {"t00": [BASE, CHAMPION], "t01": [BASE, CHAMPION]}
    assert found.best.gains[1].difference == pytest.approx(0.5, abs=0.1)


def test_a_result_shows_in_one_line_whether_it_promoted_or_would():
    refused, rolled_back = "t00 is not better than the base", "rolled back"
    for dry_run, own, outcome, ending in (
        (True, 2.0, {}, "a dry run that would promote; verdict on t00: better; eval_loss gain +1."),
        (
            False,
            2.0,
            {"version": "3", "promoted": True},
            "promoted version 3; verdict on t00: better; eval_loss gain +1.",
        ),
        (True, 3.2, {"reasons": (refused,)}, "not promoted; verdict on t00: not better; eval_loss gain -0."),
        (True, 2.0, {"reasons": (rolled_back,)}, "not promoted; rolled back; verdict on t00: better; eval_"),
    ):
        found = verdict(base=scores(3.0), t00=scores(own, 0.3, 1))
        result = PromotionResult("m", "champion", found, **outcome, dry_run=dry_run)
        assert repr(result).startswith(f"<PromotionResult m: {ending}")
        assert f" on the base, {words.evidence(found.best, found.best.gains[0])}>" in repr(result)
        assert result.would_promote == ending.startswith("a dry run")


BEATEN = {"base": scores(3.0), "t00": scores(2.0, 0.5, 1)}
BETTER = {"base": scores(3.0), "t00": scores(2.5, 0.1)}
SHORT = {"base": scores(3.0, 0.5, 1, 60), "t00": scores(2.86, 0.5, 2, 60)}
SAME = "t00 is not better than the base: gain +0.0000, with the same loss on each row"


@pytest.mark.parametrize(
    ("found", "min_gain", "outcome", "reason"),
    [
        (
            {**BEATEN, "champion": scores(1.5, 0.5, 3)},
            0.0,
            "not_better",
            "t00 is not better than the champion: gain -0.4",
        ),
        (
            *({**BEATEN, "champion": scores(1.9, 0.5, 3)}, 0.0),
            *("cannot_tell", "whether t00 is better than the champion cannot be told: gain -0.0"),
        ),
        (
            *({**BEATEN, "champion": scores(2.01, 0.5, 3)}, 0.0),
            *("cannot_tell", "t00's gain on the champion may be chance: gain +0.0"),
        ),
        (BETTER, 0.6, "not_better", "t00 gains less than min_gain 0.6 on the base: gain +0.4971, 99% confidence"),
        (SHORT, 0.1, "cannot_tell", "t00 gains less than min_gain 0.1 on the base, which may be chance: gain +0.0"),
        ({"base": scores(3.0), "t00": scores(3.0)}, 0.0, "not_better", SAME),
    ],
)
def test_what_does_not_pass_says_why_and_whether_more_rows_would_tell(found, min_gain, outcome, reason):
    told = verdict(min_gain, **found)
    assert (told.passed, told.outcome) == (False, outcome)
    assert words.reasons(told)[0].startswith(reason), words.reasons(told)
    assert (told.rows_needed is None) == (outcome == "not_better")


def test_a_gain_of_exactly_min_gain_passes_however_it_is_rounded():
    """0.6 - 0.5 is less than 0.1 by a rounding."""
    gain = verdict(**BETTER).best.gains[0].difference
    assert verdict(gain, **BETTER).passed
    base, own = half_right(200, 20, 0)
    found = decide({BASE: base, "t00": own}, rule("t00", min_gain=0.1, objective=ACCURACY))
    assert found.best.gains[0].difference < 0.1
    assert found.passed


def test_the_rows_that_are_said_to_be_needed_tell():
    """The gain is a fifth of a row's standard deviation: 80 rows leave it open."""
    base = scores(3.0, rows=80)
    gains = np.random.default_rng(6).normal(0.1, 0.5, 80) * TOKENS[:80]
    found = verdict(base=base, t00=evaluation(tuple((base.row_losses - gains).tolist()), base.row_tokens))
    assert found.outcome == "cannot_tell"
    assert words.of(found) == f"cannot be told yet: about {found.rows_needed} more rows would tell"
    times = -(-(80 + found.rows_needed) // 80)
    # Each copy is told apart from the others by how hard its row is, which weighs on neither side.
    hard = np.concatenate([np.array(base.row_losses) + number for number in range(times)])
    more = evaluation(tuple(hard.tolist()), base.row_tokens * times)
    better = evaluation(tuple((hard - np.tile(gains, times)).tolist()), base.row_tokens * times)
    assert verdict(base=more, t00=better).passed


def test_choosing_among_more_candidates_takes_a_wider_interval():
    many = {f"t{n:02d}": scores(2.5, 0.3, n) for n in range(1, 10)}
    one, ten = (verdict(base=scores(2.2, 0.3, 99), t00=scores(2.0, 0.3, 0), **others).best for others in ({}, many))
    assert (one.confidence, ten.confidence) == (0.99, 0.999)
    assert ten.gains[0].low < one.gains[0].low


def test_on_rows_that_ranked_the_trials_all_of_them_count_whatever_is_promoted():
    """Also for slices and for guards on these rows; a guard on rows of its own counts the candidates."""
    scored = {"base": scores(2.2, 0.3, 99), "champion": scores(2.2, 0.3, 98), "t00": scores(2.0, 0.3, 0)}
    own = {name: ended(each, 0.5) for name, each in scored.items()}
    further = {name: scores(2.0, 0.3, 5) for name in scored}
    there = [guard(0.1, ANSWERS_ENDED, **own), guard(0.1, LOWEST_LOSS, **further)]
    sliced = Sliced(of=Slices(by="language"), values=("de", "en") * (ROWS // 2))
    fresh, seen = (decide(scored, rule("t00", ranked=ranked), sliced, there) for ranked in (0, 32))
    assert [each.confidence for each in (fresh.best, *fresh.guards, *fresh.slices)] == [0.99, *[1 - 0.01 / 2] * 4]
    told = [1 - 0.01 / 32, 1 - 0.01 / 64, 1 - 0.01 / 2, *[1 - 0.01 / 64] * 2]
    assert [each.confidence for each in (seen.best, *seen.guards, *seen.slices)] == told
    least = decide(scored, rule("t00", left_out=1), sliced, there)
    assert [each.confidence for each in (least.best, *least.guards, *least.slices)] == [
        1 - 0.01 / 2,
        *[1 - 0.01 / 4] * 4,
    ]
    lows = [{gain.key: gain.low or 0.0 for gain in each.best.gains} for each in (fresh, seen)]
    assert all(lows[0][key] > lows[1][key] for key in (BASE, CHAMPION))
    line = (
        "the rows that decide have ranked the 32 trials of the sweep: the confidence, 99.969%, counts all of them as "
        "comparisons"
    )
    assert (words.warnings(seen), words.warnings(fresh)) == ((line,), ())
    assert (words.as_json(seen)["comparisons_counted"], words.as_json(fresh)["comparisons_counted"]) == (32, 1)
    assert words.as_json(seen)["confidence"] == 1 - 0.01 / 32


def test_copies_of_a_row_are_no_further_evidence_and_few_rows_are_warned_of():
    def of(rows: int, times: int):
        base, own = scores(3.0, 0.0, 1, rows), scores(2.0, 0.3, 1, rows)
        base, own = (evaluation(each.row_losses * times, each.row_tokens * times) for each in (base, own))
        return verdict(base=base, t00=own)

    found = of(3, 4)
    assert (found.passed, found.best.rows, found.best.gains[0].low) == (False, 3, None), "three rows have no interval"
    assert words.reasons(found)[0] == "only 3 rows decide (12 with copies): at least 10 are needed"
    assert words.warnings(of(29, 2)) and not words.warnings(of(30, 2))


def test_rows_of_a_group_are_one_unit():
    """Each group shares its gain: fifty rows of ten groups are no more evidence than ten."""
    groups = tuple(row // 5 for row in range(50))
    own = np.random.default_rng(3).normal(0.1, 0.15, 10)
    hard = [30.0 + row for row in range(50)]
    base = evaluation(hard, (10,) * 50)
    better = evaluation([loss - 10 * own[row // 5] - 0.1 * (row % 5) for row, loss in enumerate(hard)], (10,) * 50)
    alone, grouped = verdict(base=base, t00=better), verdict(0.0, groups, base=base, t00=better)
    assert (alone.passed, alone.best.rows, words.rows(alone.best)) == (True, 50, "50 rows")
    assert (grouped.passed, grouped.best.rows, words.rows(grouped.best)) == (False, 10, "10 groups of rows")
    few = ("only 10 groups of rows decide: with fewer than 30 the interval may be too narrow",)
    assert words.warnings(grouped) == few
    assert "1 group in 3 (30.0%)" in words.unseen(grouped)


def test_a_few_rows_that_carry_the_gain_are_warned_of():
    base = scores(3.0, rows=100)
    gains = np.random.default_rng(2).normal(0.05, 0.01, 100)
    gains[[3, 50]] = -30 / TOKENS[3], 30 / TOKENS[50]
    losses = tuple(loss - gain * count for loss, gain, count in zip(base.row_losses, gains, TOKENS[:100], strict=True))
    (warning,) = words.warnings(verdict(base=base, t00=evaluation(losses, base.row_tokens)))
    assert warning.startswith("t00's gain on the base has the 99% confidence interval ")
    assert "on 100 rows, 2 of which make most of its width: the interval hangs on how many such rows" in warning


def test_a_gain_that_is_the_same_on_every_row_does_not_pass():
    """One distinct value says nothing of chance: an interval without width would call any gain real."""
    found = verdict(base=scores(3.0), champion=scores(2.8, 0.3), t00=scores(2.5))
    (reason,) = words.reasons(found)
    told = "t00's gain on the base may be chance: gain +0.5000, 99% confidence interval 0.5000 to 0.5"
    assert reason.startswith(told) and reason.endswith(" rows, the same on each: chance cannot be told")
    assert (words.of(found), found.rows_needed) == ("cannot be told: more rows like these would not tell", None)
    assert [each["passed"] for each in words.as_json(found)["comparisons"]] == [False, True]


def test_other_rows_are_never_compared():
    found = verdict(base=scores(3.0), t00=scores(2.0, rows=50))
    other = "whether t00 is better than the base cannot be told: it was evaluated on other rows"
    assert words.reasons(found) == (other,)


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
    found = decide({BASE: base, "t00": own}, rule("t00", min_gain=min_gain, objective=ACCURACY))
    assert found.outcome == outcome, words.reasons(found)
    assert found.best.gains[0].difference == pytest.approx((up - down) / rows)
    if outcome != "better" and up + down:
        counts = f"better on {up} of {rows} rows and worse on {down}, "
        # About min_gain the exact interval decides, about 0 the test.
        shown = (
            "99% confidence interval"
            if min_gain
            else f"p = {2 ** (1 - max(up, down)):.3g} in the exact test, which must"
        )
        assert f"{counts}{shown}" in words.reasons(found)[0]


def test_all_wrong_before_and_all_right_now_is_better():
    """The interval has no width there, and says nothing of chance; the exact test does."""
    scored = {BASE: answered(*[False] * 40, seed=1), "t00": answered(*[True] * 40)}
    found = decide(scored, rule("t00", min_gain=0.5, objective=ACCURACY))
    assert found.passed


def test_of_equal_candidates_that_with_the_lower_loss_is_the_winner():
    base, own = half_right(200, 20, 0)
    lower = own.model_copy(update={"metrics": own.metrics | {"eval_loss": own.loss - 0.1}})
    assert decide({BASE: base, "t00": own, "t01": lower}, rule("t00", "t01", objective=ACCURACY)).winner == "t01"


def test_only_the_rows_that_were_answered_decide():
    """Of 40 rows the losses of all are known, and the answers of the last twelve."""
    base, own = half_right(40)
    rows = [{"row_values": {"accuracy": (value,) * 12}, "row_places": tuple(range(28, 40))} for value in (0.0, 1.0)]
    base, own = (each.model_copy(update=part) for each, part in zip((base, own), rows, strict=True))
    found = decide({BASE: base, "t00": own}, rule("t00", objective=ACCURACY))
    assert (found.best.rows, found.rows_with_copies, found.passed) == (12, 12, True)


def test_the_json_of_a_verdict_says_which_it_is_and_what_would_tell():
    base, own = half_right(200, 7, 0)
    told = json.loads(json.dumps(words.as_json(decide({BASE: base, "t00": own}, rule("t00", objective=ACCURACY)))))
    assert (told["verdict"], told["passed"], told["decided_by"]) == ("cannot_tell", False, None)
    assert (told["objective"], [each["verdict"] for each in told["comparisons"]]) == (
        ACCURACY.model_dump(),
        ["cannot_tell"],
    )
    assert 10 < told["rows_needed"] < 60


# A second evaluation


def test_what_differs_cannot_cancel_out():
    one, other = evaluation((10.0, 10.0), (10, 10)), evaluation((11.0, 9.0), (10, 10))
    found = agreement(one, other)
    assert one.loss == other.loss
    assert found.difference == pytest.approx(0.1) and not found.holds
    assert not agreement(scores(3.0), scores(3.0, rows=50)).holds, "other rows"


def test_a_trial_that_reported_a_part_of_the_rows_agrees_on_these():
    now = evaluation((10.0, 20.0, 30.0), (10, 11, 12))
    part = evaluation((10.0, 30.0), (10, 12)).model_copy(update={"places": (0, 2)})
    assert agreement(part, now).difference == 0.0
    assert not agreement(part.model_copy(update={"places": (1, 2)}), now).holds, "other rows"
    assert not agreement(part.model_copy(update={"places": (0, 3)}), now).holds, "a row that is no longer there"


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


# Guards and slices: adapters that were made worse on purpose, and what catches them

LIMITED = 120
"""Rows that decide, in three languages."""
LANGUAGES = tuple(("de", "en", "fr")[row % 3] for row in range(LIMITED))
ANSWERS_ENDED = Objective(metric="answers_ended", mode="max")


def gained(gain: Sequence[float] | float, seed: int = 1, rows: int = LIMITED) -> Evaluation:
    """Rows whose loss is this much below what they cost under the base, give or take some noise."""
    gains = np.broadcast_to(gain, rows)
    hard = np.random.default_rng(7).normal(3, 0.5, rows)
    losses = 10 * (hard - gains + np.random.default_rng(seed).normal(0, 0.1, rows))
    return evaluation_metrics.evaluation(tuple(losses.tolist()), (10,) * rows, hardware="cpu float32")


def ended(one: Evaluation, share: float) -> Evaluation:
    """The same, where so many answers ended by themselves."""
    values = tuple(float(row < share * LIMITED) for row in range(LIMITED))
    metrics = one.metrics | {"answers_ended": sum(values) / LIMITED}
    return one.model_copy(update={"metrics": metrics, "row_values": {**one.row_values, "answers_ended": values}})


def decided(scores: Mapping[str, Evaluation], *guarded: Guarded, **slices: Any) -> Verdict:
    """The gate's verdict on rows of three languages."""
    names = [name for name in scores if name not in (BASE, CHAMPION)]
    sliced = Sliced(of=Slices(by="language", **slices), values=LANGUAGES) if slices else None
    return decide(scores, rule(*names), sliced, guarded)


def guard(worse_by: float, objective: Objective = LOWEST_LOSS, **scores: Evaluation) -> Guarded:
    return Guarded(name="guard general.jsonl", objective=objective, worse_by=worse_by, scores=scores)


FURTHER = {BASE: gained(0), "t01": gained(0.5, 2), "t00": gained(0.4)}


GENERAL = "guard general.jsonl (eval_loss, 120 rows)"


def test_an_adapter_that_forgot_another_task_is_caught_by_the_guard():
    plain = decided(FURTHER)
    verdict = decided(FURTHER, guard(0.05, base=gained(0, 3), t01=gained(-0.3, 4)))
    assert (plain.passed, verdict.outcome) == (True, "not_better")
    assert words.of(verdict) == "not better (guard general.jsonl)"
    (reason,) = words.reasons(verdict)
    assert reason.startswith(f"t01 is worse than the base on {GENERAL} by more than worse_by 0.05: gain -0.3")
    passed = decided(FURTHER, guard(0.05, base=gained(0, 3), t01=gained(0, 4)))
    assert words.as_json(passed)["guards"][0]["holds"] is True
    assert dataclasses.replace(passed, guards=()) == plain
    # Against the champion too.
    there = guard(0.1, base=gained(0), champion=gained(0.4, 5), t01=gained(0.1, 2))
    verdict = decided({**FURTHER, CHAMPION: gained(0.2, 5)}, there)
    assert verdict.outcome == "not_better"
    assert words.reasons(verdict)[0].startswith(f"t01 is worse than the champion on {GENERAL}")


def test_a_guard_on_rows_that_are_too_few_says_how_many_more_would_tell():
    verdict = decided(FURTHER, guard(0.05, base=gained(0, 3, 20), t01=gained(0, 4, 20)))
    assert verdict.outcome == "cannot_tell"
    assert verdict.rows_needed is not None and 5 < verdict.rows_needed < 200
    more = f"cannot be told yet: about {verdict.rows_needed} more rows would tell"
    assert words.of(verdict) == f"{more} (guard general.jsonl)"
    assert words.reasons(verdict)[0].startswith(
        "t01 may be worse than the base on guard general.jsonl (eval_loss, 20 rows) by"
    )
    verdict = decided(FURTHER, guard(0.05, base=gained(0, 3, 4), t01=gained(0, 4, 4)))
    assert (verdict.outcome, verdict.rows_needed) == ("cannot_tell", 6)


def test_an_adapter_that_never_ends_its_answer_is_caught_by_a_guard_on_that():
    base, own = ended(FURTHER[BASE], 0.95), FURTHER["t01"]
    verdict = decided(FURTHER, guard(0.1, ANSWERS_ENDED, base=base, t01=ended(own, 0.0)))
    assert verdict.outcome == "not_better"
    assert "better on 0 of 120 rows and worse on 114, 99.5% confidence interval -0.9" in words.reasons(verdict)[0]
    assert decided(FURTHER, guard(0.1, ANSWERS_ENDED, base=base, t01=ended(own, 0.95))).passed


CHOICE = Objective(metric="choice", mode="max")


def with_choice(one: Evaluation, right: int) -> Evaluation:
    """The same, where the first rows have the right label."""
    values = tuple(float(row < right) for row in range(LIMITED))
    return one.model_copy(
        update={"metrics": one.metrics | {"choice": right / LIMITED}, "row_values": {"choice": values}}
    )


@pytest.mark.parametrize(
    ("base", "own", "champion", "said", "told"),
    [
        # The sign test of 8 rows has p = 0.0078, of 7 rows 0.0156.
        (60, 52, None, "not better (choice)", "t01 is worse than the base on choice (120 rows): gain -0.0667, "),
        (60, 53, None, "better", "t01 may be worse than the base on choice (120 rows): gain -0.0583, "),
        (60, 60, None, "better", None),
        (60, 68, None, "better", None),
        (60, 68, 80, "not better (choice)", "t01 is worse than the champion on choice (120 rows): gain -0.1000, "),
        (60, 68, 70, "better", "t01 may be worse than the champion on choice (120 rows): gain -0.0167, "),
    ],
)
def test_a_better_loss_does_not_hide_a_worse_score(base, own, champion, said, told):
    """A score that is worse beyond chance stops the winner; within chance it is a warning."""
    found = {BASE: with_choice(gained(0), base), "t01": with_choice(gained(0.5, 2), own)}
    if champion is not None:
        found[CHAMPION] = with_choice(gained(0.2, 5), champion)
    verdict = decide(found, rule("t01", beside=[CHOICE]))
    lines = (*words.reasons(verdict), *words.warnings(verdict))
    assert (words.of(verdict), len(lines)) == (said, int(told is not None))
    for line in lines:
        assert line.startswith(told)
        assert line.endswith("; a guard on this metric says with worse_by how much worse it may be")
    assert len(verdict.shown_limits) == len(words.reasons(verdict))
    (beside,) = words.as_json(verdict)["beside"]
    assert (beside["metric"], beside["worse_by"], beside["confidence"]) == ("choice", 0.0, 0.99)
    assert words.of(decide(found, rule("t01"))) == "better"
    named = decide(found, rule("t01", beside=[CHOICE], scores_limit=False))
    assert (words.of(named), words.reasons(named), len(words.warnings(named))) == ("better", (), int(told is not None))


def test_all_scores_that_do_not_decide_hold_at_once_and_the_trials_do_not_count():
    """With two scores 8 rows of 8 are within chance: 0.0078 is more than 0.005. A score without rows is passed over."""
    found = {BASE: with_choice(gained(0), 60), "t01": with_choice(gained(0.5, 2), 52)}
    found = {name: ended(each, 0.5) for name, each in found.items()}
    verdict = decide(found, rule("t01", ranked=32, beside=[CHOICE, ANSWERS_ENDED, Objective(metric="untold")]))
    assert (words.of(verdict), [each.confidence for each in verdict.beside]) == ("better", [0.995, 0.995])


def test_an_adapter_that_is_worse_in_one_language_is_caught_by_the_slice():
    of = [-0.3 if language == "de" else 0.6 for language in LANGUAGES]
    scores = {BASE: gained(0), "t01": gained(of, 2)}
    shown = decided(scores, worse_by=None)
    assert shown.passed, "without worse_by the worst is only named"
    (worst,) = shown.shown_limits
    assert (words.limit(worst), worst.rows) == ("slice language=de (eval_loss, 40 rows)", 40)
    assert worst.lowest == pytest.approx(-0.3, abs=0.1)
    verdict = decided(scores, worse_by=0.1)
    assert (verdict.outcome, words.of(verdict)) == ("not_better", "not better (slice language=de)")
    assert words.reasons(verdict)[0].startswith(f"t01 is worse than the base on {words.limit(worst)} by more")
    told = words.as_json(verdict)
    assert told["decided_by"] == "slice language=de"
    assert [each["holds"] for each in told["slices"]] == [False, True, True]
    # A broken slice decides also where the metric cannot be told.
    of = [-0.6 if language == "de" else 0.3 for language in LANGUAGES]
    verdict = decided({BASE: gained(0), "t01": gained(of, 2)}, worse_by=0.1)
    assert (verdict.best.holds, words.of(verdict)) == (None, "not better (slice language=de)")


def test_a_slice_has_the_rows_and_the_values_of_its_own():
    base, own = FURTHER[BASE], FURTHER["t01"]
    (de, _, _) = decided({BASE: base, "t01": own}, worse_by=None).slices
    rows = range(0, LIMITED, 3)
    expected = sum(base.row_losses[row] - own.row_losses[row] for row in rows) / 400
    assert de.gains[0].difference == pytest.approx(expected)
    assert de.value == pytest.approx(sum(own.row_losses[row] for row in rows) / 400)
    assert de.confidence == pytest.approx(1 - 0.01 / 3), "the intervals of all slices hold at once"
    answered = {
        name: each.model_copy(
            update={"row_values": {"answers_ended": (value,) * 30}, "row_places": tuple(range(90, LIMITED))}
        )
        for name, each, value in ((BASE, base, 0.0), ("t01", own, 1.0))
    }
    sliced = Sliced(of=Slices(by="language"), values=LANGUAGES)
    found = slices(sliced, ANSWERS_ENDED, answered, "t01", 1)
    assert [(each.rows, each.value) for each in found] == [(10, 1.0)] * 3


def test_the_table_shows_guards_and_the_worst_slice_and_leaves_no_candidate_without_a_verdict():
    scores = {BASE: gained(0), "t01": gained(0.5, 2), "t00": gained(0.001, 8)}
    verdict = decided(scores, guard(0.1, base=scores[BASE], t01=scores["t01"]), worse_by=None)
    columns = [list(column.cells) for column in cards.table(verdict).columns]
    assert [each for each in columns[-1] if each] == ["better", "cannot tell", "holds"]
    assert columns[0][-2:] == ["guard general.jsonl (eval_loss, 120 rows)", words.limit(verdict.shown_limits[-1])]


def test_a_limit_without_what_it_needs_is_refused():
    for raw, match in (
        ({"guards": [{"data": "a.jsonl"}]}, "worse_by"),
        ({"slices": {"by": "a", "worse_by": -1}}, "greater than 0"),
    ):
        with pytest.raises(ValidationError, match=match):
            Promotion.model_validate(raw)
