"""Which bases a sweep has, how they are called, and what of them may be searched together."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import toy

from sweeps.config import bases, points
from sweeps.config.searched_fields import fields_together
from trainables.specs import TrialSpec, short_names

SCHEMES = {"quantization.scheme": {"choice": ["nf4", "fp4", "none"]}}
DOUBLE = {"choice": [True, False]}


@pytest.mark.parametrize(
    ("space", "sections", "names"),
    [
        (None, {}, ["nf4"]),
        (SCHEMES, {}, ["nf4", "fp4", "none"]),
        (SCHEMES, {"quantization": {"scheme": "none"}}, ["none", "nf4", "fp4"]),
        (
            SCHEMES | {"quantization.double_quant": {**DOUBLE, "when": {"quantization.scheme": ["nf4", "fp4"]}}},
            {},
            ["nf4", "nf4 without double_quant", "fp4", "fp4 without double_quant", "none"],
        ),
        (
            {"quantization.scheme": {"choice": ["fp4", "none"]}},
            {"searcher": {"kind": "random", "start_with_default": False}},
            ["fp4", "none"],
        ),
        ({"quantization.compute_dtype": {"choice": ["auto", "float32"]}}, {}, ["nf4", "nf4 float32"]),
    ],
    ids=["one", "schemes", "the file's own first", "double_quant", "without the default", "types"],
)
def test_a_sweep_has_the_bases_that_its_trials_may_name(space: Any, sections: Any, names: list[str]) -> None:
    config, parsed = toy(space, **sections)
    assert sorted(each.base_name for each in bases.of(config, parsed)) == sorted(names)
    assert bases.of(config, parsed)[0].base_name == names[0]
    assert bases.are_searched(config) == (len(names) > 1)


def test_bases_are_called_by_what_tells_them_apart() -> None:
    assert short_names(["a/b nf4 float32", "a/b none float32"]) == {
        "a/b nf4 float32": "nf4",
        "a/b none float32": "none",
    }
    assert short_names(["a/b nf4"]) == {"a/b nf4": "a/b nf4"}


def test_a_trial_of_another_base_is_another_trial_with_the_same_params() -> None:
    config, _ = toy(SCHEMES)
    nf4, none = (points.apply(config.base, {"quantization.scheme": name}, 0) for name in ("nf4", "none"))
    assert points.trial_key(nf4, {}) != points.trial_key(none, {})
    assert points.params(none, {"quantization.scheme": "none"})["quantization"] == "none"
    assert none.on_base_of(nf4).base_name == nf4.base_name
    assert TrialSpec().base_name == "nf4"


@pytest.mark.parametrize("when", [{}, {"when": {"quantization.scheme": ["nf4", "none"]}}])
def test_constants_that_a_scheme_does_not_have_are_not_searched_with_it(when: Any) -> None:
    _, space = toy(SCHEMES | {"quantization.double_quant": {**DOUBLE, **when}})
    (line,) = fields_together(space)
    assert line.endswith("add when: {quantization.scheme: [nf4, fp4]}")
