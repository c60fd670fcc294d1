"""The thread that keeps a sweep's mirror: it sends what changed in the folder, and then the manifest that says so.

Training never waits for it. What the store does not take is sent later, as the folder stands then.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from sweeps.errors import StorageError
from sweeps.record.events import Event
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.mirror.contents import Contents
from sweeps.record.mirror.holding import Fenced, Held
from sweeps.record.mirror.manifest import Manifest, Stored, TrialFiles, objects
from sweeps.record.mirror.sending import Sender
from sweeps.record.mirror.store import Conflict, Store, StoreError, Version
from sweeps.record.mirror.stored import MANIFEST, read_manifest, read_trials
from sweeps.record.sweep_record import SweepRecord

EVERY_SECONDS = 2.0
"""Pause between two looks at the folder."""
LONGEST_PAUSE_SECONDS = 15.0
PATIENCE_SECONDS = 3.0
"""After so long, a drain says that it waits."""
TURN_SECONDS = 0.2


@dataclass(frozen=True)
class Behind:
    """What a mirror lacks of its folder."""

    trials: int
    """Trials whose files are not there as they are."""
    log_bytes: int
    """Bytes of the event log."""

    def __str__(self) -> str:
        """What is lacking, in words."""
        lacks = [f"{self.log_bytes} bytes of the event log"] if self.log_bytes else []
        lacks += [f"files of {self.trials} trial{'' if self.trials == 1 else 's'}"] if self.trials else []
        return " and ".join(lacks) or "the last changes of its small files"


class Follower:
    """Keeps a mirror for as long as its lease is held."""

    def __init__(
        self, store: Store, held: Held, folder: SweepFolder, journal: Journal, sweep_id: str, say: Callable[[str], None]
    ) -> None:
        """Sends nothing yet."""
        self._store, self._held, self._say = store, held, say
        self._folder, self._journal = folder, journal
        self._contents = Contents(folder, journal)
        self._sender = Sender(store, held, folder.events, self._contents.stage)
        self._manifest = Manifest(token=held.token, serial=0, sweep_id=sweep_id)
        self._version: Version | None = None
        self._trials: dict[str, TrialFiles] = {}
        self._is_known = False
        """Whether it is known what the mirror holds."""
        self._is_stamped = False
        """Whether the manifest that is there is this driver's."""
        self._changed = threading.Condition()
        self._closing = False
        self._is_whole = False
        self._has_left = False
        self._trouble = False
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def heard(self, event: Event, record: SweepRecord) -> None:
        """An event was written."""
        self._contents.heard(event, record)

    def drain(self, seconds: float, is_leaving: Callable[[], bool]) -> Behind | None:
        """Waits until all is sent, `seconds` are over, or the caller leaves; what the mirror then lacks."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._wait(min(seconds, PATIENCE_SECONDS), is_leaving)
        if self._thread.is_alive() and seconds > PATIENCE_SECONDS and not is_leaving():
            self._say(f"mirror: waiting up to {seconds:.0f} s for {self._store.uri}; Ctrl-C leaves without it")
            self._wait(seconds - PATIENCE_SECONDS, is_leaving)
        return None if self._is_whole else self._behind()

    @property
    def uri(self) -> str:
        """Where the mirror is."""
        return self._store.uri

    @property
    def is_busy(self) -> bool:
        """Whether the thread waits for the store."""
        return self._thread.is_alive()

    def leave(self) -> None:
        """Ends the thread, once it has sent what changed or the store does not answer."""
        if self.drain(PATIENCE_SECONDS, lambda: False) is None:
            self._contents.close()
        self._has_left = True

    def _wait(self, seconds: float, is_leaving: Callable[[], bool]) -> None:
        # In short turns: a signal does not end the wait for a thread.
        deadline = time.monotonic() + seconds
        while self._thread.is_alive() and not is_leaving() and (left := deadline - time.monotonic()) > 0:
            self._thread.join(min(left, TURN_SECONDS))

    def _behind(self) -> Behind:
        log_bytes = max(0, self._journal.log.length - self._manifest.log_bytes)
        return Behind(len(self._contents.unsent), log_bytes)

    def _run(self) -> None:
        pause = EVERY_SECONDS
        while True:
            with self._changed:
                closing = self._closing
            try:
                self._held.check()
                self._learn()
                self._follow()
            except Fenced:
                return
            except Exception as error:  # whatever the store or the disk did: an outage costs delay, not the sweep
                if self._is_over():
                    return
                self._report(error)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                if self._trouble:
                    self._say(f"mirror: {self._store.uri} is back, and holds everything")
                self._trouble, pause = False, EVERY_SECONDS
                if closing:
                    self._is_whole = True
                    return
            with self._changed:
                # A driver that begins to close wants one more try at once.
                self._changed.wait_for(partial(self._begins_to_close, closing), pause)

    def _is_over(self) -> bool:
        """Whether nobody listens any more, or the folder is gone: then the sweep ends itself, and says why."""
        try:
            return self._has_left or not self._journal.log.is_in_place()
        except ValueError:
            return True  # The log is closed.

    def _begins_to_close(self, was_closing: bool) -> bool:
        return self._closing and not was_closing

    def _report(self, error: Exception) -> None:
        if not self._trouble:
            told = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
            self._say(f"mirror: {told}; training goes on, and the mirror follows later")
        self._trouble = True

    # What the mirror holds

    def _learn(self) -> None:
        """Reads what the mirror holds, and makes it this driver's: whoever held it before writes no more."""
        if self._is_known:
            return
        manifest, version = read_manifest(self._store) or (None, None)
        if manifest is not None:
            if manifest.token > self._held.token:
                self._held.lose("another driver")
                self._held.check()
            self._trials = read_trials(self._store, manifest)
            self._manifest = manifest.model_copy(update={"token": self._held.token, "log": self._log_there(manifest)})
        else:
            self._manifest, self._trials = self._manifest.model_copy(update={"files": {}, "log": (), "trials": {}}), {}
        self._version = version
        self._sender.found(set(objects(self._manifest, self._trials)))
        self._contents.look_at_all()
        self._is_known = True

    def _log_there(self, manifest: Manifest) -> tuple[Stored, ...]:
        """The parts of the log in the mirror that are this folder's own."""
        there: list[Stored] = []
        with self._folder.events.open("rb") as log:
            for part in manifest.log:
                if hashlib.sha256(log.read(part.size)).hexdigest() != part.sha256:
                    break
                there.append(part)
        return tuple(there)

    # What is sent

    def _follow(self) -> None:
        """Sends what changed since the last manifest, if anything, and then the next manifest."""
        before = self._manifest
        taken = self._contents.take(before.files, self._trials)
        self._sender.begin()
        try:
            files = self._sender.files(taken, before.files)
            log = self._sender.log(taken.log_bytes, before.log)
            trials = self._sender.trials(taken, self._trials)
            if trials or not self._is_stamped or (files, log) != (before.files, before.log):
                indexes = {key: name for key, name in before.trials.items() if key not in trials}
                indexes |= self._sender.indexes(trials)
                told = {"serial": before.serial + 1, "files": files, "log": log, "trials": indexes}
                self._write(before.model_copy(update=told), trials)
        except BaseException:
            self._contents.missed(taken)
            raise
        self._contents.arrived(taken)
        self._sender.clear()

    def _write(self, following: Manifest, trials: Mapping[str, TrialFiles]) -> None:
        """Puts the manifest there. Raises `Fenced` when another driver has."""
        self._version = self._put(following.model_dump_json().encode(), following)
        replaced = {key: self._trials[key] for key in trials if key in self._trials}
        self._sender.named(objects(self._manifest, replaced), objects(following, trials))
        self._manifest, self._is_stamped = following, True
        for key, files in trials.items():
            if files.files:
                self._trials[key] = files
            else:
                self._trials.pop(key, None)

    def _put(self, content: bytes, following: Manifest) -> Version:
        while True:
            self._held.check()
            try:
                return self._store.write(MANIFEST, content, self._version)
            except Conflict:
                found = read_manifest(self._store)
                if found is None:
                    # Somebody deleted it, and maybe more: all is sent again.
                    self._is_known = self._is_stamped = False
                    self._sender.forget()
                    raise StoreError(f"{self._store.uri}: the mirror was deleted, and is made anew") from None
                if found[0].token > self._held.token:
                    self._held.lose("another driver")
                elif found[0] == following:
                    return found[1]  # it was written, and the answer lost
                self._version = found[1]
