"""What each domain takes, counts and draws."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from search_spaces.domains import FORMS, Condition, Domain, parse


def made(form: str, *arguments: object) -> Domain:
    return parse("a.x", {form: list(arguments)})


PARSED: list[dict[str, Any]] = [
    {"choice": [8, "mlp", True, 0.5]},
    {"choice": ["mlp", ["q_proj", "v_proj"]]},
    {"grid": [1, 2]},
    {"uniform": [0, 0.5]},
    {"loguniform": [1.0e-5, 1.0e-3]},
    {"randint": [1, 8]},
    {"quniform": [0, 0.3, 0.1]},
    {"qloguniform": [0.1, 10, 0.1]},
    {"qrandint": [8, 64, 8]},
    {"choice": [1], "when": {"a.b": True, "a.c": [1, 2], "a.d": [["q", "v"]]}},
]


@pytest.mark.parametrize("raw", PARSED, ids=str)
def test_yaml_form_comes_back(raw: dict[str, object]) -> None:
    assert parse("a.x", raw).to_raw() == raw
    assert parse("a.x", parse("a.x", raw).to_raw()) == parse("a.x", raw)


def test_conditions_are_read_with_their_values() -> None:
    assert parse("a.x", PARSED[-1]).when == (
        Condition("a.b", (True,)),
        Condition("a.c", (1, 2)),
        Condition("a.d", (("q", "v"),)),
    )


def test_table_shows_every_form() -> None:
    assert {form for raw in PARSED for form in raw if form != "when"} == set(FORMS)


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


VALUES = [
    (made("choice", 8, "mlp"), (8, "mlp")),
    (made("grid", False, True), (False, True)),
    (made("randint", -1, 2), (-1, 0, 1, 2)),
    (made("randint", 3, 3), (3,)),
    (made("qrandint", 8, 24, 8), (8, 16, 24)),
    (made("quniform", 0, 0.7, 0.1), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
    (made("quniform", -0.2, 0.2, 0.2), (-0.2, 0.0, 0.2)),
    (made("qloguniform", 1e-5, 4e-5, 1e-5), (1e-5, 2e-5, 3e-5, 4e-5)),
]


@pytest.mark.parametrize(("domain", "values"), VALUES, ids=[str(domain) for domain, _ in VALUES])
def test_finite_domain_lists_its_values_cleanly(domain: Domain, values: tuple[object, ...]) -> None:
    assert [repr(value) for value in domain.values() or ()] == [repr(value) for value in values]
    assert domain.size == len(values)
    assert all(domain.contains(value) for value in values)


@pytest.mark.parametrize("domain", [made("uniform", 0, 1), made("loguniform", 1, 2), made("uniform", 1, 1)])
def test_continuous_domain_has_no_list_and_no_size(domain: Domain) -> None:
    assert domain.values() is None
    assert domain.size is None


def test_size_of_a_long_range_needs_no_list() -> None:
    assert made("randint", 0, 2**40).size == 2**40 + 1


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


EXTREMES = [
    (made("choice", 3, 1, 2), (3, 1, 2)),
    (made("uniform", 0, 1), (0.0, 1.0)),
    (made("randint", 0, 10**12), (0, 10**12)),
    (made("quniform", 0, 0.3, 0.1), (0.0, 0.3)),
]


@pytest.mark.parametrize(("domain", "values"), EXTREMES, ids=[str(domain) for domain, _ in EXTREMES])
def test_extremes_are_of_the_types_that_are_drawn(domain: Domain, values: tuple[object, ...]) -> None:
    assert [repr(value) for value in domain.extremes()] == [repr(value) for value in values]


def draws(domain: Domain, number: int = 300) -> list[Any]:
    rng = Random(0)
    return [domain.sample(rng) for _ in range(number)]


@pytest.mark.parametrize(
    "domain", [made("choice", "a", "b", "c"), made("grid", 1, 2), made("randint", 1, 3), made("qrandint", 8, 32, 8)]
)
def test_every_value_is_drawn_about_equally_often(domain: Domain) -> None:
    drawn = draws(domain)
    values = domain.values() or ()
    expected = len(drawn) / len(values)
    assert all(0.6 * expected < drawn.count(value) < 1.4 * expected for value in values)


def test_both_ends_of_a_quantised_range_are_drawn_as_often_as_the_rest() -> None:
    drawn = draws(made("quniform", 0, 1, 0.25), 1000)
    assert all(140 < drawn.count(value) < 260 for value in (0.0, 0.25, 0.5, 0.75, 1.0))


def test_loguniform_draws_each_decade_equally_often() -> None:
    drawn = draws(made("loguniform", 1e-5, 1e-2), 600)
    decades = [sum(low <= value < 10 * low for value in drawn) for low in (1e-5, 1e-4, 1e-3)]
    assert all(150 < count < 250 for count in decades)


def test_qloguniform_draws_low_values_more_often() -> None:
    drawn = draws(made("qloguniform", 1, 100, 1), 400)
    assert 150 < sum(value <= 10 for value in drawn) < 250


@pytest.mark.parametrize("domain", [made("loguniform", 2e-5, 2e-3), made("loguniform", 1, 1000)])
def test_loguniform_values_have_three_significant_digits(domain: Domain) -> None:
    assert all(float(f"{value:.2e}") == value for value in draws(domain))


def test_uniform_values_have_at_most_a_few_decimals() -> None:
    assert all(round(value, 4) == value for value in draws(made("uniform", 0, 0.1)))
    assert any(round(value, 3) != value for value in draws(made("uniform", 0, 0.1)))


@pytest.mark.parametrize(
    "domain", [made("uniform", 1000.1, 1000.2), made("loguniform", 1.0e-4, 1.01e-4), made("uniform", 1e-300, 2e-300)]
)
def test_rounding_leaves_a_narrow_range_its_variety(domain: Domain) -> None:
    drawn = draws(domain)
    assert len(set(drawn)) > 100
    assert all(domain.contains(value) for value in drawn)


def test_rounding_never_leaves_the_bounds() -> None:
    assert set(draws(made("loguniform", 1.23456e-5, 1.23456e-5))) == {1.23456e-5}


def test_rounding_gives_no_minus_zero() -> None:
    assert repr(made("uniform", -1, 1).at(0.49999)) == "0.0"
