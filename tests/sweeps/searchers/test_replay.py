"""Searchers on the replay of a public grid (`replay`)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from statistics import mean

import pytest
import replay
from replay import GRID, Cells, family, known_rates, regrets, space

pytestmark = pytest.mark.skipif(not GRID.is_file(), reason=f"the public grid is not here: {GRID}")
TOLERANCE = 0.001
"""Nats; repeated runs differ by .0006."""
SEEDS = range(20)


@pytest.fixture(scope="module")
def grids() -> dict[str, Cells]:
    return replay.grids()


def runs_needed(kind: str, grids: Mapping[str, Cells], shift: float = 1.0, seeds: range = SEEDS) -> float:
    """Runs until the regret is within the tolerance: the mean over all models and seeds."""
    needed = []
    for model, cells in grids.items():
        known = space(cells, tuple(rate * shift for rate in known_rates(grids, family(model))))
        for seed in seeds:
            story = enumerate(regrets(kind, cells, known, seed), 1)
            needed.append(next(runs for runs, regret in story if regret <= TOLERANCE))
    return mean(needed)


def test_two_runs_with_a_prior_of_other_families_find_the_best_of_nearly_all_models(grids: dict[str, Cells]) -> None:
    assert len(grids) == 35
    found = 0
    for model, cells in grids.items():
        known = space(cells, known_rates(grids, family(model)))
        found += next(itertools.islice(regrets("prior", cells, known, 0), 1, None)) <= TOLERANCE
    assert found >= 33


@pytest.mark.slow
def test_a_prior_that_is_wrong_by_a_factor_of_ten_costs_little(grids: dict[str, Cells]) -> None:
    without = runs_needed("tpe", grids, seeds=range(6))
    assert all(runs_needed("prior", grids, shift, range(6)) <= 1.1 * without for shift in (10.0, 0.1))


def test_a_right_prior_saves_most_runs(grids: dict[str, Cells]) -> None:
    assert runs_needed("prior", grids) < 0.3 * runs_needed("random", grids)
