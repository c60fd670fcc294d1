"""The charts of a sweep's course: losses by step, trials at each report, when trials held slots. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sweeps.planning.number_words import counted, duration
from sweeps.record.run_names import label
from sweeps.report import page_facts
from sweeps.report.axes import log_marks, readable
from sweeps.report.chart_parts import (
    PALETTE,
    SOFT,
    STATES,
    Colours,
    Figure,
    axis,
    hover,
    layout,
    left_out,
    outside,
    scatter,
    state_legend,
    told_of,
    trial_lines,
)
from sweeps.report.page import BEST_CURVES, Page

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
LONG_AXIS = 8.0
"""An axis of steps is logarithmic where the last report is at so many times the step of the first."""
MOST_TICKS = 12
UNITS = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From so many seconds on, times are shown in a unit of so many seconds."""


def by_step(page: Page) -> Figure | None:
    """The objective at each report of each trial."""
    values = [value for trial in page.trials for _, value in trial.evals]
    steps = sorted({step for trial in page.trials for step, _ in trial.evals})
    if not values:
        return None
    span = readable([*values, *([page.base] if page.base is not None else [])])
    traces = [*trial_lines(page, lambda trial: trial.evals, ends=True), *state_legend(page)]
    more: dict[str, Any] = {}
    base = ""
    if page.base is not None:
        base = " The dashed line is the base without an adapter."
        if span is not None and not span[0] <= page.base <= span[1]:
            base = f" The base without an adapter ({page.base:.4f}) lies beyond the axis."
        line = {"color": SOFT, "width": 1.5, "dash": "dash"}
        more["shapes"] = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": page.base, "y1": page.base, "line": line}
        ]
    return Figure(
        f"{page.metric} by step",
        "A point is a report: the trial was evaluated at that step. The symbol at the end of a line says how the trial "
        f"stands. {page.metric}: {page_facts.unit(page.objectives[0])}.{base}{left_out(page)}{outside(span, values)}",
        (*traces, Colours.of(page).bar(page.metric)),
        layout(460, xaxis=_step_axis(steps), yaxis=_value(page, span), **more),
    )


def train_loss(page: Page) -> Figure | None:
    """The train loss of the best few trials."""
    trials = [trial for trial in page.trials if trial.train][:BEST_CURVES]
    if not trials:
        return None
    values = [loss for trial in trials for _, loss in trial.train]
    span = readable(values)
    traces = []
    for trial, colour, dash in zip(trials, PALETTE, DASHES, strict=False):
        told = [f"step {step}: train_loss {loss:.4f}<br>{hover(trial, page)}" for step, loss in trial.train]
        line = {"color": colour, "dash": dash, "width": 1.8}
        x, y = [step for step, _ in trial.train], [loss for _, loss in trial.train]
        trace = scatter(x, y, mode="lines" if len(x) > 1 else "markers", line=line, name=trial.name, hovertext=told)
        traces.append(trace | {"hoverinfo": "text", "showlegend": True, "marker": {"color": colour}})
    return Figure(
        f"train_loss of the best {f'{len(trials)} trials' if len(trials) > 1 else 'trial'}",
        "The loss of each step over its own batch, before the update: mean negative log-likelihood per completion "
        f"token. It varies with the rows of the batch.{outside(span, values)}",
        tuple(traces),
        layout(380, xaxis=axis("optimizer step"), yaxis=axis("train_loss", range=span)),
    )


