"""What each domain takes, counts and draws."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from search_spaces.domains import Domain, parse


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


VALUES = [
    (made("choice", 8, "mlp"), (8, "mlp")),
    (made("grid", False, True), (False, True)),
    (made("randint", -1, 2), (-1, 0, 1, 2)),
    (made("qrandint", 8, 24, 8), (8, 16, 24)),
    (made("quniform", 0, 0.7, 0.1), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
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
