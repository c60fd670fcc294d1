"""The charts of a sweep. Pure: the page's data in, plotly's traces and layouts out as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from sweeps.planning.number_words import counted
from sweeps.report import page_facts, progress_charts
from sweeps.report.axes import UNSET_PLACE, Axis, readable
from sweeps.report.chart_parts import (
    PALETTE,
    STATES,
    Colours,
    Figure,
    Trace,
    axis,
    hover,
    layout,
    left_out,
    outside,
    scatter,
    split,
    state_legend,
    trial_lines,
)
from sweeps.report.page import Drawn, Page
from sweeps.report.trial_tables import value_text
from trainables.objective import Objective

COLUMNS = 3
"""Small charts in a row; two where that fills the rows."""
ROW_HEIGHT = 260
MOST_NUMBERS = 4
"""Marks on a small axis of numbers."""
MOST_LARGE = 150
"""Trials; points of more are small."""
JITTER = 0.25
"""Points of equal values lie side by side within this share of the value's room."""
CIVIDIS = [[0.0, "#00224e"], [0.35, "#41506c"], [0.65, "#8a8678"], [1.0, "#d9c55c"]]
"""cividis of matplotlib, nearly."""


def charts(page: Page) -> tuple[Figure, ...]:
    """Those charts for which the sweep has something to show."""
    makers: tuple[Callable[[Page], Figure | None], ...] = (
        parallel,
        progress_charts.by_step,
        by_field,
        two_objectives,
        progress_charts.train_loss,
        progress_charts.rungs,
        progress_charts.times,
    )
    return tuple(figure for maker in makers if (figure := maker(page)) is not None)


def parallel(page: Page) -> Figure | None:
    """Parallel coordinates: a line for each trial through its settings to its value."""
    if not page.axes or not split(page)[0]:
        return None
    value_axes = [_value_axis(objective, _values(page, place)) for place, objective in enumerate(page.objectives)]
    axes = [*page.axes, *value_axes]

    def points(trial: Drawn) -> list[tuple[float, float | None]]:
        values = [*(trial.params.get(each.name) for each in page.axes), trial.value, *trial.others]
        places = [_clipped(one, value) for one, value in zip(axes, values, strict=True)]
        return [(float(at), place) for at, place in enumerate(places)]

    annotations: list[dict[str, Any]] = []
    for at, one in enumerate(axes):
        ticks = {"x": at, "showarrow": False, "xanchor": "right", "xshift": -6, "bgcolor": "rgba(255,255,255,0.75)"}
        annotations += [{**ticks, "y": place, "text": escape(text)} for place, text in one.ticks]
    shapes = [
        {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"color": "#5b6472", "width": 1.2}}
        for at in range(len(axes))
    ]
    names = [escape(one.title).replace(" (", "<br>(") for one in axes]
    x = {"tickvals": list(range(len(axes))), "ticktext": names, "side": "top", "range": [-0.6, len(axes) - 0.7]}
    low = UNSET_PLACE - 0.05 if any(one.has_unset and one.kind != "words" for one in axes) else -0.04
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True, "showline": False}
    return Figure(
        "Settings and outcome",
        "Each line is a trial: it crosses each axis at the trial's value of that field, and the last axis at its best "
        f"{page.metric}. Dark lines are good ones; the thick line is the best trial.{left_out(page)}"
        f"{_at_the_end(value_axes[0], page)}",
        (*trial_lines(page, points), Colours.of(page).bar(page.metric)),
        layout(
            440,
            annotations=annotations,
            shapes=shapes,
            showlegend=False,
            xaxis={**plain, **x},
            yaxis={**plain, "visible": False, "range": [low, 1.04]},
            margin={"l": 30, "r": 30, "t": 70, "b": 20},
        ),
    )


