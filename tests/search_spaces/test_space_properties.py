"""Properties of all domains and spaces."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from search_spaces.domains import parse
from search_spaces.space import SearchSpace

WORDS = st.sampled_from(["attention", "mlp", "all-linear", "q_proj", "v_proj"])
SCALARS = st.one_of(st.booleans(), st.integers(2, 99), st.floats(100, 200, allow_nan=False), WORDS)
LISTS = st.lists(WORDS, min_size=1, max_size=3, unique=True).map(sorted)
OPTIONS = st.lists(st.one_of(SCALARS, LISTS), min_size=1, max_size=4, unique_by=lambda value: (type(value), str(value)))
FLOATS = st.floats(-1e9, 1e9, allow_nan=False)
POSITIVE = st.floats(1e-12, 1e9, allow_nan=False)
STEPS = st.sampled_from(["0.1", "0.05", "1e-05", "0.3", "2.5", "7"])


def ordered(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.tuples(numbers, numbers).map(sorted)


@st.composite
def quantised(draw: st.DrawFn, *, positive: bool) -> list[float]:
    q = draw(STEPS)
    low, high = sorted(draw(st.tuples(*[st.integers(1 if positive else -50, 200)] * 2)))
    return [float(low * Fraction(q)), float(high * Fraction(q)), float(q)]


@st.composite
def whole_steps(draw: st.DrawFn) -> list[int]:
    q = draw(st.integers(1, 16))
    low, high = sorted(draw(st.tuples(st.integers(-20, 40), st.integers(-20, 40))))
    return [low * q, high * q, q]


LISTED = st.one_of(
    st.fixed_dictionaries({"choice": OPTIONS}),
    st.fixed_dictionaries({"grid": OPTIONS}),
    st.fixed_dictionaries({"randint": ordered(st.integers(-3, 3))}),
)
LATTICES = st.one_of(
    st.fixed_dictionaries({"quniform": quantised(positive=False)}),
    st.fixed_dictionaries({"qloguniform": quantised(positive=True)}),
    st.fixed_dictionaries({"qrandint": whole_steps()}),
)
CONTINUOUS = st.one_of(
    st.fixed_dictionaries({"uniform": ordered(FLOATS)}), st.fixed_dictionaries({"loguniform": ordered(POSITIVE)})
)
SEEDS = st.integers(0, 2**32)


@st.composite
def spaces(draw: st.DrawFn, domains: st.SearchStrategy[dict[str, Any]]) -> SearchSpace:
    """A space of up to four fields, of which some wait on values of listed fields before them, in any file order."""
    raw: dict[str, dict[str, Any]] = {"a.f0": draw(LISTED)}
    listed = ["a.f0"]
    for name in [f"a.f{number}" for number in range(1, draw(st.integers(1, 4)))]:
        raw[name] = dict(draw(domains))
        asked = draw(st.lists(st.sampled_from(listed), max_size=2, unique=True))
        when = {other: draw(conditions(raw[other])) for other in asked}
        if when:
            raw[name]["when"] = when
        if raw[name].keys() & {"choice", "grid", "randint"}:
            listed.append(name)
    names = draw(st.permutations(list(raw)))
    return SearchSpace.parse({name: raw[name] for name in names})


@st.composite
def conditions(draw: st.DrawFn, raw: dict[str, Any]) -> list[Any]:
    values = parse("a.b", {name: value for name, value in raw.items() if name != "when"}).values() or ()
    count = draw(st.integers(1, len(values)))
    return [list(value) if isinstance(value, tuple) else value for value in draw(st.permutations(values))[:count]]


@given(st.one_of(LISTED, LATTICES, CONTINUOUS), SEEDS)
def test_domain_contains_what_it_draws_and_comes_back_from_json(raw: dict[str, Any], seed: int) -> None:
    domain = parse("a.b", raw)
    assert parse("a.b", json.loads(json.dumps(domain.to_raw()))) == domain
    rng = Random(seed)
    drawn = [domain.sample(rng) for _ in range(5)]
    assert all(domain.contains(value) for value in (*drawn, *domain.extremes()))
    if (values := domain.values()) is not None:
        assert len(values) == domain.size
        assert all(any(type(value) is type(one) and value == one for one in values) for value in drawn)


@given(LATTICES, SEEDS)
def test_quantised_value_is_a_multiple_of_q_as_it_prints(raw: dict[str, Any], seed: int) -> None:
    ((name, (low, high, q)),) = raw.items()
    value = parse("a.b", raw).sample(Random(seed))
    assert low <= value <= high
    assert (Fraction(str(value)) / Fraction(str(q))).denominator == 1
    assert isinstance(value, int) == (name == "qrandint")


@given(spaces(st.one_of(LISTED, LATTICES, CONTINUOUS)), SEEDS, st.integers(0, 10**6))
def test_space_contains_what_it_draws_and_comes_back_from_json(space: SearchSpace, seed: int, index: int) -> None:
    again = SearchSpace.parse(json.loads(json.dumps(space.to_raw())))
    assert again == space
    for number in (None, index):
        point = space.sample(Random(seed), number)
        assert again.sample(Random(seed), number) == point
        assert space.contains(point)
        # Those fields are in it whose conditions hold in it, in the order of the space.
        conditions = [domain.when for domain in space.domains.values()]
        met = [all(one.field in point and one.holds(point[one.field]) for one in when) for when in conditions]
        assert list(point) == list(itertools.compress(space.domains, met))


@given(spaces(LISTED))
def test_grid_has_every_point_once_and_as_many_as_size_says(space: SearchSpace) -> None:
    points = list(space.grid())
    assert len({repr(point) for point in points}) == len(points) == space.size()
    assert all(space.contains(point) for point in points)
    # Every combination of values, restricted to what is active in it, is one of the points.
    rows = itertools.product(*(domain.values() or () for domain in space.domains.values()))
    restricted = {repr(space.restrict(dict(zip(space.domains, row, strict=True)))) for row in rows}
    assert restricted == {repr(point) for point in points}


@given(spaces(st.one_of(LISTED, CONTINUOUS)))
def test_fields_that_never_meet_are_in_no_draw_together(space: SearchSpace) -> None:
    listed = SearchSpace.parse(
        {name: domain.to_raw() if domain.size else _listed(domain.to_raw()) for name, domain in space.domains.items()}
    )
    points = list(listed.grid())
    for one, other in itertools.combinations(space.domains, 2):
        assert space.may_meet(one, other) or not any(one in point and other in point for point in points)


def _listed(raw: dict[str, Any]) -> dict[str, Any]:
    return {"choice": [1]} | {key: value for key, value in raw.items() if key == "when"}
