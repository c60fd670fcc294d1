"""Writes each event to MLflow: one parent run per sweep, one child run per trial."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sweeps.config import bases
from sweeps.config.model import SweepConfig
from sweeps.config.points import ALWAYS_LOGGED, param, settings
from sweeps.record import digests, samples
from sweeps.record.events import (
    BaseEvaluated,
    DataPrepared,
    Event,
    SweepEnded,
    SweepStarted,
    TrialEnded,
    TrialParked,
    TrialReported,
    TrialScored,
    TrialStarted,
    TrialState,
)
from sweeps.record.folder import SweepFolder, noted_by
from sweeps.record.run_names import label, short_run_name, sweep_run_name
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report.answers import best_against_base
from sweeps.statistics.trials import compare_best
from sweeps.tracking import run_tags
from sweeps.tracking.client import Runs
from sweeps.tracking.metric_points import (
    MetricPoint,
    best_points,
    end_points,
    final_points,
    metric_points,
    score_points,
    spent_points,
)
from sweeps.tracking.views import TAG_PREFIX, shared_view
from trainables.specs import TrialSpec

_STATUS = {TrialState.COMPLETED: "FINISHED", TrialState.STOPPED: "FINISHED", TrialState.PAUSED: "KILLED"}
_SWEEP_STATUS = {"finished": "FINISHED", "budget": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class RunsGone(Exception):  # noqa: N818 - reads as what happened
    """MLflow lost runs whose events it acknowledged, for example with its database. The message names the runs."""


class MlflowSink:
    """Writes events to MLflow, in order. Each event may come twice."""

    def __init__(
        self, config: SweepConfig, sweep_id: str, folder: SweepFolder, say: Callable[[str], None] = lambda _line: None
    ) -> None:
        self._config = config
        self._sweep_id = sweep_id
        self._folder = folder
        self._say = say
        self._runs: Runs | None = None
        self.experiment_id: str | None = noted_by(folder).get("experiment_id")
        self.parent_run: str | None = None
        """`experiment_id` and `parent_run` are ids in MLflow; None until they are known."""
        self.run_ids: dict[str, str] = {}
        """Trial key -> run id."""

    def attach(self, record: SweepRecord) -> None:
        """Finds the runs of a sweep of which MLflow acknowledged `record`. Raises `RunsGone` if one is missing."""
        self._connect()
        if self.parent_run is None:
            raise RunsGone("the sweep's run")
        for trial in record.trials.values():
            if trial.trial_key not in self.run_ids and trial.state is not TrialState.INFEASIBLE:
                raise RunsGone(f"the run of {label(trial.number)}")

    def apply(self, event: Event, record: SweepRecord) -> None:
        """Writes an event to MLflow, or raises; `record` is the sweep after the event.

        An infeasible point never trains: it has a row in the parent's note, and no run.
        """
        runs = self._connect()
        parent = self._open_parent(runs, record.started or event.time)
        match event:
            case SweepStarted():
                self._start_sweep(runs, parent, event)
            case DataPrepared():
                self._data(runs, parent, event.summary)
            case BaseEvaluated():
                self._base(runs, parent, event)
            case TrialStarted():
                self._start_trial(runs, parent, event, record)
            case TrialReported():
                run_id = self._open_child(runs, event.trial_key, record, event.time)
                runs.log(run_id, metric_points(event))
            case TrialScored():
                self._score_trial(runs, event, record)
            case TrialParked():
                self._park_trial(runs, event, record)
            case TrialEnded():
                self._end_trial(runs, event, record)
            case SweepEnded():
                self._end_sweep(runs, parent, event, record)

    def forget(self) -> None:
        """Forgets the runs, so that the next event looks for them: after an error a run may be gone."""
        self._runs = self.parent_run = None
        self.run_ids.clear()

    def _connect(self) -> Runs:
        """Finds the sweep's runs by their tags at the first call: new runs are then made without a search."""
        if self._runs is None:
            config = self._config
            runs = Runs(config.tracking.uri, config.experiment, self._sweep_id, self.experiment_id)
            found = {key: run.info.run_id for key, run in runs.of_sweep().items()}
            self.experiment_id, self.parent_run = runs.experiment_id, found.get(None)
            self.run_ids = {key: run_id for key, run_id in found.items() if key is not None}
            self._runs = runs
        return self._runs

    def _open_parent(self, runs: Runs, time: float) -> str:
        if self.parent_run is None:
            name = self._config.name
            shown = sweep_run_name(name, self._sweep_id)
            self.parent_run = runs.create(shown, run_tags.sweep_made(self._sweep_id, self._config), time)
        return self.parent_run

    def _start_sweep(self, runs: Runs, parent: str, event: SweepStarted) -> None:
        config = self._config
        params: dict[str, object] = {
            "trainable": config.trainable,
            "trials": config.budget.count,
            "steps_per_trial": config.budget.steps_per_trial,
            "scheduler": config.scheduler.kind,
            "searcher": config.searcher.kind,
            "seed": config.seed,
        }
        if config.model is not None:
            params["base_model"] = config.model.source
            params |= {} if bases.are_searched(config) else {"quantization": config.quantization.scheme}
        runs.running(parent)
        runs.log(parent, params=params, tags=run_tags.sweep_started(event))
        runs.text(parent, "sweep/config.json", self._folder.config.read_text(encoding="utf-8"))
        # alpha_over_r follows from r and lora_alpha, which are always there.
        searched = [field for field in config.searched if field != "adapter.alpha_over_r"]
        shown = [*ALWAYS_LOGGED, *map(param, searched)]
        view = shared_view(
            self._folder.path.name, parent, list(dict.fromkeys(shown)), event.objectives()[0], event.time
        )
        runs.experiment_tag(TAG_PREFIX + self._sweep_id, view)

    def _data(self, runs: Runs, parent: str, summary: Mapping[str, Any]) -> None:
        runs.log(parent, tags=run_tags.data_prepared(summary))
        data = self._config.data
        if data is not None:
            source = json.dumps({"train": data.train, "eval": data.eval, "test": data.test})
            runs.dataset(parent, self._config.name, str(summary["fingerprint"]), json.dumps(dict(summary)), source)

    def _base(self, runs: Runs, parent: str, event: BaseEvaluated) -> None:
        if event.base in ("", self._config.base.base_name):  # a run has one value of each metric
            points = [MetricPoint(f"base_{name}", value, event.time, 0) for name, value in event.metrics.items()]
            runs.log(parent, points)
        for file in self._folder.of_base(event.base):
            if file.exists():
                runs.text(parent, file.name, file.read_text(encoding="utf-8"))

    def _open_child(self, runs: Runs, trial_key: str, record: SweepRecord, time: float) -> str:
        if trial_key not in self.run_ids:
            trial = record.trials[trial_key]
            tags = run_tags.trial_made(self._sweep_id, trial_key, str(self.parent_run))
            self.run_ids[trial_key] = runs.create(short_run_name(trial.number, trial.params), tags, time)
        return self.run_ids[trial_key]

    def _start_trial(self, runs: Runs, parent: str, event: TrialStarted, record: SweepRecord) -> None:
        known = self.run_ids.get(event.trial_key)
        if known is not None:
            runs.running(known)  # An earlier driver may have ended it.
        run_id = self._open_child(runs, event.trial_key, record, event.time)
        # What people compare comes first: a run's page keeps the order.
        params = {**event.params, **settings(TrialSpec.model_validate_json(event.spec)), **event.params}
        runs.log(run_id, params=params, tags=run_tags.trial_started(event, parent))
        runs.text(run_id, "trial.json", json.dumps(json.loads(event.spec), indent=2))

    def _park_trial(self, runs: Runs, event: TrialParked, record: SweepRecord) -> None:
        """Keeps the run of a parked trial running, with a tag that the trial waits."""
        run_id = self._open_child(runs, event.trial_key, record, event.time)
        runs.running(run_id)
        trial = record.trials[event.trial_key]
        runs.log(run_id, tags=run_tags.trial_waits_or_ended(trial, record.objective.metric))

    def _end_trial(self, runs: Runs, event: TrialEnded, record: SweepRecord) -> None:
        trial = record.trials[event.trial_key]
        run_id = self._open_child(runs, event.trial_key, record, event.time)
        tags = run_tags.trial_waits_or_ended(trial, record.objective.metric)
        runs.log(run_id, end_points(event.history), tags=tags)
        if trial.state.is_final:
            # A lost machine may have trained the trial further.
            runs.show(run_id, final_points(trial, event.time))
        status = "KILLED" if event.by_person_or_budget else _STATUS.get(event.state, "FAILED")
        runs.finish(run_id, status, event.time)
        # The upload comes last: a lost adapter must not leave the run RUNNING.
        self._upload(runs, run_id, trial)

    def _upload(self, runs: Runs, run_id: str, trial: TrialRecord) -> None:
        """Uploads the trial's best adapter, unless its files differ from those that the trial wrote."""
        if trial.adapter is None:
            return
        folder, written = self._folder.path / trial.adapter, trial.adapter_sha256
        if not folder.is_dir() and any(path > folder for path in self._folder.all(trial.trial_key, "best")):
            # The trial has gone on since this interruption: its later end uploads its best adapter.
            return
        # If the folder is gone now, the trial has replaced it by a better one since.
        if written is not None and digests.of_folder(folder / "adapter") != written and folder.is_dir():
            why = "its files are not those that the trial wrote"
            self._say(f"tracking: {folder}: {why}: the adapter is not uploaded")
            runs.log(run_id, tags=run_tags.adapter_refused(why))
            return
        runs.folder(run_id, folder)
        if written is not None:
            rows = digests.of_file(folder / "eval_rows.json")
            runs.log(run_id, tags=run_tags.adapter_uploaded(written, rows))

    def _score_trial(self, runs: Runs, event: TrialScored, record: SweepRecord) -> None:
        """Writes the scores of a finalist, and the files that scoring changed."""
        trial = record.trials[event.trial_key]
        run_id = self._open_child(runs, event.trial_key, record, event.time)
        tags = run_tags.trial_waits_or_ended(trial, record.objective.metric)
        folder = self._folder.path / str(trial.adapter)
        for path in (folder / "eval_rows.json", folder / samples.OF_TRIAL):
            if path.exists():  # else the trial has gone on to a better step
                runs.text(run_id, path.name, path.read_text(encoding="utf-8"))
                tags |= {run_tags.EVAL_ROWS_SHA256: digests.of_file(path)} if path.suffix == ".json" else {}
        runs.log(run_id, score_points(event, trial), tags=tags)

    def _end_sweep(self, runs: Runs, parent: str, event: SweepEnded, record: SweepRecord) -> None:
        selection = choose(record)
        best, best_run = selection.winner, None
        points = spent_points(record, self._config.budget.steps_per_trial)
        if best is not None:
            best_run = self._open_child(runs, best.trial_key, record, event.time)
            points += best_points(best, record, event.time)
        differing = best_against_base(self._folder, record, best)
        if differing is not None:
            runs.text(parent, run_tags.ANSWERS, json.dumps(differing.table(), ensure_ascii=False))
            runs.log(parent, tags=run_tags.TABLES)
        self._end_runs(runs, parent, record, event.time)
        separation = compare_best(self._folder, record)
        runs.log(parent, points, tags=run_tags.sweep_ended(event, record, selection, separation, best_run))
        runs.finish(parent, _SWEEP_STATUS[event.reason], event.time)

    def _end_runs(self, runs: Runs, parent: str, record: SweepRecord, time: float) -> None:
        """Leaves one run of each trial, and ends the runs that MLflow did not end."""
        for key, run in runs.of_sweep([parent, *self.run_ids.values()]).items():
            trial = None if key is None else record.trials.get(key)
            if trial is None and key is not None:
                # The log lost the trial's beginning with a machine: the sweep has no such trial.
                runs.log(run.info.run_id, tags=run_tags.trial_lost())
                runs.finish(run.info.run_id, "KILLED", time)
            elif trial is not None and run.info.status == "RUNNING":
                runs.finish(run.info.run_id, _STATUS.get(trial.state, "FAILED"), time)
