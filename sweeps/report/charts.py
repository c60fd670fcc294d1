"""The charts of a sweep's page. Plotly draws ticks, legends and colour bars; no other file imports plotly.

Texts from strangers are escaped, because plotly reads some HTML in texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from plotly.colors import qualitative, sample_colorscale, sequential
from plotly.graph_objects import Bar, Figure, Scatter
from plotly.offline import get_plotlyjs

from sweeps.config.number_words import counted, duration
from sweeps.report import facts, importance
from sweeps.report.axes import UNSET, UNSET_PLACE, Axis, ends, without_outliers
from sweeps.report.page import BEST_CURVES, MOST_LINES, WENT_ON, ChartTrial, Page
from sweeps.report.sweeps_compared import Curve
from sweeps.report.trial_tables import value_text
from trainables.objective import COSTS, Objective

Lines = Callable[[ChartTrial], tuple[Sequence[float], Sequence[float | None]]]
BINS = 24
"""Number of line colours. Lines of nearly the same colour are one trace."""
MOST_TICKS = 12
"""Most reports that each have a tick. Plotly chooses the ticks of more reports."""
MOST_REPORTS = 5
"""Most reports of a trial that are points in the charts of fields."""
LONG_AXIS = 8.0
"""An axis of steps is logarithmic if the step of the last report is at least this many times that of the first."""
UNITS = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""(shortest time in seconds, seconds of the unit, name of the unit) for times in charts."""
INK, SOFT, GREY = "#1c2330", "#5b6472", "#b8bcc4"
SYMBOLS = {
    "COMPLETED": "circle",
    "STOPPED": "x",
    "PARKED": "triangle-right",
    "RUNNING": "diamond",
    "PAUSED": "square",
    "PENDING": "circle-open",
    "DIVERGED": "triangle-up",
    "OUT_OF_MEMORY": "hexagon",
    "FAILED": "cross",
    "INFEASIBLE": "square-open",
}
"""State of a trial -> its symbol. Symbols tell states apart without colours, too."""
COLOURS = [*qualitative.Safe[3:], *qualitative.Safe[:3]]
"""Colours that colour-blind people can tell apart. Colours that are easy to see on white come first."""
STATES = dict(zip(SYMBOLS, COLOURS, strict=False))
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
VALUES, STEPS = sequential.Viridis[:-2], sequential.Cividis[:-2]
"""Colour scales for values and for steps, without their light ends, which are hard to see on white."""
LAYOUT = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
    "margin": {"l": 70, "r": 30, "t": 40, "b": 60},
    "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"color": INK}},
    "hovermode": "closest",
    "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
    "coloraxis": {"colorbar": {"title": {"side": "right"}, "thickness": 12}},
}
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "plotlyServerURL": "",
    # Only these buttons: plotly 7 has a button that sends a chart's data to its maker's server.
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}


@dataclass(frozen=True)
class Chart:
    """A chart of the page."""

    title: str
    caption: str
    """What the chart shows, and how to read it."""
    figures: tuple[Figure, ...]
    """Several figures stand side by side."""
    lines: tuple[str, ...] = ()
    """More lines below the chart."""

    def html(self, name: str) -> list[str]:
        """Returns the figures as HTML elements whose ids begin with `name`, for a page that holds `library`."""
        # The JSON of figures escapes < and > (plotly/io/_json.py, 7.1), so no text in it can end the script.
        return [
            each.to_html(CONFIG, full_html=False, include_plotlyjs=False, div_id=f"{name}-{place}")
            for place, each in enumerate(self.figures)
        ]


def library() -> str:
    """Returns the source of plotly.js. The page holds this source, so that the page needs no network."""
    source: str = get_plotlyjs()
    return source


def charts(page: Page) -> tuple[Chart, ...]:
    """Returns the charts for which the sweep has something to show."""
    makers = (parallel, by_step, by_field, two_objectives, train_loss, rungs, times)
    return tuple(chart for maker in makers if (chart := maker(page)) is not None)


