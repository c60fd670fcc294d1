"""What the loss chooses, and what the task chooses, among the trials of one recipe that all train to the end.

    python -m tests.benchmarks.objectives --results DIR [--recipe quickstart] [--set KEY=VALUE ...] [--seeds 0 1 2]

Each trial is trained to its last report point and scored there; the base is scored too. The table has both numbers of
the base, the default configuration, the best by loss and the best by score, with 95 % intervals over the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean as mean
from typing import NamedTuple

import numpy as np

from sweeps.record.events import TrialState
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.run_names import label
from sweeps.record.sweep_record import SweepRecord
from sweeps.statistics.intervals import intervals
from trainables.contract import Evaluation
from trainables.objective import EVAL_LOSS

CONFIDENCE = 0.95


class Row(NamedTuple):
    """An evaluation of the table."""

    name: str
    evaluation: Evaluation


def sweep(folder: Path, recipe: str, settings: Sequence[str]) -> Path:
    """The folder of a sweep in which every trial completes; launched when it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    found = list(folder.glob("results/*/events.jsonl"))
    if not found:
        words = [sys.executable, "-m", "sweeps", "launch", recipe, "scheduler.kind=fifo", *settings]
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        subprocess.run(words, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        found = list(folder.glob("results/*/events.jsonl"))
    return found[0].parent


def rows(path: Path, score: str) -> list[Row]:
    """The base, the default configuration, the best by loss and the best by score."""
    folder, record = SweepFolder(path), SweepRecord()
    for event, _ in read_events(path / "events.jsonl"):
        record = record.apply(event)
    trials = {
        label(trial.number): _read(folder.kept(trial.trial_key, "rows", trial.reported_step) / "eval_rows.json")
        for trial in record.trials.values()
        if trial.state is TrialState.COMPLETED
    }
    by_loss = min(trials, key=lambda name: trials[name].metrics[EVAL_LOSS])
    by_score = max(trials, key=lambda name: (mean(trials[name].row_values[score]), name == by_loss))
    named = {"default (t00)": "t00", f"best by loss ({by_loss})": by_loss, f"best by score ({by_score})": by_score}
    return [Row("base", _read(folder.base_rows)), *(Row(who, trials[name]) for who, name in named.items())]


def _read(path: Path) -> Evaluation:
    return Evaluation.of_document(json.loads(path.read_bytes()))


def spanned(metric: str, evaluation: Evaluation, less: Evaluation | None = None) -> str:
    """A metric, or how much higher it is than another evaluation's, with its interval over the rows."""
    own = evaluation.rows_of(metric)
    parts = np.asarray(own.parts, np.float64) - (np.asarray(less.rows_of(metric).parts) if less else 0.0)
    [span] = intervals(parts[np.newaxis], own.weights, CONFIDENCE)
    return f"{parts.sum() / sum(own.weights):.4f} ({span.low:.4f} to {span.high:.4f})"


def table(found: Sequence[Row], score: str) -> list[str]:
    """The table's lines, in Markdown."""
    lines = [f"| | {EVAL_LOSS} | {score} |", "|---|---|---|"]
    lines += [
        f"| {row.name} | {spanned(EVAL_LOSS, row.evaluation)} | {spanned(score, row.evaluation)} |" for row in found
    ]
    by_loss, by_score = found[-2:]
    if by_loss.evaluation is by_score.evaluation:
        return [*lines, "", "both choose the same trial"]
    more = [spanned(metric, by_score.evaluation, by_loss.evaluation) for metric in (EVAL_LOSS, score)]
    return [*lines, f"| best by score less best by loss | {' | '.join(more)} |"]


def main() -> None:
    """Launches a sweep for each seed, and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--score", default="json_fields")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the sweep, as for qsweep launch")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    given = parser.parse_args()
    for seed in given.seeds:
        path = sweep(given.results / f"{given.recipe}-{seed}", given.recipe, [*given.set, f"seed={seed}"])
        lines = table(rows(path, given.score), given.score)
        print(f"\n{given.recipe}, seed {seed}\n", *lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
