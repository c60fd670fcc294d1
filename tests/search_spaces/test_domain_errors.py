"""Every wrong domain is refused with the field, the value, the rule and the way out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import SpaceError
from search_spaces.domains import FORMS, parse

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
    (
        {"quniform": [0, 1.0e10, 1.0e-10]},
        "quniform: q 1e-10 is too fine for floats of this size: raise it, or use a range without q",
    ),
    # conditions
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
    assert [problem.split(" is ")[0] for problem in caught.value.problems] == [
        "a.b: uniform: low true",
        "a.b: uniform: high 'x'",
        "a.b: when a.c: the list",
        "a.b: when a.d: null",
    ]


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
