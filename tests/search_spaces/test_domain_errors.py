"""Every wrong domain is refused with the field, the value, the rule and the way out."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

from search_spaces.domains import Choice, RandInt, parse
from search_spaces.errors import SpaceError

FORMS = (
    "{choice: [value, value]}, {grid: [value, value]}, {uniform: [low, high]}, {loguniform: [low, high]}, "
    "{randint: [low, high]}, {quniform: [low, high, q]}, {qloguniform: [low, high, q]}, {qrandint: [low, high, q]}"
)
NO_VALUE = "name a flag, a number, a word or a list of words"

WRONG: list[tuple[object, str]] = [
    # not a mapping
    ([8, 16], "a list is not a domain: write {choice: [8, 16]}"),
    (["mlp", ["q_proj"]], "a list is not a domain: write {choice: ['mlp', ['q_proj']]}"),
    (8, "8 alone is not a domain: write {choice: [8]}, or set it in the sweep file and leave it out here"),
    ("mlp", "'mlp' alone is not a domain: write {choice: ['mlp']}, or set it in the sweep file and leave it out here"),
    (True, "true alone is not a domain: write {choice: [true]}, or set it in the sweep file and leave it out here"),
    (None, "nothing given: write {choice: [8, 16]}, for example"),
    # keys
    ({}, f"no domain given: write one of {FORMS}"),
    ({"when": {"a.b": 1}}, f"no domain given: write one of {FORMS}"),
    ({"log_uniform": [1, 2]}, f"unknown domain 'log_uniform', did you mean loguniform? write one of {FORMS}"),
    ({"Choice": [1, 2]}, f"unknown domain 'Choice', did you mean choice? write one of {FORMS}"),
    ({"zzz": [1, 2]}, f"unknown domain 'zzz': write one of {FORMS}"),
    ({"min": 1, "max": 2}, f"unknown domain 'min': write one of {FORMS}"),
    ({3: [1, 2]}, f"unknown domain '3': write one of {FORMS}"),
    ({"choice": [1], "whne": {"a.b": 1}}, "unknown key 'whne', did you mean when? remove it"),
    ({"choice": [1], "default": 1}, "unknown key 'default': remove it"),
    ({"choice": [1], "grid": [1]}, "choice and grid are 2 domains for one field: keep one"),
    # lists of values
    ({"choice": []}, "choice: the list is empty: name at least one value"),
    ({"choice": None}, "choice takes a list, and null is not a list: write {choice: [null]}"),
    ({"grid": 8}, "grid takes a list, and 8 is not a list: write {grid: [8]}"),
    ({"choice": "mlp"}, "choice takes a list, and 'mlp' is not a list: write {choice: ['mlp']}"),
    ({"choice": [8, 8]}, "choice: 8 is listed twice: keep one"),
    ({"grid": [1, 1.0]}, "grid: 1.0 is listed twice: keep one"),
    ({"choice": [["a", "b"], ["b", "a"]]}, "choice: ['b', 'a'] is listed twice: keep one"),
    ({"choice": [1, None]}, f"choice: null is not a value: {NO_VALUE}"),
    ({"choice": [{"a": True}]}, f"choice: {{a: true}} is not a value: {NO_VALUE}"),
    ({"choice": [math.nan]}, "choice: nan is not a finite number"),
    ({"choice": [math.inf]}, "choice: inf is not a finite number"),
    ({"choice": [" "]}, "choice: ' ' is an empty word"),
    ({"choice": ["1e-5"]}, "choice: '1e-5' is a word, not a number: YAML reads it as a word, write 1.0e-5"),
    ({"choice": ["-2.5E4"]}, "choice: '-2.5E4' is a word, not a number: YAML reads it as a word, write -2.5e+4"),
    ({"choice": ["16"]}, "choice: '16' is a word, not a number: write 16 without quotes"),
    ({"choice": [[]]}, "choice: [] is empty: list at least one word"),
    ({"choice": [["a", 1]]}, "choice: ['a', 1] may hold only words, and 1 is not a word"),
    ({"choice": [["a", ["b"]]]}, "choice: ['a', ['b']] may hold only words, and ['b'] is not a word"),
    ({"choice": [["a", "a"]]}, "choice: ['a', 'a'] holds 'a' twice: keep one"),
    ({"choice": [["a", ""]]}, "choice: '' is an empty word"),
    # ranges
    ({"uniform": 1}, "uniform takes [low, high] and got 1: write {uniform: [low, high]}"),
    ({"uniform": None}, "uniform takes [low, high] and got null: write {uniform: [low, high]}"),
    ({"uniform": [1]}, "uniform takes [low, high] and got [1]: write {uniform: [low, high]}"),
    ({"randint": [1, 2, 3]}, "randint takes [low, high] and got [1, 2, 3]: write {randint: [low, high]}"),
    ({"quniform": [1, 2]}, "quniform takes [low, high, q] and got [1, 2]: write {quniform: [low, high, q]}"),
    ({"loguniform": {"low": 1}}, "loguniform takes [low, high] and got {low: 1}: write {loguniform: [low, high]}"),
    ({"uniform": [False, 1]}, "uniform: low false is a flag, not a number"),
    ({"uniform": [0, None]}, "uniform: high null is not a number"),
    ({"uniform": [0, [1]]}, "uniform: high [1] is not a number"),
    ({"uniform": [math.nan, 1]}, "uniform: low nan is not a finite number"),
    ({"uniform": [0, math.inf]}, "uniform: high inf is not a finite number"),
    ({"uniform": [0, "high"]}, "uniform: high 'high' is a word, not a number"),
    ({"uniform": [0, "1"]}, "uniform: high '1' is a word, not a number: write 1 without quotes"),
    (
        {"loguniform": ["1e-5", 1]},
        "loguniform: low '1e-5' is a word, not a number: YAML reads it as a word, write 1.0e-5",
    ),
    ({"randint": [True, 4]}, "randint: low true is a flag, not an integer"),
    ({"randint": [1, 8.0]}, "randint: high 8.0 is not an integer: write 8"),
    ({"randint": [1.5, 8]}, "randint: low 1.5 is not an integer"),
    ({"qrandint": [4, 8, 0.5]}, "qrandint: q 0.5 is not an integer"),
    ({"uniform": [2, 1]}, "uniform: low 2 is above high 1: swap them"),
    ({"randint": [8, 4]}, "randint: low 8 is above high 4: swap them"),
    ({"qrandint": [8, 4, 4]}, "qrandint: low 8 is above high 4: swap them"),
    ({"uniform": [-1.7e308, 1.7e308]}, "uniform: -1.7e+308 to 1.7e+308 is too wide for a float: narrow it"),
    ({"loguniform": [0, 1]}, "loguniform: low 0 is not above 0, and the logarithm needs it: raise it or use uniform"),
    (
        {"qloguniform": [-0.1, 0.1, 0.1]},
        "qloguniform: low -0.1 is not above 0, and the logarithm needs it: raise it or use quniform",
    ),
    ({"quniform": [0, 1, 0]}, "quniform: q 0 is not above 0: give the step between two values"),
    ({"qrandint": [0, 8, -4]}, "qrandint: q -4 is not above 0: give the step between two values"),
    ({"quniform": [0.05, 1, 0.1]}, "quniform: low 0.05 is not a multiple of q 0.1: write 0.0"),
    ({"qrandint": [4, 130, 4]}, "qrandint: high 130 is not a multiple of q 4: write 128"),
    (
        {"quniform": [0, 1.0e10, 1.0e-10]},
        "quniform: q 1e-10 is too fine for floats of this size: raise it, or use a range without q",
    ),
    # conditions
    (
        {"choice": [1], "when": None},
        "when takes {FIELD: value} and got null: name the field and its values, or remove it",
    ),
    ({"choice": [1], "when": {}}, "when takes {FIELD: value} and got {}: name the field and its values, or remove it"),
    ({"choice": [1], "when": {"a.b": []}}, "when a.b: the list is empty: name at least one value"),
    ({"choice": [1], "when": {"a.b": None}}, f"when a.b: null is not a value: {NO_VALUE}"),
    ({"choice": [1], "when": {"a.b": [1, 1]}}, "when a.b: 1 is listed twice: keep one"),
    ({"choice": [1], "when": {"a.b": {"c": 1}}}, f"when a.b: {{c: 1}} is not a value: {NO_VALUE}"),
]


@pytest.mark.parametrize(("raw", "message"), WRONG, ids=[str(raw) for raw, _ in WRONG])
def test_wrong_domain_names_field_value_rule_and_way_out(raw: object, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse("adapter.r", raw)
    assert caught.value.problems == (f"adapter.r: {message}",)
    assert str(caught.value) == f"adapter.r: {message}"


def test_all_problems_of_one_field_are_told_at_once() -> None:
    with pytest.raises(SpaceError) as caught:
        parse("a.b", {"uniform": [True, "x"], "when": {"a.c": [], "a.d": None}})
    assert [problem.split(" is ")[0] for problem in caught.value.problems] == [
        "a.b: uniform: low true",
        "a.b: uniform: high 'x'",
        "a.b: when a.c: the list",
        "a.b: when a.d: null",
    ]


def test_every_unknown_key_is_told_beside_two_domains() -> None:
    with pytest.raises(SpaceError) as caught:
        parse("a.b", {"choice": [1], "grid": [1], "uniform": [0, 1], "step": 1, "default": 2})
    assert caught.value.problems == (
        "a.b: unknown key 'step': remove it",
        "a.b: unknown key 'default': remove it",
        "a.b: choice and grid and uniform are 3 domains for one field: keep one",
    )


@pytest.mark.parametrize("wrong", [lambda: Choice(()), lambda: RandInt(2, 1)])
def test_domains_made_in_python_are_checked_too(wrong: Any) -> None:
    with pytest.raises(SpaceError):
        wrong()


def test_error_is_a_value_error_that_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(SpaceError(["a: b", "c: d"])))
    assert issubclass(SpaceError, ValueError)
    assert error.problems == ("a: b", "c: d")
    assert str(error) == "a: b\nc: d"
