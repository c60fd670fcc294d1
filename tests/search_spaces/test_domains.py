"""What each domain takes, counts and draws."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import SpaceError
from search_spaces.domains import FORMS, Domain, parse


def made(form: str, *arguments: object) -> Domain:
    return parse("a.x", {form: list(arguments)})


PINNED: list[tuple[dict[str, Any], list[object]]] = [
    ({"choice": [8, "mlp", True]}, ["mlp", 8, "mlp", True]),
    ({"uniform": [0, 0.5]}, [0.1619, 0.0754, 0.3255, 0.0362]),
    ({"loguniform": [1e-05, 0.001]}, [4.44e-05, 2e-05, 0.0002, 1.4e-05]),
    ({"randint": [1, 99]}, [42, 20, 51, 84]),
    ({"quniform": [0, 0.3, 0.1]}, [0.2, 0.1, 0.3, 0.0]),
    ({"qloguniform": [8, 64, 8]}, [16.0, 8.0, 32.0, 8.0]),
    ({"qrandint": [8, 64, 8]}, [48, 24, 56, 8]),
]


@pytest.mark.parametrize(("raw", "drawn"), PINNED, ids=[str(raw) for raw, _ in PINNED])
def test_a_seed_gives_the_same_values_in_every_version(raw: dict[str, Any], drawn: list[object]) -> None:
    """A sweep that goes on with `qsweep resume` draws the points that it would have had."""
    rng, domain = Random(7), parse("a.x", raw)
    assert [repr(domain.sample(rng)) for _ in drawn] == [repr(value) for value in drawn]


LISTED = [
    (made("choice", 8, "mlp"), (8, "mlp")),
    (made("grid", False, True), (False, True)),
    (made("randint", -1, 2), (-1, 0, 1, 2)),
    (made("qrandint", 8, 24, 8), (8, 16, 24)),
    (made("quniform", 0, 0.7, 0.1), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
    (made("qloguniform", 1e-5, 4e-5, 1e-5), (1e-5, 2e-5, 3e-5, 4e-5)),
]


@pytest.mark.parametrize(("domain", "values"), LISTED, ids=[str(domain) for domain, _ in LISTED])
def test_finite_domain_lists_its_values_cleanly(domain: Domain, values: tuple[object, ...]) -> None:
    assert [repr(value) for value in domain.values() or ()] == [repr(value) for value in values]
    assert domain.size == len(values)
    ends = values if domain.form in ("choice", "grid") else (values[0], values[-1])
    assert [repr(value) for value in domain.extremes()] == [repr(value) for value in ends]


@pytest.mark.parametrize("domain", [made("uniform", 0, 1), made("loguniform", 1, 2), made("uniform", 1, 1)])
def test_continuous_domain_has_no_list_and_no_size(domain: Domain) -> None:
    assert (domain.values(), domain.size) == (None, None)
    assert all(isinstance(value, float) for value in domain.extremes())


CONTAINED = [
    (made("choice", 1, 2), [1, 1.0], [True, 3, "1", None, [1]]),
    (made("choice", True), [True], [1, False, "true"]),
    (made("choice", ["q", "v"], "mlp"), [("v", "q"), "mlp"], [["q", "v"], ("q",), "q", ("q", 1)]),
    (made("uniform", 0, 1), [0, 1, 0.123456789], [-0.001, 1.001, True, "0.5", math.nan, math.inf, None, 10**400]),
    (made("loguniform", 1e-5, 1e-3), [1e-5, 1e-3, 3.14159e-4], [9e-6, 2e-3, 0, -1e-4]),
    (made("randint", 1, 4), [1, 4], [0, 5, 2.0, 2.5, True]),
    (made("qrandint", 4, 12, 4), [4, 8, 12], [6, 8.0, 16, 0]),
    (made("quniform", 0, 0.5, 0.1), [0, 0.3, 0.5], [0.25, 0.1 + 0.2, 0.6, False]),
]


@pytest.mark.parametrize(("domain", "inside", "outside"), CONTAINED, ids=[str(row[0]) for row in CONTAINED])
def test_domain_contains_its_values_and_no_others(domain: Domain, inside: list[object], outside: list[object]) -> None:
    assert [value for value in inside if not domain.contains(value)] == []
    assert [value for value in outside if domain.contains(value)] == []


@pytest.mark.parametrize(
    "domain", [made("uniform", 1000.1, 1000.2), made("loguniform", 1.0e-4, 1.01e-4), made("uniform", 1e-300, 2e-300)]
)
def test_rounding_leaves_a_narrow_range_its_variety(domain: Domain) -> None:
    rng = Random(0)
    drawn = [domain.sample(rng) for _ in range(300)]
    assert len(set(drawn)) > 100
    assert all(domain.contains(value) for value in drawn)


def test_rounding_never_leaves_the_bounds_and_gives_no_minus_zero() -> None:
    assert made("loguniform", 1.23456e-5, 1.23456e-5).at(0.5) == 1.23456e-5
    assert repr(made("uniform", -1, 1).at(0.49999)) == "0.0"


# Positions


ORDERED: list[dict[str, Any]] = [
    {"loguniform": [1e-5, 1e-2]},
    {"uniform": [-1.0, 3.0]},
    {"randint": [2, 9]},
    {"quniform": [0.1, 0.9, 0.1]},
    {"qloguniform": [8, 64, 8]},
    {"qrandint": [8, 64, 8]},
    {"choice": [64, 8, 16, 32]},
    {"grid": [0.0, 0.1]},
]


@given(st.sampled_from(ORDERED), st.integers(0, 2**32))
def test_the_value_at_the_position_of_a_value_is_that_value(raw: dict[str, Any], seed: int) -> None:
    domain = parse("x", raw)
    value = domain.sample(Random(seed))
    assert domain.is_ordered
    assert domain.at(domain.position(value)) == value


@given(st.sampled_from(ORDERED), st.floats(0, 1), st.floats(0, 1))
def test_values_at_positions_are_of_the_domain_and_in_order(raw: dict[str, Any], one: float, other: float) -> None:
    domain = parse("x", raw)
    low, high = (domain.at(position) for position in sorted([one, other]))
    assert domain.contains(low) and domain.contains(high)
    assert low <= high  # type: ignore[operator]


@pytest.mark.parametrize("raw", ORDERED, ids=str)
def test_a_number_outside_stands_at_the_nearest_end(raw: dict[str, Any]) -> None:
    domain = parse("x", raw)
    ends: Any = sorted(domain.extremes())
    assert domain.at(domain.position(ends[-1] * 10 + 1)) == ends[-1]
    assert domain.at(domain.position(ends[0] - 1e-6)) == ends[0]


def test_words_and_flags_have_no_order() -> None:
    assert not any(parse("x", {"choice": values}).is_ordered for values in ([False, True], [1, "mlp"]))


# Every wrong domain is refused with the field, the value, the rule and the way out

NO_VALUE = "is not a value: name a flag, a finite number, a word or a list of words"

WRONG: list[tuple[object, str]] = [
    # no form
    ([8, ["q"]], "a list is not a domain: write {choice: [8, ['q']]}"),
    (True, "true alone is not a domain: write {choice: [true]}, or set it in the sweep file and leave it out here"),
    (None, "nothing given: write {choice: [8, 16]}, for example"),
    ({"when": {"a.b": 1}}, "no domain given: write one of {choice: [value, value]}, {grid: [value, value]}, {uniform"),
    ({"log_uniform": [1, 2]}, "unknown domain 'log_uniform', did you mean loguniform? write one of {choice: "),
    ({"choice": [1], "whne": {"a.b": 1}}, "unknown key 'whne', did you mean when? remove it"),
    ({"choice": [1], "grid": [1]}, "choice and grid are 2 domains for one field: keep one"),
    # lists of values
    ({"choice": []}, "choice: the list is empty: name at least one value"),
    ({"grid": "mlp"}, "grid takes a list, and 'mlp' is not a list: write {grid: ['mlp']}"),
    ({"grid": [1, 1.0]}, "grid: 1.0 is listed twice: keep one"),
    ({"choice": [["a", "b"], ["b", "a"]]}, "choice: ['b', 'a'] is listed twice: keep one"),
    ({"choice": [1, None]}, f"choice: null {NO_VALUE}"),
    ({"choice": [{"a": True}]}, f"choice: {{a: true}} {NO_VALUE}"),
    ({"choice": [["a", ["b"]]]}, f"choice: ['a', ['b']] {NO_VALUE}"),
    ({"choice": ["16"]}, "choice: '16' is a word, not a number: write 16 without quotes"),
    ({"choice": [["a", " "]]}, "choice: ' ' is an empty word: name a word"),
    ({"choice": [["a", "a"]]}, "choice: ['a', 'a'] holds 'a' twice: keep one"),
    # ranges
    ({"uniform": 1}, "uniform takes [low, high] and got 1: write {uniform: [low, high]}"),
    ({"quniform": [1, 2]}, "quniform takes [low, high, q] and got [1, 2]: write {quniform: [low, high, q]}"),
    ({"uniform": [False, math.inf]}, "uniform: low false is not a finite number"),
    ({"uniform": [0, "1"]}, "uniform: high '1' is not a finite number: write 1 without quotes"),
    ({"randint": [1, 8.0]}, "randint: high 8.0 is not an integer: write 8"),
    ({"qrandint": [4, 8, 0.5]}, "qrandint: q 0.5 is not an integer"),
    ({"qrandint": [8, 4, 4]}, "qrandint: low 8 is above high 4: swap them"),
    ({"uniform": [-1.7e308, 1.7e308]}, "uniform: -1.7e+308 to 1.7e+308 is too wide for a float: narrow it"),
    ({"loguniform": [0, 1]}, "loguniform: low 0 is not above 0, and the logarithm needs it: raise it or use uniform"),
    ({"quniform": [0, 1, 0]}, "quniform: q 0 is not above 0: give the step between two values"),
    ({"quniform": [0.05, 1, 0.1]}, "quniform: low 0.05 is not a multiple of q 0.1: write 0.0"),
    ({"qrandint": [4, 130, 4]}, "qrandint: high 130 is not a multiple of q 4: write 128"),
    ({"quniform": [0, 1.0e10, 1.0e-10]}, "quniform: q 1e-10 is too fine for floats of this size: raise it, or use a "),
    # priors and conditions
    ({"loguniform": [1, 2], "prior": 3}, "prior 3 is not a value of {loguniform: [1, 2]}: write one of its values, or"),
    ({"quniform": [0.0, 0.2, 0.05], "prior": 0.12}, "prior 0.12 is not a value of {quniform: [0.0, 0.2, 0.05]}: "),
    ({"uniform": [0, 1], "prior": "3e-4"}, "prior: '3e-4' is a word, not a number: write 3e-4 without quotes"),
    ({"choice": [1], "when": {}}, "when takes {FIELD: value} and got {}: name the field and its values, or remove it"),
    ({"choice": [1], "when": {"a.b": []}}, "when a.b: the list is empty: name at least one value"),
    ({"choice": [1], "when": {"a.b": {"c": 1}}}, f"when a.b: {{c: 1}} {NO_VALUE}"),
]


@pytest.mark.parametrize(("raw", "message"), WRONG, ids=[str(raw) for raw, _ in WRONG])
def test_wrong_domain_names_field_value_rule_and_way_out(raw: object, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse("adapter.r", raw)
    assert str(caught.value).startswith(f"adapter.r: {message}")


def test_all_problems_of_one_field_are_told_at_once() -> None:
    with pytest.raises(SpaceError) as caught:
        parse("a.b", {"uniform": [True, "x"], "when": {"a.c": [], "a.d": None}})
    assert [problem.split(" is ")[0].removeprefix("a.b: ") for problem in caught.value.problems] == [
        "uniform: low true", "uniform: high 'x'", "when a.c: the list", "when a.d: null",
    ]  # fmt: skip


SCALAR = st.one_of(st.none(), st.booleans(), st.integers(-(10**400), 10**400), st.floats(), st.text(max_size=4))
ANYTHING = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALAR, inner, max_size=2), max_leaves=6
)
KEYS = st.sampled_from([*FORMS, "when", "prior"])


@given(ANYTHING | st.dictionaries(KEYS, ANYTHING | st.lists(st.floats() | st.integers(), min_size=2, max_size=3)))
def test_whatever_stands_for_a_domain_is_read_or_refused_in_lines_that_name_the_field(raw: object) -> None:
    try:
        domain = parse("a.b", raw)
    except SpaceError as error:
        assert error.problems and all(line.startswith("a.b: ") for line in error.problems)
    else:
        assert all(map(domain.contains, domain.extremes()))