def rungs(page: Page) -> Figure | None:
    """How many trials came to each report, and what became of them there."""
    if not page.rungs:
        return None
    x = [f"step {rung.step:,}<br>{counted(rung.reached, 'trial')}" for rung in page.rungs]
    parts = (
        ("went on", [rung.went_on for rung in page.rungs], "#0072b2"),
        ("completed", [rung.completed for rung in page.rungs], "#009e73"),
        ("training on", [rung.training for rung in page.rungs], "#cc79a7"),
        ("waiting there", [rung.waiting for rung in page.rungs], "#56b4e9"),
        ("ended there", [rung.ended for rung in page.rungs], "#e69f00"),
    )
    whole: dict[str, Any] = {"dtick": 1} if max(rung.reached for rung in page.rungs) <= MOST_TICKS else {}
    traces = tuple(
        {
            "type": "bar",
            "x": x,
            "y": counts,
            "name": name,
            "marker": {"color": colour},
            "text": [f"{count} {name}" if count else "" for count in counts],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "hovertext": [
                f"step {rung.step:,}: {count} {name}" for rung, count in zip(page.rungs, counts, strict=True)
            ],
            "hoverinfo": "text",
            "showlegend": True,
        }
        for name, counts, colour in parts
        if any(counts)
    )
    return Figure(
        "Trials at each report",
        "The height of a bar is how many trials were evaluated at that step. Trials that ended there were stopped, or "
        "failed before the next report. Where rungs count examples, trials come to one at different steps, and the "
        "lowest is shown. Repeats are left out.",
        traces,
        layout(
            340,
            barmode="stack",
            uniformtext={"minsize": 11, "mode": "hide"},
            xaxis=axis("report", type="category"),
            yaxis=axis("trials", rangemode="tozero", tick0=0, **whole),
        ),
    )


def times(page: Page) -> Figure | None:
    """When each trial held a slot."""
    trials = [trial for trial in page.trials if trial.held]
    if not trials:
        return None
    # A clock that was set back leaves times before the sweep began.
    last = max(0.0, *(held.until for trial in trials for held in trial.held))
    _, unit, word = next(each for each in UNITS if last >= each[0])
    texts, traces = told_of(page), []
    for state, (_, colour) in STATES.items():
        spans = [(trial, held) for trial in trials if trial.record.state == state for held in trial.held]
        if spans:
            told = [
                f"in a slot for {duration(held.until - held.since)}<br>{texts.get(trial.record.number, trial.name)}"
                for trial, held in spans
            ]
            bars: dict[str, Any] = {"type": "bar", "orientation": "h", "name": state, "marker": {"color": colour}}
            bars |= {"base": [held.since / unit for _, held in spans], "y": [trial.record.number for trial, _ in spans]}
            bars |= {"x": [(held.until - held.since) / unit for _, held in spans], "width": 0.8}
            traces.append(bars | {"hovertext": told, "hoverinfo": "text", "showlegend": True})
    numbers = sorted(trial.record.number for trial in trials)
    shown = numbers[:: math.ceil(len(numbers) / 25)]
    labels = {"tickvals": shown, "ticktext": list(map(label, shown))}
    ends = [numbers[-1] + 0.7, numbers[0] - 0.7]
    height = min(900, 160 + 18 * len(trials))
    return Figure(
        "When trials trained",
        "Each bar is a time for which a trial held a slot; a gap is a time for which it was parked or interrupted. "
        "Colours say how trials stand. Pauses between drivers are left out. The event log does not say on which host.",
        tuple(traces),
        layout(
            height,
            barmode="overlay",
            xaxis=axis(f"{word} that the sweep has run", rangemode="tozero"),
            yaxis=axis("trial", range=ends, **labels),
        ),
    )


def _step_axis(steps: Sequence[int]) -> dict[str, Any]:
    """The axis of steps; the marks are reports, as long as they are few."""
    is_log = steps[0] > 0 and steps[-1] >= LONG_AXIS * steps[0]
    title = "optimizer step (log scale)" if is_log else "optimizer step"
    marks = list(steps) if len(steps) <= MOST_TICKS else None
    if is_log and marks is None:
        marks = [int(mark) for mark in log_marks(steps[0], steps[-1]) if mark >= 1]
    more: dict[str, Any] = {} if marks is None else {"tickvals": marks, "ticktext": [f"{mark:,}" for mark in marks]}
    if is_log:
        margin = 0.03 * math.log10(steps[-1] / steps[0])
        more |= {"type": "log", "range": [math.log10(steps[0]) - margin, math.log10(steps[-1]) + margin]}
    return axis(title, **more)


def _value(page: Page, span: tuple[float, float] | None) -> dict[str, Any]:
    return axis(f"{page.metric} ({'lower' if page.objectives[0].mode == 'min' else 'higher'} is better)", range=span)
