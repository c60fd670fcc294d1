"""Reads from a sweep's folder where the sweep stands, in any process, while it runs or after."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.pace import Silent
from sweeps.config.number_words import counted, duration, limit
from sweeps.config.points import Scalar
from sweeps.errors import StorageError, SweepError
from sweeps.record.events import DataPrepared, DriverLives, Event, RequestAnswered, TrialState
from sweeps.record.folder import SweepFolder, acknowledged_bytes, is_driven, noted_by, read_events
from sweeps.record.run_names import label
from sweeps.record.selection import Selection, choose
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import trial_tables
from sweeps.report.best_compared import best_json, in_words
from sweeps.report.facts import Fact, lines_of
from sweeps.report.time_left import Rates, Trained, seconds_left

if TYPE_CHECKING:
    from rich.console import RenderableType

State = Literal["RUNNING", "FINISHED", "EXTENDED", "INTERRUPTED", "FAILED", "LOST", "NOT_BEGUN"]
WORDS: dict[State, str] = {
    "RUNNING": "running",
    "FINISHED": "finished",
    "EXTENDED": "finished, and extended since: qsweep resume goes on",
    "INTERRUPTED": "interrupted: qsweep resume goes on",
    "FAILED": "failed: qsweep resume goes on once the cause is mended",
    "LOST": "not running, and its driver was lost: qsweep resume goes on",
    "NOT_BEGUN": "not running, and not begun: qsweep resume begins it",
}


@dataclass(frozen=True)
class Status:
    """State of a sweep at one moment."""

    sweep_id: str
    folder: Path
    state: State
    record: SweepRecord
    planned_trials: int | None
    """budget.trials as it is now, plus one for each added point; None if that is no number."""
    launched_with: Mapping[str, Scalar | None]
    """Changed key -> its value at launch."""
    now: float
    """Time of this status, in seconds since the epoch."""
    seconds: float
    """Seconds that all drivers of the sweep have run so far."""
    rates: Rates | None
    """None before the first report under the latest driver."""
    seconds_left: float | None
    """See the function `seconds_left`; None also if the sweep does not run."""
    tracking_uri: str
    backlog: int
    """Events that the tracking server has not acknowledged yet."""
    refused: int
    """Events that the tracking server has refused; the next driver sends them again."""
    waiting_requests: int
    """Requests in the mailbox that the driver has not answered."""
    waits_for: str | None
    """What a running driver waits for before its first report; None afterwards."""

    @property
    def selection(self) -> Selection:
        """Returns the best trial, or the best so far, or why there is none."""
        return choose(self.record)

    def facts(self) -> list[Fact]:
        """Returns where the sweep stands, without the table of trials."""
        record, rates, best = self.record, self.rates, self.selection
        hosts = record.hosts if self.state == "RUNNING" else None
        folders = {key: trial.adapter_folder(self.folder) for key, trial in record.trials.items()}
        adapters = {key: str(folder) for key, folder in folders.items() if folder is not None}
        rungs = [{"step": step, "reported": came, "parked": parked} for step, came, parked in record.rungs()]
        begun = [trial.point for trial in record.trials.values()]
        added = {"points": len(record.added), "waiting": sum(point not in begun for point in record.added)}
        extended = {
            key: f"{key} is {limit(value)}, and was {limit(self.launched_with.get(key))} at launch"
            for key, value in record.changes.items()
        }
        states = ", ".join(f"{count} {state}" for state, count in record.counts().items()) or "none has begun"
        states += " when the driver was lost" if self.state == "LOST" and record.trials else ""
        waiting = f", {added['waiting']} waiting for a slot" if added["waiting"] else ""
        each = f" of {hosts.gpus_per_host} GPUs each" if hosts and hosts.gpus_per_host > 1 else ""
        left = f", about {duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        return [
            Fact.of("folder", str(self.folder), sweep=self.sweep_id, dir=str(self.folder), state=self.state),
            Fact.of(
                "trials",
                f"{trial_tables.how_many(record, self.planned_trials or '?')} ({states})",
                trials=len(record.trials),
                planned_trials=self.planned_trials,
                states=record.counts(),
            ),
            Fact.of("added", f"{counted(added['points'], 'point')}{waiting}" if record.added else "", added=added),
            *(Fact.of("extended", words) for words in extended.values()),
            Fact.of("reported", ", ".join(map(_rung, rungs)), rungs=rungs, extended=dict(record.changes)),
            Fact.of(
                "best",
                f"{in_words(record, best.winner)}{', so far' if best.so_far else ''}" if best.winner else "",
                best=best_json(record, best, adapter=best.winner and adapters.get(best.winner.trial_key)),
                adapters=adapters,
            ),
            Fact.of(
                "hosts",
                f"{hosts.hosts}{each} on {hosts.device}, {counted(hosts.slots, 'slot')} in all" if hosts else "",
                hosts=record.hosts and record.hosts.model_dump(include={"hosts", "slots", "device", "silent"}),
            ),
            *(Fact.of("warning", silent(host, record, self.now)) for host in (hosts.silent if hosts else ())),
            Fact.of("waits", self.waits_for or "", waits_for=self.waits_for),
            Fact.of(
                "rate",
                f"{rates.steps_per_second:.2f} steps/s, {rates.tokens_per_second:.0f} tokens/s" if rates else "",
                **(asdict(rates) if rates else dict.fromkeys(Rates.__annotations__)),
            ),
            Fact.of("time", f"{duration(self.seconds)}{left}", seconds=self.seconds, seconds_left=self.seconds_left),
            Fact.of(
                "tracking",
                f"{self.tracking_uri} {self._tracked()}",
                tracking={"uri": self.tracking_uri, "backlog": self.backlog, "refused": self.refused},
            ),
            Fact.of(
                "requests",
                f"{self.waiting_requests} not answered yet" if self.waiting_requests else "",
                waiting_requests=self.waiting_requests,
            ),
        ]

    def lines(self) -> list[str]:
        """Returns the facts in lines."""
        return [f"{self.sweep_id}: {WORDS[self.state]}", *lines_of(self.facts(), "  ")]

    def as_json(self) -> dict[str, Any]:
        """Returns the JSON line of `qsweep status`."""
        return {name: number for fact in self.facts() for name, number in fact.numbers.items()}

    def _tracked(self) -> str:
        told = []
        if self.backlog:
            way_out = "" if self.state == "RUNNING" else "; `qsweep resume` sends them"
            told.append(f"has not taken {counted(self.backlog, 'event')} yet{way_out}")
        if self.refused:
            told.append(f"refused {counted(self.refused, 'event')}; the next `qsweep resume` tries again")
        return "; it ".join(told) or "holds all events"


def _rung(rung: Mapping[str, int]) -> str:
    return "{reported} at step {step}".format_map(rung) + (f" ({rung['parked']} parked)" if rung["parked"] else "")


class EventsRead:
    """Reads a sweep's events into a record and rates. A reader that is kept reads on where it stopped."""

    def __init__(self) -> None:
        self.record = SweepRecord()
        self._before = Trained(0, 0)
        """Steps and tokens before the latest driver began to train."""
        self._since: float | None = None
        """Time at which the latest driver began to train."""
        self._read = 0
        """The offset after the last event."""
        self._to_track: list[int] = []
        """Offset after each event that counts for MLflow: all but `RequestAnswered` and `DriverLives`."""

    def take(self, events: Iterable[tuple[Event, int]]) -> None:
        """Adds events, each with the offset after it."""
        for event, offset in events:
            self.record = self.record.apply(event)
            self._read = offset
            if not isinstance(event, RequestAnswered | DriverLives):
                self._to_track.append(offset)
            if isinstance(event, DataPrepared):
                self._before, self._since = Trained.of(self.record.trials.values()), event.time

    def read_on(self, folder: SweepFolder) -> None:
        """Adds the events of the log that were not read yet."""
        if folder.events.exists():
            self.take(read_events(folder.events, self._read))

    @property
    def rates(self) -> Rates | None:
        """Returns the rates of the latest driver until its latest event; None before its first report."""
        if self._since is None or self.record.latest is None:
            return None
        return Rates.between(self._before, Trained.of(self.record.trials.values()), self.record.latest - self._since)

    def seconds_left(self, now: float, planned_trials: int | None, at_launch: int | None) -> float | None:
        """Returns the result of the function `seconds_left`, less the time since the latest event."""
        steps = Trained.of(self.record.trials.values()).steps
        left = seconds_left(self.record, self.rates, steps, planned_trials, at_launch)
        return None if left is None else max(0.0, left - (now - (self.record.latest or now)))

    def beyond(self, offset: int) -> int:
        """Counts the events for MLflow that end beyond an offset."""
        return len(self._to_track) - bisect_right(self._to_track, offset)