def by_field(page: Page) -> Figure | None:
    """Each searched field against the best value, side by side."""
    trials = [trial for trial in page.trials if math.isfinite(trial.value)]
    if not trials or not page.axes:
        return None
    span = readable(trial.value for trial in trials)
    columns = 2 if len(page.axes) in (2, 4) else COLUMNS
    rows = math.ceil(len(page.axes) / columns)
    height = rows * ROW_HEIGHT + 80
    more: dict[str, Any] = {}
    traces = list(state_legend(page, "#5b6472"))
    reached = [trial.step for trial in trials]
    bar = {"title": {"text": "steps trained", "side": "right", "font": {"size": 13}}, "thickness": 12}
    for place, one in enumerate(page.axes):
        number = "" if place == 0 else str(place + 1)
        row, column = divmod(place, columns)
        ticks = one.ticks if one.kind == "words" else one.ticks[:: math.ceil(len(one.ticks) / MOST_NUMBERS)]
        left, top = column / columns, 1 - row / rows
        more[f"xaxis{number}"] = axis(
            one.title,
            domain=[left + 0.02 * (column > 0), left + 1 / columns - 0.04],
            anchor=f"y{number}",
            tickvals=[at for at, _ in ticks],
            ticktext=[escape(text) for _, text in ticks],
            range=[UNSET_PLACE - 0.06 if one.has_unset else -0.06, 1.06],
            title={"text": escape(one.title), "font": {"size": 13}, "standoff": 6},
        )
        title = f"best {page.metric}" if column == 0 else ""
        more[f"yaxis{number}"] = axis(
            title, domain=[top - 1 / rows + 75 / height, top - 5 / height], anchor=f"x{number}", range=span
        )
        if place:
            more[f"yaxis{number}"]["matches"] = "y"
        marker = {
            "symbol": [STATES[trial.state][0] for trial in trials],
            "color": reached,
            "colorscale": CIVIDIS,
            "cmin": min(reached),
            "cmax": max(*reached, min(reached) + 1),
            "showscale": place == 0,
            "colorbar": bar,
            "size": 8 if len(trials) <= MOST_LARGE else 5,
            "opacity": 0.85,
        }
        x = [_jittered(one, trial) for trial in trials]
        told = [hover(trial, page) for trial in trials]
        points = scatter(x, [trial.value for trial in trials], mode="markers", marker=marker, hovertext=told)
        traces.append(points | {"hoverinfo": "text", "xaxis": f"x{number}", "yaxis": f"y{number}"})
    return Figure(
        "Each field alone",
        f"Each point is a trial at its best {page.metric}. Trials of fewer steps (dark) had less time to become good. "
        f"Points of equal settings lie side by side. A field's effect may be that of another one that goes with it."
        f"{outside(span, [trial.value for trial in trials])}",
        tuple(traces),
        layout(height, margin={"l": 70, "r": 30, "t": 40, "b": 10}, **more),
    )


def two_objectives(page: Page) -> Figure | None:
    """The first two objectives against each other."""
    trials = [t for t in page.trials if math.isfinite(t.value) and t.others and math.isfinite(t.others[0])]
    if len(page.objectives) < 2 or not trials:
        return None
    first, second = page.objectives[:2]
    traces: list[Trace] = []
    for is_in, name, colour in ((False, "others", "#9aa1ad"), (True, "Pareto set", PALETTE[1])):
        found = [trial for trial in trials if trial.is_in_pareto_set is is_in]
        marker = {"color": colour, "size": 10 if is_in else 8, "symbol": [STATES[t.state][0] for t in found]}
        told = [hover(trial, page) + f"<br>{escape(second.metric)} {value_text(trial.others[0])}" for trial in found]
        x, y = [trial.value for trial in found], [trial.others[0] for trial in found]
        trace = scatter(x, y, mode="markers+text" if is_in else "markers", marker=marker, hovertext=told, name=name)
        if is_in:
            trace |= {"text": [trial.name for trial in found], "textposition": "top center", "cliponaxis": False}
        traces.append(trace | {"hoverinfo": "text", "showlegend": True})
    span, spread = readable(t.value for t in trials), readable(t.others[0] for t in trials)
    also = (
        f" There are {len(page.objectives)} objectives: the others are in the table."
        if len(page.objectives) > 2
        else ""
    )
    return Figure(
        f"{first.metric} and {second.metric}",
        f"Each point is a trial. No other trial is better than one of the Pareto set in one objective and as good in "
        f"the others. {first.metric}: {page_facts.unit(first)}. {second.metric}: {page_facts.unit(second)}.{also}",
        tuple(traces),
        layout(420, xaxis=axis(f"best {first.metric}", range=span), yaxis=axis(second.metric, range=spread)),
    )


def _values(page: Page, place: int) -> list[float]:
    """The trials' values of an objective."""
    return [trial.value if place == 0 else trial.others[place - 1] for trial in page.trials]


def _value_axis(objective: Objective, values: Iterable[float]) -> Axis:
    """An axis for an objective, over the values that most trials have."""
    found = [value for value in values if math.isfinite(value)]
    low, high = readable(found) or (0.0, 1.0)
    inside = [value for value in found if low <= value <= high] or [low, high]
    return Axis(f"best {objective.metric}", "linear", min(inside), max(inside))


def _at_the_end(one: Axis, page: Page) -> str:
    """How many values are clipped, in words."""
    beyond = sum(math.isfinite(trial.value) and not one.low <= trial.value <= one.high for trial in page.trials)
    return f" {counted(beyond, 'value')} far from the others: drawn at the end of the axis." if beyond else ""


def _clipped(one: Axis, value: Any) -> float | None:
    """The place of a value on its axis, at its end if it lies beyond; None for a value that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    place = one.place(value)
    return place if place < 0 and one.has_unset else min(max(place, 0.0), 1.0)


def _jittered(one: Axis, trial: Drawn) -> float:
    """The place of a trial's value; beside it where many trials have the same one."""
    place = one.place(trial.params.get(one.name))
    if one.kind != "words":
        return place
    room = 1 / (len(one.options) + one.has_unset)
    # Multiples of the golden ratio spread evenly, and each number has its own place.
    return place + room * JITTER * (2 * (trial.number * 0.618034 % 1) - 1)
