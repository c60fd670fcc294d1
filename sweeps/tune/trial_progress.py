"""The progress of a trial: steps trained, the next step to reach, and reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from cluster.loop import Judged, Outcome
from sweeps.record.events import EvaluatedPart, TrialReported
from sweeps.record.snapshots import SavedTrial
from sweeps.record.sweep_record import TrialRecord
from sweeps.schedulers import next_point
from trainables.contract import Evaluation, RowsDue, StepRecord
from trainables.objective import Objective, SortKey


class LastReport(NamedTuple):
    """The last report of a trial in the event log."""

    step: int
    best_step: int
    best_metrics: dict[str, float] | None

    @classmethod
    def of(cls, known: TrialRecord | None) -> LastReport:
        """Returns the last report of a trial, by the trial's record."""
        if known is None or known.best_step is None:
            return cls(0, 0, None)
        return cls(known.reported_step, known.best_step, dict(known.best_metrics))


@dataclass(frozen=True)
class Progress:
    """The progress of a trial. Each event of the trial gives a new `Progress`."""

    trial_key: str
    points: tuple[int, ...]
    """The trial's report points, in its optimizer steps."""
    examples: Mapping[int, int]
    """Report point -> its rung in examples; empty if rungs count steps."""
    objective: Objective
    step: int
    """The step of the trial's last snapshot."""
    is_unevaluated: bool
    """Whether the trial stands at a report point and must be evaluated before it trains on."""
    reported: int
    """The step of the last report."""
    best_step: int
    best_metrics: dict[str, float] | None
    """None before the first evaluation."""
    history: tuple[StepRecord, ...]
    """Steps since the last report."""
    rows: Mapping[int, int | None]
    """Report point -> evaluation rows on which the trials are ranked there; None stands for all."""
    has_all_rows: bool
    """Whether the trial is evaluated on all rows at each report point."""

    @classmethod
    def of(cls, config: Mapping[str, Any], log: LastReport, saved: SavedTrial) -> Progress:
        """Returns the progress of a trial that goes on from a snapshot; an empty snapshot is the beginning.

        Args:
            config: the trial's configuration in Tune; see `TrialQueue.suggest`.
            log: the last report that Tune has.
        """
        points = tuple(config["points"])
        # If the snapshot is older than the last report, the best adapter is the one that the log names.
        is_behind = saved.step <= log.step
        return cls(
            config["trial_key"],
            points,
            examples=dict(zip(points, config.get("examples", ()), strict=False)),
            objective=Objective.model_validate(config["objective"]),
            step=saved.step,
            is_unevaluated=saved.step in points and saved.report is None,
            reported=log.step,
            best_step=log.best_step if is_behind else saved.best_step,
            best_metrics=log.best_metrics if is_behind else saved.best_metrics,
            history=saved.history,
            rows=dict(zip(points, config.get("rows", ()), strict=False)),
            has_all_rows=config.get("has_all_rows", False),
        )

    def judged(self, step: int) -> Judged:
        """Returns how the evaluation at a report point is judged."""
        rung, of_best = self.rows.get(step), self.rows.get(self.best_step)
        return Judged(self.objective, RowsDue(None, None, rung) if self.has_all_rows else RowsDue(rung, of_best))

    @property
    def best(self) -> SortKey:
        """Returns the sort key of the best evaluation so far."""
        return self.objective.sort_key(self.best_metrics)

    @property
    def known(self) -> int:
        """Returns the last step of which there is a record."""
        return self.history[-1].step if self.history else self.step

    @property
    def target(self) -> int:
        """Returns the step to train to next."""
        point = self.step if self.is_unevaluated else next_point(self.points, self.step)
        assert point is not None, "a trial at its last point is not asked to train"
        return point

    def is_last(self, step: int) -> bool:
        """Tells whether the trial is complete at this step."""
        return step == self.points[-1]

    def with_steps(self, steps: Sequence[StepRecord]) -> Progress:
        """Adds the steps that are new. A new host trains the steps since the snapshot a second time."""
        return replace(self, history=(*self.history, *(step for step in steps if step.step > self.known)))

    def after_snapshot(self, step: int) -> Progress:
        """Returns the progress after a snapshot at this step."""
        return replace(self, step=step, is_unevaluated=False)

    def after_report(self, report: TrialReported) -> Progress:
        """Returns the progress after this report; an older report, told again, changes nothing that the log names."""
        return replace(self, reported=max(self.reported, report.step))

    def evaluated(
        self, outcome: Outcome, evaluation: Evaluation, trainable_params: int, now: float
    ) -> tuple[Progress, TrialReported]:
        """Returns progress and report after an evaluation at a report point; `now` is seconds since the epoch.

        The adapter is to be kept if the report's best step is the outcome's.
        """
        last, due = self.history[-1], self.judged(outcome.step).rows
        is_better = self.objective.sort_key(evaluation.beside(due.of_best)) < self.best
        progress = replace(self, history=())
        if outcome.step > self.reported and is_better and outcome.has_adapter:
            progress = replace(progress, best_step=outcome.step, best_metrics=evaluation.metrics)
        assert progress.best_metrics is not None, "a trial's first evaluation is its best"
        report = TrialReported(
            time=now,
            trial_key=self.trial_key,
            step=outcome.step,
            metrics=evaluation.metrics,
            best_step=progress.best_step,
            best_metrics=progress.best_metrics,
            history=self.history,
            tokens=last.tokens,
            seconds=last.seconds,
            peak_memory_bytes=outcome.peak_memory_bytes,
            trainable_params=trainable_params,
            evaluated_time=now,
            resource=self.examples.get(outcome.step),
            unscored=dict(evaluation.unscored),
            part=EvaluatedPart(rows=len(evaluation.places), metrics=dict(evaluation.raw)) if evaluation.raw else None,
            at_rung=dict(evaluation.beside(due.of_rung)) if due.of_rung is not None else None,
        )
        return progress, report

    def saved(self, report: TrialReported | None) -> SavedTrial:
        """Returns the state for the trial's snapshot, with the report at its step, if any."""
        return SavedTrial(
            step=self.step,
            best_step=self.best_step,
            best_metrics=self.best_metrics,
            history=self.history,
            report=report,
        )
