"""The sweep on Ray Tune: hosts and broker, searcher and scheduler, stop and end."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import ray

from cluster import broker
from cluster.errors import HostError, HostsDied
from cluster.hosts import PROCESS_LOST, HostFacts, HostOptions, SlotLimits
from cluster.leases import NotReady, Ready
from cluster.pace import Silent
from search_spaces.space import SearchSpace
from sweeps.config import resource
from sweeps.config.model import SweepConfig, size_bytes
from sweeps.errors import ConfigError, StorageError
from sweeps.record import limits
from sweeps.record.events import (
    BaseEvaluated,
    DataPrepared,
    HostsChanged,
    SweepEnded,
    TrialEnded,
    TrialState,
)
from sweeps.record.folder import SweepFolder, writing
from sweeps.record.journal import Journal
from sweeps.record.run_names import label
from sweeps.record.whole_files import write_whole
from sweeps.report.progress import Display
from sweeps.steering.stop import Reason, StopState
from sweeps.supply import target_modules
from sweeps.supply.target_modules import Targets
from sweeps.supply.trial_source import TrialSource, refused_default
from sweeps.tune.base_evaluation import BaseEvaluation
from sweeps.tune.broker_calls import ANEW_SECONDS, RETRY_SECONDS
from sweeps.tune.callback import JournalCallback
from sweeps.tune.experiment import Experiment, Spread
from sweeps.tune.host_news import StartNews, hosts_started, tell_changes
from sweeps.tune.journaled_rule import Ruling
from sweeps.tune.scheduler import RuleScheduler
from sweeps.tune.trial_places import share_of_head
from sweeps.tune.trial_queue import TrialQueue
from sweeps.tune.watch import Watch
from trainables.contract import Evaluation, Failure

BROKER_DIES = (
    "the broker, which starts the hosts, has died, and no other was made within two minutes, or that one has "
    "died too: is there enough memory on this node? qsweep resume tries again"
)
BASE_SECONDS = 30.0
"""How long the end of a sweep waits for the base's evaluation."""


