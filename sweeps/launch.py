"""Runs one sweep from its checked configuration to its result. The functions stand in the order of their calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cluster.errors import ClusterError, NotStarted
from sweeps import saved_sweep, timeouts
from sweeps.config import checks, environment, resource
from sweeps.config import refit as refits
from sweeps.config.load import LoadedSweep, load
from sweeps.config.model import RefitOf, SweepConfig
from sweeps.config.number_words import counted, epochs
from sweeps.config.passwords import whole
from sweeps.config.uris import is_object_store
from sweeps.errors import ConfigError, RayGone, StorageError, SweepError
from sweeps.mirror.keeping import Mirror, create, mirror_with, mirrored
from sweeps.planning import advice, capacity, this_machine
from sweeps.record import folder as folders
from sweeps.record import limits
from sweeps.record.events import RequestAnswered, SweepPlanned, SweepStarted
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.run_names import label
from sweeps.record.selection import unscored
from sweeps.record.spent import spent
from sweeps.report import notifying, status
from sweeps.report.live_table import Display
from sweeps.report.plan_lines import engine_line
from sweeps.report.result import Displays, Result
from sweeps.statistics.trials import compare_best
from sweeps.steering import asking, local_sweeps
from sweeps.steering.answering import Answerer, deciding, no_trial_named, trial_named
from sweeps.steering.mailbox import AddPoint, ExtendSweep, Mailbox
from sweeps.steering.stop import StopState, on_signals
from sweeps.supply.amendments import Amendments
from sweeps.tracking.lookup import TrackedSweep, holds
from sweeps.tune.supervision import supervise
from trainables.catalogue import is_own
from trainables.errors import TrainableError
from trainables.specs import TrialSpec
from trainables.timeouts import SELF_TEST_PATH

if TYPE_CHECKING:
    from cluster.hosts import HostFacts
    from sweeps.planning.plan import Plan
    from sweeps.tracking.sink import MlflowSink
    from sweeps.tracking.writer import Writer
    from sweeps.tune.driver import Driver
    from sweeps.tune.host_news import StartedHosts

Say = Callable[[str], object]
DRAIN_SECONDS = environment.number("QSWEEP_DRAIN_SECONDS", timeouts.DRAIN_SECONDS, 0.0, 604_800.0)
"""See `timeouts.DRAIN_SECONDS`."""


def prepare(sweep: LoadedSweep, say: Say, offline: bool = False) -> tuple[LoadedSweep, Plan]:
    """Returns the sweep to launch here, with `budget.trials: auto` settled, and its plan. Starts nothing.

    Args:
        offline: whether the sweep may start although MLflow does not answer.

    Raises:
        ConfigError: MLflow, the model, the data or a target of `notify` is not there, or the budget is too small.
    """
    notifying.check_notify(sweep.config.notify)
    if not offline:
        _look_for_tracking(sweep.config.tracking.uri)
    told = this_machine.look_up(sweep)
    if is_own(sweep.config.trainable):
        # One that raises must leave no folder.
        sweep = replace(sweep, fingerprints=saved_sweep.fingerprints(sweep, {}))
    sweep, how = this_machine.with_trials(sweep, to_launch=True)
    if how is not None:
        say(how)
    planned = this_machine.plan_here(sweep, to_launch=True)
    return sweep, replace(planned, warnings=(*told, *planned.warnings))


def _look_for_tracking(uri: str) -> None:
    """Raises ConfigError if nothing answers at a tracking URI: else a mistyped URI would show at the sweep's end."""
    from cluster.doctor import stores

    wrong = stores.nothing_answers(whole(uri))
    if wrong is not None:
        way_out = "or launch with --offline: MLflow gets all events once it answers, or by qsweep resume"
        raise ConfigError([f"tracking.uri: {wrong.seen}: {wrong.mend}, {way_out}"])


