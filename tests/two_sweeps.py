"""Finished sweeps to set side by side: `import two_sweeps`. Each has two trials, and keeps their evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import report_sweeps
from sweep_events import ended, reported, started

from sweeps.record.events import DataPrepared, Event, SweepEnded, SweepStarted, TrialState
from sweeps.record.folder import SweepFolder
from trainables import evaluation_metrics
from trainables.contract import Evaluation

ROWS = 40


def evaluation(loss: float, tokens: int = 10, size: int = 25, seed: int = 1) -> Evaluation:
    """Rows of so many tokens and bytes, of which some are harder than others."""
    hard = [(7 * seed * row) % 11 / 10 + row / 1000 for row in range(ROWS)]
    losses = [tokens * loss + each - sum(hard) / ROWS for each in hard]
    return evaluation_metrics.evaluation(losses, [tokens] * ROWS, row_bytes=[size] * ROWS if size else ())


def sweep(
    storage: Path,
    name: str,
    loss: float = 1.25,
    *,
    tokens: int = 10,
    size: int = 25,
    fingerprint: str = "tokens",
    rows: str = "rows",
    prints: dict[str, str] | None = None,
    right: int | None = None,
    at: float = 0.0,
    **sections: Any,
) -> SweepFolder:
    """A sweep's folder; its best trial is t00, and t01 is 0.5 worse.

    Args:
        storage: the folder around it.
        loss: of t00.
        tokens, size: of each evaluation row, with `size` in bytes; 0 as of an earlier version.
        fingerprint, rows: of the data, and of what its evaluation rows say.
        prints: as `SweepStarted.fingerprints`.
        right: rows that t00 answers right, of which t01 misses one; None where answers are not scored.
        at: seconds since the epoch at which it began.
        sections: of the configuration.
    """
    document = {
        "name": name,
        "budget": {"trials": 2, "steps_per_trial": 9},
        "tracking": {"uri": f"sqlite:///{name}.db"},
        **sections,
    }
    folder = SweepFolder(storage / name)
    folder.path.mkdir(parents=True)
    prints_of_data = {"fingerprint": fingerprint, "eval_fingerprint": rows}
    summary: dict[str, Any] = {**prints_of_data, "train_rows": 600, "eval_rows": ROWS}
    events: list[Event] = [
        SweepStarted(time=at, config=json.dumps(document), sweep_id=f"{name}-1", fingerprints=prints or {}),
        DataPrepared(time=1.0, summary=summary),
    ]
    for number, key in enumerate(("aaa", "bbb")):
        found = evaluation(loss + number / 2, tokens, size, seed=number + 1 + len(name))
        if right is not None:
            scores = tuple(float(row < right - number) for row in range(ROWS))
            metrics = {**found.metrics, "exact_match": sum(scores) / ROWS}
            found = found.model_copy(update={"metrics": metrics, "row_values": {"exact_match": scores}})
        events.append(started(f"{key}{name}", number, r=8, learning_rate=1e-4 * (1 + number)))
        for step, since in ((3, 0), (9, 3)):
            told = reported(f"{key}{name}", step, found.loss, since=since)
            its = {"metrics": found.metrics, "best_metrics": found.metrics}
            events.append(told.model_copy(update=its))
        folder.keep(f"{key}{name}", "best", 9, {"eval_rows.json": json.dumps(found.document()).encode()})
        events.append(ended(f"{key}{name}", TrialState.COMPLETED))
    events.append(SweepEnded(time=100.0, reason="finished"))
    return report_sweeps.write(folder.path, events, document)
