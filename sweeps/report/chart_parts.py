"""What the charts of a sweep share: colours, symbols, lines of trials, what is told of a trial. Pure.

A trace is plotly's, as plain data. Texts in it are escaped: plotly reads some of HTML in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sweeps.planning.number_words import counted
from sweeps.report.axes import readable
from sweeps.report.page import Drawn, Page, settings

Trace = dict[str, Any]
Points = Sequence[tuple[float, float | None]]
MOST_LINES = 100
"""So many trials, the best ones, are drawn in colour; the others are thin grey lines."""
BINS = 24
"""Lines of nearly the same colour are one trace: a page with a trace for each of many trials is slow."""
VIRIDIS = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39")
"""viridis of matplotlib without its lightest end, which is hard to see on white: dark is good."""
MOST_TOLD = 1000
"""So many trials, the best ones, tell their settings when the pointer is over them: each text takes room."""
GREY = "#b8bcc4"
SOFT = "#5b6472"
INK = "#1c2330"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
"""Colours that colour-blind people tell apart (Okabe and Ito, Color Universal Design, 2008)."""
STATES = {
    "COMPLETED": ("circle", "#0072b2"),
    "STOPPED": ("x", "#e69f00"),
    "PARKED": ("triangle-right", "#56b4e9"),
    "RUNNING": ("diamond", "#009e73"),
    "PAUSED": ("square", "#999999"),
    "PENDING": ("circle-open", "#999999"),
    "DIVERGED": ("triangle-up", "#d55e00"),
    "OUT_OF_MEMORY": ("hexagon", "#cc79a7"),
    "FAILED": ("cross", "#000000"),
    "INFEASIBLE": ("square-open", "#cc79a7"),
}
"""State -> symbol and colour. The colours are of that palette too; the symbols tell the states apart without them."""


@dataclass(frozen=True)
class Figure:
    """A chart: traces and layout are plotly's, as plain data."""

    title: str
    caption: str
    """What it shows, and how to read it."""
    traces: tuple[Trace, ...]
    layout: Mapping[str, Any]


def layout(height: int, **more: Any) -> dict[str, Any]:
    """The layout of a chart of this height in pixels."""
    return {
        "height": height,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 70, "r": 30, "t": 40, "b": 60},
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"color": INK}},
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
        **more,
    }


def axis(text: str, /, **more: Any) -> dict[str, Any]:
    """An axis with its title in words."""
    ticks = {"ticks": "outside", "tickcolor": "#c4c8d0", "linecolor": "#c4c8d0", "showline": True}
    return {
        "title": {"text": escape(text), "font": {"size": 13}},
        "gridcolor": "#e6e8ec",
        "zeroline": False,
        "automargin": True,
        **ticks,
    } | more


def cut(text: str, most: int) -> str:
    """The text, its end left out where it is longer than `most` characters, and than 8."""
    return text if len(text) <= max(most, 8) else text[: max(most, 8) - 1] + "…"


def hover(drawn: Drawn, page: Page) -> str:
    """What is told of a trial when the pointer is over it."""
    trial = drawn.record
    value = f"best {page.metric} {drawn.value:.4f} at step {trial.best_step}" if math.isfinite(drawn.value) else ""
    took = f"{trial.tokens:,} tokens, {trial.seconds:.0f} s"
    took += f", {trial.trainable_params:,} trainable parameters" if trial.trainable_params else ""
    lines = [f"{drawn.name}: {trial.state} at step {trial.step}", value]
    line = ""
    for part in (f"{name} {setting[:120]}" for name, setting in settings(trial)):
        if line and len(line) + len(part) > 70:
            lines.append(line)
            line = ""
        line += f", {part}" if line else part
    return "<br>".join(escape(each) for each in [*lines, line, took if trial.step else ""] if each)


@dataclass(frozen=True)
class Colours:
    """The colour of a value of the objective: dark is good."""

    low: float
    high: float
    is_max: bool

    @classmethod
    def of(cls, page: Page) -> Colours:
        """Those of a page, over the values that most of the trials in colour have."""
        coloured, _ = split(page)
        low, high = readable(trial.value for trial in coloured) or (0.0, 1.0)
        inside = [trial.value for trial in coloured if low <= trial.value <= high] or [low, high]
        return cls(min(inside), max(inside), page.objectives[0].mode == "max")

    def bin(self, value: float) -> int:
        """Which of the `BINS` colours the value has."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return min(BINS - 1, int(min(max(share, 0.0), 1.0) * BINS))

    @property
    def scale(self) -> list[list[Any]]:
        """Plotly's form of the colours, from low to high."""
        colours = VIRIDIS[::-1] if self.is_max else VIRIDIS
        return [[place / (len(colours) - 1), colour] for place, colour in enumerate(colours)]

    def of_bin(self, place: int) -> str:
        """The colour of a bin."""
        colours = VIRIDIS[::-1] if self.is_max else VIRIDIS
        at = (place + 0.5) / BINS * (len(colours) - 1)
        first, share = min(int(at), len(colours) - 2), at - min(int(at), len(colours) - 2)
        pairs = [(int(colours[first][at : at + 2], 16), int(colours[first + 1][at : at + 2], 16)) for at in (1, 3, 5)]
        return "#" + "".join(f"{round(before + share * (after - before)):02x}" for before, after in pairs)

    def bar(self, metric: str) -> Trace:
        """A trace without points that brings the bar of colours."""
        marker = {
            "color": [self.low, self.high],
            "cmin": self.low,
            "cmax": self.high,
            "colorscale": self.scale,
            "showscale": self.high > self.low,  # of one value there is nothing to compare
            "colorbar": {
                "title": {"text": escape(f"best {metric}"), "side": "right", "font": {"size": 13}},
                "thickness": 12,
                "len": 0.95,
            },
        }
        empty = [None, None]
        return scatter(empty, empty, mode="markers", marker=marker, hoverinfo="skip")


