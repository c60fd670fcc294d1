"""The tables of docs/simulator.md, from the sweeps that `schedulers` has simulated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from simulator import ARRIVALS

from .schedulers import (
    COSTLY,
    FEW_SLOTS,
    FEW_TRIALS,
    LITTLE_NOISE,
    MUCH_NOISE,
    RULES,
    SEARCHED_RULES,
    SEARCHERS,
    SLOTS,
    TRIALS,
    Case,
    Outcome,
    read,
)

Rows = dict[tuple[str, ...], list[Case]]
"""The words that a row begins with -> its cells."""
SHARES = (0.25, 0.5, 0.75, 1.0)


def tables(results: Path) -> str:
    """All of them, a heading each."""
    return "\n\n".join(
        f"{heading}\n\n" + "\n".join(lines)
        for heading, lines in (
            ("orders of arrival", of_arrivals(results)),
            ("evaluations that cost", of_costs(results)),
            ("cut short", of_cuts(results)),
            ("searchers", of_searchers(results)),
            ("searchers, few trials", of_searchers(results, FEW_SLOTS, FEW_TRIALS)),
            ("searchers, cut short", of_searchers_cut(results)),
        )
    )


def of_arrivals(results: Path) -> list[str]:
    """Every rule under each order in which good trials come, on so many slots."""
    cells: Rows = {
        (arrival, _named(rule)): [Case(rule, arrival, slots) for slots in SLOTS]
        for arrival, rule in itertools.product(ARRIVALS, RULES)
    }
    return _whole(results, ("order", "rule"), [_slots(count) for count in SLOTS], cells)


def of_costs(results: Path) -> list[str]:
    """Every rule where an evaluation takes time, and where it is noisy."""
    cells: Rows = {
        (_named(rule),): [
            *(Case(rule, "random", slots, COSTLY) for slots in SLOTS),
            Case(rule, "random", 1, noise=MUCH_NOISE),
        ]
        for rule in RULES
    }
    return _whole(results, ("rule",), [*(_slots(count) for count in SLOTS), "1 slot, noise 0.1"], cells)


def of_cuts(results: Path) -> list[str]:
    """The answer of every rule at shares of the time that `breadth` takes in all."""
    cells: Rows = {
        (f"{cost:g}", _named(rule)): [Case(rule, "random", slots, cost) for slots in SLOTS]
        for cost, rule in itertools.product((0.0, COSTLY), RULES)
    }
    unit = {cost: [Case("promote, breadth", "random", slots, cost) for slots in SLOTS] for cost in (0.0, COSTLY)}
    return _cut(
        results, ("evaluation", "rule"), [_slots(count) for count in SLOTS], cells, lambda row: unit[float(row[0])]
    )


def of_searchers(results: Path, slots: Sequence[int] = SLOTS, trials: int = TRIALS) -> list[str]:
    """Every searcher under each rule, on so many slots."""
    cells: Rows = {
        (_named(rule), _named(searcher)): [
            Case(rule, f"by {searcher}", count, noise=LITTLE_NOISE, trials=trials) for count in slots
        ]
        for rule, searcher in itertools.product(SEARCHED_RULES, SEARCHERS)
    }
    return _whole(results, ("rule", "searcher"), [_slots(count) for count in slots], cells)


def of_searchers_cut(results: Path) -> list[str]:
    """The answer of every searcher at shares of the time that random search takes under `breadth`."""
    columns = list(itertools.product((0.0, COSTLY), FEW_SLOTS))

    def of(rule: str, searcher: str) -> list[Case]:
        return [Case(rule, f"by {searcher}", slots, cost, LITTLE_NOISE) for cost, slots in columns]

    cells: Rows = {
        (_named(rule), _named(searcher)): of(rule, searcher)
        for rule, searcher in itertools.product(SEARCHED_RULES, SEARCHERS)
    }
    heads = [f"{_slots(slots)}{', costly' if cost else ''}" for cost, slots in columns]
    return _cut(results, ("rule", "searcher"), heads, cells, lambda _: of("promote, breadth", "random"))


def _whole(results: Path, names: Sequence[str], heads: Sequence[str], cells: Rows) -> list[str]:
    """A table whose cells are steps / time / regret, and the largest standard error of a regret."""
    lines, errors = _head(names, heads), [0.0]
    for row, across in cells.items():
        words = []
        for case in across:
            done = read(results, case)
            words.append(_sweep(done) if done else "")
            errors += [_error([each.regret() for each in done])] if done else []
        lines.append(f"| {' | '.join([*row, *words])} |")
    return [*lines, "", f"standard error of a regret: {max(errors):.4f} at most"]


def _cut(
    results: Path,
    names: Sequence[str],
    heads: Sequence[str],
    cells: Rows,
    unit: Callable[[tuple[str, ...]], list[Case]],
) -> list[str]:
    """A table whose cells are the regrets of the answers at SHARES of the mean time of `unit(row)`."""
    lines = _head(names, heads)
    for row, across in cells.items():
        words = []
        for case, whole in zip(across, unit(row), strict=True):
            done, taken = read(results, case), read(results, whole)
            time = fmean(each.makespan for each in taken) if taken else math.nan
            words.append(_regrets(done, [share * time for share in SHARES]) if done and taken else "")
        lines.append(f"| {' | '.join([*row, *words])} |")
    return lines


def _head(names: Sequence[str], heads: Sequence[str]) -> list[str]:
    return [f"| {' | '.join([*names, *heads])} |", "|" + "---|" * (len(names) + len(heads))]


def _sweep(done: Sequence[Outcome]) -> str:
    means = fmean(each.steps for each in done), fmean(each.makespan for each in done)
    return f"{means[0]:.0f} / {means[1]:.0f} / {_short(fmean(each.regret() for each in done))}"


def _regrets(done: Sequence[Outcome], times: Sequence[float]) -> str:
    """The mean regret at each time; "none" where a sweep has no answer yet."""
    means = [fmean(each.regret(time) for each in done) for time in times]
    return " / ".join(_short(mean) if math.isfinite(mean) else "none" for mean in means)


def _short(regret: float) -> str:
    """Without the zero before the point."""
    return f"{regret:.3f}".removeprefix("0")


def _error(regrets: Sequence[float]) -> float:
    return stdev(regrets) / math.sqrt(len(regrets)) if len(regrets) > 1 else 0.0


def _named(word: str) -> str:
    """As the sweep file has it: "promote, breadth" -> "`promote`, `breadth`"."""
    words = word.split(", ")
    return ", ".join(each if " " in each else f"`{each}`" for each in words)


def _slots(count: int) -> str:
    return f"{count} slot{'s' if count > 1 else ''}"
