"""The charts of a sweep. Pure: the page's data in, plotly's traces and layouts out as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from sweeps.planning.number_words import counted
from sweeps.report import field_charts, page_facts, progress_charts
from sweeps.report.axes import UNSET_PLACE, Axis, readable
from sweeps.report.chart_parts import (
    PALETTE,
    SOFT,
    STATES,
    Colours,
    Figure,
    Trace,
    axis,
    cut,
    hover,
    layout,
    left_out,
    scatter,
    split,
    trial_lines,
)
from sweeps.report.page import Drawn, Page
from sweeps.report.trial_tables import value_text
from trainables.objective import COSTS, Objective

MOST_AXES = 7
"""Of more parallel axes, names are at a slant and marks are small."""


def charts(page: Page) -> tuple[Figure, ...]:
    """Those charts for which the sweep has something to show."""
    makers: tuple[Callable[[Page], Figure | None], ...] = (
        parallel,
        progress_charts.by_step,
        field_charts.by_field,
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
    columns = zip(*(trial.values for trial in page.trials), strict=True)
    value_axes = [_value_axis(objective, column) for objective, column in zip(page.objectives, columns, strict=True)]
    axes = [*page.axes, *value_axes]

    def points(trial: Drawn) -> list[tuple[float, float | None]]:
        values = [*(trial.record.params.get(each.name) for each in page.axes), *trial.values]
        places = [_clipped(one, value) for one, value in zip(axes, values, strict=True)]
        return [(float(at), place) for at, place in enumerate(places)]

    several = len(value_axes) > 1
    thick = "; the thick line is the best trial" if any(trial.is_best for trial in page.trials) else ""
    last = f"last {len(value_axes)} axes at its objectives" if several else f"last axis at its best {page.metric}"
    return Figure(
        "Settings and outcome",
        "Parallel coordinates. Each line is a trial: it crosses each axis at the trial's value of that field, and the "
        f"{last}. Dark lines are good ones{thick}."
        f"{left_out(page)}{_at_the_end(value_axes[0], page)}",
        (*trial_lines(page, points), Colours.of(page).bar(page.metric)),
        _side_by_side(axes),
    )


def _side_by_side(axes: Sequence[Axis]) -> dict[str, Any]:
    """The layout of parallel axes: a line for each, with its marks beside it and its name above."""
    is_dense = len(axes) > MOST_AXES
    annotations: list[dict[str, Any]] = []
    room = 110 // len(axes)
    for at, one in enumerate(axes):
        ticks = {"x": at, "showarrow": False, "xanchor": "right", "xshift": -6, "bgcolor": "rgba(255,255,255,0.75)"}
        if is_dense:
            ticks |= {"font": {"size": 11}}
        annotations += [{**ticks, "y": place, "text": escape(cut(text, room))} for place, text in one.ticks]
    shapes = [
        {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"color": SOFT, "width": 1.2}}
        for at in range(len(axes))
    ]
    names = [escape(one.title) if is_dense else escape(one.title).replace(" (", "<br>(") for one in axes]
    x = {"tickvals": list(range(len(axes))), "ticktext": names, "side": "top", "range": [-0.6, len(axes) - 0.7]}
    x |= {"tickangle": -30 if is_dense else 0}
    low = UNSET_PLACE - 0.05 if any(one.has_unset and one.kind != "words" for one in axes) else -0.04
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True, "showline": False}
    return layout(
        540 if is_dense else 440,
        annotations=annotations,
        shapes=shapes,
        showlegend=False,
        xaxis={**plain, **x},
        yaxis={**plain, "visible": False, "range": [low, 1.04]},
        margin={"l": 30, "r": 30, "t": 120 if is_dense else 70, "b": 20},
    )


def two_objectives(page: Page) -> Figure | None:
    """The first two objectives against each other."""
    trials = [trial for trial in page.trials if all(map(math.isfinite, trial.values[:2]))]
    if len(page.objectives) < 2 or not trials:
        return None
    first, second = page.objectives[:2]
    traces: list[Trace] = []
    for is_in, name, colour in ((False, "others", "#9aa1ad"), (True, "Pareto set", PALETTE[1])):
        found = [trial for trial in trials if trial.is_in_pareto_set is is_in]
        marker = {"color": colour, "size": 10 if is_in else 8, "symbol": [STATES[t.record.state][0] for t in found]}
        told = [hover(trial, page) + f"<br>{escape(second.metric)} {value_text(trial.values[1])}" for trial in found]
        x, y = [trial.value for trial in found], [trial.values[1] for trial in found]
        trace = scatter(x, y, mode="markers+text" if is_in else "markers", marker=marker, hovertext=told, name=name)
        if is_in:
            trace |= {"text": [trial.name for trial in found], "textposition": "top center", "cliponaxis": False}
        traces.append(trace | {"hoverinfo": "text", "showlegend": True})
    span, spread = readable(t.value for t in trials), readable(t.values[1] for t in trials)
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


def _value_axis(objective: Objective, values: Sequence[float]) -> Axis:
    """An axis for an objective, over the values that most trials have."""
    low, high = readable(values) or (0.0, 1.0)
    inside = [value for value in values if low <= value <= high] or [low, high]
    name = objective.metric if objective.metric in COSTS else f"best {objective.metric}"
    return Axis(name, "linear", min(inside), max(inside))


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
