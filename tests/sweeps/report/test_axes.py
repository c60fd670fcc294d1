"""Axes of searched fields: values lie where they belong, on an axis that suits what is searched."""

from __future__ import annotations

import math
from typing import Any

import pytest

from search_spaces.domains import parse
from sweeps.config.points import Scalar
from sweeps.report.axes import UNSET, UNSET_PLACE, axis, ends, untried, without_outliers

RATES = parse("training.learning_rate", {"loguniform": [1e-5, 1e-2]})
MODULES = parse("adapter.target_modules", {"choice": ["mlp", "attention", ["v_proj", "q_proj"]]})


def test_learning_rates_lie_by_their_logarithm_and_values_beyond_the_domain_widen_the_axis() -> None:
    found = axis("learning_rate", RATES, [1e-4, 1e-3])
    assert (found.title, found.layout()["type"]) == ("learning_rate (log scale)", "log")
    assert [found.place(value) for value in (1e-5, 1e-4, 1e-3, 1e-2)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert found.at(1e-4) == pytest.approx(-4)
    wider = axis("learning_rate", RATES, [1e-1, 1e-3])
    assert [wider.place(1e-1), wider.place(1e-2)] == pytest.approx([1, 3 / 4])
    for high, is_log in ((1.0, True), (0.2, False)):
        uniform = parse("training.weight_decay", {"uniform": [0.01, high]})
        assert axis("weight_decay", uniform, []).is_log is is_log, "numbers of a wide range, whatever is searched"


def test_listed_values_lie_side_by_side_numbers_by_size_and_words_as_in_the_file() -> None:
    found = axis("r", parse("adapter.r", {"choice": [32, 8, 16]}), [8, 64])
    assert found.layout()["ticktext"] == ["8", "16", "32", "64"]
    assert [found.place(value) for value in (8, 16, 32, 64)] == [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    words = axis("target_modules", MODULES, ["attention", "q_proj,v_proj"])
    assert words.layout()["ticktext"] == ["mlp", "attention", "q_proj,v_proj"]
    few = parse("training.learning_rate", {"qloguniform": [0.1, 0.4, 0.1]})
    assert axis("learning_rate", few, [0.2]).options == (0.1, 0.2, 0.3, 0.4)


def test_words_are_escaped_and_cut_in_their_marks_and_trials_without_the_field_have_a_place_of_their_own() -> None:
    found = axis("target_modules", MODULES, ["x" * 100, "<b>"])
    assert found.layout()["ticktext"][-2:] == ["x" * 23 + "…", "&lt;b&gt;"]
    assert found.layout(1)["ticktext"][1:] == ["attenti…", "q_proj,…", "xxxxxxx…", "&lt;b&gt;"]
    numbers, words = axis("learning_rate", RATES, [1e-3, None]), axis("target_modules", MODULES, ["mlp", None])
    assert numbers.place(None) == pytest.approx(UNSET_PLACE)
    assert numbers.layout()["range"][0] < numbers.at(None)
    assert (words.layout()["ticktext"][-1], words.place(None)) == (UNSET, 7 / 8)


@pytest.mark.parametrize("values", [[], [None], [0.0, 1e-300, 1e300], [7.0] * 20])
def test_no_values_break_an_axis(values: list[float | None]) -> None:
    found = axis("weight_decay", parse("training.weight_decay", {"uniform": [0.0, 0.1]}), values)
    assert all(math.isfinite(found.place(value)) for value in values)
    assert all(map(math.isfinite, found.layout()["range"]))


def test_what_is_far_away_is_left_out() -> None:
    assert without_outliers([1.0, 1.1, 1.2, 1.3, 1.4, 1e9, math.nan, math.inf]) == [1.0, 1.1, 1.2, 1.3, 1.4]
    assert without_outliers([math.nan, math.inf]) == []
    assert without_outliers([0.0, 0.0]) == [0.0, 0.0]
    assert ends(2.0, 2.0) == pytest.approx((1.9, 2.1))
    assert ends(0.0, 0.0) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("raw", "values", "words"),
    [
        ({"choice": [4, 8, 16, 32]}, [16, 32, None], "4, 8"),
        ({"choice": [["q", "v"], "all-linear"]}, ["all-linear"], "q,v"),
        ({"loguniform": [1e-4, 1e-2]}, [1e-3, 3e-3], "0.0001 to 0.001, 0.003 to 0.01"),
        ({"uniform": [0.0, 1.0]}, [0.2, 0.4, 0.6, 0.8], ""),
        ({"uniform": [0.0, 1.0]}, [], "0 to 1"),
    ],
)
def test_what_no_trial_has_is_told(raw: dict[str, Any], values: list[Scalar | None], words: str) -> None:
    assert untried(parse("field", raw), values) == words