def scatter(x: Sequence[Any], y: Sequence[Any], **more: Any) -> Trace:
    """A trace of points or lines in SVG, which print shows, and machines without a GPU."""
    return {"type": "scatter", "x": list(x), "y": list(y), "showlegend": False, **more}


def state_legend(page: Page) -> Iterator[Trace]:
    """The symbols of the states that occur, for the legend."""
    there = {trial.record.state for trial in page.trials}
    for state, (symbol, _) in STATES.items():
        if state in there:
            marker = {"symbol": symbol, "color": SOFT, "size": 9}
            yield scatter([None], [None], mode="markers", marker=marker, name=state) | {"showlegend": True}


def told_of(page: Page) -> dict[int, str]:
    """Number of a trial -> what is told of it, for the best `MOST_TOLD`."""
    return {trial.record.number: hover(trial, page) for trial in page.trials[:MOST_TOLD]}


def split(page: Page) -> tuple[list[Drawn], list[Drawn]]:
    """The trials with a value that are drawn in colour, and the others."""
    told = [trial for trial in page.trials if math.isfinite(trial.value)]
    return told[:MOST_LINES], told[MOST_LINES:]


def left_out(page: Page) -> str:
    """What the lines of trials do not show, in words."""
    coloured, others = split(page)
    words = f" The best {len(coloured)} trials are in colour, the other {len(others)} in grey." if others else ""
    missing = [trial.record for trial in page.trials if not math.isfinite(trial.value)]
    waiting = [trial for trial in missing if not trial.state.is_final and not trial.step]
    without = f"without a finite {page.metric}"
    for those, of_one, of_more in (
        (len(waiting), "that has not reported yet", "that have not reported yet"),
        (len(missing) - len(waiting), without, without),
    ):
        if those:
            words += f" {counted(those, 'trial')} {f'{of_one} is' if those == 1 else f'{of_more} are'} not drawn."
    return words


def outside(span: tuple[float, float] | None, values: Sequence[float]) -> str:
    """How many values an axis leaves out, in words."""
    beyond = sum(not span[0] <= value <= span[1] for value in values if math.isfinite(value)) if span else 0
    if not beyond:
        return ""
    are = "lies" if beyond == 1 else "lie"
    return f" {counted(beyond, 'point')} far from the others {are} beyond the axis: a double click shows all."


def trial_lines(page: Page, points: Callable[[Drawn], Points], ends: bool = False) -> Iterator[Trace]:
    """A line for each trial: grey ones, then those in colour, the best one on top; symbols at `ends` tell states."""
    colours = Colours.of(page)
    coloured, others = split(page)
    if others:
        x, y, _ = _joined(page, others, points)
        line = {"color": GREY, "width": 0.7}
        yield scatter(x, y, mode="lines", line=line, opacity=0.5, hoverinfo="skip")
    bins: dict[int, list[Drawn]] = {}
    for trial in coloured:
        if not trial.is_best:
            bins.setdefault(colours.bin(trial.value), []).append(trial)
    groups = [(bins[place], colours.of_bin(place), 1.6) for place in sorted(bins, reverse=not colours.is_max)]
    groups += [([trial], INK, 3.5) for trial in coloured if trial.is_best]
    for trials, colour, width in groups:
        x, y, told = _joined(page, trials, points)
        symbols = [symbol for trial in trials for symbol in _symbols(trial, len(points(trial)))]
        marker = {"color": colour, "size": 9 if ends else 5, "symbol": symbols if ends else "circle"}
        more: dict[str, Any] = {"line": {"color": colour, "width": width}, "marker": marker}
        if width > 2:
            more |= {"name": f"{trials[0].name}, the best", "showlegend": True}
        yield scatter(x, y, mode="lines+markers", hovertext=told, hoverinfo="text") | more


def _joined(
    page: Page, trials: Sequence[Drawn], points: Callable[[Drawn], Points]
) -> tuple[list[float | None], list[float | None], list[str]]:
    """The lines of trials as one, with a gap after each."""
    x: list[float | None] = []
    y: list[float | None] = []
    told: list[str] = []
    for trial in trials:
        found = points(trial)
        x += [*(point[0] for point in found), None]
        y += [*(point[1] for point in found), None]
        told += [hover(trial, page)] * len(found) + [""]
    return x, y, told


def _symbols(trial: Drawn, count: int) -> list[str]:
    """The symbols of a trial's points and of the gap after them: the last point tells the state."""
    return ["circle"] * (count - 1) + [STATES[trial.record.state][0]] * min(count, 1) + ["circle"]
