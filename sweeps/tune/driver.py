"""Runs a sweep on Ray Tune: starts hosts, runs trials, and writes into the event log how each trial ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster import broker as brokers
from cluster.broker_answers import Ready
from cluster.hosts import PROCESS_LOST, HostOptions, SlotLimits
from search_spaces.space import SearchSpace
from sweeps import timeouts
from sweeps.config import bases, resource
from sweeps.config.model import SweepConfig, size_bytes
from sweeps.errors import ConfigError, StorageError
from sweeps.record import samples
from sweeps.record.events import BaseEvaluated, DataPrepared, PathSettled, SweepEnded, TrialState
from sweeps.record.folder import writing
from sweeps.record.journal import Journal
from sweeps.record.whole_files import write_whole
from sweeps.report.live_table import Display
from sweeps.steering.stop import StopState
from sweeps.supply import target_modules
from sweeps.supply.target_modules import Targets
from sweeps.supply.trial_source import TrialSource, refused_default
from sweeps.tune import experiment
from sweeps.tune.active_trial import ActiveTrial
from sweeps.tune.actor_calls import RAY, Calls
from sweeps.tune.finalists import FinalistScoring
from sweeps.tune.host_news import BaseEvaluation, HostBases, HostCount, StartedHosts, StartingBroker, hosts_started
from sweeps.tune.sweep_trials import SweepTrials
from sweeps.tune.trial_queue import TrialQueue, room_anywhere
from sweeps.tune.tune_callbacks import JournalCallback
from sweeps.tune.watch import Watch
from trainables.contract import Evaluation, Failure
from trainables.engine_paths import EnginePath
from trainables.errors import GradingError
from trainables.specs import TrialSpec


@dataclass(frozen=True)
class Driver:
    """Drives one sweep in this process. Every method but `end` needs a connection to Ray."""

    trials: SweepTrials
    display: Display
    create_broker: Callable[..., Any] = brokers.create
    calls: Calls = RAY

    @property
    def _config(self) -> SweepConfig:
        return self.trials.config

    @property
    def _journal(self) -> Journal:
        return self.trials.journal

    def start_hosts(self, slot_limits: SlotLimits, space: SearchSpace) -> StartedHosts:
        """Starts broker and hosts. Settles the target modules first, then prepares the data.

        Raises:
            ConfigError: nothing of the space can be trained on this base, or the sweep began with other tokens.
            HostError: no host can run; the message says what to mend.
        """
        since, hosts = self.trials.clock(), self.trials.amended.cluster.hosts
        own = bases.as_begun(bases.of(self._config, space), self._journal.record.path, self._journal.record.paths)
        broker = self.create_broker(own[0], slot_limits, self._host_options(hosts, own), ActiveTrial)
        starting = StartingBroker(broker, self.trials.stop, self.display.say, self.calls)
        waits = starting.ask("outlook")
        if waits is not None:
            self.display.say(waits)
        targets = self._settled_targets(starting, space)
        ready: Ready = starting.ask("start")
        self._refuse_other_tokens(ready.data.fingerprint)
        self._journal.add(hosts_started(ready, since, self.trials.clock()))
        summary, warnings = ready.data.model_dump(exclude={"warnings"}), ready.data.warnings
        self._journal.add(DataPrepared(time=self.trials.clock(), summary=summary, warnings=warnings))
        return StartedHosts(ready, broker, targets, hosts, starting.lines_said)

    def _host_options(self, hosts: HostCount, own: tuple[TrialSpec, ...]) -> HostOptions:
        cluster, known = self._config.cluster, self._journal.record.bases
        base = known.get("") or known.get(own[0].base_name)
        return HostOptions(
            hosts=hosts,
            gpus_per_host=cluster.gpus_per_host,
            may_grow=not cluster.has_own_ray,
            env_vars=cluster.runtime_env.env_vars,
            pip=cluster.runtime_env.pip,
            bases=own[1:],
            hardware_before="" if base is None else base.hardware,
        )

    def _settled_targets(self, starting: StartingBroker, space: SearchSpace) -> Targets:
        answers = starting.ask("resolve", target_modules.possible_values(self._config, space))
        targets = target_modules.settle(answers or ())
        problems = target_modules.check_targets(self._config, space, targets)
        if problems:
            raise ConfigError(problems)
        for event in targets.events(self.trials.clock()):
            self._journal.add(event)
        return targets

    def _refuse_other_tokens(self, now: str) -> None:
        """Refuses rows with other tokens: a branch on the hub or a library may have changed since the sweep began."""
        before = self._journal.record.data.get("fingerprint", now)
        if now != before:
            raise ConfigError(
                [
                    f"data: its rows give other tokens than those that the sweep began with (fingerprint {now}, it was "
                    f"{before}), so results would not compare: what is on the hub has changed, or the versions of "
                    "transformers, tokenizers or qsweep: put these back, or launch a new sweep (with model.revision "
                    "and data.revision, hub sources stay the same)"
                ]
            )

    def run(self, hosts: StartedHosts, space: SearchSpace) -> None:
        """Runs trials until the budget is used up or somebody stops the sweep.

        Raises:
            GradingError: the answers of the base cannot be scored.
            StorageError: the journal takes no more events; the trials have ended in order.
        """
        self.trials.settle()
        self.trials.folder.clean()
        source = self._source(hosts.targets, space)
        evaluated = self._base_evaluations(hosts.broker, bases.of(self._config, space))
        with experiment.scratch() as files:
            self._run_tune(hosts, source, evaluated, files)
        for base in evaluated:
            with self._scoring() as stop:  # The trials may have ended before the base was evaluated.
                while base.is_wanted and not stop.is_ending:
                    base.wait(timeouts.START_LOOK_SECONDS)
        record = self._journal.record
        lacking, gave_up = source.lacking(record), source.gave_up(record) or source.out_of_patience(record)
        if lacking is not None:
            self.display.say(lacking)
        if gave_up is not None:
            self.trials.stop.ask("budget", gave_up)
        self.score_finalists(hosts.broker)

    def score_finalists(self, broker: Any) -> None:
        """Scores finalists, and what an earlier driver could not score, and evaluates the best trial on all rows.

        Does nothing if a person or a failure ends the sweep.
        """
        scores, stop = self._config.evaluation, self.trials.stop
        is_due = bool(scores.metrics) and (scores.when == "best" or self._journal.record.drivers > 1)
        if not (is_due or scores.rows == "nested") or stop.reason not in (None, "budget"):
            return
        self._end_trials(stop.reason or "finished", stop.message)
        with self._scoring():
            FinalistScoring(self.trials, broker, self.display.say, self.calls).run()

    @contextmanager
    def _scoring(self) -> Iterator[StopState]:
        """Lets a person end the block, and no budget: all trials have ended."""
        stop = self.trials.stop
        stop.is_scoring = True
        try:
            yield stop
        finally:
            stop.is_scoring = False

    def _base_evaluations(self, broker: Any, own: Sequence[TrialSpec]) -> list[BaseEvaluation]:
        """Returns the evaluations of bases that the log lacks. One of several is due once a trial is on the base."""
        say, journal = self.display.say, self._journal
        if len(own) == 1:
            take = partial(write_base, self.trials, say)
            lacks = journal.record.base is None
            return [BaseEvaluation(broker, take, self._has_report, self.calls)] if lacks else []
        return [
            BaseEvaluation(
                broker,
                partial(write_base, self.trials, say, base=spec.base_name),
                partial(self._is_begun_on, spec.base_name),
                self.calls,
                spec,
            )
            for spec in own
            if spec.base_name not in journal.record.bases
        ]

    def _has_report(self) -> bool:
        return any(trial.evals for trial in self._journal.record.trials.values())

    def _is_begun_on(self, base: str) -> bool:
        return any(trial.base_name == base for trial in self._journal.record.trials.values())

    def _source(self, targets: Targets, space: SearchSpace) -> TrialSource:
        """Returns the source of the sweep's trials, including trials that an earlier driver began."""
        journal, fingerprints = self._journal, self._journal.record.fingerprints
        refused = refused_default(self._config, space, fingerprints, targets, self.trials.clock())
        if refused is not None:
            journal.add(refused)
        return TrialSource(self._config, space, journal.record, targets)

    def _run_tune(self, hosts: StartedHosts, source: TrialSource, evaluated: list[BaseEvaluation], files: Path) -> None:
        compared, broker = resource.of(self._config), hosts.broker
        disk = self._config.budget.disk
        shared = {
            "dir": str(self.trials.folder.path),
            "disk_bytes": None if disk is None else size_bytes(disk),
            "objective": self._config.objectives[0].model_dump(),
            "parks": self._config.scheduler.parks,
            "rows": self._config.evaluation.parts(
                int(self._journal.record.data.get("eval_rows", 0)), len(compared.points)
            ),
        }
        queue = TrialQueue(
            source,
            lambda spec: shared | compared.points_for(spec),
            lambda: self._slots(broker),
            self.trials,
            (lambda: 0) if self._config.cluster.has_own_ray else room_anywhere,
            HostBases(broker, source.refuse, self._settle, self.calls) if bases.are_searched(self._config) else None,
        )
        callback = JournalCallback(self.trials, self.display.say, broker.release.remote)
        watch = Watch(hosts, self.trials, lambda: queue.live, self.display, evaluated, self.calls)
        experiment.run(files, self.trials, queue, watch, callback)
        if callback.failure is not None:
            raise callback.failure

    def _settle(self, paths: Mapping[str, EnginePath]) -> None:
        """Keeps the paths of bases in the log, so that hosts of a later driver compute as those of this one."""
        for base in sorted(paths.keys() - self._journal.record.paths.keys()):
            self._journal.add(PathSettled(time=self.trials.clock(), base=base, path=paths[base]))

    def _slots(self, broker: Any) -> int:
        try:
            slots: int = self.calls.answer(broker.slots.remote())
        except PROCESS_LOST:
            return 0  # Ray restarts the broker. Until then at most one trial is live.
        return slots

    def end(self, failed: str | None = None) -> None:
        """Writes into the event log how every trial and the sweep ended."""
        reason = "failed" if failed is not None else self.trials.stop.reason or "finished"
        why = failed or self.trials.stop.message
        self._end_trials(reason, why)
        self._journal.add(SweepEnded(time=self.trials.clock(), reason=reason, message=why))

    def _end_trials(self, reason: str, why: str) -> None:
        state = TrialState.STOPPED if reason == "budget" else TrialState.PAUSED
        may_go_on = reason == "budget" and self.trials.stop.can_be_raised
        if reason == "budget":
            # The budget may be used up before `run` settles the trials that earlier drivers parked.
            self.trials.settle()
        for trial in list(self._journal.record.trials.values()):
            if trial.state.is_final:
                continue
            if trial.state is TrialState.PARKED and reason in ("finished", "budget"):
                self.trials.end_parked(trial, why if reason == "budget" else "", may_go_on)
            else:
                self.trials.end_interrupted(trial, state, why, may_go_on)


