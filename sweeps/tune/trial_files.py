"""A trial's files in the sweep's folder: snapshots, rows and the best adapter, read and written by the broker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps.errors import BudgetUsedUp
from sweeps.record import digests, samples, snapshots
from sweeps.record.folder import FilesKind, SweepFolder, writing
from sweeps.record.snapshots import Disk, SavedTrial
from trainables.contract import AnsweredRow
from trainables.objective import Objective, SortKey


class FolderFiles:
    """A trial's files on this machine's disk. A repeated call has the same effect as one call."""

    def __init__(self, settings: Mapping[str, Any], trial_key: str) -> None:
        """Opens the files of a trial.

        Args:
            settings: `dir`, `disk_bytes`, `objective` and `parks` of the trial's configuration.
        """
        self._folder = SweepFolder(Path(settings["dir"]))
        self._key = trial_key
        objective = Objective.model_validate(settings["objective"])
        self._disk = Disk(self._folder, settings["disk_bytes"], objective, settings["parks"])

    def saved(self) -> SavedTrial:
        """Returns the trial's state in its latest undamaged snapshot; an empty state if there is none."""
        return snapshots.read_snapshot(self._folder, self._key)[0]

    def snapshot(self) -> bytes | None:
        """Returns the pack's part of the latest undamaged snapshot."""
        return snapshots.read_snapshot(self._folder, self._key)[1]

    def keep_best(
        self,
        step: int,
        adapter: Mapping[str, bytes],
        rows: Mapping[str, Any],
        best: SortKey,
        is_repeat: bool = False,
        answers: Sequence[AnsweredRow] = (),
    ) -> tuple[str, str]:
        """Writes the trial's best adapter and its evaluation. Returns its folder in the sweep's folder, and its digest.

        Args:
            rows: the document of the evaluation.
            best: the trial's best evaluation before this one.
            is_repeat: whether the trial is a repeat; snapshots of parked trials then make room.
            answers: the answered rows of this evaluation, if answers were scored.

        Raises:
            BudgetUsedUp: budget.disk has no room for the adapter.
            StorageError: the disk cannot be written.
        """
        files = {f"adapter/{name}": content for name, content in adapter.items()}
        digest = digests.of_files(adapter)
        document = {"step": step, "adapter_sha256": digest, **rows}
        files["eval_rows.json"] = json.dumps(document).encode()
        if answers:
            files[samples.OF_TRIAL] = samples.text(answers).encode()
        with self._room("best", files, best, is_repeat) as is_room:
            if not is_room:
                raise BudgetUsedUp("budget.disk is used up: no room for another adapter")
            kept = self._folder.keep(self._key, "best", step, files)
        return str(kept.relative_to(self._folder.path)), digest

    def keep_rows(self, step: int, rows: Mapping[str, Any]) -> None:
        """Writes the evaluation of a report, row by row, so that trials can be compared after equal steps.

        Writes nothing if budget.disk has no room beside the latest snapshots: only comparisons need the rows.

        Raises:
            StorageError: the disk cannot be written.
        """
        files = {"eval_rows.json": json.dumps({"step": step, **rows}).encode()}
        with self._room("snapshot", files, SortKey()) as is_room:
            if is_room:
                self._folder.keep(self._key, "rows", step, files)

    def keep_snapshot(self, progress: SavedTrial, snapshot: bytes, best: SortKey) -> bool:
        """Writes a snapshot and removes older ones; returns False if budget.disk has no room for the snapshot.

        Args:
            best: the trial's best evaluation.

        Raises:
            StorageError: the disk cannot be written.
        """
        files = snapshots.files(progress, snapshot)
        with self._room("snapshot", files, best) as is_room:
            if is_room:
                self._folder.keep(self._key, "snapshot", progress.step, files)
        self._folder.drop_snapshots(self._key, but=snapshots.KEPT)
        return is_room

    @contextmanager
    def _room(
        self, kind: FilesKind, files: Mapping[str, bytes], best: SortKey, takes_parked: bool = False
    ) -> Iterator[bool]:
        """Yields whether budget.disk has room for the files. Turns an error of the disk into a `StorageError`."""
        with (
            writing(self._folder.trial(self._key)),
            self._disk.room(kind, sum(map(len, files.values())), best, takes_parked) as is_room,
        ):
            yield is_room
