"""The small charts of a sweep: each searched field against the best value, side by side. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from sweeps.report.axes import UNSET_PLACE, Axis, readable
from sweeps.report.chart_parts import STATES, Figure, Trace, axis, cut, layout, outside, scatter, state_legend, told_of
from sweeps.report.page import Drawn, Page

COLUMNS = 3
"""Small charts in a row; two where that fills the rows."""
ROW_HEIGHT = 270
LABEL_ROOM = 40
"""Characters that the marks of a small axis have room for, if all are as long as the longest; others are at a slant."""
MOST_LABEL = 14
MOST_NUMBERS = 4
"""Marks on a small axis of numbers."""
MOST_LARGE = 150
"""Trials; points of more are small."""
SPREAD = 0.02
"""Points that would lie on each other move by at most this share of the axis, so that their setting stays readable."""
OF_ROOM = 0.1
"""Nor do they move by more than this share of the room that a setting has on its axis."""
TOUCHING = 0.05
"""Points whose values differ by less than this share of the values' range would lie on each other."""
CIVIDIS = [[0.0, "#00224e"], [0.35, "#41506c"], [0.65, "#8a8678"], [1.0, "#d9c55c"]]
"""cividis of matplotlib, nearly."""


@dataclass(frozen=True)
class _Grid:
    """Where the small charts are."""

    columns: int
    rows: int

    @classmethod
    def of(cls, count: int) -> _Grid:
        """That of so many charts."""
        columns = 2 if count in (2, 4) else COLUMNS
        return cls(columns, math.ceil(count / columns))

    @property
    def height(self) -> int:
        """Of all charts, in pixels."""
        return self.rows * ROW_HEIGHT + 40

    def domains(self, place: int) -> tuple[list[float], list[float]]:
        """The parts of the width and of the height that a chart takes."""
        row, column = divmod(place, self.columns)
        left, top = column / self.columns, 1 - row / self.rows
        return (
            [left + 0.02 * (column > 0), left + 1 / self.columns - 0.04],
            [top - 1 / self.rows + 90 / self.height, top - 5 / self.height],
        )


def by_field(page: Page) -> Figure | None:
    """Each searched field against the best value."""
    trials = [trial for trial in page.trials if math.isfinite(trial.value)]
    if not trials or not page.axes:
        return None
    span = readable(trial.value for trial in trials)
    grid = _Grid.of(len(page.axes))
    more: dict[str, Any] = {}
    for place, one in enumerate(page.axes):
        number = "" if place == 0 else str(place + 1)
        width, height = grid.domains(place)
        more[f"xaxis{number}"] = _field_axis(one) | {"domain": width, "anchor": f"y{number}"}
        title = f"best {page.metric}" if place % grid.columns == 0 else ""
        more[f"yaxis{number}"] = axis(title, domain=height, anchor=f"x{number}", range=span)
        if place:
            more[f"yaxis{number}"]["matches"] = "y"
    return Figure(
        "Each field alone",
        f"Each point is a trial at its best {page.metric}. Trials of fewer steps (dark) had less time to become good. "
        f"Points that would lie on each other are moved aside, by at most {SPREAD:.0%} of the axis. "
        "A field's effect may be that of another one that goes with it."
        f"{outside(span, [trial.value for trial in trials])}",
        (*state_legend(page), *_points(page, trials, TOUCHING * (span[1] - span[0]) if span else 0.0)),
        layout(grid.height, margin={"l": 70, "r": 30, "t": 40, "b": 0}, **more),
    )


def _field_axis(one: Axis) -> dict[str, Any]:
    ticks = one.ticks if one.kind == "words" else one.ticks[:: math.ceil(len(one.ticks) / MOST_NUMBERS)]
    labels = [escape(cut(text, MOST_LABEL)) for _, text in ticks]
    return axis(
        one.title,
        tickvals=[at for at, _ in ticks],
        ticktext=labels,
        tickangle=-30 if len(labels) * max(map(len, labels), default=0) > LABEL_ROOM else 0,
        automargin=False,
        range=[UNSET_PLACE - 0.06 if one.has_unset else -0.06, 1.06],
        title={"text": escape(one.title), "font": {"size": 13}, "standoff": 6},
    )


def _points(page: Page, trials: list[Drawn], near: float) -> Iterator[Trace]:
    """The points of each small chart; the first one brings the bar of colours."""
    reached, told = [trial.record.step for trial in trials], told_of(page)
    bar = {"title": {"text": "steps trained", "side": "right", "font": {"size": 13}}, "thickness": 12}
    bar |= {"lenmode": "pixels", "len": ROW_HEIGHT - 90, "y": 1, "yanchor": "top"}
    marker = {
        "symbol": [STATES[trial.record.state][0] for trial in trials],
        "color": reached,
        "colorscale": CIVIDIS,
        "cmin": min(reached),
        "cmax": max(*reached, min(reached) + 1),
        "colorbar": bar,
        "size": 8 if len(trials) <= MOST_LARGE else 5,
        "opacity": 0.85,
    }
    y, texts = [trial.value for trial in trials], [told.get(trial.record.number, "") for trial in trials]
    is_shown = min(reached) < max(reached)
    for place, one in enumerate(page.axes):
        number = "" if place == 0 else str(place + 1)
        x = _places(one, trials, near)
        points = scatter(x, y, mode="markers", marker={**marker, "showscale": is_shown and place == 0}, hovertext=texts)
        yield points | {"hoverinfo": "text", "xaxis": f"x{number}", "yaxis": f"y{number}"}


def _places(one: Axis, trials: list[Drawn], near: float) -> list[float]:
    """Where the trials lie on an axis: at their settings, or beside them where another trial lies there.

    Args:
        trials: those drawn, each with a finite value.
        near: points of one setting whose values differ by less than this would lie on each other.
    """
    places = [one.place(trial.record.params.get(one.name)) for trial in trials]
    if one.kind != "words":
        return places
    reach = min(SPREAD, OF_ROOM / (len(one.options) + one.has_unset))
    order = sorted(range(len(trials)), key=lambda index: (places[index], trials[index].value))
    chain: list[int] = []
    moved = list(places)
    for index, after in zip(order, [*order[1:], None], strict=True):
        chain.append(index)
        if after is None or places[after] != places[index] or trials[after].value - trials[index].value >= near:
            for count, each in enumerate(chain if len(chain) > 1 else []):
                moved[each] += reach * (2 * count / (len(chain) - 1) - 1)
            chain = []
    return moved