def write_base(
    trials: SweepTrials, say: Callable[[str], None], evaluated: Evaluation | Failure, base: str = ""
) -> None:
    """Writes the evaluation of the base without an adapter, or says why there is none.

    Raises GradingError if its answers cannot be scored, as then hardly those of a trial can.
    """
    if isinstance(evaluated, Failure):
        name = f"the base {base}".rstrip()
        say(f"{name} without an adapter could not be evaluated: {evaluated.message}")
        return
    metric, unscored = trials.config.objectives[0].metric, dict(evaluated.unscored)
    if trials.config.evaluation.scores_by(metric) and metric not in evaluated.metrics:
        unscored.setdefault(metric, f"{metric} is the objective, and they give {', '.join(evaluated.metrics)} only")
    for why in unscored.values():
        way_out = "mend what scores them, then qsweep resume goes on"
        raise GradingError([f"evaluation.metrics: the answers of the base cannot be scored: {why}: {way_out}"])
    path, answers = trials.folder.of_base(base)
    try:
        with writing(path):
            if evaluated.answers:
                write_whole(answers, samples.text(evaluated.answers).encode())
            write_whole(path, json.dumps(evaluated.document()).encode())
        event = BaseEvaluated(
            time=trials.clock(),
            metrics=evaluated.metrics,
            rows=len(evaluated.row_losses),
            hardware=evaluated.hardware,
            answered=len(evaluated.answers),
            base=base,
        )
        trials.journal.add(event)
    except StorageError as error:
        trials.stop.ask("failed", str(error))
