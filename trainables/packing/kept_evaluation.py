"""Keeps the evaluation of the base without an adapter on this machine, for later sweeps on the same base and rows."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainables import qlora_metrics
from trainables.contract import Evaluation, Failure
from trainables.inputs import json_text
from trainables.objective import EVAL_LOSS


def place(cache: Path, *identity: str) -> Path:
    """Returns the file in `cache` for an `identity`: the base, quantisation, types, kind of GPU and rows."""
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    return cache / "base-evaluations" / f"{digest[:16]}.json"


def kept(path: Path | None, evaluate: Callable[[], Evaluation | Failure]) -> Evaluation | Failure:
    """Returns the evaluation in `path`. If none can be read, calls `evaluate` and writes the result there.

    Without a path it always calls `evaluate`. If `path` cannot be written, only the next sweep evaluates again.
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
    with suppress(OSError, ValueError, TypeError, ZeroDivisionError):
        read = Evaluation.of_document(json_text.parse(path.read_bytes()))
        # The file may be older than some of the metrics: all follow from the losses of the rows.
        metrics = qlora_metrics.evaluate(read.row_losses, read.row_tokens) if read.row_tokens else {}
        if math.isclose(read.loss, metrics.get(EVAL_LOSS, math.nan)):
            values = qlora_metrics.row_values(read.row_losses, read.row_tokens)
            return read.model_copy(update={"metrics": metrics, "row_values": values})
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
