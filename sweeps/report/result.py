"""How a sweep ended, for people and programs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.config import bases
from sweeps.record.events import TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.selection import Selection, choose, pareto
from sweeps.record.spent import Planned, Spent, planned
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import bases_compared
from sweeps.report.best_compared import best_json, configuration
from sweeps.report.live_table import Display
from sweeps.statistics.comparison import Separation


@dataclass(frozen=True)
class MirrorEnd:
    """State of a sweep's mirror on an object store when the sweep ends."""

    uri: str
    behind: str | None
    """What the mirror lacks, in words; None if it lacks nothing, or if `lost` is set."""
    lost: str | None
    """Message that another driver has taken the sweep over; None if none has."""
    is_busy: bool
    """Whether the mirror's thread still runs."""

    @property
    def is_whole(self) -> bool:
        """Tells whether the mirror holds all of the folder, and still belongs to this driver."""
        return self.behind is None and self.lost is None


@dataclass(frozen=True)
class Result:
    """How a sweep ended."""

    sweep_id: str
    folder: Path
    record: SweepRecord
    stopped_by: int | None
    """Number of the signal that interrupted the sweep."""
    failure: str | None
    """Error that ended the sweep early. `resume` goes on after its cause is mended."""
    is_ray_left_behind: bool
    """Whether threads of this process still wait for Ray. The process must then end without them."""
    undelivered: int
    """Events that the tracking server has not taken yet."""
    are_runs_gone: bool
    """Whether the tracking server no longer has runs whose events it acknowledged."""
    refused: int
    """Events that the tracking server has refused; the next driver sends them again."""
    spent: Spent
    is_folder_gone: bool
    """Whether the sweep's folder was deleted, moved or replaced."""
    separation: Separation | None
    """Compares the best trial with the next ones; None if there is nothing to compare."""
    parent_run: str | None
    experiment_id: str | None
    run_ids: dict[str, str]
    mirror: MirrorEnd | None = None
    """None for a sweep without a mirror."""

    @property
    def selection(self) -> Selection:
        """Returns the best trial, or why there is none."""
        if self.is_folder_gone:
            return Selection(None, "none: the sweep's folder is gone, and the adapters in it")
        return choose(self.record)

    @property
    def exit_code(self) -> int:
        """Returns 128 + the signal's number after an interruption; 0 if nothing has failed or is lacking; else 1.

        A trial or the sweep may have failed. The sweep may lack a best trial or a score; MLflow and the mirror may lack
        data.
        """
        if self.stopped_by is not None and not self.is_folder_gone:
            return 128 + self.stopped_by
        failed = any(trial.state is TrialState.FAILED or trial.lacking for trial in self.record.trials.values())
        best = self.selection.winner
        is_behind = self.mirror is not None and not self.mirror.is_whole
        lacking = self.undelivered or self.refused or self.failure is not None or is_behind
        return 1 if failed or best is None or lacking else 0

    @property
    def planned(self) -> Planned | None:
        """Compares the plan with what the sweep took; see `sweeps.record.spent.planned`."""
        return planned(self.record, self.spent)

    def as_json(self) -> dict[str, Any]:
        """Returns the line that --json prints; also the Pareto set of several objectives, and several bases."""
        selection, objectives = self.selection, self.record.objectives
        best = selection.winner
        base = self.record.base if best is None else self.record.base_of(best)
        metric = self.record.judges(best).metric
        several: dict[str, Any] = {}
        known = configuration(self.record)
        if known is not None and len(own := bases.of(*known)) > 1:
            several["bases"] = bases_compared.as_json(bases_compared.found(self.record, own))
        if len(objectives) > 1 and not self.is_folder_gone:
            several["pareto"] = [
                {
                    "trial_key": trial.trial_key,
                    "run_id": self.run_ids.get(trial.trial_key),
                    "metrics": {objective.metric: trial.value(objective.metric) for objective in objectives},
                    "step": trial.best_step,
                    "params": dict(trial.params),
                }
                for trial in pareto(self.record)
            ]
        return {
            "sweep": self.sweep_id,
            "dir": str(self.folder),
            "parent_run": self.parent_run,
            "trials": len(self.record.trials),
            "states": self.record.counts(),
            "best": best_json(self.record, selection, run_id=best and self.run_ids.get(best.trial_key)),
            **several,
            "base": base and {"metric": metric, "value": base.metrics.get(metric), "rows": base.rows},
            "comparisons": self.separation and self.separation.as_json(),
            "spent": self.spent.model_dump(),
            "planned": self.planned and self.planned.model_dump(),
        }


Displays = Callable[[SweepFolder], AbstractContextManager[Display]]
"""Makes the display of a sweep once its folder is known."""
