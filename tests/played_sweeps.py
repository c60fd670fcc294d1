"""A sweep's driver without Ray Tune, which the test plays, kills included: rule, journal, searcher and scheduler."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import create_autospec, patch

from fake_actors import FakeCalls, actor
from own import scored_toy
from sweep_events import reported
from sweep_files import toy

from cluster.loop import Finalist, PackLoop
from sweeps.config.model import SweepConfig
from sweeps.record import digests
from sweeps.record.events import Event, TrialReported
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.journal import Journal
from sweeps.report.live_table import Display
from sweeps.steering.stop import StopState
from sweeps.supply.trial_source import TrialSource
from sweeps.tune import driver as sweep_driver
from sweeps.tune.sweep_trials import SweepTrials
from sweeps.tune.trial_queue import FINISHED, TrialQueue
from sweeps.tune.tune_callbacks import JournalCallback, RuleScheduler
from trainables import toy as curves
from trainables.contract import Evaluation, Failure
from trainables.objective import Objective
from trainables.specs import EvaluationSpec, TrialSpec

SPACE = {"training.learning_rate": {"loguniform": [1e-5, 1e-2], "prior": 1e-3}}


class Killed(BaseException):
    """The driver is killed."""


def sweep(trials: int = 9, searcher: dict[str, Any] | None = None, **scheduler: Any) -> SweepConfig:
    config, _ = toy(
        SPACE,
        budget={"trials": trials, "steps_per_trial": 9},
        scheduler={"grace_steps": 1, **scheduler},
        searcher=searcher or {"kind": "random"},
        seed=5,
    )
    return config


def scored(config: SweepConfig, when: Literal["last", "every", "best"]) -> SweepConfig:
    """The sweep with a score that chooses; where not each report has it, the loss stops trials."""
    scheduler = config.scheduler.model_copy(update={"metric": None if when == "every" else "eval_loss"})
    evaluation = EvaluationSpec(metrics=("exact_match",), when=when)
    objective = Objective(metric="exact_match", mode="max")
    return config.model_copy(update={"objective": objective, "evaluation": evaluation, "scheduler": scheduler})


def unexpected(line: str) -> None:
    raise AssertionError(line)


def score(finalists: tuple[Finalist, ...]) -> list[Evaluation | Failure]:
    """What a host of two slots answers."""
    loop = PackLoop(scored_toy.ScoredPack(), 2)
    try:
        return loop.evaluate_finalists(finalists).result(60)
    finally:
        loop.stop()


class Driver:
    """What the sweep's driver does with its parts, with trials that train at once and never fail."""

    def __init__(self, folder: SweepFolder, config: SweepConfig, slots: int = 1) -> None:
        self.config, self.folder = config, folder
        self.journal = Journal(folder)
        self.stop = StopState()
        self.trials = SweepTrials(config, self.journal, folder, self.stop, lambda: 1.0)
        self.released: list[str] = []
        self.callback = JournalCallback(self.trials, unexpected, lambda key, _run: self.released.append(key))
        self.scheduler = RuleScheduler(self.trials, self.callback.write)
        self.slots = slots
        self.infeasible: set[int] = set()
        self.count = 0
        """Events that this driver has written."""
        self.look: Callable[[], None] = lambda: None
        """Called between two steps of Tune: what the thread that answers requests does meanwhile."""
        self.opens: Callable[[], bool] = lambda: True
        """Whether a trial's process is there yet; others may report before it is."""
        self.fails: Callable[[], bool] = lambda: False
        """Whether a trial fails before it holds its slot."""
        self.score: Callable[[tuple[Finalist, ...]], Any] = score
        """What the broker answers when it is asked to score the finalists."""
        self.unscored: dict[str, str] = {}
        """Why the answers of trials have no score."""
        self.keeps_adapters = config.evaluation.when == "best"
        self.is_saved: Callable[[Any], bool] = lambda _trial: True
        """Whether there is room for the snapshot of a trial that reports."""

    def run(self, events_left: int = 10**6) -> None:
        """Runs to the sweep's end, or is killed after so many more events."""

        def count(_event: Event, _record: Any) -> None:
            nonlocal events_left
            events_left, self.count = events_left - 1, self.count + 1
            if events_left == 0:
                raise Killed

        self.journal.listen(count)
        queue = self.queue()
        live: list[Any] = []
        for number in range(10**4):
            self.look()
            while len(live) < self.slots:
                config = queue.suggest(str(number) + "-" + str(len(live)))
                if config is None or config == FINISHED:
                    break
                assert isinstance(config, dict)
                assert config["trial_key"] not in [trial.config["trial_key"] for trial in live]
                live.append(SimpleNamespace(trial_id=f"{number}-{len(live)}", config=config, last_result={}))
            if not live:
                assert self.callback.failure is None
                self.score_finalists()
                return
            trial = self.first_there(live)
            live.remove(trial)
            if not self.step(trial):
                queue.on_trial_complete(trial.trial_id, trial.last_result)
                self.callback.on_trial_complete(1, [], trial)
            else:
                live.append(trial)

    def score_finalists(self) -> None:
        """What follows after Tune."""
        self.display = create_autospec(Display, instance=True)
        whole = sweep_driver.Driver(self.trials, self.display, calls=FakeCalls())
        whole.score_finalists(actor(evaluate_finalists=lambda finalists: self.score(finalists)))

    def queue(self) -> TrialQueue:
        """What hands out the trials from here on."""
        self.trials.settle()
        _, space = toy(SPACE)
        source = TrialSource(self.config, space, self.journal.record)
        return TrialQueue(source, lambda _spec: {}, lambda: self.slots, self.trials)

    def first_there(self, live: list[Any]) -> Any:
        """The trial that reports next: its process is there later than its slot was given."""
        for trial in live:
            if not trial.last_result and self.opens():
                self.begin(trial)
        there = [trial for trial in live if trial.last_result]
        if not there:
            self.begin(live[0])
        return (there or live)[0]

    def begin(self, trial: Any) -> None:
        """The trial's process holds a slot, where the point is feasible."""
        known = self.journal.record.trials.get(trial.config["trial_key"])
        step = 0 if known is None else known.step
        if trial.config["number"] in self.infeasible:
            trial.last_result = {"state": "INFEASIBLE", "reason": "no such layer", "step": 0, "done": True}
            return
        if self.fails():
            trial.last_result = {"state": "FAILED", "reason": "a broken row", "step": step, "done": True}
            return
        assert self.tell(trial, {"step": step, "state": "RUNNING", "opened": True, "done": False})

    def step(self, trial: Any) -> bool:
        """The trial trains to its next report point; whether Tune would go on with it."""
        if trial.last_result["state"] in ("INFEASIBLE", "FAILED"):
            return False
        spec, before = TrialSpec.model_validate_json(trial.config["spec"]), trial.last_result["step"]
        points = self.config.scheduler.points(9)
        step = min(point for point in points if point > before)
        report = reported(trial.config["trial_key"], step, curves.loss_at(spec, step)).model_copy(
            update={"adapter": None}
        )
        if spec.is_scored_at(step) and self.unscored:
            report = report.model_copy(update={"unscored": self.unscored})
        elif spec.is_scored_at(step):
            metrics = {**report.metrics, "exact_match": scored_toy.right_answers(spec, step) / 10}
            report = report.model_copy(update={"metrics": metrics, "best_metrics": metrics})
        state = "COMPLETED" if step == points[-1] else "RUNNING"
        result = {"step": step, "state": state, "report": self.kept(report), "is_saved": self.is_saved(trial)}
        return self.tell(trial, result | {"done": step == points[-1]})

    def kept(self, report: TrialReported) -> TrialReported:
        """The report with the trial's best adapter, which is on disk where finalists are scored by it."""
        if not self.keeps_adapters:
            return report
        adapter = {"toy_adapter.json": json.dumps({"step": report.step}).encode()}
        rows = {"step": report.step, "adapter_sha256": digests.of_files(adapter), **report.metrics, "row_losses": [7.0]}
        files = {"adapter/toy_adapter.json": adapter["toy_adapter.json"], "eval_rows.json": json.dumps(rows).encode()}
        path = self.folder.keep(report.trial_key, "best", report.step, files)
        told = {"adapter": str(path.relative_to(self.folder.path)), "adapter_sha256": digests.of_files(adapter)}
        return report.model_copy(update=told)

    def tell(self, trial: Any, result: dict[str, Any]) -> bool:
        """What Tune does with a result (tune/execution/tune_controller.py, `_process_trial_result`, 2.60)."""
        goes_on = not result["done"] and self.scheduler.on_trial_result(None, trial, result) == "CONTINUE"
        self.callback.on_trial_result(1, [], trial, result)
        trial.last_result = result
        return goes_on


@contextmanager
def driver(path: Path, config: SweepConfig, slots: int = 1) -> Iterator[Driver]:
    path.mkdir(exist_ok=True)
    with patch.object(os, "fsync"):  # no machine loses its power here
        made = Driver(SweepFolder(path), config, slots)
        yield made
        made.journal.close()


def story(path: Path) -> list[tuple[str, int]]:
    """Who reported where, in order."""
    events = [event for event, _ in read_events(path / "events.jsonl")]
    return [(event.trial_key, event.step) for event in events if isinstance(event, TrialReported)]
