"""Axes of searched fields: values lie where they belong, and their marks say true values."""

from __future__ import annotations

import math

import pytest

from search_spaces.domains import parse
from sweeps.report.axes import UNSET, UNSET_PLACE, axis, linear_labels, linear_marks, log_marks, readable

RATES = parse("training.learning_rate", {"loguniform": [1e-5, 1e-2]})


def test_learning_rates_lie_by_their_logarithm() -> None:
    found = axis("learning_rate", RATES, [1e-4, 1e-3])
    assert found.title == "learning_rate (log scale)"
    assert [found.place(value) for value in (1e-5, 1e-4, 1e-3, 1e-2)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert found.ticks[0] == (0.0, "1e-05")
    assert found.ticks[-1][1] == "0.01"


def test_marks_are_where_their_values_are() -> None:
    for found in (axis("learning_rate", RATES, [3e-4]), axis("lora_dropout", None, [n / 100 for n in range(20)])):
        assert len(found.ticks) > 2
        for place, label in found.ticks:
            assert found.place(float(label.replace(",", ""))) == pytest.approx(place)


def test_values_beyond_the_domain_widen_the_axis() -> None:
    found = axis("learning_rate", RATES, [1e-1, 1e-3])
    assert found.place(1e-1) == 1
    assert found.place(1e-2) == pytest.approx(3 / 4)


def test_learning_rates_of_an_unknown_domain_lie_by_their_logarithm_too() -> None:
    assert axis("learning_rate", None, [n * 1e-4 for n in range(1, 20)]).kind == "log"
    assert axis("lora_dropout", None, [n * 1e-2 for n in range(20)]).kind == "linear"


def test_listed_values_lie_side_by_side_in_order() -> None:
    found = axis("r", parse("adapter.r", {"choice": [32, 8, 16]}), [8, 64])
    assert [label for _, label in found.ticks] == ["8", "16", "32", "64"]
    assert [found.place(value) for value in (8, 16, 32, 64)] == [1 / 8, 3 / 8, 5 / 8, 7 / 8]


def test_words_keep_the_order_of_the_file() -> None:
    modules = parse("adapter.target_modules", {"choice": ["mlp", "attention", ["v_proj", "q_proj"]]})
    found = axis("target_modules", modules, ["attention", "q_proj,v_proj"])
    assert [label for _, label in found.ticks] == ["mlp", "attention", "q_proj,v_proj"]


def test_a_long_word_is_cut_in_its_mark() -> None:
    found = axis("target_modules", None, ["x" * 100, "y"])
    assert [len(label) for _, label in found.ticks] == [24, 1]


def test_trials_without_the_field_have_a_place_of_their_own() -> None:
    numbers = axis("learning_rate", RATES, [1e-3, None])
    assert numbers.place(None) == UNSET_PLACE
    assert (UNSET_PLACE, UNSET) in numbers.ticks
    words = axis("target_modules", None, ["mlp", None])
    assert [label for _, label in words.ticks] == ["mlp", UNSET]
    assert words.place(None) == 0.75


@pytest.mark.parametrize("values", [[], [None], [0.5], [True, False], [0.0, 1e-300, 1e300]])
def test_no_values_break_an_axis(values: list[float | None]) -> None:
    found = axis("weight_decay", None, values)
    assert all(math.isfinite(place) for place, _ in found.ticks)
    assert all(math.isfinite(found.place(value)) for value in values)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 1000), (0.2, 0.3), (5, 5), (1e-9, 2e-9)])
def test_linear_marks_are_few_round_and_inside(low: float, high: float) -> None:
    marks = linear_marks(low, high)
    assert 1 <= len(marks) <= 8
    assert all(low <= mark <= high for mark in marks)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1.7401, 1.7409, ["1.7402", "1.7404", "1.7406", "1.7408"]),
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (1000, 4000, ["1,000", "1,500", "2,000", "2,500", "3,000", "3,500", "4,000"]),
        (1.25, 1.25, ["1.25"]),
    ],
)
def test_labels_of_linear_marks_tell_them_apart(low: float, high: float, labels: list[str]) -> None:
    assert [text for _, text in linear_labels(linear_marks(low, high))] == labels


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-2), (1.1, 1.9), (1e-30, 1e30), (3, 3)])
def test_log_marks_are_few_and_inside(low: float, high: float) -> None:
    marks = log_marks(low, high)
    assert 1 <= len(marks) <= 7
    assert all(low * 0.999 <= mark <= high * 1.001 for mark in marks)


def test_the_readable_range_leaves_out_what_is_far_away() -> None:
    low, high = readable([1.0, 1.1, 1.2, 1.3, 1.4, 1e9, math.nan, math.inf]) or (0, 0)
    assert low < 1.0 and 1.4 < high < 2
    assert readable([math.nan, math.inf]) is None
    assert readable([2.0]) == pytest.approx((1.9, 2.1))
    assert readable([0.0, 0.0]) == (-1.0, 1.0)
