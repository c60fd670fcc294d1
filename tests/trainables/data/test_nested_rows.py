"""The parts of the evaluation rows: the beginnings of one random order, of a size for each report point."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.data import dataset
from trainables.specs import LEAST_PART, EvaluationSpec


def split(groups: list[int], strata: list[int], rows: int = 0) -> dataset.Split:
    count = rows or len(groups) or len(strata)
    ids, starts = np.zeros(count, np.int32), np.arange(count + 1, dtype=np.int64)
    return dataset.Split(ids, starts, np.ones(count, bool), tuple(groups), (), tuple(strata))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80))
def test_rows_of_a_group_follow_each_other(groups: list[int]) -> None:
    order = dataset.nested_order(split(groups, []))
    assert sorted(order) == list(range(len(groups)))
    changes = sum(groups[one] != groups[other] for one, other in pairwise(order))
    assert changes == len(set(groups)) - 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80))
def test_each_beginning_has_the_labels_in_proportion(strata: list[int]) -> None:
    order = dataset.nested_order(split([], strata))
    total, seen = Counter(strata), Counter[int]()
    for place, row in enumerate(order, start=1):
        seen[strata[row]] += 1
        for label, count in total.items():
            # Each label's rows lie at equal distances, so a beginning lacks or has less than one row of each too much,
            # and its length may differ by as much for each other label.
            assert abs(seen[label] - count * place / len(strata)) < len(total)
    assert sorted(order) == list(range(len(strata)))


def test_the_order_is_random_and_always_the_same() -> None:
    plain = split([], [], 200)
    order = dataset.nested_order(plain)
    assert order == dataset.nested_order(plain)
    # Of 50 rows at random, 25 lie in the first half, give or take 3.1: 12 is one in 50,000.
    assert 12 < sum(row < 100 for row in order[:50]) < 38


@given(st.integers(0, 5000), st.integers(1, 8), st.integers(2, 16))
def test_parts_rise_to_all_rows(rows: int, points: int, factor: int) -> None:
    parts = EvaluationSpec(rows="nested", rows_factor=factor).parts(rows, points)
    assert len(parts) == points
    assert parts[-1] is None
    sizes = [rows if part is None else part for part in parts]
    assert sizes == sorted(sizes)
    assert all(LEAST_PART <= part < rows for part in parts if part is not None)
    if points > 1 and rows > LEAST_PART:
        assert sizes[0] == max(LEAST_PART, -(-rows // factor))


@pytest.mark.parametrize(
    ("rows", "points", "parts"),
    [(200, 4, (50, 80, 126, None)), (200, 1, (None,)), (60, 3, (16, 30, None)), (16, 3, (None, None, None))],
)
def test_parts_rise_by_the_same_factor(rows: int, points: int, parts: tuple[int | None, ...]) -> None:
    assert EvaluationSpec(rows="nested").parts(rows, points) == parts
    assert EvaluationSpec().parts(rows, points) == (None,) * points
