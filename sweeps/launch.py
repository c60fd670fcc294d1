"""A sweep from its checked configuration to its result: folder, tracking, Ray, and the closing answer."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from sweeps import folder as folders
from sweeps import plan as plans
from sweeps.config import SweepConfig, seconds
from sweeps.folder import SweepFolder
from sweeps.journal import Journal
from sweeps.lifecycle import SweepRecord, SweepStarted, TrialState
from sweeps.load import Sweep
from sweeps.progress import Progress
from sweeps.selection import choose
from sweeps.stop import StopRequest, on_signals
from sweeps.trials import TrialSource
from trainables import registry

if TYPE_CHECKING:
    from cluster.hosts import Room
    from sweeps.tune_run import Driver

DRAIN_SECONDS = 120.0
"""How long the end of a sweep waits for the tracking server."""


@dataclass(frozen=True)
class Result:
    """How a sweep ended."""

    sweep_id: str
    folder: Path
    record: SweepRecord
    stopped_by: int | None
    """The signal that interrupted the sweep."""
    undelivered: int
    """Events that the tracking server has not taken."""
    parent_run: str | None
    experiment_id: str | None
    run_ids: dict[str, str]
    estimated_bytes: int | None
    """Memory that a host's slots were planned with."""

    @property
    def exit_code(self) -> int:
        """0 with a best trial and none FAILED; 130 and its like when interrupted; 1 otherwise."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        failed = any(trial.state is TrialState.FAILED for trial in self.record.trials.values())
        best = choose(self.record.trials.values()).winner
        return 1 if failed or best is None or self.undelivered else 0

    def as_json(self) -> dict[str, Any]:
        """The line that --json prints."""
        best = choose(self.record.trials.values()).winner
        return {
            "sweep": self.sweep_id,
            "dir": str(self.folder),
            "parent_run": self.parent_run,
            "trials": len(self.record.trials),
            "states": self.record.counts(),
            "best": best
            and {
                "trial_key": best.trial_key,
                "run_id": self.run_ids.get(best.trial_key),
                "metric": "eval_loss",
                "value": best.best_eval_loss,
                "step": best.best_step,
                "params": dict(best.params),
            },
        }


def launch(
    sweep: Sweep,
    planned: plans.Plan,
    progress: Callable[[SweepFolder], AbstractContextManager[Progress]],
    clock: Callable[[], float] = time.time,
) -> Result:
    """Runs a sweep in a new folder.

    Args:
        sweep: the checked configuration.
        planned: its plan; bounds what hosts may take.
        progress: makes the display once the sweep's folder is known.

    Raises:
        StorageError, ConnectionFailed, HostError: nothing could be trained; the folder says so too.
    """
    # Imported here: mlflow and ray take seconds, and a mistake in the sweep file must not wait for them.
    from sweeps.tracking.sink import MlflowSink
    from sweeps.tracking.writer import Writer
    from sweeps.tune_run import Driver

    config = sweep.config
    started = datetime.fromtimestamp(clock(), UTC)
    sweep_id = f"{config.name}-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = folders.create(Path(config.storage), config.name, document(config, sweep_id))
    budget = config.budget.wall_clock
    stop = StopRequest(clock() + seconds(budget) if budget is not None else None, clock)
    with ExitStack() as stack:
        stack.enter_context(folders.locked(folder))
        journal = Journal(folder)
        stack.callback(journal.close)
        display = stack.enter_context(progress(folder))
        stack.enter_context(on_signals(stop, display.say))
        sink = MlflowSink(config, sweep_id, folder)
        writer = Writer(folder, sink, display.say)
        journal.listen(display)
        journal.listen(lambda _event, _record: writer.notify())
        journal.add(SweepStarted(time=clock()))
        writer.start()
        driver = Driver(config, folder, journal, stop, clock)
        try:
            _drive(sweep, driver, sweep_id, display.say)
        finally:
            left = writer.drain(DRAIN_SECONDS)
    return Result(
        sweep_id=sweep_id,
        folder=folder.path,
        record=journal.record,
        stopped_by=stop.signal,
        undelivered=left,
        parent_run=sink.parent_run,
        experiment_id=sink.experiment_id,
        run_ids=sink.run_ids,
        estimated_bytes=driver.hosts[0].estimated_bytes if driver.hosts else None,
    )


def _drive(sweep: Sweep, driver: Driver, namespace: str, say: Callable[[str], None]) -> None:
    """Connects to Ray and runs the trials; whatever happens, the journal says how each of them ended."""
    from cluster.connect import connected

    failure: str | None = "the driver failed"
    try:
        address = sweep.config.cluster.address or "local"
        say("starting Ray" if address == "local" else f"joining Ray ({address})")
        # Ray puts a SIGTERM handler of its own in place when it starts, so ours come again after it.
        with connected(address, namespace), on_signals(driver.stop, say):
            say("starting hosts: data and base model are made ready, and cached for the next time")
            ready = driver.start_hosts(room(sweep))
            driver.run(source(sweep), ready.slots)
        failure = None
    except KeyboardInterrupt:
        failure = None
    except ClusterError as error:
        failure = str(error)
        raise
    finally:
        driver.end(failure)


def document(config: SweepConfig, sweep_id: str) -> dict[str, Any]:
    """What config.json holds: the resolved configuration and the sweep's id."""
    return {"sweep_id": sweep_id, "config": json.loads(config.model_dump_json())}


def room(sweep: Sweep) -> Room:
    """How many slots each host may have."""
    from cluster.hosts import Room

    return Room(
        slots=sweep.config.cluster.slots_per_host,
        at_most=plans.at_most(sweep.config),
        largest=plans.largest(sweep.config, sweep.space),
    )


def source(sweep: Sweep) -> TrialSource:
    """The sweep's trials from the first one on."""
    fingerprints = registry.find(sweep.config.trainable).fingerprint(sweep.config.base)
    return TrialSource(sweep.config, sweep.space, fingerprints)
