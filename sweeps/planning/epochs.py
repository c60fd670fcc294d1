"""How much of the data a trial sees: its rows, and how many times all of them that is. Pure."""

from __future__ import annotations

from search_spaces.space import SearchSpace
from sweeps.config import points, resource
from sweeps.config.model import SweepConfig
from sweeps.planning.number_words import counted


def rows_per_trial(config: SweepConfig, space: SearchSpace) -> tuple[int, int]:
    """Fewest and most rows that a trial of the space trains on when it is not stopped early."""
    compared = resource.of(config)
    if compared.unit == "example":
        # A trial whose batch does not divide it sees a part of a step more.
        return compared.total, compared.total
    fewest = most = config.budget.steps_per_trial
    for field in resource.BATCH:
        values = _values(config, space, field)
        fewest, most = fewest * min(values), most * max(values)
    return fewest, most


def _values(config: SweepConfig, space: SearchSpace, field: str) -> list[int]:
    own = points.base_value(config.base, field)
    domain = space.domains.get(field)
    searched = domain.extremes() if domain is not None else ()
    # The default configuration runs too, and so does its value where the field is not searched at every point.
    runs = domain is None or domain.when or config.searcher.start_with_default
    return [value for value in (*searched, *((own,) if runs else ())) if isinstance(value, int)]


def line(steps: int | None, rows: tuple[int, int], train_rows: int | None) -> str:
    """What a trial sees, in words.

    Args:
        steps: of a trial that is not stopped early; None where that depends on its batch.
        rows: fewest and most that it trains on.
        train_rows: all there are; None when that is not known yet.
    """
    long = "" if steps is None else f" of {counted(steps, 'step')}"
    seen = f"a trial{long} sees {_range(*(f'{count:,}' for count in rows))} rows"
    if train_rows is None:
        return f"{seen}; how many epochs that is, launch says when the data is ready"
    epochs = _range(*(_number(count / train_rows) for count in rows))
    return f"{seen}: {epochs} {'epoch' if epochs == '1' else 'epochs'} of {train_rows:,}"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    """A number of epochs: two significant digits of a small one, none behind the point from 10 on."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{float(f'{value:.2g}'):g}" if value < 0.1 else f"{round(value, 2):g}"
