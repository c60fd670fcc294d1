"""A sweep from its checked configuration to its result: folder, tracking, Ray, and the closing answer."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError, NotStarted
from sweeps import saved_sweep
from sweeps.config.load import Sweep
from sweeps.config.model import SweepConfig
from sweeps.config.passwords import without_password, without_passwords
from sweeps.errors import ConfigError, RayGone, StorageError, SweepError
from sweeps.planning import epochs, this_machine
from sweeps.planning import plan as plans
from sweeps.record import eval_rows
from sweeps.record import folder as folders
from sweeps.record.events import SweepRecord, SweepStarted
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.spent import spent
from sweeps.report.progress import Progress
from sweeps.report.result import Displays, Result
from sweeps.steering.stop import StopRequest, on_signals
from sweeps.tune.supervision import supervise
from trainables import registry
from trainables.errors import TrainableError
from trainables.specs import seconds

if TYPE_CHECKING:
    from cluster.hosts import HostFacts, SlotLimits
    from sweeps.tune.driver import Driver

DRAIN_SECONDS = float(os.environ.get("QSWEEP_DRAIN_SECONDS", "120"))
"""How long the end of a sweep waits for the tracking server."""


def launch(sweep: Sweep, progress: Displays, clock: Callable[[], float] = time.time) -> Result:
    """Runs a sweep in a new folder.

    Raises:
        StorageError, ConnectionFailed, HostError: nothing could be trained; the folder says so too.
    """
    started = datetime.fromtimestamp(clock(), UTC)
    sweep_id = f"{sweep.config.name}-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = folders.create(Path(sweep.config.storage), sweep.config.name, document(sweep.config, sweep_id))
    return _run(sweep, sweep_id, folder, progress, clock)


def resume(
    path: Path, progress: Displays, tracking_uri: str | None = None, clock: Callable[[], float] = time.time
) -> tuple[Sweep, Result]:
    """Goes on with the sweep in a folder: finished trials stay, the others go on from their last snapshot.

    A finished sweep is not run again; what MLflow has not taken is sent. An MLflow that is new to the sweep, at
    `tracking_uri`, is sent everything.

    Raises:
        ConfigError: there is no sweep, its configuration was changed, or the folder is a copy of it.
        StorageError, ConnectionFailed, HostError: nothing could be trained.
    """
    sweep, sweep_id = saved_sweep.load(SweepFolder(path), tracking_uri)
    return sweep, _run(sweep, sweep_id, SweepFolder(path), progress, clock)


def _run(sweep: Sweep, sweep_id: str, folder: SweepFolder, progress: Displays, clock: Callable[[], float]) -> Result:
    # Imported here: mlflow takes seconds, and a mistake in the sweep file must not wait for it.
    from sweeps.tracking.sink import MlflowSink
    from sweeps.tracking.writer import Writer

    config = sweep.config
    with ExitStack() as stack:
        stack.enter_context(folders.locked(folder))
        journal = Journal(folder)
        stack.callback(journal.close)
        stop = StopRequest(_deadline(config, journal.record, clock()), clock)
        display = stack.enter_context(progress(folder))
        stack.enter_context(on_signals(stop, display.say))
        if folder.path.name != config.name and journal.record.started is None:
            display.say(f"{config.name} is there already, so this sweep is {folder.path.name}")
        former = saved_sweep.note_place(folder)
        if former is not None:
            display.say(f"the sweep's folder was {former} and is {folder.path} from now on")
        sink = MlflowSink(config, sweep_id, folder, display.say)
        writer = Writer(folder, sink, display.say, config.tracking.uri, journal.held)
        with registry.answering(f"trainable: {config.trainable}: its fingerprint"):
            fingerprints = dict(registry.find(config.trainable).fingerprint(config.base))
        _same(journal.record.fingerprints, fingerprints)
        hosts: tuple[HostFacts, ...] = ()
        left_behind = False
        try:
            if not journal.record.is_finished:
                journal.listen(display)
                journal.listen(lambda _event, _record: writer.notify())
                begun = SweepStarted(time=clock(), config=kept(config), fingerprints=fingerprints, sweep_id=sweep_id)
                journal.add(begun)
                writer.start()
                hosts, left_behind = _drive(sweep, sweep_id, folder, journal, stop, display)
                _remember(config, folder, hosts, display.say)
            else:
                display.say("finished already: no trial is run")
                writer.start()
        finally:
            stop.is_over = True
            left = writer.drain(DRAIN_SECONDS, lambda: stop.is_leaving)
        is_gone = not journal.is_in_place()
    return Result(
        sweep_id=sweep_id,
        folder=folder.path,
        record=journal.record,
        stopped_by=stop.signal,
        failure=folders.gone(folder.path) if is_gone else stop.message if stop.reason == "failed" else None,
        is_folder_gone=is_gone,
        is_ray_left_behind=left_behind,
        undelivered=left,
        refused=writer.refused,
        separation=None if is_gone else eval_rows.separation(folder, journal.record),
        spent=spent(journal.record, config.budget.steps_per_trial),
        parent_run=sink.parent_run,
        experiment_id=sink.experiment_id,
        run_ids=sink.run_ids,
        estimated_bytes=hosts[0].estimated_bytes if hosts else None,
    )


def _remember(config: SweepConfig, folder: SweepFolder, hosts: Sequence[HostFacts], say: Callable[[str], None]) -> None:
    """Keeps what the sweep has shown, for later plans: a convenience, whatever comes of it."""
    try:
        if hosts:
            this_machine.remember(config, folder, hosts[0].device_name)
    except (OSError, ValueError) as error:
        say(f"the rates of this sweep are not kept for later plans: {error}")


def _same(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuses to go on with another base model or other data than the sweep began with."""
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        raise ConfigError(
            [f"{name}: its content is not what the sweep began with: launch a new sweep" for name in changed]
        )


