"""Keeps the scores of adapters and their base on this machine, so that the same files are not scored twice.

A score is found by the content of the adapter's files and by all else that its numbers depend on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from trainables.cache_files import write_whole
from trainables.contract import Evaluation
from trainables.specs import Spec

METHOD = "1"
"""Raise this number when scoring comes to other numbers: what was kept before is not used then."""


class Scored(Spec):
    """What an adapter, or the base, evaluates to."""

    evaluation: Evaluation
    logprobs: Annotated[tuple[tuple[float, ...], ...], Field(strict=False)]
    """For each of the first rows, at most `MOST_SAMPLES`, the log-probability of each labelled token."""


@dataclass(frozen=True)
class KeptScores:
    """What was scored on one base and one set of rows; a file each, named by all that the numbers depend on."""

    folder: Path
    conditions: tuple[str, ...]
    """Base, quantisation, hardware, versions of the libraries, and rows."""

    def read(self, adapter: Mapping[str, bytes]) -> Scored | None:
        """What an adapter was scored with; without files it is the base. None where that is not known.

        A file that is not as it was written counts as none.
        """
        with suppress(OSError, ValueError):
            digest, _, content = self._file(adapter).read_bytes().partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() == digest:
                return Scored.model_validate_json(content)
        return None

    def write(self, adapter: Mapping[str, bytes], scored: Scored) -> None:
        """Keeps what an adapter was scored with. Where that cannot be written, the next one scores again."""
        content = scored.model_dump_json().encode()
        with suppress(OSError):
            write_whole(self._file(adapter), hashlib.sha256(content).hexdigest().encode() + b"\n" + content)

    def _file(self, adapter: Mapping[str, bytes]) -> Path:
        digest = hashlib.sha256("\n".join((METHOD, *self.conditions)).encode())
        for name, content in sorted(adapter.items()):
            digest.update(f"\n{name} {hashlib.sha256(content).hexdigest()}".encode())
        return self.folder / f"{digest.hexdigest()[:32]}.json"
