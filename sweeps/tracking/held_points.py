"""Metric points, and which of them MLflow holds already from a driver whose last events are lost.

A sweep that goes on from its mirror trains the last steps of the lost machine again, and MLflow may have taken their
points before. It takes two points for one only where their times are the same too, so these steps would stand there
twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

MEASURED = frozenset({"seconds", "peak_memory_bytes"})
"""Metrics that say what the machine took: they differ when the same step is trained again."""


class MetricPoint(NamedTuple):
    """One metric value. Equal points are stored once by MLflow."""

    key: str
    value: float
    time: float
    """Seconds since the epoch."""
    step: int

    @property
    def milliseconds(self) -> int:
        """The time as MLflow keeps it."""
        return int(self.time * 1000)


class HeldPoints:
    """What MLflow holds of the runs that it already had when they were looked for."""

    def __init__(self, history: Callable[[str, str], Iterable[Any]]) -> None:
        """Nothing is known of any run yet; `history` gives all of MLflow's points of a run and a metric."""
        self._history = history
        self._latest: dict[tuple[str, str], tuple[int, int, float]] = {}
        """Run id and metric -> step, time and value of the point with the highest step, which MLflow shows."""
        self._held: dict[tuple[str, str], dict[int, float]] = {}
        """Run id and metric -> step -> the value that MLflow took last for it."""

    def found(self, run: Any) -> None:
        """This is a run of MLflow's, with what it has now."""
        # `RunData.metrics` leaves out steps and times (mlflow/entities/run_data.py, 3.17.2).
        for metric in run.data.to_proto().metrics:
            self._latest[run.info.run_id, metric.key] = metric.step, metric.timestamp, metric.value
            self._held.pop((run.info.run_id, metric.key), None)

    def without_held(self, run_id: str, points: Sequence[MetricPoint]) -> list[MetricPoint]:
        """The points, without those of steps that MLflow holds with the same value and another time."""
        return [point for point in points if not self._is_held(run_id, point)]

    def behind(self, run_id: str, points: Sequence[MetricPoint]) -> list[MetricPoint]:
        """The points behind which MLflow holds later ones of other values, moved to where MLflow shows them.

        MLflow shows the value of the highest step, and of those of one step the latest.
        """
        moved = []
        for point in points:
            step, time, value = self._latest.get((run_id, point.key), (-1, 0, math.nan))
            if step > point.step and not _same(value, point.value):
                moved.append(point._replace(step=step, time=max(point.time, (time + 1) / 1000)))
        return moved

    def _is_held(self, run_id: str, point: MetricPoint) -> bool:
        step, time, _ = self._latest.get((run_id, point.key), (-1, 0, math.nan))
        # An event that is sent again is no later than what MLflow has: the same point is no second one. Only a step
        # that was trained again is, and the history is asked for only then: that takes a request for each metric.
        if point.step > step or point.milliseconds <= time:
            return False
        value = self._values(run_id, point.key).get(point.step)
        return value is not None and (point.key in MEASURED or _same(value, point.value))

    def _values(self, run_id: str, key: str) -> dict[int, float]:
        held = self._held.get((run_id, key))
        if held is None:
            in_order = sorted(self._history(run_id, key), key=lambda metric: metric.timestamp)
            held = self._held[run_id, key] = {metric.step: metric.value for metric in in_order}
        return held


def _same(held: float, value: float) -> bool:
    # As `lost_runs` compares: a value that it would miss is written.
    return math.isclose(held, value, rel_tol=1e-9) or (math.isnan(held) and math.isnan(value))
