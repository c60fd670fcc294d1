"""Turns the charts of a sweep into HTML. The only file that imports plotly."""

from __future__ import annotations

from sweeps.report.chart_parts import Figure

CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "plotlyServerURL": "",
    # Those that are named, and no others: plotly 7 has one that sends a chart's data to its maker's server.
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}


def library() -> str:
    """The source of plotly.js: the page holds it, so that it needs no network."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source


def html(figure: Figure, name: str) -> str:
    """The chart as an element of HTML whose id is `name`, for a page that holds `library`.

    Raises:
        ValueError: plotly does not know a field of it.
    """
    from plotly.graph_objects import Figure as PlotlyFigure

    made = PlotlyFigure(data=list(figure.traces), layout={**figure.layout, "template": "none"})
    # Its JSON has < and > as escapes (plotly/io/_json.py, 7.1), so no text in it can end the script.
    text: str = made.to_html(full_html=False, include_plotlyjs=False, config=CONFIG, div_id=name, default_width="100%")
    return text
