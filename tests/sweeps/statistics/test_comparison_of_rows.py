"""Whether the best trial is better than others by more than chance, from what each row gave."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from sweeps.statistics import comparison
from sweeps.statistics.comparison import Comparison, Pair, Separation, separate
from sweeps.statistics.intervals import SeedNoise
from trainables.contract import Evaluation
from trainables.objective import LOWEST_LOSS, Objective
from trainables.scoring.requests import BASE

ROWS = 40
TOKENS = tuple(10 + row % 7 for row in range(ROWS))
HARD = np.random.default_rng(1).normal(20, 5, ROWS)
"""What each row costs under any adapter: it must weigh on neither side."""


def evaluation(above: float = 0.0, noise: float = 0.0, rows: int = ROWS, on: str = "cpu") -> Evaluation:
    """Row losses that lie `above` per token higher than the best's, give or take some noise."""
    tokens = np.asarray(TOKENS[:rows])
    extra = np.random.default_rng(2).normal(0, noise, rows)
    losses = tuple((HARD[:rows] + (above + extra) * tokens).tolist())
    metrics = {"eval_loss": sum(losses) / sum(TOKENS[:rows])}
    return Evaluation(metrics=metrics, row_losses=losses, row_tokens=TOKENS[:rows], hardware=f"{on} float32")


BEST = evaluation()


def separated(
    best: Evaluation | str = BEST,
    base: Evaluation | None = None,
    noise: SeedNoise | None = None,
    **others: Evaluation | str,
) -> Separation:
    def pair(key: str, other: Evaluation | str) -> Pair:
        is_known = isinstance(other, Evaluation) and isinstance(best, Evaluation)
        return Pair(key, other.loss - best.loss if is_known else 0.5, other, best)

    pairs = [pair(*each) for each in others.items()]
    return separate(LOWEST_LOSS, pairs, None if base is None else pair(BASE, base), len(others) + 1, noise)


def test_a_difference_is_apart_where_every_row_shows_it_and_not_where_some_contradict() -> None:
    """However uneven the rows are."""
    found, not_apart = separated(a=evaluation(0.02, 0.01), b=evaluation(0.02, 0.5)).trials
    assert found.apart is True and found.rows_needed(ROWS) is None
    assert found.low is not None and found.high is not None
    assert 0 < found.low < found.difference < found.high
    needed = not_apart.rows_needed(ROWS)
    assert not_apart.apart is False and needed is not None and needed > ROWS


def test_noise_of_seeds_widens_each_interval_about_its_difference() -> None:
    noise = SeedNoise(deviation=0.02, freedom=4, points=2)
    rows, both = (separated(base=evaluation(0.5, 0.01), noise=each, a=evaluation(0.02, 0.01)) for each in (None, noise))
    assert (rows.trials[0].apart, both.trials[0].apart, both.seeds) == (True, False, noise)
    assert rows.base is not None and both.base is not None
    for before, after, trials in ((rows.trials[0], both.trials[0], 2), (rows.base, both.base, 1)):
        assert after.difference == before.difference
        assert before.low is not None and after.low is not None
        wide = math.hypot(before.difference - before.low, noise.margin(both.confidence, trials))
        assert after.difference - after.low == pytest.approx(wide)
    assert both.trials[0].rows_needed(ROWS) is None, "seeds alone make up more than the difference"


@pytest.mark.parametrize(("of_seeds", "needed"), [(0.0, 204), (0.016, 514), (0.02, None), (0.03, None)])
def test_the_rows_that_a_difference_takes_do_not_grow_with_the_rows(of_seeds: float, needed: int | None) -> None:
    """Rows leave less open the more there are, and seeds as much as before."""
    for rows in (60, 90):
        half = math.hypot(0.25 / math.sqrt(rows) * (1 + 2 / math.sqrt(rows)), of_seeds)
        found = Comparison("a", 0.02, 0.02 - half, 0.02 + half, of_seeds=of_seeds)
        told = found.rows_needed(rows) if found.apart is False else needed
        assert told == (None if needed is None else pytest.approx(needed, abs=1))


