"""One trial in the broker's process: takes a slot, trains to the next report point, and stores what comes back.

The trial's snapshot and best adapter are in the sweep's folder, so that the trial can go on after anything but the loss
of that folder.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ray.exceptions import ObjectLostError, RayError

from cluster.broker import Broker
from cluster.broker_answers import Lease, Refused
from cluster.hosts import PROCESS_LOST
from cluster.loop import Large, Outcome
from sweeps import timeouts
from sweeps.errors import BudgetUsedUp, StorageError
from sweeps.record.events import TrialReported, TrialState
from sweeps.tune.trial_files import FolderFiles
from sweeps.tune.trial_progress import LastReport, Progress
from trainables.contract import Evaluation, Failure, Opened, StepRecord
from trainables.inputs.legible import legible
from trainables.specs import TrialSpec

NO_BYTES = Large()


class ResultRequest(NamedTuple):
    """Asks for the result of a trial that follows the results that Tune has."""

    config: Mapping[str, Any]
    """See `TrialQueue.suggest`."""
    reported: LastReport
    """The last report that Tune has."""
    is_open: bool
    """Whether Tune knows that the trial holds a slot."""


def final(state: TrialState, reason: str, step: int = 0, history: tuple[StepRecord, ...] = ()) -> dict[str, Any]:
    """Returns the last result of a trial for Tune."""
    return {"step": step, "state": state.value, "reason": reason, "history": history, "done": True}


def last_words(error: Exception) -> str:
    """Returns the exception's class and the last line of its text."""
    lines = str(error).strip().splitlines()
    return legible(f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__)


