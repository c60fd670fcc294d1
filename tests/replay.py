"""Replay of a public grid: test losses over learning rate and rank for 35 base models (see shared/data/README.md)."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from search_spaces.space import SearchSpace
from sweeps.config import components

GRID = Path(__file__).parents[2] / "shared" / "data" / "lora_sft_grid.csv"
RATE, RANK = "training.learning_rate", "adapter.r"
RATES = (4e-5, 1e-4, 2e-4, 3e-4, 4e-4, 1e-3, 2e-3, 3e-3)
NOISE = 0.0006
"""Nats: standard deviation of repeated runs."""
Cells = Mapping[tuple[float, int], float | None]
"""(learning rate, rank) -> mean test loss of the runs; None where all of them diverged."""


def grids() -> dict[str, Cells]:
    """Base model -> its cells."""
    runs: dict[str, dict[tuple[float, int], list[float]]] = {}
    with GRID.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            losses = runs.setdefault(row["model"], {}).setdefault((float(row["learning_rate"]), int(row["r"])), [])
            losses += [] if row["test_nll"] == "diverged" else [float(row["test_nll"])]
    return {
        model: {at: mean(losses) if losses else None for at, losses in cells.items()} for model, cells in runs.items()
    }


def family(model: str) -> str:
    """The family of a base model."""
    return next(name for name in ("nemotron", "kimi", "deepseek", "qwen", "llama", "gpt-oss") if name in model.lower())


def best(cells: Cells) -> float:
    """The least loss of the grid."""
    return min(loss for loss in cells.values() if loss is not None)


def nearest(cells: Cells, rate: float) -> float:
    """The learning rate of the grid that is nearest."""
    return min({at[0] for at in cells}, key=lambda other: abs(math.log(other / rate)))


def known_rates(grids: Mapping[str, Cells], without: str) -> tuple[float, ...]:
    """The two rates whose better one does best on average, at the highest rank, over the other families' models."""

    def regret(cells: Cells, rates: tuple[float, ...]) -> float:
        rank = max(at[1] for at in cells)
        losses = [loss for rate in rates if (loss := cells.get((nearest(cells, rate), rank))) is not None]
        return min(losses, default=math.inf) - best(cells)

    others = [cells for model, cells in grids.items() if family(model) != without]
    return min(
        itertools.combinations(RATES, 2), key=lambda pair: mean(min(regret(cells, pair), 0.05) for cells in others)
    )


def space(cells: Cells, rates: tuple[float, ...]) -> SearchSpace:
    """The grid as a space whose portfolio has these rates."""
    ranks = sorted({at[1] for at in cells})
    first = dict.fromkeys(nearest(cells, rate) for rate in rates)
    raw: dict[str, Any] = {
        RATE: {"choice": sorted({at[0] for at in cells}), "prior": next(iter(first))},
        RANK: {"choice": ranks, "prior": ranks[-1]},
        "portfolio": [{RATE: rate, RANK: ranks[-1]} for rate in first],
    }
    return SearchSpace.parse(raw)


def losses(kind: str, cells: Cells, known: SearchSpace, seed: int) -> Iterator[float | None]:
    """The loss of each run of a searcher that is new; None of one that diverged."""
    searcher = components.modules("searchers")[kind].Config().build(known, seed)
    seen: set[tuple[float, int]] = set()
    while len(seen) < len(cells):
        point = searcher.suggest()
        at = (point[RATE], point[RANK])
        if at not in cells:
            searcher.tell(point, 0, "infeasible", False)
        elif at not in seen:
            seen.add(at)
            loss = cells[at]
            searcher.tell(point, 780, "diverged" if loss is None else loss, loss is not None)
            yield loss


def regrets(kind: str, cells: Cells, known: SearchSpace, seed: int) -> Iterator[float]:
    """What the best run so far lacks, after each run that is new."""
    found = math.inf
    for loss in losses(kind, cells, known, seed):
        found = found if loss is None else min(found, loss)
        yield found - best(cells)
