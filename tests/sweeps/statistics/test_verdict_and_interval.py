"""A verdict and the interval or test that is shown beside it say the same, of whatever rows."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sweeps.statistics.comparison import Comparison, Pair, compare
from sweeps.statistics.confidence import confidence_of
from sweeps.statistics.intervals import SeedNoise
from trainables.contract import Evaluation
from trainables.objective import Objective

SCORES = st.sampled_from([(0.0, 1.0), (0.0, 0.2, 0.5, 1.0), (-3.0, 0.0, 7.5)])
"""The values that a row may have: right or wrong, such as F1, and those of a metric without bounds."""


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Two evaluations of the same rows, with copies and groups here and there."""
    values, rows = draw(SCORES), draw(st.integers(10, 60))
    one = draw(st.lists(st.sampled_from(values), min_size=rows, max_size=rows))
    # Most rows move to the same side, if they move: else hardly any verdict would be decided.
    moved = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=rows, max_size=rows))
    way = draw(st.sampled_from([min(values), max(values)]))
    other = [{0: own, 1: way, 2: draw(st.sampled_from(values))}[how] for own, how in zip(one, moved, strict=True)]
    copies = draw(st.sampled_from([0, 0, 3]))
    groups = draw(st.sampled_from([0, 0, 0, 2]))

    def evaluation(scores: list[float], hard: float) -> Evaluation:
        losses = tuple(hard + (0 if row < copies else row) for row in range(rows))
        return Evaluation(
            metrics={"eval_loss": sum(losses) / rows, "score": sum(scores) / rows}, row_losses=losses,
            row_tokens=(1,) * rows, row_values={"score": tuple(scores)},
            row_groups=tuple(row // groups for row in range(rows)) if groups else (),
        )  # fmt: skip

    first, second = evaluation(one, 1.0), evaluation(other, 2.0)
    return Pair("t01", first.metrics["score"] - second.metrics["score"], second, first)


def right(up: int, down: int, rows: int) -> Pair:
    """Rows of which some are right under the one model alone, and some under the other."""
    one = [float(row < up) for row in range(rows)]
    other = [float(up <= row < up + down) for row in range(rows)]
    first, second = (
        Evaluation(metrics={"eval_loss": 1.0, "score": sum(values) / rows}, row_values={"score": tuple(values)})
        for values in (one, other)
    )
    return Pair("t01", (up - down) / rows, second, first)


def compared(pair: Pair, comparisons: int, noise: float = 0.0) -> Comparison:
    seeds = SeedNoise(noise, 4, 2) if noise else None
    (found,), *_ = compare(Objective(metric="score", mode="max"), [pair], confidence_of(comparisons), seeds)
    return found


@given(
    pairs(), st.sampled_from([1, 4, 55]), st.sampled_from([0.0, 0.0, 0.05]), st.sampled_from([0.0, 0.06, -0.06, 0.3])
)
@example(right(8, 0, 40), 4, 0.0, 0.0)
@example(right(16, 3, 40), 4, 0.001, 0.0)
def test_what_is_shown_says_what_the_verdict_says(pair: Pair, comparisons: int, noise: float, bound: float) -> None:
    found = compared(pair, comparisons, noise)
    told, (ends, test) = found.above(bound), found.shown(bound)
    if not found.is_told:
        assert (told, ends, test, bool(found.unknown)) == (None, None, None, True)
        return
    if test is not None:
        assert (test.p_value > 1 - confidence_of(comparisons)) == (told is None)
        assert told is None or told == (test.higher > test.lower)
    if ends is not None and (found.carried_by != 0 or found.exact):
        assert {True: ends[0] > bound, False: ends[1] < bound, None: ends[0] <= bound <= ends[1]}[told]
    if told is not None:
        assert ends or test, "a verdict without evidence"
    if found.carried_by != 0 or found.exact:
        assert found.apart == (found.above(0.0) is not None)
    document = json.loads(json.dumps(found.as_json(), allow_nan=False))
    shown = found.evidence_in_words(confidence_of(comparisons), "40 rows")
    assert (document["low"] is None) == ("interval" not in shown)
    assert ("exact" in document) == (" p = " in shown)
    if document["low"] is not None and document["apart"] is False:
        assert document["low"] <= 0 <= document["high"]


@pytest.mark.parametrize(
    ("pair", "noise", "words"),
    [
        # The interval alone would lie above 0.
        (right(8, 0, 40), 0.0, "8 of 40 rows and worse on 0, p = 0.00781 in the exact .*, which must be below 0.0025"),
        (right(16, 3, 40), 0.001, "16 of 40 rows and worse on 3, p = .*"),
        # The test alone would be below 0.0025; other seeds make as much.
        (right(20, 0, 40), 0.2, r"20 of 40 rows and worse on 0, 99\.75% confidence interval -\S+ to \S+ on .*"),
    ],
    ids=["exact", "both, of which the test is open", "both, of which the interval is open"],
)  # fmt: skip
def test_only_what_leaves_it_open_is_shown_of_an_open_verdict(pair: Pair, noise: float, words: str) -> None:
    found = compared(pair, 4, noise)
    assert (found.above(0.0), found.apart) == (None, False)
    assert re.fullmatch(f"better on {words}", found.evidence_in_words(confidence_of(4), "40 rows"))


def test_both_are_shown_where_both_decide_and_ends_turn_with_the_side_that_is_told() -> None:
    found = compared(right(25, 1, 40), 4, 0.001)
    words = found.evidence_in_words(confidence_of(4), "40 rows")
    assert found.apart and "p = 8.05e-07 in the exact test" in words and "confidence interval 0." in words
    turned = found.evidence_in_words(confidence_of(4), "40 rows", is_turned=True)
    assert turned.startswith("better on 25 of 40 rows and worse on 1") and "interval -0." in turned


def test_about_another_bound_the_exact_interval_decides_and_is_shown() -> None:
    found = compared(right(11, 1, 200), 1)
    assert found.exact is not None
    assert found.shown(0.06) == ((found.exact.low, found.exact.high), None)
    words = found.evidence_in_words(0.99, "200 rows", 0.06)
    assert words.startswith("better on 11 of 200 rows and worse on 1, 99% confidence interval -0.0")
