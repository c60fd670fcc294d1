"""Where a trial stands, as its process knows: what was trained, what comes next, and what is to be reported. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from cluster.loop import Outcome
from sweeps.record.snapshots import SavedTrial
from sweeps.record.sweep_record import TrialRecord
from sweeps.schedulers import next_point
from trainables.contract import Evaluation, Report, StepRecord
from trainables.objective import Objective, Standing


class LastReport(NamedTuple):
    """What the event log has of a trial."""

    step: int
    best_step: int
    best_metrics: dict[str, float] | None

    @classmethod
    def of(cls, known: TrialRecord | None) -> LastReport:
        """The last report of a trial, by its record."""
        if known is None or known.best_step is None:
            return cls(0, 0, None)
        return cls(known.reported_step, known.best_step, dict(known.best_metrics))


@dataclass(frozen=True)
class Assignment:
    """What the driver tells a process of the trial that the process gets."""

    trial_key: str
    spec: str
    points: tuple[int, ...]
    """The trial's report points, in its optimizer steps."""
    examples: Mapping[int, int]
    """Report point -> which rung the point is; empty where rungs count steps."""
    objective: Objective
    is_repeat: bool
    reported: LastReport

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Assignment:
        """The assignment in the configuration that Ray Tune passes on; see `TrialQueue.suggest`."""
        points = tuple(config["points"])
        return cls(
            trial_key=config["trial_key"],
            spec=config["spec"],
            points=points,
            examples=dict(zip(points, config.get("examples", ()), strict=False)),
            objective=Objective.model_validate(config["objective"]),
            is_repeat=config["repeats"] is not None,
            reported=LastReport(**config["reported"]),
        )


class Judged(NamedTuple):
    """What an evaluation at a report point means."""

    progress: Progress
    report: Report
    is_new: bool
    """The log does not have a report of this step."""
    is_best: bool
    """The adapter is to be kept: no earlier evaluation of the trial was as good."""


@dataclass(frozen=True)
class Progress:
    """Where a trial stands. Whatever happens to the trial gives another one."""

    assignment: Assignment
    step: int
    """The trial's last step that is safe."""
    is_unevaluated: bool
    """The trial stands at a report point that it was not evaluated at: it must not go on past it."""
    reported: int
    """The step of the last report."""
    best_step: int
    best_metrics: dict[str, float] | None
    """None before the first evaluation."""
    history: tuple[StepRecord, ...]
    """The steps since the last report."""

    @classmethod
    def of(cls, assignment: Assignment, saved: SavedTrial) -> Progress:
        """The progress of a trial that goes on from a snapshot; from an empty one, the beginning."""
        log = assignment.reported
        # A trial that goes on from before its last report keeps the best adapter that the log names, and its files.
        is_behind = saved.step <= log.step
        return cls(
            assignment,
            step=saved.step,
            is_unevaluated=saved.step in assignment.points and saved.report is None,
            reported=log.step,
            best_step=log.best_step if is_behind else saved.best_step,
            best_metrics=log.best_metrics if is_behind else saved.best_metrics,
            history=saved.history,
        )

    @property
    def best(self) -> Standing:
        """How good the best evaluation so far is."""
        return self.assignment.objective.standing(self.best_metrics)

    @property
    def known(self) -> int:
        """The last step that the process has the history of."""
        return self.history[-1].step if self.history else self.step

    @property
    def target(self) -> int:
        """The step to train to next."""
        point = self.step if self.is_unevaluated else next_point(self.assignment.points, self.step)
        assert point is not None, "a trial at its last point is not asked to train"
        return point

    def is_last(self, step: int) -> bool:
        """Whether the trial is complete at a step."""
        return step == self.assignment.points[-1]

    def with_steps(self, steps: Sequence[StepRecord]) -> Progress:
        """Takes in the steps that are new: on another host, steps since the snapshot are trained a second time."""
        return replace(self, history=(*self.history, *(step for step in steps if step.step > self.known)))

    def at(self, step: int) -> Progress:
        """The trial was saved at a step."""
        return replace(self, step=step, is_unevaluated=False)

    def told(self, report: Report) -> Progress:
        """The driver is told a report."""
        return replace(self, reported=report.step)

    def evaluated(self, outcome: Outcome, evaluation: Evaluation, trainable_params: int, now: float) -> Judged:
        """The trial was evaluated at a report point.

        Args:
            now: in seconds since the epoch.
        """
        last = self.history[-1]
        is_new = outcome.step > self.reported
        is_better = self.assignment.objective.standing(evaluation.metrics) < self.best
        is_best = is_new and is_better and outcome.adapter is not None
        progress = replace(self, history=())
        if is_best:
            progress = replace(progress, best_step=outcome.step, best_metrics=evaluation.metrics)
        assert progress.best_metrics is not None, "a trial's first evaluation is its best"
        report = Report(
            step=outcome.step,
            metrics=evaluation.metrics,
            best_step=progress.best_step,
            best_metrics=progress.best_metrics,
            history=self.history,
            tokens=last.tokens,
            seconds=last.seconds,
            peak_memory_bytes=outcome.peak_memory_bytes,
            trainable_params=trainable_params,
            time=now,
            resource=self.assignment.examples.get(outcome.step),
        )
        return Judged(progress, report, is_new, is_best)

    def saved(self, report: Report | None, adapter: str | None) -> SavedTrial:
        """What goes into the trial's snapshot, with the report of its step and the report's adapter, if any."""
        return SavedTrial(
            step=self.step,
            best_step=self.best_step,
            best_metrics=self.best_metrics,
            history=self.history,
            report=report,
            adapter=adapter,
        )