def parallel(page: Page) -> Chart | None:
    """Draws parallel coordinates: a line for each trial through its settings to its values.

    The lines belong to a scatter chart: plotly's own parallel coordinates need a GPU, and have no text for a trial.
    """
    if not page.axes or not _split(page)[0]:
        return None
    outcomes = []
    for place, objective in enumerate(page.objectives):
        shown = without_outliers(trial.values[place] for trial in page.trials) or [0.0, 1.0]
        name = objective.metric if objective.metric in COSTS else f"best {objective.metric}"
        outcomes.append(Axis(name, *ends(shown[0], shown[-1])))
    axes = (*page.axes, *outcomes)

    def points(trial: ChartTrial) -> tuple[Sequence[float], Sequence[float | None]]:
        places: list[float | None] = [one.place(trial.record.params.get(one.name)) for one in page.axes]
        for one, value in zip(outcomes, trial.values, strict=True):
            places.append(min(max(one.place(value), 0.0), 1.0) if math.isfinite(value) else None)
        return range(len(axes)), places

    end = len(axes) - 1
    best = next(([place or 0.0 for place in points(trial)[1]] for trial in page.trials if trial.is_best), [])
    low, high = (UNSET_PLACE if any(one.has_unset for one in axes) else 0.0) - 0.05, 1.05
    figure = _figure(_lines(page, points), 460, coloraxis=_colours(page), showlegend=False, margin={"t": 80, "b": 20})
    figure.update_layout(plot_bgcolor="rgba(0,0,0,0)")  # else each ruler hides what is below it
    figure.update_yaxes(visible=False, fixedrange=True, range=[low, high])
    names = [escape(one.title).replace(" (", "<br>(") for one in axes]
    width = {"range": [-0.6, end + 0.4], "tickvals": list(range(len(axes))), "ticktext": names}
    figure.update_xaxes(**width, side="top", showgrid=False, zeroline=False, fixedrange=True)
    for at, one in enumerate(axes):
        # An axis without a trace is not drawn.
        figure.add_scatter(x=[None], y=[None], yaxis=f"y{at + 2}", showlegend=False)
        ruler = {"anchor": "free", "position": (at + 0.6) / (end + 1.0), "range": [one.low, one.high]}
        ruler |= {"domain": [-low / (high - low), (1 - low) / (high - low)], "fixedrange": True, "ticks": "outside"}
        ruler |= {"showgrid": False, "zeroline": False, "showline": True, "linecolor": SOFT}
        # The best trial's line comes to an axis from the left: the axis moves its labels up or down, off the line.
        if at == end:
            ruler["side"] = "right"
        elif at and best:
            ruler["ticklabelshift"] = -10 if best[at - 1] <= best[at] else 10
        figure.update_layout({f"yaxis{at + 2}": one.layout(110 // len(axes)) | ruler})
        if one.has_unset:
            figure.add_annotation(x=at, y=UNSET_PLACE, text=UNSET, showarrow=False, xanchor="right")
    several = len(outcomes) > 1
    thick = "; the thick line is the best trial" if any(trial.is_best for trial in page.trials) else ""
    last = f"last {len(outcomes)} axes at its objectives" if several else f"last axis at its best {page.metric}"
    ends_at = {trial.record.reported_step for trial in page.drawn if math.isfinite(trial.value)}
    uneven = " Lines end at different steps: a trial that was stopped early has the value of its fewer steps."
    uneven = uneven if len(ends_at) > 1 else ""
    beyond = _beyond((outcomes[0].low, outcomes[0].high), [trial.value for trial in page.drawn])
    clipped = f" {counted(beyond, 'value')} far from the others: drawn at the end of the axis." if beyond else ""
    return Chart(
        "Settings and outcome",
        "Parallel coordinates. Each line is a trial: it crosses each axis at the trial's value of that field, and the "
        f"{last}. Dark lines are good ones{thick}.{uneven}{_left_out(page)}{clipped}",
        (figure,),
    )


def by_step(page: Page) -> Chart | None:
    """Draws the objective at each report of each trial; None if trials have several reports but only one value each."""
    values = [value for trial in page.drawn for _, value in trial.evals]
    steps = sorted({step for trial in page.trials for step, _ in trial.evals})
    is_scored_once = all(len(trial.evals) < 2 for trial in page.trials)
    if not values or (is_scored_once and any(len(trial.record.evals) > 1 for trial in page.trials)):
        return None
    is_log = steps[0] > 0 and steps[-1] >= LONG_AXIS * steps[0]
    marks: dict[str, Any] = {}
    if len(steps) <= MOST_TICKS:
        marks = {"tickvals": steps, "ticktext": [f"{step:,}" for step in steps]}
    lines = _lines(page, lambda trial: ([step for step, _ in trial.evals], [value for _, value in trial.evals]))
    figure = _figure([*lines, *_last_points(page)], 460, coloraxis=_colours(page))
    title = "optimizer step (log scale)" if is_log else "optimizer step"
    figure.update_xaxes(title_text=title, type="log" if is_log else "linear", **marks)
    better = "lower" if page.objectives[0].mode == "min" else "higher"
    base, shown = "", _range(values if page.base is None else [*values, page.base])
    if page.base is not None and _beyond(shown, [page.base]):
        base = f" The base without an adapter ({page.base:.4f}) lies beyond the axis."
    elif page.base is not None:
        base = " The dashed line is the base without an adapter."
        figure.add_hline(y=page.base, line={"color": SOFT, "width": 1.5, "dash": "dash"})
    figure.update_yaxes(title_text=escape(f"{page.metric} ({better} is better)"), range=shown)
    return Chart(
        f"{page.metric} by step",
        "A point is a report: the trial was evaluated at that step. The symbol at the end of a line says how the trial "
        f"stands. {page.metric}: {facts.unit(page.objectives[0])}."
        f"{base}{_left_out(page)}{_outside(shown, values)}",
        (figure,),
    )


def by_field(page: Page) -> Chart | None:
    """Draws each searched field against the objective. Points of one colour are reports after equal steps."""
    trials = [trial for trial in page.trials if math.isfinite(trial.value)]
    if not trials or not page.axes:
        return None
    drawn = [trial for trial in page.drawn if math.isfinite(trial.value)]
    values = [value for trial in drawn for value in trial.reports.values()]
    shown = _range(values)
    shares, lines = _importance(page, trials)
    figures: list[Figure] = []
    for one in page.axes:
        figure = _figure(_by_report(page, one, drawn), 320, showlegend=not figures)
        figure.update_layout(margin={"l": 60, "r": 15, "t": 60}, legend={"title": {"text": "step"}})
        figure.update_xaxes(title_text=escape(one.title) + shares.get(one.name, ""), **one.layout(16))
        figure.update_yaxes(title_text=escape(page.metric), range=shown)
        if one.has_unset:
            below = {"yref": "paper", "yanchor": "top", "yshift": -14}
            figure.add_annotation(x=one.at(None), y=0, text=UNSET, showarrow=False, **below)
        figures.append(figure)
    if page.untried:
        lines.append(f"Not tried: {'; '.join(page.untried)}.")
    return Chart(
        "Each field alone",
        "Each point is a trial after so many steps. Compare points of one colour: these trials had trained equally "
        "long. Those of the best trial are ringed. Points of one word are spread around it, so that they do not lie on "
        f"each other. A field's effect may be that of another one that goes with it.{_outside(shown, values)}",
        tuple(figures),
        tuple(lines),
    )


def _by_report(page: Page, one: Axis, trials: Sequence[ChartTrial]) -> Iterator[Scatter]:
    """Yields the points of a field, a trace for each report; for `MOST_REPORTS` at most, the last one among them."""
    last = len(page.rungs) - 1
    for place in range(last, -1, -(math.ceil(len(page.rungs) / MOST_REPORTS) or 1))[::-1]:
        found = [(at, trial) for at, trial in enumerate(trials) if place in trial.reports]
        here = [trial for _, trial in found]
        x = [one.at(trial.record.params.get(one.name)) for trial in here]
        if one.options and len(trials) > 1:  # spread by the golden ratio: neighbours in value are far from each other
            x = [middle + 0.3 * (0.618034 * at % 1 - 0.5) for middle, (at, _) in zip(x, found, strict=True)]
        (colour,) = sample_colorscale(STEPS, [1 - place / last if last else 0.0])
        ring = {"color": INK, "width": [2 if trial.is_best else 0 for trial in here]}
        marker = {"color": colour, "size": 7, "line": ring}
        points = Scatter(x=[10**each for each in x] if one.is_log else x, y=[trial.reports[place] for trial in here])
        points.update(mode="markers", name=f"{page.rungs[place].step:,}", marker=marker, showlegend=True)
        yield points.update(_pointer(here), cliponaxis=False)


def _importance(page: Page, trials: Sequence[ChartTrial]) -> tuple[dict[str, str], list[str]]:
    """Returns field -> importance at the latest report of enough trials, as text for its axis; and lines about it."""
    own = [trial for trial in trials if trial.record.repeats is None]
    counts = [sum(place in trial.reports for trial in own) for place in range(len(page.rungs))]
    place = max((place for place, count in enumerate(counts) if count >= importance.LEAST), default=None)
    if place is None:
        few = counted(len(own), "trial")
        return {}, [f"Importance of each field: unknown, with {few}: {importance.LEAST} are needed."]
    here = [trial for trial in own if place in trial.reports]
    losses = [page.objectives[0].loss(trial.reports[place]) for trial in here]
    found = importance.shares(page.axes, [trial.record.params for trial in here], losses)
    words = {name: "not beyond chance" if share is None else f"{share:.0%}" for name, share in found.items()}
    return {name: f"<br>importance {share}" for name, share in words.items()}, [
        f"Importance (PED-ANOVA, of {len(here)} trials at step {page.rungs[place].step:,}): how far a field's values "
        "of the best trials lie from those of all. The shares of all fields add up to 100%. "
        "What is not beyond chance is as high with shuffled values."
    ]


def two_objectives(page: Page) -> Chart | None:
    """Draws the first two objectives against each other."""
    trials = [trial for trial in page.drawn if all(map(math.isfinite, trial.values[:2]))]
    if len(page.objectives) < 2 or not trials:
        return None
    first, second = page.objectives[:2]
    traces = []
    for is_in, name, colour in ((False, "others", GREY), (True, "Pareto set", COLOURS[1])):
        found = [trial for trial in trials if trial.is_in_pareto_set is is_in]
        points = Scatter(x=[trial.value for trial in found], y=[trial.values[1] for trial in found], name=name)
        symbols = [SYMBOLS[trial.record.state] for trial in found]
        points.update(mode="markers", marker={"color": colour, "size": 9, "symbol": symbols}, showlegend=True)
        if is_in:
            names = [trial.name for trial in found]
            points.update(mode="markers+text", text=names, textposition="top center", cliponaxis=False)
        lines = [f"{second.metric} {value_text(trial.values[1])}" for trial in found]
        traces.append(points.update(_pointer(found, lines)))
    figure = _figure(traces, 420)
    figure.update_xaxes(title_text=escape(f"best {first.metric}"), range=_range(trial.value for trial in trials))
    figure.update_yaxes(title_text=escape(second.metric), range=_range(trial.values[1] for trial in trials))
    several = len(page.objectives) > 2
    also = f" There are {len(page.objectives)} objectives: the others are in the table." if several else ""
    return Chart(
        f"{first.metric} and {second.metric}",
        f"Each point is a trial. No other trial is better than one of the Pareto set in one objective and as good in "
        f"the others. {first.metric}: {facts.unit(first)}. {second.metric}: {facts.unit(second)}.{also}",
        (figure,),
    )


def train_loss(page: Page) -> Chart | None:
    """Draws the train loss of the best few trials."""
    trials = [trial for trial in page.trials if trial.train][:BEST_CURVES]
    if not trials:
        return None
    traces = []
    for trial, colour, dash in zip(trials, COLOURS, DASHES, strict=False):
        steps, losses = zip(*trial.train, strict=True)
        curve = Scatter(x=steps, y=losses, mode="lines" if len(steps) > 1 else "markers", name=trial.name)
        curve.update(
            line={"color": colour, "dash": dash, "width": 1.8}, showlegend=True, customdata=[trial.name] * len(steps)
        )
        text = _text(trial).replace("%", "&#37;")  # a setting may hold what plotly would replace
        traces.append(curve.update(hovertemplate=f"step %{{x}}: train_loss %{{y:.4f}}<br>{text}<extra></extra>"))
    values = [loss for trial in trials for _, loss in trial.train]
    shown, figure = _range(values), _figure(traces, 380)
    figure.update_xaxes(title_text="optimizer step")
    figure.update_yaxes(title_text="train_loss", range=shown)
    return Chart(
        f"train_loss of the best {f'{len(trials)} trials' if len(trials) > 1 else 'trial'}",
        "The loss of each step over its own batch, before the update: mean negative log-likelihood per completion "
        f"token. It varies with the rows of the batch.{_outside(shown, values)}",
        (figure,),
    )


def rungs(page: Page) -> Chart | None:
    """Draws how many trials came to each report, and what became of them there."""
    if not page.rungs:
        return None
    x = [f"step {rung.step:,}<br>{counted(rung.fates.total(), 'trial')}" for rung in page.rungs]
    traces = []
    for fate, colour in {WENT_ON: GREY, **STATES}.items():
        counts = [rung.fates[fate] or None for rung in page.rungs]
        if any(counts):
            bars = Bar(x=x, y=counts, name=fate, marker={"color": colour}, showlegend=True)
            inside = {"texttemplate": f"%{{y}} {fate}", "textposition": "inside", "insidetextanchor": "middle"}
            traces.append(bars.update(inside, hovertemplate=f"%{{x}}<br>%{{y}} {fate}<extra></extra>"))
    figure = _figure(traces, 340, barmode="stack", uniformtext={"minsize": 11, "mode": "hide"})
    figure.update_xaxes(title_text="report", type="category")
    is_low = max(rung.fates.total() for rung in page.rungs) <= MOST_TICKS
    figure.update_yaxes(title_text="trials", dtick=1 if is_low else None)
    return Chart(
        "Trials at each report",
        "The height of a bar is how many trials were evaluated at that step; of those that did not go on, colours say "
        "how they stand. Where rungs count examples, trials come to one at different steps, and the lowest is shown. "
        "Repeats are left out.",
        (figure,),
    )


def times(page: Page) -> Chart | None:
    """Draws when each trial held a slot."""
    trials = sorted((trial for trial in page.drawn if trial.slot_times), key=lambda trial: trial.record.number)
    if not trials:
        return None
    last = max(slot.until for trial in trials for slot in trial.slot_times)
    _, unit, word = next(each for each in UNITS if last >= each[0])
    traces = []
    for state, colour in STATES.items():
        spans = [(trial, slot) for trial in trials if trial.record.state == state for slot in trial.slot_times]
        if spans:
            texts = [f"in a slot for {duration(slot.until - slot.since)}" for _, slot in spans]
            bars = Bar(orientation="h", name=state, marker={"color": colour}, showlegend=True)
            bars.update(base=[slot.since / unit for _, slot in spans], y=[trial.name for trial, _ in spans])
            bars.update(x=[(slot.until - slot.since) / unit for _, slot in spans])
            traces.append(bars.update(_pointer([trial for trial, _ in spans], texts)))
    figure = _figure(traces, min(900, 160 + 18 * len(trials)), barmode="overlay")
    figure.update_xaxes(title_text=f"{word} that the sweep has run", rangemode="tozero")
    names = [trial.name for trial in trials]
    figure.update_yaxes(title_text="trial", categoryarray=names, autorange="reversed")
    return Chart(
        "When trials trained",
        "Each bar is a time for which a trial held a slot; a gap is a time for which it was parked or interrupted. "
        "Colours say how trials stand. Pauses between drivers are left out. The event log does not say on which host.",
        (figure,),
    )


def of_sweeps(objective: Objective, curves: Mapping[str, Sequence[Curve]]) -> Chart | None:
    """Draws the curves of sweeps, by name, over steps, tokens and seconds; None before the first report."""
    metric = objective.metric
    values = [point[-1] for each in curves.values() for curve in each for point in curve.points]
    if not values:
        return None
    figures = []
    for place, title in enumerate(("optimizer step", "tokens trained on", "seconds in the trial's steps")):
        traces = []
        for number, (name, each) in enumerate(curves.items()):
            look = {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)]}
            for is_compared in (False, True):
                x, y, told = [], [], []
                for curve in (curve for curve in each if curve.is_compared is is_compared):
                    x += [*(point[place] for point in curve.points), None]
                    y += [*(point[-1] for point in curve.points), None]
                    told += [f"{escape(name)} {curve.name}, step {p[0]}: {value_text(p[-1])}" for p in curve.points]
                    told.append("")
                lines = Scatter(x=x, y=y, hovertext=told, hoverinfo="text", mode="lines+markers", name=escape(name))
                lines.update(line={**look, "width": 3.5 if is_compared else 1.0}, opacity=1.0 if is_compared else 0.4)
                traces.append(lines.update(legendgroup=name, showlegend=is_compared))
        figure = _figure(traces, 420, margin={"t": 76})  # room for a long legend below the buttons
        figure.update_xaxes(title_text=title, rangemode="tozero")
        figure.update_yaxes(title_text=escape(metric), range=_range(values))
        figures.append(figure)
    return Chart(
        f"{metric} by step, tokens and seconds",
        "A point is a report of a trial; the thick line is the trial that is compared. Seconds are those of a "
        "trial's steps: the work of trials beside it, and other work on the machine, is in them."
        f"{_outside(_range(values), values)}",
        tuple(figures),
    )


def _figure(traces: Iterable[Any], height: int, **layout: Any) -> Figure:
    return Figure(list(traces), LAYOUT).update_layout(height=height, **layout)


def _split(page: Page) -> tuple[list[ChartTrial], list[ChartTrial]]:
    """Splits the trials with a finite value into those that are drawn in colour and those in grey."""
    told = [trial for trial in page.drawn if math.isfinite(trial.value)]
    return told[:MOST_LINES], told[MOST_LINES:]


def _colours(page: Page) -> dict[str, Any]:
    """Returns the colour scale of the objective over the values of most trials in colour. Dark is good."""
    shown = without_outliers(trial.value for trial in _split(page)[0]) or [0.0, 1.0]
    return {
        "cmin": shown[0],
        "cmax": shown[-1],
        "colorscale": VALUES[::-1] if page.objectives[0].mode == "max" else VALUES,
        "showscale": shown[0] < shown[-1],  # a single value needs no scale
        "colorbar": {"title": {"text": escape(f"best {page.metric}")}},
    }


def _lines(page: Page, points: Lines) -> Iterator[Scatter]:
    """Yields the lines of trials, the lowest first: grey ones, coloured ones from worst to best, the best trial."""
    coloured, others = _split(page)
    scale = _colours(page)
    if others:
        grey = {"line": {"color": GREY, "width": 0.7}, "opacity": 0.5, "hoverinfo": "skip"}
        yield _joined(others, points).update(grey, mode="lines", customdata=None, hovertext=None, marker=None)
    bins: dict[int, list[ChartTrial]] = {}
    for trial in reversed(coloured):
        share = (trial.value - scale["cmin"]) / ((scale["cmax"] - scale["cmin"]) or 1.0)
        if not trial.is_best:
            bins.setdefault(round(BINS * min(max(share, 0.0), 1.0)), []).append(trial)
    for place, trials in bins.items():
        (colour,) = sample_colorscale(scale["colorscale"], [place / BINS])
        yield _joined(trials, points).update(line={"color": colour, "width": 1.6})
    for trial in coloured:
        if trial.is_best:
            line = _joined([trial], points).update(line={"color": INK, "width": 3.5}, showlegend=True)
            yield line.update(name=f"{trial.name}, the best", marker={"color": INK, "coloraxis": None})


def _joined(trials: Sequence[ChartTrial], points: Lines) -> Scatter:
    """Joins the lines of trials in one trace, with gaps between. A page with a trace for each trial is slow."""
    x: list[float | None] = []
    y: list[float | None] = []
    each: list[ChartTrial] = []
    for trial in trials:
        across, up = points(trial)
        x += [*across, None]
        y += [*up, None]
        each += [trial] * (len(up) + 1)
    marker = {"size": 5, "color": [trial.value for trial in each], "coloraxis": "coloraxis"}
    return Scatter(x=x, y=y, mode="lines+markers", marker=marker, showlegend=False).update(_pointer(each))


def _last_points(page: Page) -> Iterator[Scatter]:
    """Yields the last reports of the trials in colour, with the symbols of their states."""
    for state, symbol in SYMBOLS.items():
        trials = [trial for trial in _split(page)[0] if trial.evals and trial.record.state == state]
        if trials:
            x, y = zip(*(trial.evals[-1] for trial in trials), strict=True)
            colours = [trial.value for trial in trials]
            marker = {"symbol": symbol, "size": 7, "color": colours, "coloraxis": "coloraxis"}
            points = Scatter(x=x, y=y, mode="markers", marker=marker, legendgroup=state, showlegend=False)
            # In the legend, plotly takes a value of the scale for a colour. So another trace stands in the legend.
            sign = {"symbol": symbol, "size": 9, "color": SOFT}
            yield Scatter(x=[None], y=[None], mode="markers", marker=sign, name=state, legendgroup=state)
            yield points.update(_pointer(trials))


def _pointer(trials: Sequence[ChartTrial], more: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns what the pointer finds at the points of trials: texts, each with a line of `more`, and names to click."""
    texts = [_text(trial, line) for trial, line in zip(trials, more or [""] * len(trials), strict=True)]
    return {"customdata": [trial.name for trial in trials], "hovertext": texts, "hoverinfo": "text"}


def _text(trial: ChartTrial, more: str = "") -> str:
    return "<br>".join(escape(line) for line in (*trial.hover_lines, more) if line)


def _left_out(page: Page) -> str:
    coloured, others = _split(page)
    words = f" The best {len(coloured)} trials are in colour, the other {len(others)} in grey." if others else ""
    missing = len(page.drawn) - len(coloured) - len(others)
    return words + (f" Not drawn: {counted(missing, 'trial')} without a finite {page.metric}." if missing else "")


def _range(values: Iterable[float]) -> tuple[float, float] | None:
    """Returns the range of an axis without values far from the others; None if there are no such values."""
    finite = [value for value in values if math.isfinite(value)]
    shown = without_outliers(finite)
    if len(shown) == len(finite):
        return None
    margin = 0.05 * (shown[-1] - shown[0])
    return shown[0] - margin, shown[-1] + margin


def _beyond(shown: tuple[float, float] | None, values: Iterable[float]) -> int:
    return sum(math.isfinite(value) and not shown[0] <= value <= shown[1] for value in values) if shown else 0


def _outside(shown: tuple[float, float] | None, values: Iterable[float]) -> str:
    beyond = _beyond(shown, values)
    words = f" Beyond the axis: {counted(beyond, 'point')} far from the others. A double click shows all."
    return words if beyond else ""
