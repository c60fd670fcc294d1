"""Reads the domain of a field: the values that it may take, in one of these YAML forms.

| form                              | takes                                                                      |
|-----------------------------------|----------------------------------------------------------------------------|
| `{choice: [a, b]}`                | one of the listed values; a list in it is an explicit list of words        |
| `{grid: [a, b]}`                  | the same, and random search takes every combination of the grids in turn   |
| `{uniform: [low, high]}`          | a float, both ends included, rounded to a thousandth of the range or finer |
| `{loguniform: [low, high]}`       | a float, uniform in its logarithm, rounded to 3 significant digits         |
| `{randint: [low, high]}`          | an integer, both ends included                                             |
| `{quniform: [low, high, q]}`      | a multiple of q, both ends included and themselves multiples of q          |
| `{qloguniform: [low, high, q]}`   | likewise, uniform in the logarithm                                         |
| `{qrandint: [low, high, q]}`      | likewise, integers                                                         |

Drawn floats are rounded so that they read well as logged parameters (0.000213, not 0.00021344987562341); a point
that a person or another searcher brings may hold any float within the bounds.

With `when: {FIELD: value or [values]}` beside the form, a field is searched only in points where FIELD has one of these
values; in other points it keeps the base's value. Conditions on several fields must all be true. Write a list of words
as a list inside the list: `when: {adapter.target_modules: [[q_proj, v_proj]]}`.

`prior: VALUE` says which value is expected to do best: `{loguniform: [2.0e-5, 2.0e-3], prior: 3.0e-4}`. The searcher
`prior` begins there; the other searchers ignore it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from search_spaces._conditions import Condition, parse_when
from search_spaces._forms import Choice, Domain, Grid
from search_spaces._ranges import LogUniform, QLogUniform, QRandInt, QUniform, RandInt, Uniform
from search_spaces._values import Value, as_value, did_you_mean, identity, shown, value_problem
from search_spaces.errors import SpaceError, collected

FORMS: tuple[type[Domain], ...] = (Choice, Grid, Uniform, LogUniform, RandInt, QUniform, QLogUniform, QRandInt)
_NAMES = tuple(form.NAME for form in FORMS)
_BESIDE = ("when", "prior")


def parse(field: str, raw: object) -> Domain:
    """Reads the domain from its YAML value `raw`.

    Args:
        field: the searched field, for messages only.
        raw: a mapping with one form of the module's table, and optionally `when` and `prior`.

    Raises:
        SpaceError: with a line for every problem, each starting with `field`.
    """
    problems: list[str] = []
    with collected(problems, f"{field}: "):
        return _parse(raw)
    raise SpaceError(problems)


def _parse(raw: object) -> Domain:
    if not isinstance(raw, Mapping):
        raise SpaceError([_not_a_mapping(raw)])
    kind = _kind(raw)
    problems: list[str] = []
    domain: Domain | None = None
    when: tuple[Condition, ...] = ()
    with collected(problems):
        domain = kind.from_raw(raw[kind.NAME])
    with collected(problems):
        when = parse_when(raw["when"]) if "when" in raw else ()
    if domain is not None:
        with collected(problems):
            domain = replace(domain, when=when, prior=_prior(raw))
    if domain is None or problems:
        raise SpaceError(problems)
    return domain


def _prior(raw: Mapping[object, object]) -> Value | None:
    value = as_value(raw.get("prior"))
    if "prior" in raw and (problem := value_problem(value)):
        raise SpaceError([f"prior: {problem}"])
    return cast("Value | None", value)


def _kind(raw: Mapping[object, object]) -> type[Domain]:
    """Returns the form that the mapping names. Raises SpaceError for no form, several forms, or unknown keys."""
    named = [form for form in FORMS if form.NAME in raw]
    others = [str(key) for key in raw if key not in _NAMES and key not in _BESIDE]
    if not named:
        forms = ", ".join(form.form() for form in FORMS)
        if not others:
            raise SpaceError([f"no domain given: write one of {forms}"])
        hint = did_you_mean(others[0], _NAMES)
        raise SpaceError([f"unknown domain {others[0]!r}{hint or ':'} write one of {forms}"])
    problems = [f"unknown key {key!r}{did_you_mean(key, _BESIDE) or ':'} remove it" for key in others]
    if len(named) > 1:
        names = " and ".join(form.NAME for form in named)
        problems.append(f"{names} are {len(named)} domains for one field: keep one")
    if problems:
        raise SpaceError(problems)
    return named[0]


def _not_a_mapping(raw: object) -> str:
    if isinstance(raw, list | tuple):
        return f"a list is not a domain: write {{choice: {shown(raw)}}}"
    if raw is None:
        return "nothing given: write {choice: [8, 16]}, for example"
    given = shown(raw)
    way_out = f"write {{choice: [{given}]}}, or set it in the sweep file and leave it out here"
    return f"{given} alone is not a domain: {way_out}"


__all__ = [
    "FORMS",
    "Choice",
    "Condition",
    "Domain",
    "Grid",
    "LogUniform",
    "QLogUniform",
    "QRandInt",
    "QUniform",
    "RandInt",
    "Uniform",
    "Value",
    "identity",
    "parse",
]
