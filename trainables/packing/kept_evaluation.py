"""What the base without an adapter evaluates to, kept on this machine: every sweep on base and rows starts there."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainables.contract import Evaluation, Failure
from trainables.inputs import json_text


def place(cache: Path, *identity: str) -> Path:
    """The file in `cache` for what `identity` names: base, quantisation, types, device and rows."""
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    return cache / "base-evaluations" / f"{digest[:16]}.json"


def kept(path: Path | None, evaluate: Callable[[], Evaluation | Failure]) -> Evaluation | Failure:
    """The evaluation in `path`; made by `evaluate`, and kept there, when there is none that can be read.

    Without a path it is made each time. A cache that cannot be written costs the next sweep a pass, no more.
    """
    if path is None:
        return evaluate()
    known = _read(path)
    if known is not None:
        return known
    made = evaluate()
    if isinstance(made, Evaluation):
        with suppress(OSError):
            _write_whole(path, json.dumps(made.document()).encode())
    return made


def _read(path: Path) -> Evaluation | None:
    with suppress(OSError, ValueError, TypeError):
        read = Evaluation.of_document(json_text.parse(path.read_bytes()))
        if read.row_tokens and math.isclose(read.loss, sum(read.row_losses) / sum(read.row_tokens)):
            return read
    return None


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
