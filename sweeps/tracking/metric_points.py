"""Turns events into metric points for MLflow. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sweeps.record.events import TrialReported, TrialScored
from sweeps.record.spent import spent
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from trainables.contract import StepRecord


class MetricPoint(NamedTuple):
    """One metric value. MLflow keeps equal points once, so all points may be sent again."""

    key: str
    value: float
    time: float
    """Seconds since the epoch."""
    step: int

    @property
    def milliseconds(self) -> int:
        """Returns the time as MLflow keeps it."""
        return int(self.time * 1000)


def metric_points(report: TrialReported) -> list[MetricPoint]:
    """Returns the metric points of a report. Its metrics come first: the UI's compare page keeps the order."""
    at = {
        **report.metrics,
        **best_of(report.best_metrics),
        "best_step": float(report.best_step),
        "steps": float(report.step),
        "trainable_params": float(report.trainable_params),
        "tokens": float(report.tokens),
        "seconds": report.seconds,
        "peak_memory_bytes": float(report.peak_memory_bytes),
    }
    if report.part is not None:
        at |= {"eval_rows": float(report.part.rows)} | {f"part_{k}": v for k, v in report.part.metrics.items()}
    points = [MetricPoint(key, value, report.evaluated_time, report.step) for key, value in at.items()]
    return points + step_points(report.history)


def best_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics at a trial's best step under their logged names."""
    return {f"best_{name}": value for name, value in metrics.items()}


def score_points(event: TrialScored, trial: TrialRecord) -> list[MetricPoint]:
    """Returns the metric points of a finalist's scores. As in a report, `best_` metrics get the trial's last step."""
    reported = dict(trial.evals).get(event.step, {})  # a metric has one value at a step
    new = {name: value for name, value in event.metrics.items() if name not in reported}
    points = [MetricPoint(name, value, event.time, event.step) for name, value in new.items()]
    best = best_of(event.metrics)
    return points + [MetricPoint(name, value, event.time, trial.step) for name, value in best.items()]


def best_points(best: TrialRecord, record: SweepRecord, time: float) -> list[MetricPoint]:
    """Returns the metrics of the best trial as points of the parent run, at the number of steps of all trials.

    MLflow shows the value of the highest step. At the trial's own step, MLflow would not show a better trial that a
    resumed sweep finds at an earlier step.
    """
    steps = sum(trial.step for trial in record.trials.values())
    return [MetricPoint(name, value, time, steps) for name, value in best_of(best.best_metrics).items()]


def end_points(history: Sequence[StepRecord]) -> list[MetricPoint]:
    """Returns the metric points of a trial that ended after its last report: its last steps, and its totals."""
    points = step_points(history)
    for last in history[-1:]:
        spent = {"steps": last.step, "tokens": last.tokens, "seconds": last.seconds}
        points += [MetricPoint(key, float(value), last.time, last.step) for key, value in spent.items()]
    return points


def final_points(trial: TrialRecord, time: float) -> list[MetricPoint]:
    """Returns the final values of an ended trial, as metric points of its last step."""
    values = {**(trial.evals[-1][1] if trial.evals else {}), **best_of(trial.best_metrics)}
    values |= {"steps": float(trial.step), "tokens": float(trial.tokens), "seconds": trial.seconds}
    if trial.best_step is not None:
        values["best_step"] = float(trial.best_step)
    return [MetricPoint(name, value, time, trial.step) for name, value in values.items()]


def step_points(history: Iterable[StepRecord]) -> list[MetricPoint]:
    """Returns the metric points of optimizer steps."""
    points = []
    for step in history:
        points += [
            MetricPoint("train_loss", step.train_loss, step.time, step.step),
            MetricPoint("learning_rate", step.learning_rate, step.time, step.step),
            MetricPoint("grad_norm", step.grad_norm, step.time, step.step),
        ]
    return points


def spent_points(record: SweepRecord, steps_per_trial: int) -> list[MetricPoint]:
    """Returns what the sweep has spent, as points of its parent run. The number of drivers so far is the step."""
    values = dict(spent(record, steps_per_trial))
    time, step = record.latest or 0.0, record.drivers
    return [MetricPoint(key, float(value), time, step) for key, value in values.items() if value is not None]