def test_more_trials_take_a_wider_interval() -> None:
    one = separated(a=evaluation(0.02, 0.3))
    ten = separated(**{f"t{n}": evaluation(0.02, 0.3) for n in range(10)})  # type: ignore[arg-type]
    # Any pair of the eleven may have become the best and another.
    assert (one.confidence, ten.confidence) == (0.99, 1 - 0.01 / 55)

    wide, narrow = (each.difference - (each.low or math.nan) for each in (ten.trials[0], one.trials[0]))
    # Quantiles of Student's t with 39 degrees of freedom at 99.991 and 99.5 %: 4.15 and 2.71.
    assert wide / narrow == pytest.approx(4.15 / 2.71, rel=0.1)


def test_equal_trials_are_told_apart_no_more_often_the_more_there_are() -> None:
    """The best is the lowest of the same rows: of six equal trials, one test for each other one errs in 10 %, not 5."""
    for trials in (2, 3, 6, 11, 13):
        means = np.sort(np.random.default_rng(7).normal(size=(20_000, trials)), axis=1)
        quantile = NormalDist().inv_cdf(1 - 0.05 / comparison.comparisons(trials, False) / 2)
        wrong = means[:, min(trials - 1, comparison.MOST_COMPARED)] - means[:, 0] > quantile * math.sqrt(2)
        assert wrong.mean() < 0.055, trials


def test_the_base_is_one_more_comparison_and_the_same_adapter_is_not_apart_from_itself() -> None:
    found = separated(base=evaluation(3.0, 0.5), a=BEST)
    assert found.base is not None
    assert (found.confidence, found.base.apart, found.base.key) == (0.995, True, "base")
    (same,) = found.trials
    assert (same.key, same.difference, same.low, same.high, same.apart) == ("a", 0.0, 0.0, 0.0, False)
    assert same.rows_needed(ROWS) is None


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (evaluation(0.1, rows=30), "it was evaluated on other rows"),
        (evaluation(0.1, on="cuda"), "it was evaluated on cuda float32, the other on cpu float32"),
        ("the rows of t02 are missing", "the rows of t02 are missing"),
    ],
)
def test_what_cannot_be_compared_says_why_and_the_others_are(other: Evaluation | str, why: str) -> None:
    unknown, known = separated(a=other, b=evaluation(0.1)).trials
    assert (unknown.apart, unknown.unknown, unknown.low) == (None, why, None)
    assert known.apart is True


def test_nothing_can_be_told_without_the_best_or_of_a_few_rows() -> None:
    """The interval of one row has no width: it would call every difference real."""
    found = separated("the rows of t00 are missing", evaluation(1.0), a=evaluation(0.1))
    assert found.rows == 0
    assert {other.unknown for other in (*found.trials, found.base) if other} == {"the rows of t00 are missing"}
    for rows, why in ((1, "1 evaluation row, at least 10 are needed"), (9, "9 evaluation rows,")):
        (few,) = separated(evaluation(rows=rows), a=evaluation(0.5, rows=rows)).trials
        assert few.apart is None and few.unknown.startswith(why)


def highest(metric: str) -> Objective:
    return Objective(metric=metric, mode="max")


def right(rows: int, of: int, tokens: int = 10) -> Evaluation:
    """So many rows of which some are answered right; the losses of all are the same."""
    values = tuple(float(row < of) for row in range(rows))
    found = Evaluation(metrics={"eval_loss": 2.0, "accuracy": of / rows}, row_values={"accuracy": values})
    losses = {"row_losses": (20.0,) * rows, "row_tokens": (tokens,) * rows}
    return found.model_copy(update=losses if tokens else {})


