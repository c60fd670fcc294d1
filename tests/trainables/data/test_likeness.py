"""Parts of one kind are not told of, whatever their sizes and rare values; parts of another kind are."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from trainables.data.findings import difference


def values(draw: np.random.Generator, rows: int, skew: float) -> Counter[str]:
    weights = np.arange(1.0, 41.0) ** -skew
    counts = draw.multinomial(rows, weights / weights.sum()).tolist()
    return Counter({str(value): count for value, count in enumerate(counts) if count})


@pytest.mark.parametrize("train", [50, 2000])
@pytest.mark.parametrize("rows", [3, 20, 50, 500])
@pytest.mark.parametrize("skew", [0.0, 1.0, 3.0])
def test_parts_of_one_kind_are_not_told_of(train: int, rows: int, skew: float) -> None:
    """In none of 300 draws, where a chance of one in a million is allowed."""
    for seed in range(300):
        draw = np.random.default_rng(seed)
        assert difference("words", values(draw, rows, skew), values(draw, train, skew), 1.0) == ""


def test_one_class_of_two_is_told_of_from_thirty_rows_on_and_not_where_they_are_few_groups() -> None:
    train = Counter(a=200, b=200)
    assert difference("labels", Counter(a=30), train, 1.0) == "other labels ('a': 100% of them, 50% in data.train)"
    assert difference("labels", Counter(a=15), train, 1.0) == ""
    assert difference("labels", Counter(a=30), train, 0.2) == ""
    assert difference("labels", Counter(c=30), train, 1.0) == "other labels ('c': 100% of them, 0% in data.train)"


def test_two_values_have_one_degree_of_freedom() -> None:
    """All 24 rows of one class where training has about half: chi-square 26, of which chance is 4 in ten million."""
    assert difference("labels", Counter(a=24), Counter(a=187, b=213), 1.0)


def test_a_small_difference_and_values_that_are_all_different_are_none() -> None:
    assert difference("labels", Counter(a=60_000, b=40_000), Counter(a=40_000, b=60_000), 1.0) == ""
    assert difference("labels", Counter(map(str, range(20))), Counter(map(str, range(20, 50))), 1.0) == ""
    assert difference("labels", Counter(map(str, range(40))), Counter(map(str, range(40, 80))), 1.0) == ""
    assert (
        difference("labels", Counter(), Counter(a=1), 1.0) == difference("labels", Counter(a=1), Counter(), 1.0) == ""
    )