def _deadline(config: SweepConfig, record: SweepRecord, now: float) -> float | None:
    """When budget.wall_clock is used up; what earlier drivers of this sweep took is counted."""
    if config.budget.wall_clock is None:
        return None
    return now + seconds(config.budget.wall_clock) - record.seconds_spent()


def _drive(
    sweep: Sweep, sweep_id: str, folder: SweepFolder, journal: Journal, stop: StopRequest, display: Progress
) -> tuple[tuple[HostFacts, ...], bool]:
    """Connects to Ray and runs the trials; whatever happens, the journal says how each of them ended.

    Answers the hosts, and whether Ray was left behind: then this process cannot end as others do.
    """
    from cluster.connect import Cluster, hear_again
    from sweeps.tune.driver import Driver

    driver = Driver(sweep.config, folder, journal, stop, display)
    say = display.say
    failure: str | None = "the driver failed"
    address = sweep.config.cluster.address or "local"
    cluster = Cluster(address)

    def train() -> None:
        with cluster.connected(sweep_id):
            _train(sweep, driver, say)

    def look() -> None:
        hear_again()
        if not journal.is_in_place():
            stop.ask("failed", folders.gone(folder.path))

    try:
        say("starting Ray" if address == "local" else f"joining Ray ({address})")
        supervise(train, cluster, stop, look)
        failure = None
    except KeyboardInterrupt:
        failure = None
    except (RayGone, NotStarted) as error:
        journal.take_over()
        say(str(error))
        stop.ask("failed", str(error))
        failure = None
    except StorageError as error:
        # The journal takes no more: what is on disk is whole, and `resume` closes the trials.
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
    return driver.hosts, cluster.is_abandoned


def _train(sweep: Sweep, driver: Driver, say: Callable[[str], None]) -> None:
    """All that needs Ray."""
    say("starting hosts: data and base model are made ready, and cached for the next time")
    ready = driver.start_hosts(slot_limits(sweep), sweep.space)
    if ready.data.train_rows:
        rows = epochs.rows_per_trial(sweep.config, sweep.space)
        say(epochs.line(sweep.config.budget.steps_per_trial, rows, ready.data.train_rows))
    driver.run(sweep.space, ready.slots)


def document(config: SweepConfig, sweep_id: str) -> dict[str, Any]:
    """What config.json holds: the resolved configuration and the sweep's id."""
    return {"sweep_id": sweep_id, "config": json.loads(kept(config))}


def kept(config: SweepConfig) -> str:
    """The configuration as it is written down, in JSON: without the passwords of its URIs."""
    tracking = config.tracking.model_copy(update={"uri": without_password(config.tracking.uri)})
    return without_passwords(config.model_copy(update={"tracking": tracking}).model_dump_json())


def slot_limits(sweep: Sweep) -> SlotLimits:
    """How many slots each host may have."""
    from cluster.hosts import SlotLimits

    return SlotLimits(
        slots=sweep.config.cluster.slots_per_host,
        at_most=plans.at_most(sweep.config),
        largest=plans.largest(sweep.config, sweep.space),
    )