class ActiveTrial:
    """Runs one trial between two parkings. The same question gets the same answer."""

    def __init__(self, broker: Broker, question: ResultRequest, before: ActiveTrial | None = None) -> None:
        """Does nothing yet. `before` is the trial's run until it was parked; that run ends first."""
        self._broker, self._first, self._before = broker, question, before
        self._key: str = question.config["trial_key"]
        self._spec = TrialSpec.model_validate_json(question.config["spec"])
        self._files = FolderFiles(question.config, self._key)
        self._progress: Progress | None = None
        """None until the folder was read."""
        self._leased: Lease | None = None
        self._trainable_params = 0
        self._unwritten: Any = None
        """Ray's reference to the latest snapshot, if budget.disk had no room for this snapshot."""
        self._is_open = False
        """Whether the trial has held a slot."""
        self._told: dict[str, Any] | None = None
        """The latest report, or the last result."""
        self._working: asyncio.Task[None] | None = None
        self._is_ending = False

    async def answer(self, question: ResultRequest, wait_seconds: float) -> dict[str, Any] | None:
        """Returns the result that follows; None if it is not there in time. The trial trains on meanwhile."""
        deadline = time.monotonic() + wait_seconds
        while (known := self._known(question)) is None:
            if self._working is None:
                self._working = asyncio.create_task(self._work())
            await asyncio.wait({self._working}, timeout=max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                return self._known(question)
        return known

    def _known(self, question: ResultRequest) -> dict[str, Any] | None:
        told = self._told
        if told is not None and (told["done"] or told["step"] > question.reported.step):
            return told
        if question.is_open or not self._is_open:
            return None
        return {"step": self._now.step, "state": TrialState.RUNNING.value, "opened": True, "done": False}

    async def end(self) -> None:
        """Frees the slot, after the present work."""
        self._is_ending = True
        if self._working is not None:
            await asyncio.wait({self._working})
        await self._vacate()

    async def _work(self) -> None:
        """Gets the next result. An error ends the trial; Tune, which would start it again, never sees the error."""
        try:
            if self._progress is None:
                await self._load()
            elif not self._is_open:
                await self._open()
            else:
                await self._train(self._progress.target)
        except StorageError as error:
            # The disk failed, not the trial: the sweep ends in order, and the trial goes on when the sweep is resumed.
            ends = "budget" if isinstance(error, BudgetUsedUp) else "failed"
            await self._end(TrialState.PAUSED, legible(str(error)))
            self._told = {**(self._told or {}), "ends_sweep": ends}
        except Exception as error:
            await self._end(TrialState.FAILED, last_words(error))
        finally:
            self._working = None

    async def _load(self) -> None:
        if self._before is not None:
            await self._before.end()
            self._before = None
        saved = await self._broker.in_thread(self._files.saved)
        progress = Progress.of(self._first.config, self._first.reported, saved)
        if saved.report is not None and saved.report.step > progress.reported:
            # The snapshot was written, and the driver or the broker died before the driver wrote the report.
            progress = self._tell(progress, saved.report)
        self._progress = progress

    async def _open(self) -> None:
        """Takes a slot; tries again after each lost host."""
        while self._goes_on():
            opened = await self._lease()
            if isinstance(opened, Failure):
                return await self._end(TrialState.after(opened), opened.message)
            if opened is not None:
                self._is_open = True
                return None
        return await self._end(TrialState.PAUSED, "the sweep is stopping")

    async def _train(self, target: int) -> None:
        """Trains to the next report point."""
        while True:
            outcome, large = await self._reach(target)
            if outcome is None:
                return await self._end(TrialState.PAUSED, "the sweep is stopping")
            if outcome.failure is not None or outcome.evaluation is None:
                failure = outcome.failure or Failure(kind="failed", message="no evaluation")
                return await self._end(TrialState.after(failure), failure.message)
            with suppress(ObjectLostError):  # Large bytes were lost with their node. The host, if alive, answers again.
                report = await self._keep(outcome, outcome.evaluation, large)
                break
        if self._now.is_last(target):
            await self._vacate()
        self._progress = self._tell(self._now, report)
        return None

    @property
    def _now(self) -> Progress:
        assert self._progress is not None, "the folder was read"
        return self._progress

    def _goes_on(self) -> bool:
        return not self._is_ending and self._broker.goes_on(self._key)

    async def _end(self, state: TrialState, reason: str) -> None:
        """Frees the slot and makes the last result of the trial."""
        step, steps = (0, ()) if self._progress is None else (self._progress.step, self._progress.history)
        self._told = final(state, reason, step, steps)
        await self._vacate()

    def _tell(self, progress: Progress, report: TrialReported) -> Progress:
        done = progress.is_last(report.step)
        self._told = {
            "step": report.step,
            "state": (TrialState.COMPLETED if done else TrialState.RUNNING).value,
            "report": report,
            "is_saved": self._unwritten is None,
            "done": done,
        }
        return progress.after_report(report)

    # The trial's own folder

    async def _keep(self, outcome: Outcome, evaluation: Evaluation, large: Any) -> TrialReported:
        """Writes rows, adapter and snapshot, in this order: a snapshot names only files that exist.

        Returns the report.
        """
        now = self._now
        progress, report = now.evaluated(outcome, evaluation, self._trainable_params, time.time())

        def written(large: Large) -> TrialReported:
            if outcome.step <= now.reported:
                return report  # The log has this report, from before the snapshot was lost.
            rows, is_repeat = evaluation.document(), self._first.config["repeats"] is not None
            self._files.keep_rows(outcome.step, rows)
            if report.best_step != outcome.step or large.adapter is None:
                return report
            kept = outcome.step, large.adapter, rows, now.best, is_repeat, evaluation.answers
            adapter, digest = self._files.keep_best(*kept)
            return report.model_copy(update={"adapter": adapter, "adapter_sha256": digest})

        told = await self._broker.in_thread(written, large)
        await self._save(progress, outcome, large, told)
        return told

    async def _save(
        self, progress: Progress, outcome: Outcome, large: Any, report: TrialReported | None = None
    ) -> None:
        """Writes the snapshot of an outcome, if it has one and budget.disk has room."""
        progress = progress.after_snapshot(outcome.step)

        def written(large: Large) -> bool:
            assert large.snapshot is not None, "the outcome has one"
            return self._files.keep_snapshot(progress.saved(report), large.snapshot, progress.best)

        is_written = not outcome.has_snapshot or await self._broker.in_thread(written, large)
        self._progress, self._unwritten = progress, None if is_written else large

    async def _latest(self) -> Any:
        """Returns a reference to the snapshot that the trial goes on from; None without one."""

        def read(unwritten: Large | None) -> Any:
            snapshot = self._files.snapshot() if unwritten is None else unwritten.snapshot
            return None if snapshot is None else self._broker.put(snapshot)

        try:
            return await self._broker.in_thread(read, self._unwritten)
        except ObjectLostError:
            return await self._broker.in_thread(read, None)

    # The slot

    async def _reach(self, target: int) -> tuple[Outcome | None, Any]:
        """Returns the outcome at `target`; goes on after each lost host. Returns None if the trial is to leave."""
        while self._goes_on():
            try:
                found = await self._advance(target)
            except PROCESS_LOST:
                self._leased = None
            except ObjectLostError:
                pass  # Large bytes were lost with the node that held them. The host, if it is alive, answers again.
            else:
                if found is not None:
                    return found
        return await self._leave()

    async def _advance(self, target: int) -> tuple[Outcome, Any] | None:
        """Calls the host once, after taking a slot if the trial has none. Returns None while there is no outcome."""
        if self._leased is None:
            opened = await self._lease()
            if isinstance(opened, Failure):
                return Outcome(step=self._now.step, failure=opened), NO_BYTES
            if opened is None or self._leased is None:
                return None
        now = self._now
        words = self._leased.id, target, now.best, now.known, timeouts.CALL_SECONDS, now.judged(target)
        outcome, large = await self._called(lambda host: host.advance.remote(*words))
        if outcome is None:
            return None
        self._progress = now.with_steps(outcome.history)
        if outcome.failure is None:
            self._broker.reached(self._key)
            if outcome.evaluation is None:
                await self._save(self._now, outcome, large)
                if outcome.must_move:
                    await self._vacate()
                return None
        return outcome, large

    async def _leave(self) -> tuple[Outcome | None, Any]:
        """Saves the trial at its present step. Returns the outcome if the trial stands at a report point or failed."""
        if self._leased is None:
            return None, NO_BYTES
        lease, known = self._leased.id, self._now.known
        try:
            outcome, large = await self._called(lambda host: host.save.remote(lease, known))
            assert outcome is not None, "a host that saves has an outcome"
            self._progress = self._now.with_steps(outcome.history)
            if outcome.evaluation is not None or outcome.failure is not None:
                return outcome, large
            if outcome.has_snapshot and outcome.step > self._now.step:
                await self._save(self._now, outcome, large)
        except RayError:
            pass  # The trial goes on from the snapshot before.
        return None, NO_BYTES

    async def _called(self, ask: Callable[[Any], Any]) -> tuple[Outcome | None, Any]:
        """Returns a host's outcome, and a reference to its large part."""
        assert self._leased is not None, "the trial has a slot"
        larges: list[Any] = []

        async def answer(host: Any) -> Outcome | None:
            asked, large = ask(host)
            larges.append(large)
            found: Outcome | None = await asked
            return found

        outcome = await self._broker.call(self._leased.host_id, answer)
        return outcome, larges[-1]

    async def _lease(self) -> Opened | Failure | None:
        """Waits `CALL_SECONDS` for a slot and puts the trial into the slot. Returns None if there is none yet."""
        granted = await self._broker.acquire(self._key, timeouts.CALL_SECONDS, self._spec)
        if granted is None:
            return None
        if isinstance(granted, Refused):
            return Failure(kind=granted.kind, message=granted.message)
        self._leased = granted
        spec, snapshot = self._first.config["spec"], await self._latest()
        try:
            opened: Opened | Failure = await self._broker.call(
                granted.host_id, lambda host: host.open.remote(granted.id, spec, snapshot)
            )
        except PROCESS_LOST:
            self._leased = None
            return None
        if isinstance(opened, Opened):
            self._trainable_params = opened.trainable_params
            if opened.step > self._now.step:  # the steps in between would never be reported
                unread = f"the snapshot of {self._key} at step {opened.step} could not be read a moment ago"
                raise StorageError(f"{unread}: go on with qsweep resume")
        return opened

    async def _vacate(self) -> None:
        """Frees the slot, if the trial holds one."""
        self._leased = None
        await self._broker.vacate(self._key)
