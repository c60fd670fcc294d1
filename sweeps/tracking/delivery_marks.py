"""Marks say how much of the event log MLflow has taken: an offset, and a digest of the log up to there."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK_BYTES = 1 << 20


class Marks:
    """Marks of one log, which only grows. The next mark reads what is new, and never the whole log into memory."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._digest = hashlib.sha256()
        self._digested = 0

    def at(self, offset: int) -> str:
        """The mark at an offset in bytes. It is wrong, as it must be, where the log is shorter."""
        if offset < self._digested:
            self._digest, self._digested = hashlib.sha256(), 0
        with self._log.open("rb") as log:
            log.seek(self._digested)
            while chunk := log.read(min(CHUNK_BYTES, offset - self._digested)):
                self._digest.update(chunk)
                self._digested += len(chunk)
        return f"{offset} {self._digest.hexdigest()[:12]}"

    def offset(self, mark: str | None) -> int | None:
        """The offset of a mark of this log; None when it is none."""
        words = (mark or "").split()
        offset = int(words[0]) if words and words[0].isdecimal() else -1
        return offset if offset >= 0 and mark == self.at(offset) else None
