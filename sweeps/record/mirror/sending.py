"""Sends what a moment of the folder has and the mirror lacks; each object is written once, under a name of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from sweeps.errors import StorageError
from sweeps.record.mirror.at_once import at_once
from sweeps.record.mirror.contents import Taken
from sweeps.record.mirror.holding import Held
from sweeps.record.mirror.manifest import Seen, Stored, TrialFiles, parts_that_stay, to_send, unused
from sweeps.record.mirror.store import Store

LARGEST_PART_BYTES = 8 << 20
"""Of the event log, so that it is never in memory as a whole."""


class Sender:
    """Sends files for one driver."""

    def __init__(self, store: Store, held: Held, events: Path, stage: Path) -> None:
        """Sends nothing yet.

        Args:
            held: its lease: without it nothing is sent.
            stage: where the files of trials that are to be sent are linked.
        """
        self._store, self._held = store, held
        self._events, self._stage = events, stage
        self._uploads = 0
        self._loose: dict[tuple[str, str], Stored] = {}
        """(trial key, path) -> a file that was sent, and that no manifest names yet."""
        self._superfluous: list[str] = []
        """Objects to be deleted once a manifest without them is there."""

    def begin(self) -> None:
        """What is sent from now on gets names of its own."""
        self._uploads += 1

    def files(self, taken: Taken, before: Mapping[str, Stored]) -> dict[str, Stored]:
        """Where the small files are, once those that the mirror lacks are there."""
        return {
            name: before[name] if content is None else self._send(name, content, seen.mtime_ns)
            for name, (seen, content) in taken.files.items()
        }

    def log(self, length: int, before: tuple[Stored, ...]) -> tuple[Stored, ...]:
        """Where the first `length` bytes of the event log are, once they are there."""
        there = sum(part.size for part in before)
        if length == there:
            return before
        # It is shorter when its last event was taken back, since the disk had no room for it.
        parts = [*parts_that_stay(before, length)] if length > there else []
        start = sum(part.size for part in parts)
        with self._events.open("rb") as log:
            log.seek(start)
            # After an outage there may be much: no more than a part of it is in memory.
            while start < length:
                content = log.read(min(length - start, LARGEST_PART_BYTES))
                if not content:
                    raise StorageError(f"{self._events}: is shorter than it was")
                parts.append(self._send(f"events-{start}.jsonl", content))
                start += len(content)
        return tuple(parts)

    def trials(self, taken: Taken, before: Mapping[str, TrialFiles]) -> dict[str, TrialFiles]:
        """What the mirror holds of each trial that was changed, once its new files are there."""
        new = [
            (key, path, seen[path])
            for key, seen in taken.trials.items()
            for path in to_send(before[key].files if key in before else {}, seen)
        ]
        sent = dict(zip([each[:2] for each in new], at_once(lambda each: self._file(*each), new), strict=True))
        now = {
            key: TrialFiles(files={path: sent.get((key, path)) or before[key].files[path] for path in seen})
            for key, seen in taken.trials.items()
        }
        nothing = TrialFiles(files={})
        return {key: files for key, files in now.items() if files != before.get(key, nothing)}

    def indexes(self, trials: Mapping[str, TrialFiles]) -> dict[str, str]:
        """Where the `TrialFiles` of trials are, of those that have files, once they are there."""
        keys = [key for key, trial in trials.items() if trial.files]
        names = at_once(
            lambda key: self._send(f"trials/{key}.json", trials[key].model_dump_json().encode()).object, keys
        )
        return dict(zip(keys, names, strict=True))

    def _file(self, key: str, path: str, seen: Seen) -> Stored:
        loose = self._loose.get((key, path))
        if loose is not None and loose.is_of(seen):
            return loose
        source = self._stage / key / path
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stored = self._put(f"trials/{key}/{path}", source, seen.size, digest, seen.mtime_ns)
        self._loose[key, path] = stored
        return stored

    def _send(self, name: str, content: bytes, mtime_ns: int = 0) -> Stored:
        return self._put(name, content, len(content), hashlib.sha256(content).hexdigest(), mtime_ns)

    def _put(self, path: str, content: Path | bytes, size: int, sha256: str, mtime_ns: int) -> Stored:
        self._held.check()
        target = f"objects/{self._held.token}/{self._uploads:06d}/{path}"
        self._superfluous.append(target)  # until a manifest names it
        self._store.send(target, content)
        return Stored(object=target, size=size, sha256=sha256, mtime_ns=mtime_ns)

    # What goes

    def found(self, named: set[str]) -> None:
        """Objects that the mirror holds and that its manifest does not name are of drivers that were killed."""
        self._superfluous = [each for each in self._store.names("objects") if each not in named]

    def forget(self) -> None:
        """Nothing that was sent is taken to be there any more."""
        self._loose.clear()

    def named(self, before: list[str], after: list[str]) -> None:
        """A manifest is there that names `after` in the place of `before`."""
        self._loose.clear()
        self._superfluous = unused([*self._superfluous, *before], after)

    def clear(self) -> None:
        """Deletes what no manifest names; what the store does not delete now is deleted later."""
        if self._superfluous:
            self._held.check()
            self._store.remove(self._superfluous)
            self._superfluous = []