def refit(
    folder: SweepFolder, trial: str | None, length: Mapping[str, float | None], all_rows: bool, now: float
) -> LoadedSweep:
    """Returns the sweep that trains one trial anew, the best one or the named one; starts nothing.

    Args:
        trial: a key, or a name such as t03.
        length: keys of `budget` that say how long: see `refits.of_trial`.
        all_rows: whether to train on the rows held out too, and to evaluate on the test rows alone.
        now: seconds since the epoch.

    Raises:
        ConfigError: there is no such trial, or the refit's file has a mistake.
        SweepError: no trial has a value, or the base or the rows are not those of the sweep.
    """
    before, sweep_id = saved_sweep.load(folder)
    found = status.read_status(folder, now)
    record, winner = found.record, found.selection.winner
    chosen = winner if trial is None else trial_named(trial, record)
    if trial is not None and (chosen is None or not chosen.spec):
        raise ConfigError([f"{trial} never began" if chosen else no_trial_named(trial, record)])
    if chosen is None:
        raise SweepError(f"{folder.path}: there is no best trial to refit: {found.selection.why}")
    origin = RefitOf(sweep=sweep_id, trial=label(chosen.number), trial_key=chosen.trial_key)
    spec = TrialSpec.model_validate_json(chosen.spec)
    raw = refits.of_trial(limits.changed(before.config, record.changes), origin, spec, chosen.point, length)
    if not is_object_store(before.config.storage):
        raw["storage"] = str(folder.path.parent)
    if all_rows:
        test_rows = before.config.data is not None and (before.config.data.test or (record.data or {}).get("test_rows"))
        raw = refits.on_all_rows(raw, bool(test_rows))
    sweep = load(None, list(raw.items()), Path.cwd())
    known = {name: value for name, value in record.fingerprints.items() if not (all_rows and name == "data.form")}
    return replace(sweep, fingerprints=saved_sweep.fingerprints(sweep, known))


def create_folder(
    sweep: LoadedSweep, planned: Plan | None = None, clock: Callable[[], float] = time.time
) -> tuple[SweepFolder, str]:
    """Makes the folder of a new sweep, from which `resume` begins the sweep; returns the folder and the sweep's id.

    Args:
        planned: the plan with which the sweep's result is compared.
        clock: returns seconds since the epoch.

    Raises:
        SweepError: the sweep's job was submitted before, and its sweep is there.
        StorageError: the folder cannot be made.
    """
    config, now = sweep.config, clock()
    sweep_id = local_sweeps.new_id(config, datetime.fromtimestamp(now, UTC), holds, mirror_with=mirror_with)
    expected = None
    if planned is not None:
        seen, steps = planned.forecast, planned.expected_steps
        seconds = seen.seconds.expected if seen.seconds is not None and seen.is_measured else None
        expected = SweepPlanned(time=now, steps=steps, seconds=seconds, memory_bytes=planned.memory_bytes)
    return create(config.storage, config.name, saved_sweep.document(config, sweep_id, expected)), sweep_id


def launch(
    sweep: LoadedSweep, progress: Displays, clock: Callable[[], float] = time.time, planned: Plan | None = None
) -> Result:
    """Runs a sweep in a new folder; other arguments as in `create_folder`.

    Raises:
        ConfigError: the earlier sweep to learn from is not there.
        SweepError: see `create_folder`.
        StorageError, ConnectionFailed, HostError: nothing could be trained; the folder says so too.
    """
    earlier = earlier_of(sweep.config)
    folder, sweep_id = create_folder(sweep, planned, clock)
    return _run(sweep, sweep_id, folder, progress, clock, _Beginning(earlier))


def resume(
    path: Path,
    progress: Displays,
    tracking_uri: str | None = None,
    clock: Callable[[], float] = time.time,
    resend: bool = False,
) -> tuple[LoadedSweep, Result]:
    """Goes on with the sweep in a folder: finished trials stay, the others go on from their last snapshot.

    Runs no trial of a finished sweep, scores answers that have no score, and sends MLflow the events that it lacks.
    Sends all events to an MLflow at `tracking_uri` that is new to the sweep, and with `resend` to any MLflow.

    Raises:
        ConfigError: there is no sweep, its configuration was changed, or the folder is a copy of the sweep's folder.
        StorageError, ConnectionFailed, HostError: nothing could be trained.
    """
    sweep, sweep_id = saved_sweep.load(SweepFolder(path), tracking_uri)
    return sweep, _run(sweep, sweep_id, SweepFolder(path), progress, clock, _Beginning(resend=resend))