def silent(host: Silent, record: SweepRecord, now: float) -> str:
    """Says that a host may hang: which one, for how long, what is usual, and what to do."""
    trials = ", ".join(map(label, sorted(record.trials[key].number for key in host.trials if key in record.trials)))
    if host.what == "answer":
        found = "it answers no call"
    elif host.usual is None:
        found = f"its first {host.what} has not ended"
    else:
        found = f"its {host.what} has not ended, and the slowest so far took {duration(max(1.0, host.usual))}"
    return (
        f"the host of {trials or 'no trial'} (process {host.pid} on {host.node}) may hang: for "
        f"{duration(now - host.since)} {found}. If its GPU or its disk hangs, end it there (kill -9 {host.pid}): "
        "another is made, and its trials go on from their last snapshots"
    )


def read_status(folder: SweepFolder, now: float, read_before: EventsRead | None = None) -> Status:
    """Returns the status of the sweep in a folder.

    Args:
        now: seconds since the epoch.
        read_before: what earlier calls have read; this call reads on. Reading a long log anew takes seconds.

    Raises:
        SweepError: the folder holds no sweep, or its event log is damaged.
    """
    sweep_id, config, trials, uri = _config(folder)
    # Asked before the log is read: a sweep that ends in between counts as running, and not as lost.
    is_running = is_driven(folder)
    log = read_before or EventsRead()
    log.read_on(folder)
    record, rates = log.record, log.rates
    at_launch = trials if isinstance(trials, int) else None
    planned, note = record.trials_in_all(at_launch), noted_by(folder)
    return Status(
        sweep_id=sweep_id,
        folder=folder.path,
        state=_state(record, is_running),
        record=record,
        planned_trials=planned,
        launched_with={key: _at(config, key) for key in record.changes},
        now=now,
        seconds=record.seconds_spent(now if is_running else None),
        rates=rates,
        seconds_left=log.seconds_left(now, planned, at_launch) if is_running else None,
        tracking_uri=str(note.get("uri") or uri),
        backlog=log.beyond(acknowledged_bytes(note)),
        refused=len(note.get("refused") or ()),
        waits_for=_waits_for(record, rates, now) if is_running else None,
        waiting_requests=sum(path.stem not in record.answered for path in folder.request_files()),
    )


