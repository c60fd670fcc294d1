"""How a sweep ended, as people and programs are told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.record.events import TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.selection import Selection, choose, pareto
from sweeps.record.spent import Planned, Spent, planned
from sweeps.record.sweep_record import SweepRecord
from sweeps.report.best_compared import best_json
from sweeps.report.live_table import Display
from sweeps.statistics.comparison import Separation


@dataclass(frozen=True)
class MirrorEnd:
    """How the mirror of a sweep's folder on an object store stands when the sweep ends."""

    uri: str
    behind: str | None
    """What the mirror lacks, in words; None when it is whole."""
    lost: str | None
    """That another driver has taken the sweep over; None when none has."""
    is_busy: bool
    """Whether a thread still waits for the store."""

    @property
    def is_whole(self) -> bool:
        """Whether the mirror holds all of the folder, and is this driver's."""
        return self.behind is None and self.lost is None


@dataclass(frozen=True)
class Result:
    """How a sweep ended."""

    sweep_id: str
    folder: Path
    record: SweepRecord
    stopped_by: int | None
    """The signal that interrupted the sweep."""
    failure: str | None
    """What ended the sweep before its time; `resume` goes on once it is mended."""
    is_ray_left_behind: bool
    """Whether threads of this process still wait for Ray, so that it must end without them."""
    undelivered: int
    """Events that the tracking server has not taken yet."""
    are_runs_gone: bool
    """Whether the tracking server no longer has runs that it has acknowledged events of."""
    refused: int
    """Events that the tracking server refuses for good."""
    spent: Spent
    is_folder_gone: bool
    """Whether the sweep's folder was deleted, moved or replaced."""
    separation: Separation | None
    """The best trial against the next ones; None when there is nothing to compare."""
    parent_run: str | None
    experiment_id: str | None
    run_ids: dict[str, str]
    mirror: MirrorEnd | None = None
    """None for a sweep without one."""

    @property
    def selection(self) -> Selection:
        """The best trial, or why there is none."""
        if self.is_folder_gone:
            return Selection(None, "none: the sweep's folder is gone, and the adapters in it")
        return choose(self.record.trials.values(), self.record.objective)

    @property
    def exit_code(self) -> int:
        """0 with a best trial and none FAILED; 130 and its like when interrupted; 1 otherwise."""
        if self.stopped_by is not None and not self.is_folder_gone:
            return 128 + self.stopped_by
        failed = any(trial.state is TrialState.FAILED for trial in self.record.trials.values())
        best = self.selection.winner
        is_behind = self.mirror is not None and not self.mirror.is_whole
        lacking = self.undelivered or self.refused or self.failure is not None or is_behind
        return 1 if failed or best is None or lacking else 0

    @property
    def planned(self) -> Planned | None:
        """The plan against what came of it; None when nobody planned the sweep."""
        return planned(self.record, self.spent)

    def as_json(self) -> dict[str, Any]:
        """The line that --json prints; with several objectives, also the trials of the Pareto set."""
        best, base, objectives = self.selection.winner, self.record.base, self.record.objectives
        metric = self.record.judges(best).metric
        several: dict[str, Any] = {}
        if len(objectives) > 1 and not self.is_folder_gone:
            several["pareto"] = [
                {
                    "trial_key": trial.trial_key,
                    "run_id": self.run_ids.get(trial.trial_key),
                    "metrics": {objective.metric: trial.value(objective.metric) for objective in objectives},
                    "step": trial.best_step,
                    "params": dict(trial.params),
                }
                for trial in pareto(self.record.trials.values(), objectives)
            ]
        return {
            "sweep": self.sweep_id,
            "dir": str(self.folder),
            "parent_run": self.parent_run,
            "trials": len(self.record.trials),
            "states": self.record.counts(),
            "best": best and best_json(self.record, best, run_id=self.run_ids.get(best.trial_key)),
            **several,
            "base": base and {"metric": metric, "value": base.metrics.get(metric), "rows": base.rows},
            "comparisons": self.separation and self.separation.as_json(),
            "spent": self.spent.as_json(),
            "planned": self.planned and self.planned.as_json(),
        }


Displays = Callable[[SweepFolder], AbstractContextManager[Display]]
"""Makes the display of a sweep once its folder is known."""