def ask_for_more(folder: SweepFolder, request: AddPoint | ExtendSweep) -> RequestAnswered:
    """Asks the sweep's driver, and returns its answer. If nobody drives the sweep, answers in the next driver's place.

    Raises:
        SweepError: see `asking.answer`.
        ConfigError: the sweep cannot go on.
    """
    if folders.is_driven(folder):
        return asking.answer(folder, request)
    sweep, _ = saved_sweep.load(folder)
    return asking.answer_in_its_place(folder, request, deciding(Amendments.of(sweep), lambda: None), time.time())


class _Beginning(NamedTuple):
    earlier: TrackedSweep | None = None
    """The sweep that a new sweep learns from."""
    resend: bool = False


@dataclass(frozen=True)
class _Running:
    """A sweep that only this process drives: the process holds the lock of the sweep's folder."""

    sweep: LoadedSweep
    sweep_id: str
    folder: SweepFolder
    journal: Journal
    mailbox: Mailbox
    stop: StopState
    display: Display
    clock: Callable[[], float]
    mirror: Mirror | None

    @property
    def is_replaced(self) -> bool:
        """Tells whether another driver has taken the sweep over."""
        return self.mirror is not None and self.mirror.is_lost


@dataclass(frozen=True)
class _Trained:
    hosts: tuple[HostFacts, ...] = ()
    is_ray_left_behind: bool = False
    """Whether threads of this process wait for Ray in vain, so that the process cannot end normally."""


def earlier_of(config: SweepConfig) -> TrackedSweep | None:
    """Returns the sweep to learn from, None if there is to be none. Raises ConfigError if that sweep is not there."""
    if config.searcher.warm_start is None:
        return None
    # Imported here: mlflow takes seconds.
    from sweeps.tracking import earlier

    return earlier.look_up(config)


def _run(
    sweep: LoadedSweep,
    sweep_id: str,
    folder: SweepFolder,
    progress: Displays,
    clock: Callable[[], float],
    beginning: _Beginning,
) -> Result:
    with (
        _driving(sweep, sweep_id, folder, progress, clock) as running,
        notifying.telling(sweep.config, sweep_id, running.journal, running.display.say),
    ):
        _say_folder(running)
        sink, writer = _tracking(running, beginning.resend)
        record = running.journal.record
        is_over = record.is_finished and not unscored(sweep.config, record)
        fingerprints = {} if is_over else saved_sweep.fingerprints(sweep, record.fingerprints)
        if record.started is not None and not is_over:
            checks.refuse_broken_graders(sweep.config)
        running.stop.is_scoring = record.is_finished
        trained = _Trained()
        try:
            if is_over:
                running.display.say("finished already: no trial is run")
                writer.start()
            else:
                _begin(running, writer, fingerprints)
                planned = saved_sweep.planned(folder)
                if planned is not None and running.journal.record.planned is None:
                    running.journal.add(planned)
                _learn(running, fingerprints, beginning.earlier)
                trained = _drive(running, writer.start)
                _keep_rates(running, trained.hosts)
        finally:
            running.stop.is_over = True
            if running.journal.record.started is not None:
                writer.start()
            undelivered = writer.drain(DRAIN_SECONDS, lambda: running.stop.is_leaving)
        return _result(running, trained, sink, writer, undelivered)


@contextmanager
def _driving(
    sweep: LoadedSweep, sweep_id: str, folder: SweepFolder, progress: Displays, clock: Callable[[], float]
) -> Iterator[_Running]:
    """Holds the sweep's folder, its event log, its display and this process's signals while the block runs."""
    with folders.locked(folder), closing(Journal(folder)) as journal:
        mailbox = Mailbox(folder)
        stop = StopState(limit=lambda: limits.used_up(sweep.config, journal.record, clock()))
        with (
            progress(folder) as display,
            mirrored(folder, journal, sweep_id, display.say, lambda why: stop.ask("failed", why)) as mirror,
            on_signals(stop, display.say, mailbox.post),
        ):
            yield _Running(sweep, sweep_id, folder, journal, mailbox, stop, display, clock, mirror)


def _say_folder(running: _Running) -> None:
    """Says if the folder has another name or was moved, and notes the move; names an earlier sweep beside it."""
    name, path = running.sweep.config.name, running.folder.path
    if running.journal.record.started is None:
        if path.name != name:
            running.display.say(f"{name} is there already, so this sweep is {path.name}")
        before = local_sweeps.line_on_earlier(running.folder, name, running.clock())
        if before is not None:
            running.display.say(before)
    former = saved_sweep.note_place(running.folder)
    if former is not None:
        running.display.say(f"the sweep's folder was {former} and is {path} from now on")


