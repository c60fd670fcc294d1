"""What the plan warns of in `searcher.points`: that some of them are never tried. Pure."""

from __future__ import annotations

from search_spaces.space import SearchSpace
from sweeps.config import points
from sweeps.config.model import SweepConfig


def warnings(config: SweepConfig, space: SearchSpace) -> list[str]:
    """A line where points are listed twice, and one where budget.trials is used up before them.

    Args:
        config: a sweep whose budget.trials is a number.
    """
    listed, first = len(config.searcher.points), config.searcher.start_with_default
    beginning = points.beginning(config, space)
    different = len({points.seed(config.seed, point) for point in beginning})
    repeated, beyond = len(beginning) - different, different - config.budget.count
    told = []
    if repeated > 0:
        others = "others or the default configuration" if first else "others"
        told.append(f"searcher.points: {repeated} of {listed} repeat {others}, and equal points run once: remove them")
    if listed and beyond > 0:
        counted = ", which counts the default configuration too" if first else ""
        told.append(
            f"searcher.points: {beyond} of {listed} are beyond budget.trials {config.budget.count}{counted}, and are "
            f"never tried: raise budget.trials to {different}, or list fewer points"
        )
    return told
