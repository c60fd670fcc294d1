"""Searchers on the replay of a public grid (`replay`)."""

from __future__ import annotations

import csv
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from statistics import mean, median

import numpy as np
import pytest
import replay
from replay import GRID, Cells, best, family, known_rates, regrets, space

pytestmark = pytest.mark.skipif(not GRID.is_file(), reason=f"the public grid is not here: {GRID}")
TOLERANCE = 0.001
"""Nats; repeated runs differ by .0006."""
SEEDS = range(20)


@pytest.fixture(scope="module")
def grids() -> dict[str, Cells]:
    return replay.grids()


def runs_needed(kind: str, grids: Mapping[str, Cells], shift: float = 1.0) -> float:
    """Runs until the regret is within the tolerance: the mean over all models and seeds."""
    needed = []
    for model, cells in grids.items():
        known = space(cells, tuple(rate * shift for rate in known_rates(grids, family(model))))
        for seed in SEEDS:
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


def test_random_search_needs_eight_runs_for_as_much(grids: dict[str, Cells]) -> None:
    after: dict[int, list[float]] = {2: [], 8: []}
    for cells in grids.values():
        for seed in SEEDS:
            story = list(regrets("random", cells, space(cells, (3e-4,)), seed))
            for runs, regret in after.items():
                regret.append(min(story[:runs][-1], 0.05))
    assert mean(after[8]) == pytest.approx(0.0013, abs=0.0003)
    assert mean(after[2]) > 5 * mean(after[8])


@pytest.mark.slow
@pytest.mark.parametrize("shift", [10.0, 0.1])
def test_a_prior_that_is_wrong_by_a_factor_of_ten_costs_little(grids: dict[str, Cells], shift: float) -> None:
    assert runs_needed("prior", grids, shift) <= 1.1 * runs_needed("tpe", grids)


def test_a_right_prior_saves_most_runs(grids: dict[str, Cells]) -> None:
    assert runs_needed("prior", grids) < 0.3 * runs_needed("random", grids)


def best_rate(cells: Cells, rank: int) -> float | None:
    """Base-10 logarithm of the rate with the least loss at this rank, by a parabola through it and its neighbours."""
    row = sorted((math.log10(rate), loss) for (rate, r), loss in cells.items() if r == rank and loss is not None)
    if len(row) < 3:
        return None
    middle = min(range(len(row)), key=lambda place: row[place][1])
    if middle in (0, len(row) - 1):
        return row[middle][0]
    rates, losses = zip(*row[middle - 1 : middle + 2], strict=True)
    bend, slope, _ = np.polyfit(rates, losses, 2)
    return float(-slope / (2 * bend)) if bend > 0 else row[middle][0]


def test_with_a_fixed_alpha_the_best_rate_hardly_moves_with_the_rank(grids):
    """The spaces search alpha itself, not its ratio to r: here alpha is 32 at each rank. With a fixed ratio the best
    rate would go as 1 / r times this, an exponent near -0.83."""
    exponents = []
    for cells in grids.values():
        ranks = sorted({rank for _, rank in cells})
        rates = [(math.log10(rank), rate) for rank in ranks if (rate := best_rate(cells, rank)) is not None]
        if len(rates) >= 3:
            exponents.append(float(np.polyfit([rank for rank, _ in rates], [rate for _, rate in rates], 1)[0]))
    assert len(exponents) >= 30
    assert mean(exponents) == pytest.approx(0.17, abs=0.02)
    assert all(-0.1 < exponent < 0.5 for exponent in exponents)


def test_the_figures_of_the_page_on_knobs(grids):
    """docs/knobs.md: which rates are best, which diverge, and how much rate and rank move the loss."""
    points = {
        model: min((at for at, loss in cells.items() if loss is not None), key=lambda at: cells[at])
        for model, cells in grids.items()
    }
    rates = Counter(rate for rate, _ in points.values())
    assert (rates[3e-4] + rates[4e-4], rates[1e-3], rates[1e-4]) == (24, 10, 1)
    assert sum(at[1] == max(rank for _, rank in grids[model]) for model, at in points.items()) == 31
    with GRID.open(encoding="utf-8") as file:
        hot = [row["test_nll"] for row in csv.DictReader(file) if float(row["learning_rate"]) == 3e-3]
    assert (hot.count("diverged"), len(hot)) == (97, 108)

    by_rate, by_rank = [], []
    lacks: dict[int, list[float]] = {4: [], 16: []}
    for model, cells in grids.items():
        top, rate = max(rank for _, rank in cells), points[model][0]
        at_rates = [loss for (other, rank), loss in cells.items() if rank == top and 4e-5 <= other <= 1e-3 and loss]
        at_ranks = [loss for (other, _), loss in cells.items() if other == rate and loss]
        by_rate.append(max(at_rates) - min(at_rates))
        by_rank.append(max(at_ranks) - min(at_ranks))
        for rank, above in lacks.items():
            above += [loss - best(cells)] if (loss := cells.get((rate, rank))) else []
    found = [median(values) for values in (by_rate, by_rank, lacks[4], lacks[16])]
    assert found == pytest.approx([0.015, 0.0065, 0.0039, 0.0020], abs=1e-4)