def _tracking(running: _Running, resend: bool) -> tuple[MlflowSink, Writer]:
    """Makes the sink and the writer that send the events to MLflow, once the writer is started."""
    # Imported here: mlflow takes seconds, and a mistake in the sweep file must not wait for it.
    from sweeps.tracking.sink import MlflowSink
    from sweeps.tracking.writer import Writer, forget_acknowledged

    config, say = running.sweep.config, running.display.say
    sink = MlflowSink(config, running.sweep_id, running.folder, say)
    if resend:
        forget_acknowledged(running.folder, config.tracking.uri)
    return sink, Writer(running.folder, sink, say, config.tracking.uri, running.journal, lambda: running.is_replaced)


def _begin(running: _Running, writer: Writer, fingerprints: dict[str, str]) -> None:
    """Notes in the event log that the sweep begins or goes on. From here on the display and MLflow get each event."""
    journal = running.journal
    journal.listen(running.display)
    journal.listen(lambda _event, _record: writer.notify())
    journal.add(
        SweepStarted(
            time=running.clock(),
            config=running.sweep.config.model_dump_json(),
            fingerprints=fingerprints,
            sweep_id=running.sweep_id,
        )
    )


def _learn(running: _Running, fingerprints: dict[str, str], earlier: TrackedSweep | None) -> None:
    """Notes an earlier sweep's trials in the event log, once: a sweep that goes on knows them from its log."""
    config, journal = running.sweep.config, running.journal
    if config.searcher.warm_start is None or journal.record.earlier is not None:
        return
    from sweeps.tracking.earlier import look_up, trials

    known = earlier or look_up(config, running.sweep_id)
    assert known is not None, "searcher.warm_start names a sweep"
    told = trials(known, config, running.sweep.space, fingerprints, running.clock())
    journal.add(told)
    own = f"the results of {len(told.own)} count as this sweep's, and " if told.own else ""
    known_trials = counted(len(told.trials), "trial")
    running.display.say(f"{known_trials} of {told.sweep_id} known: {own}the best points are tried first")


def _drive(running: _Running, deliver: Callable[[], None]) -> _Trained:
    """Connects to Ray and runs the trials. Whatever happens, the event log says how each trial ended.

    `deliver` begins to send to MLflow. It is called once Ray runs: importing MLflow's client takes seconds of this
    process, which the start of Ray needs more. Later the driver only waits for the hosts.
    """
    from cluster.connect import Cluster
    from sweeps.tune.driver import Driver
    from sweeps.tune.sweep_trials import SweepTrials

    config, journal, stop, say = running.sweep.config, running.journal, running.stop, running.display.say
    trials = SweepTrials(config, journal, running.folder, stop, running.clock)
    driver = Driver(trials, running.display)
    decide = deciding(Amendments.of(running.sweep), running.clock)
    answerer = Answerer(running.mailbox, journal, stop, trials.to_stop.add, running.clock, decide)
    address = config.cluster.address or "local"
    cluster = Cluster(address)
    started: list[StartedHosts] = []
    are_trials_over = threading.Event()
    """Set once all trials are over or saved, so that only Ray has to end."""

    def train() -> None:
        with cluster.connected(running.sweep_id):
            deliver()
            started.append(_start_hosts(running, driver, cluster.joined))
            driver.run(started[0], running.sweep.space)
            are_trials_over.set()

    with _writing_ends(driver, running):
        say("starting Ray" if address == "local" else f"joining Ray ({address})")
        left_behind = supervise(train, cluster, stop, partial(_look_after, running, answerer), are_trials_over.is_set)
        if left_behind is not None:
            journal.take_over()  # The thread that waits for Ray writes no more events.
            say(left_behind)
    return _Trained(started[0].ready.hosts if started else (), cluster.is_abandoned)