@dataclass
class Driver:
    """One sweep in this process, connected to Ray."""

    config: SweepConfig
    folder: SweepFolder
    journal: Journal
    stop: StopState
    display: Display
    clock: Callable[[], float] = time.time
    trials_on_head: int = -1
    """How many trials' processes are on this node before others go anywhere; below 0 as many as memory says."""
    hosts: tuple[HostFacts, ...] = field(default=(), init=False)
    _broker: Any = field(default=None, init=False)
    _start_news: StartNews = field(init=False)
    _callback: JournalCallback = field(init=False)
    _targets: Targets = field(default_factory=Targets, init=False)
    _source: TrialSource | None = field(default=None, init=False)
    _ruling: Ruling | None = field(default=None, init=False)
    trials_to_stop: set[str] = field(default_factory=set, init=False)
    """Keys of the trials that somebody asked to stop, and that have not ended yet."""
    has_run: bool = field(default=False, init=False)
    """All trials are over, or were saved: Ray alone has to end."""
    hosts_at_start: int | Literal["auto"] = field(default="auto", init=False)
    """How many hosts a broker begins with, also one that Ray makes anew."""

    def __post_init__(self) -> None:
        self._callback = JournalCallback(self.journal, self.clock, self)

    @property
    def amended(self) -> SweepConfig:
        """The sweep with what somebody has changed since its launch."""
        return limits.changed(self.config, self.journal.record.changes)

    @property
    def hosts_wanted(self) -> int | Literal["auto"]:
        """How many hosts there are to be at most now."""
        return self.amended.cluster.hosts

    @property
    def lines_said(self) -> int:
        """So many of the broker's lines were said while its hosts started."""
        return self._start_news.said

    def start_hosts(self, slot_limits: SlotLimits, space: SearchSpace) -> Ready:
        """Starts broker and hosts; first it is known what can be trained, then the data is prepared.

        Raises:
            ConfigError: nothing of the space can be trained on this base, or the sweep began with other tokens.
            HostError: no host can run; the message says what to mend.
        """
        since, self.hosts_at_start = self.clock(), self.hosts_wanted
        self._broker = broker.create(self.config.base, slot_limits, self._host_options())
        self._start_news = StartNews(self._broker, self.display.say)
        waits = self._ask("outlook")
        if waits is not None:
            self.display.say(waits)
        self._settle_targets(space)
        answer: Ready = self._ask("start")
        self._refuse_other_tokens(answer.data.fingerprint)
        self.hosts = answer.hosts
        self.journal.add(hosts_started(answer, since, self.clock()))
        summary = answer.data.model_dump(exclude={"warnings"})
        self.journal.add(DataPrepared(time=self.clock(), summary=summary, warnings=answer.data.warnings))
        return answer

    def _refuse_other_tokens(self, now: str) -> None:
        """A branch on the hub or a library may have moved since the sweep began, with no file of its own changed."""
        before = self.journal.record.data.get("fingerprint", now)
        if now != before:
            raise ConfigError(
                [
                    f"data: its rows give other tokens than those that the sweep began with (fingerprint {now}, it was "
                    f"{before}), so results would not compare: what is on the hub has changed, or the versions of "
                    "transformers and tokenizers, or of qsweep (an answer that ends in its end token gets no second "
                    "one any more): put these back, or launch a new sweep (with model.revision and data.revision, hub "
                    "sources stay the same)"
                ]
            )

    def _host_options(self) -> HostOptions:
        cluster, base = self.config.cluster, self.journal.record.base
        return HostOptions(
            hosts=self.hosts_at_start,
            gpus_per_host=cluster.gpus_per_host,
            may_grow=not cluster.has_own_ray,
            env_vars=cluster.runtime_env.env_vars,
            pip=cluster.runtime_env.pip,
            hardware_before="" if base is None else base.hardware,
        )

    def _settle_targets(self, space: SearchSpace) -> None:
        answers = self._ask("resolve", target_modules.asked(self.config, space))
        self._targets = target_modules.settle(answers or ())
        problems = target_modules.check(self.config, space, self._targets)
        if problems:
            raise ConfigError(problems)
        for event in self._targets.events(self.clock()):
            self.journal.add(event)

    def _ask(self, method: str, *arguments: object) -> Any:
        """The broker's answer; while Ray makes one that died anew, asks again."""
        deadline = math.inf
        while True:
            try:
                return self._answer(getattr(self._broker, method).remote(*arguments))
            except PROCESS_LOST as error:
                self._start_news.begin_anew()
                now = time.monotonic()
                deadline = min(deadline, now + ANEW_SECONDS)
                if self.stop.check() is not None:
                    raise KeyboardInterrupt from None
                if now >= deadline:
                    raise HostsDied(BROKER_DIES) from error
                threading.Event().wait(RETRY_SECONDS)

    def _answer(self, asked: Any) -> Any:
        """What the broker answers; KeyboardInterrupt when the sweep is to end meanwhile, also by its budget."""
        while not ray.wait([asked], timeout=0.5)[0]:
            if self.stop.check() is not None:
                raise KeyboardInterrupt
            self._start_news.look()
        answer = ray.get(asked)
        if isinstance(answer, NotReady):
            raise (HostError if answer.is_mistake else HostsDied)(answer.message)
        return answer

    def run(self, space: SearchSpace) -> None:
        """Runs the trials to the end of the budget, or until someone stops the sweep.

        Raises:
            StorageError: the journal takes no more events; the trials have ended in order.
        """
        compared, objective = resource.of(self.config), self.config.objectives[0]
        ruling = self._ruling = Ruling.of(self.config, self.journal, self.folder, self.clock)
        self.folder.clean()
        refused = refused_default(self.config, space, self.journal.record.fingerprints, self._targets, self.clock())
        if refused is not None:
            self.journal.add(refused)
        source = self._source = TrialSource(self.config, space, self.journal.record, self._targets)
        disk = self.config.budget.disk
        shared = {
            "dir": str(self.folder.path),
            "disk_bytes": None if disk is None else size_bytes(disk),
            "objective": objective.model_dump(),
            "parks": self.config.scheduler.parks,
        }
        queue = TrialQueue(
            source,
            lambda spec: shared | compared.told(spec),
            self._slots,
            self.stop,
            lambda: self.journal.record,
            ruling,
        )
        base = BaseEvaluation(self._broker, self._base_evaluated) if self.journal.record.base is None else None
        watch = Watch(self.stop, self._broker, queue, self.display, base, self)
        scheduler = RuleScheduler(ruling.rule, self._callback.take)
        Experiment(queue, scheduler, watch, self._callback, self._saved, self._spread(shared)).run(objective)
        if base is not None and self.stop.reason is None:
            # The trials of other hosts may have been faster.
            base.look(BASE_SECONDS)
        if self._callback.failure is not None:
            raise self._callback.failure
        lacking = source.lacking(self.journal.record)
        if lacking is not None:
            self.display.say(lacking)
        self.has_run = True

    def _spread(self, shared: dict[str, Any]) -> Spread | None:
        """How trials' processes are spread; None keeps all on this node, where the Ray is the sweep's own."""
        if self.config.cluster.has_own_ray:
            return None
        return Spread(self.trials_on_head if self.trials_on_head >= 0 else share_of_head(), shared, self.display.say)

    def _base_evaluated(self, evaluated: Evaluation | Failure) -> None:
        if isinstance(evaluated, Failure):
            self.display.say(f"the base without an adapter could not be evaluated: {evaluated.message}")
            return
        told = BaseEvaluated(
            time=self.clock(), metrics=evaluated.metrics, rows=len(evaluated.row_losses), hardware=evaluated.hardware
        )
        try:
            with writing(self.folder.base_rows):
                write_whole(self.folder.base_rows, json.dumps(evaluated.document()).encode())
            self.journal.add(told)
        except StorageError as error:
            self.stop.ask("failed", str(error))

    def tell_of_ray(self, left_behind: str | None) -> None:
        """Says that Ray is left behind, when it is; then the thread that waits for it writes no more events."""
        if left_behind is not None:
            self.journal.take_over()
            self.display.say(left_behind)

    def end(self, failed: str | None = None) -> None:
        """Says of every trial and of the sweep how it ended."""
        gave_up = self._source.gave_up(self.journal.record) if self._source is not None else None
        if failed is None and self.stop.reason is None and gave_up is not None:
            self.stop.ask("budget", gave_up)
        reason = "failed" if failed is not None else self.stop.reason or "finished"
        why = failed or self.stop.message
        state = TrialState.STOPPED if reason == "budget" else TrialState.PAUSED
        may_go_on = reason == "budget" and self.stop.can_be_raised
        if self._ruling is None and reason == "budget":
            # Used up while hosts started: what earlier drivers parked ends at its rung all the same.
            self._ruling = Ruling.of(self.config, self.journal, self.folder, self.clock)
        for trial in list(self.journal.record.trials.values()):
            if trial.state.is_final:
                continue
            if trial.state is TrialState.PARKED and self._ruling is not None and reason in ("finished", "budget"):
                self._ruling.end_parked(trial, self.clock(), why if reason == "budget" else "", may_go_on)
                continue
            # What a paused trial has trained since its last report goes on with it, in its snapshot.
            unreported = self._callback.unreported.get(trial.trial_key, ())
            history = unreported if state is TrialState.STOPPED else ()
            saved = f"; goes on from step {unreported[-1].step}" if unreported and state is TrialState.PAUSED else ""
            self.journal.add(
                TrialEnded(
                    time=self.clock(),
                    trial_key=trial.trial_key,
                    state=state,
                    reason=why + saved,
                    by_person_or_budget=True,
                    may_go_on=may_go_on,
                    history=history,
                )
            )
            if state.is_final and not may_go_on:
                self.folder.drop_snapshots(trial.trial_key)
        self.journal.add(SweepEnded(time=self.clock(), reason=reason, message=why))

    def _slots(self) -> int:
        try:
            slots: int = ray.get(self._broker.slots.remote())
        except PROCESS_LOST:
            return 0  # The broker is being made anew: until it is there, no trial begins beside another.
        return slots

    def stop_parked(self, trial_key: str) -> bool:
        """Ends the trial if it is parked; answers whether it was."""
        if self._ruling is None or not self._ruling.stop_parked(trial_key, self.clock()):
            return False
        self.trials_to_stop.discard(trial_key)
        return True

    def hosts_changed(self, hosts: int, slots: int, held: int, silent: tuple[Silent, ...]) -> None:
        """There are so many hosts now, and so many slots; for `held` and `silent` see `HostsStarted`."""
        now = HostsChanged(time=self.clock(), hosts=hosts, slots=slots, held=held, silent=silent)
        tell_changes(now, self.journal, self.display.say)

    def is_parked(self, trial_key: str) -> bool:
        """Whether the scheduler has ended the trial in Tune only to resume it later."""
        return self._ruling is not None and self._ruling.is_parked(trial_key)

    def _saved(self, trial_key: str) -> object:
        """What the trial has brought to safety: its last report and its last snapshot."""
        known = self.journal.record.trials.get(trial_key)
        # A trial that has just begun is at step 0, as one that has not.
        return known.step if known is not None else 0, self.folder.all(trial_key, "snapshot")[:1]

    def reported(self, trial_key: str, adapter: str | None) -> None:
        """The journal has a report of the trial, with this adapter folder if it is the best so far."""
        if adapter is not None:
            # Not before: the journal has named the older one until now.
            self.folder.prune_adapters(trial_key, self.folder.path / adapter)

    def trial_parked(self, trial_key: str) -> None:
        """The trial gives its slot back and may be resumed."""
        self._broker.release.remote(trial_key)

    def trial_ended(self, trial_key: str) -> None:
        """The trial is over."""
        self.trials_to_stop.discard(trial_key)
        self._broker.release.remote(trial_key)
        self.folder.drop_snapshots(trial_key)

    def is_to_stop(self, trial_key: str) -> bool:
        """Whether somebody asked to stop the trial."""
        return trial_key in self.trials_to_stop

    def process_lost(self, number: int) -> None:
        """The process of the trial of this number died; Ray Tune starts another."""
        self.display.say(f"{label(number)}: its process is lost: another goes on from the last snapshot")

    def end_sweep(self, reason: Reason, message: str) -> None:
        """A trial found that the sweep cannot go on."""
        self.stop.ask(reason, message)