def test_another_metric_is_compared_by_its_own_value_of_each_row_and_equal_losses_are_copies() -> None:
    best, other = right(80, 60, tokens=0), right(80, 30, tokens=0)
    found = separate(highest("accuracy"), [Pair("a", 0.375, other, best)], None, 2)
    # Two different questions often have equal values.
    assert found.rows == 80 and found.trials[0].apart
    words = "better on 30 of 80 rows and worse on 0, p = 1.86e-09 in the exact test, which must be below 0.01"
    assert found.trials[0].evidence_in_words(found.confidence, found.rows_in_words) == words
    copies = [Pair("a", 0.375, right(80, 30), right(80, 60))]
    assert separate(highest("accuracy"), copies, None, 2).trials[0].unknown == comparison.FEW_COPIES


def answered(right: int, places: tuple[int, ...] = tuple(range(1, ROWS, 2)), copies: int = 0, groups: int = 0):
    """An evaluation with a score of some of its rows, the first `right` of them right."""
    values = tuple(float(number < right) for number in range(len(places)))
    copied = BEST.row_losses[places[0]], BEST.row_tokens[places[0]]
    rows = zip(BEST.row_losses, BEST.row_tokens, strict=True)
    losses, tokens = zip(*(copied if row in places[:copies] else own for row, own in enumerate(rows)), strict=True)
    return BEST.model_copy(
        update={
            "row_losses": losses, "row_tokens": tokens, "row_values": {"exact": values}, "row_places": places,
            "row_groups": tuple(row // groups for row in range(ROWS)) if groups else (),
        }
    )  # fmt: skip


@pytest.mark.parametrize(("oddities", "units"), [({}, 20), ({"copies": 5}, 16), ({"groups": 4}, 10)])
def test_a_score_of_some_rows_is_compared_on_these_and_copies_and_groups_of_them_count_once(oddities, units) -> None:
    found = separate(highest("exact"), [Pair("a", 0.5, answered(5, **oddities), answered(15, **oddities))], None, 2)
    assert (found.rows, found.trials[0].unknown) == (units, "")
    # Groups have the interval, rows without copies the exact test, and rows with copies both.
    assert (found.trials[0].exact is None, found.trials[0].high is None) == ("groups" in oddities, not oddities)
    losses = separate(LOWEST_LOSS, [Pair("a", 0.0, answered(5), answered(15))], None, 2)
    assert losses.rows == ROWS, "the loss has a value of each row"
    elsewhere = Pair("a", 0.0, answered(5), answered(5, tuple(range(0, ROWS, 2))))
    assert separate(highest("exact"), [elsewhere], None, 2).trials[0].unknown == "it was evaluated on other rows"


def copied(one: Evaluation, times: int) -> Evaluation:
    """The same rows so many times over."""
    return one.model_copy(update={"row_losses": one.row_losses * times, "row_tokens": one.row_tokens * times})


def test_copies_of_rows_are_no_further_evidence() -> None:
    once = separated(a=evaluation(0.05, noise=0.3)).trials[0]
    again = separated(copied(BEST, 4), a=copied(evaluation(0.05, noise=0.3), 4)).trials[0]
    assert (again.low, again.high) == pytest.approx((once.low, once.high))
    found = separated(copied(evaluation(rows=12), 4), a=copied(evaluation(0.5, rows=12), 4))
    assert (found.rows, found.is_narrow) == (12, True)
    few = separated(copied(evaluation(rows=9), 5), a=copied(evaluation(0.5, rows=9), 5))
    assert (few.rows, few.trials[0].apart, few.trials[0].unknown) == (9, None, comparison.FEW_COPIES)


def grouped(one: Evaluation, size: int) -> Evaluation:
    """The same rows, so many of which belong together."""
    return one.model_copy(update={"row_groups": tuple(row // size for row in range(len(one.row_losses)))})


def test_rows_of_a_group_count_as_one() -> None:
    other = evaluation(0.05, noise=0.3)
    alone, found = separated(a=other), separated(grouped(BEST, 4), a=grouped(other, 4))
    assert (alone.rows_in_words, found.rows_in_words) == ("40 rows", "10 groups of rows")
    assert (found.rows, found.is_narrow, found.as_json()["is_grouped"]) == (10, True, True)
    assert found.trials[0].low != alone.trials[0].low
    assert separated(grouped(BEST, 5), a=grouped(other, 5)).trials[0].unknown == comparison.FEW_COPIES
