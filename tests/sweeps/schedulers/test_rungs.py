"""The rungs: where trials are compared."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.schedulers import next_point, rungs

TABLE = [
    # grace_steps, reduction_factor, steps, rungs
    (1, 3, 243, (1, 3, 9, 27, 81, 243)),  # the logarithm of Ray 2.60 loses 81
    (3, 3, 81, (3, 9, 27, 81)),
    (3, 3, 82, (3, 9, 27, 81, 82)),
    (4, 2, 36, (4, 8, 16, 32, 36)),
    (3, 3, 3, (3,)),
    (5, 3, 3, (3,)),
]
SETTINGS = st.tuples(st.integers(1, 50), st.integers(2, 12), st.integers(1, 5000))


@pytest.mark.parametrize(("grace", "factor", "steps", "expected"), TABLE)
def test_rungs_are_powers_of_the_factor_and_the_last_step(
    grace: int, factor: int, steps: int, expected: tuple[int, ...]
) -> None:
    assert rungs(grace, factor, steps) == expected


@given(SETTINGS)
def test_rungs_rise_and_end_at_the_last_step(settings: tuple[int, int, int]) -> None:
    grace, factor, steps = settings
    found = rungs(grace, factor, steps)
    assert found[-1] == steps
    assert all(low < high for low, high in pairwise(found))
    assert all(high == low * factor for low, high in pairwise(found[:-1]))
    assert found[0] == min(grace, steps)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 3), (2, 3), (3, 9), (8, 9), (9, 27), (26, 27), (27, None), (99, None)]
)
def test_the_next_report_comes_at_the_first_point_after_the_step(step: int, expected: int | None) -> None:
    assert next_point((3, 9, 27), step) == expected
