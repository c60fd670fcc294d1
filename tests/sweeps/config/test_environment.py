"""A number in an environment variable is taken within its bounds, and anything else is told."""

from __future__ import annotations

import pytest

from sweeps.config import environment
from sweeps.errors import ConfigError


@pytest.mark.parametrize(("given", "number"), [(None, 60.0), ("1", 1.0), (" 1e2 ", 100.0)])
def test_a_number_within_its_bounds_is_taken(monkeypatch: pytest.MonkeyPatch, given: str | None, number: float) -> None:
    monkeypatch.delenv("QSWEEP_X", raising=False)
    if given is not None:
        monkeypatch.setenv("QSWEEP_X", given)
    assert environment.number("QSWEEP_X", 60.0, 1.0, 100.0) == number


@pytest.mark.parametrize("given", ["", "nan", "0.9", "101", "\x1b[31m"])
def test_what_is_no_number_within_its_bounds_is_told(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("QSWEEP_X", given)
    with pytest.raises(ConfigError) as caught:
        environment.number("QSWEEP_X", 60.0, 1.0, 100.0)
    (problem,) = caught.value.problems
    assert problem.startswith("QSWEEP_X: ") and problem.endswith("must be a number from 1 to 100")
    assert problem.isprintable()