@contextmanager
def _writing_ends(driver: Driver, running: _Running) -> Iterator[None]:
    """Writes how each trial and the sweep ended. An interrupt, a lost Ray and a StorageError end the block quietly."""
    journal, stop = running.journal, running.stop
    failure: str | None = "the driver failed"
    try:
        yield
        failure = None
    except KeyboardInterrupt:
        failure = None
    except (RayGone, NotStarted) as error:
        journal.take_over()
        running.display.say(str(error))
        stop.ask("failed", str(error))
        failure = None
    except StorageError as error:
        # The journal, or the disk of temporary files, takes no more. The log is whole so far, and `resume` goes on.
        failure = str(error)
        stop.ask("failed", failure)
    except (ClusterError, SweepError, TrainableError) as error:
        failure = str(error)
        raise
    finally:
        try:
            driver.end(failure)
        except StorageError as error:
            stop.ask("failed", str(error))


def _look_after(running: _Running, answerer: Answerer) -> None:
    """Does the work that cannot wait while another thread is inside Ray; called several times a second."""
    from cluster.connect import hear_again

    hear_again()
    if not running.journal.log.is_in_place():
        running.stop.ask("failed", folders.gone(running.folder.path))
        return
    try:
        answerer.answer_all()
        running.journal.tell_alive(running.clock())
    except StorageError as error:
        running.stop.ask("failed", str(error))


def _keep_rates(running: _Running, hosts: Sequence[HostFacts]) -> None:
    """Keeps the sweep's rates for later plans. A failure here does not fail the sweep."""
    try:
        if hosts:
            data = running.journal.record.data
            this_machine.remember(running.sweep.config, running.folder, data, hosts[0].device_name)
    except (OSError, ValueError) as error:
        running.display.say(f"the rates of this sweep are not kept for later plans: {error}")


def _start_hosts(running: _Running, driver: Driver, joined: str | None) -> StartedHosts:
    """Starts the hosts, and says how they train. `joined` is the address of a joined Ray, None for an own one."""
    from cluster import devices
    from cluster.hosts import SlotLimits

    sweep, say = running.sweep, running.display.say
    config = sweep.config
    if joined is not None:
        say(f"joined the Ray cluster at {joined}")
    load = ": they load the base model and prepare the rows; a cache keeps both for the next sweep"
    say(f"starting the hosts{'' if config.model is None else load}")
    may_have_gpus = config.cluster.gpus_per_host != 0 and (joined is not None or devices.gpus())
    if may_have_gpus and config.model is not None and config.training.engine != "peft":
        say(
            "each engine is tested on this kind of GPU, once: about 1 minute for 8 billion parameters, and "
            f"{SELF_TEST_PATH / 60:.0f} minutes more for an engine that hangs"
        )
    slot_limits = SlotLimits(
        slots=config.cluster.slots_per_host,
        at_most=capacity.at_most(driver.trials.amended),
        largest=capacity.largest(config, sweep.space),
    )
    started = driver.start_hosts(slot_limits, sweep.space)
    ready = started.ready
    if ready.hosts[0].engine:
        say(engine_line(ready.hosts[0].engine))
    if ready.data.train_rows:
        compared = resource.of(config)
        steps = compared.total if compared.unit == "step" else None
        say(epochs(steps, resource.rows_per_trial(config), ready.data.train_rows))
        for line in advice.cost_of_seen_rows(config, ready.data.test_rows):
            say(line)
    return started


def _result(running: _Running, trained: _Trained, sink: MlflowSink, writer: Writer, undelivered: int) -> Result:
    """Returns how the sweep ended. The folder's lock is still held."""
    journal, stop, path = running.journal, running.stop, running.folder.path
    is_gone, mirror = not journal.log.is_in_place(), running.mirror
    return Result(
        sweep_id=running.sweep_id,
        folder=path,
        record=journal.record,
        stopped_by=stop.signal,
        failure=folders.gone(path) if is_gone else stop.message if stop.reason == "failed" else None,
        is_folder_gone=is_gone,
        is_ray_left_behind=trained.is_ray_left_behind,
        undelivered=0 if running.is_replaced else undelivered,
        mirror=None if mirror is None else mirror.drain(DRAIN_SECONDS, lambda: stop.is_leaving),
        are_runs_gone=writer.are_runs_gone,
        refused=writer.refused,
        separation=None if is_gone else compare_best(running.folder, journal.record),
        spent=spent(journal.record, running.sweep.config.budget.steps_per_trial),
        parent_run=sink.parent_run,
        experiment_id=sink.experiment_id,
        run_ids=sink.run_ids,
    )
