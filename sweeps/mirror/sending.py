"""Sends what a sweep's folder has and its mirror lacks, and then the manifest.

The mirror is always as a killed driver could have left the folder: it holds all files that its event log names. This
gives the order: the small files (the log then holds all events that MLflow has acknowledged), the snapshots, the length
of the log, and the files that the log names at that length: rows of the base, adapters and rows of trials. These
adapters stay on disk until the manifest is written (`SweepFolder.in_use`). A snapshot that vanishes before its turn is
left out: the mirror keeps its last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from itertools import count

from sweeps.mirror import timeouts
from sweeps.mirror.contents import FileState, TrialFolders, small_files, trial_files
from sweeps.mirror.manifest import Deleted, OwnManifest, TrialFiles, read_trials
from sweeps.mirror.store import Store, Stored
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal

_OWN = ""
"""Stands in place of a trial's key, for the small files of the sweep's folder."""
IsPart = Callable[[str], bool]
"""Tells whether a file of a trial belongs to a part of its files."""


class Sender:
    """Sends for one driver, from one thread."""

    def __init__(self, store: Store, manifest: OwnManifest, folder: SweepFolder, journal: Journal) -> None:
        """Sends nothing yet."""
        self._store, self._manifest, self._folder, self._journal = store, manifest, folder, journal
        self._is_known = False
        """Whether the content of the mirror is known."""
        self._numbers = count(1)
        self._parts: tuple[Stored, ...] = ()
        """Parts of the event log that this driver has sent, and the manifest names."""
        self._stored: dict[str, dict[str, Stored]] = {}
        """Trial key -> path -> its object. The manifest may not name all of them yet."""
        self._unnamed: set[str] = set()
        """Trials whose files differ between the manifest and `_stored`."""
        self._superfluous: set[str] = set()
        """Objects to delete once the mirror has a manifest without them."""
        self._trials = TrialFolders(folder.path / "trials")

    def send(self) -> None:
        """Makes the mirror equal to the folder.

        Raises:
            Fenced: another driver has taken over, or this one has left.
            StoreError: the store does not answer, or refuses.
            OSError: the folder is gone or cannot be read.
        """
        if not self._is_known:
            self._learn()
        self._send(_OWN, small_files(self._folder.path), lambda name: not _is_of_base(name))
        looked = time.time()
        with_snapshots = self._trials.changed()
        for key in with_snapshots:
            self._send(key, trial_files(self._folder.trial(key)), _is_snapshot)
        with self._journal.at_rest() as (record, length):
            changed = self._trials.changed()
            named = [record.trials[key].adapter for key in changed if key in record.trials]
            self._folder.in_use = frozenset(self._folder.path / adapter for adapter in named if adapter is not None)
        try:
            self._send(_OWN, small_files(self._folder.path), _is_of_base)
            for key in changed:
                self._send(key, trial_files(self._folder.trial(key)), lambda path: not _is_snapshot(path))
            self._publish(length)
        finally:
            self._let_go()
        for key, at in with_snapshots.items():
            self._trials.settled(key, at, looked)
        self._delete()

    def lacking(self) -> set[str]:
        """Returns the trials whose files in the mirror are missing or old."""
        return self._unnamed - {_OWN} | {
            path.name
            for path in self._folder.trials()
            if any(
                not seen.is_in(self._stored.get(path.name, {}).get(name)) for name, seen in trial_files(path).items()
            )
        }

    # What the mirror holds

    def _learn(self) -> None:
        manifest = self._manifest.now
        trials = {key: dict(each.files) for key, each in read_trials(self._store, manifest).items()}
        self._stored = {_OWN: dict(manifest.files), **trials}
        self._parts = ()  # The log is sent anew: after a full disk it may have other lines.
        self._unnamed = {_OWN}
        used = {each.object for files in self._stored.values() for each in files.values()}
        # The other objects are from killed drivers, or parts of the log.
        self._superfluous = set(self._store.names("objects")) - used - set(manifest.trials.values())
        self._trials = TrialFolders(self._folder.path / "trials")
        self._is_known = True

    # What is sent

    def _name(self, path: str) -> str:
        """Returns a name that no object has had."""
        return f"objects/{self._manifest.now.driver}/{next(self._numbers):06d}/{path}"

    def _send(self, key: str, seen: Mapping[str, FileState], is_part: IsPart) -> None:
        """Sends a part of a trial's files. Objects of files that are gone become superfluous."""
        below = f"trials/{key}/" if key else ""
        known = self._stored.get(key, {})
        wanted = [path for path in seen if is_part(path)]
        there = {path: known[path] for path in wanted if seen[path].is_in(known.get(path))}
        names = {path: self._name(f"{below}{path}") for path in wanted if path not in there}
        sent = self._store.send({name: self._folder.path / f"{below}{path}" for path, name in names.items()})
        there |= {path: sent[name] for path, name in names.items() if name in sent}
        gone = {_kept(path) for path in wanted if path not in there}
        whole = {path: stored for path, stored in there.items() if _kept(path) not in gone}
        before = {path: stored for path, stored in known.items() if is_part(path)}
        if gone and not whole:
            whole = before  # An old snapshot is better than none.
        kept = {stored.object for stored in whole.values()}
        self._drop(each.object for each in (*before.values(), *there.values()) if each.object not in kept)
        if whole != before:
            self._unnamed.add(key)
        self._stored[key] = {path: stored for path, stored in known.items() if not is_part(path)} | whole

    def _log(self, length: int) -> tuple[Stored, ...]:
        """Sends the first `length` bytes of the event log as far as they are new; returns all parts."""
        if length == sum(part.size for part in self._parts):
            return self._parts
        parts = [part for part in self._parts if part.size == timeouts.LOG_PART_BYTES]
        self._drop(part.object for part in self._parts if part not in parts)
        start = sum(part.size for part in parts)
        with self._folder.events.open("rb") as log:
            log.seek(start)
            while start < length:
                content = log.read(min(length - start, timeouts.LOG_PART_BYTES))
                if not content:
                    raise FileNotFoundError(f"{self._folder.events}: is shorter than it was")
                name = self._name(f"events-{start}.jsonl")
                parts.append(self._store.send({name: content})[name])
                start += len(content)
        return tuple(parts)

    def _publish(self, length: int) -> None:
        log = self._log(length)
        if not self._unnamed and log == self._parts:
            return
        changed = {key: self._stored[key] for key in self._unnamed if key != _OWN}
        names = {key: self._name(f"trials/{key}.json") for key, files in changed.items() if files}
        self._store.send(
            {name: TrialFiles(files=changed[key]).model_dump_json().encode() for key, name in names.items()}
        )
        named = self._manifest.now.trials
        kept = {key: name for key, name in named.items() if key not in changed}
        try:
            self._manifest.replace(files=self._stored[_OWN], log=log, trials={**kept, **names})
        except Deleted:
            self._manifest.begin_anew()
            self._is_known = False
            raise
        self._drop(name for key, name in named.items() if key in changed)
        self._parts = log
        self._unnamed.clear()

    # What goes

    def _drop(self, names: Iterable[str]) -> None:
        self._superfluous.update(names)

    def _delete(self) -> None:
        """Deletes objects that no manifest names. If the store fails, a later call deletes them."""
        if self._superfluous:
            self._store.remove(self._superfluous)
            self._superfluous.clear()

    def _let_go(self) -> None:
        """Removes adapters that stayed on disk only because they were in use."""
        in_use, self._folder.in_use = self._folder.in_use, frozenset()
        for path in in_use:
            adapter = self._journal.record.trials[path.parent.name].adapter
            if adapter is not None and self._folder.path / adapter != path:
                self._folder.prune_adapters(path.parent.name, self._folder.path / adapter)


def _is_of_base(name: str) -> bool:
    return name.startswith("base_")


def _is_snapshot(path: str) -> bool:
    return path.startswith("snapshot-")


def _kept(path: str) -> str:
    """Returns the folder of a trial's file, which appears and vanishes whole."""
    return path.partition("/")[0]