def shown(status: Status) -> RenderableType:
    """Returns the status with the table of trials, for a terminal."""
    from rich.console import Group
    from rich.text import Text

    rows = trial_tables.order(status.record)
    return Group(*map(Text, status.lines()), *([trial_tables.terminal(status.record, rows)] if rows else []))


def _config(folder: SweepFolder) -> tuple[str, dict[str, Any], int | str, str]:
    """Reads the sweep's id, its configuration as plain data, budget.trials and tracking.uri."""
    try:
        document = folder.document()
        config = document["config"]
        return str(document["sweep_id"]), config, config["budget"]["trials"], config["tracking"]["uri"]
    except StorageError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{folder.config}: not the configuration of a sweep: {error}") from None


def _at(config: Mapping[str, Any], key: str) -> Scalar | None:
    section, _, name = key.partition(".")
    value: Scalar | None = config.get(section, {}).get(name)
    return value


def _state(record: SweepRecord, is_running: bool) -> State:
    if is_running:
        return "RUNNING"
    if record.started is None:
        return "NOT_BEGUN"
    if record.ended is None:
        return "LOST"
    if record.ended.reason == "failed":
        return "FAILED"
    if record.was_reopened and record.ended.reason != "interrupted":
        return "EXTENDED"
    return "FINISHED" if record.is_finished else "INTERRUPTED"


def _waits_for(record: SweepRecord, rates: Rates | None, now: float) -> str | None:
    """Says what the driver waits for, and how long; None once a trial has reported to it, or the sweep has ended."""
    if rates is not None or record.ended is not None:
        return None
    training = sum(trial.state is TrialState.RUNNING for trial in record.trials.values())
    if record.started is None:
        return "for its driver to check the model and the data"
    if record.hosts is None:
        since, what = (
            record.resumed or now,
            "for Ray and the hosts: qsweep logs shows what they do",
        )
    elif training:
        since, what = record.hosts.time, f"for the first report: {counted(training, 'trial')} in training"
    else:
        since, what = record.hosts.time, "for a trial to start"
    return f"{what}; {duration(max(0.0, now - since))} so far"
