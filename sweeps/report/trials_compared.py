"""Compares trials of one sweep side by side: their settings, how each went, which is better. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from sweeps.record.run_names import HEADINGS, label
from sweeps.record.selection import ranking
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import best_compared, trial_tables
from sweeps.report.trial_tables import number_text
from sweeps.statistics.comparison import Comparison, Separation
from trainables.inputs.legible import MOST_SHOWN, legible
from trainables.objective import EVAL_LOSS

_BETWEEN = 2
"""Blanks between two columns."""


def to_compare(record: SweepRecord, named: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Returns the named trials, each once. A single trial is paired with the best one; the best trial with the next."""
    trials = tuple({trial.trial_key: trial for trial in named}.values())
    if len(trials) > 1:
        return trials
    (only,) = trials
    ranked = ranking(record)
    other = next((trial for trial in ranked if trial.trial_key != only.trial_key), None)
    if other is None:
        return trials
    return (only, other) if only.trial_key == ranked[0].trial_key else (other, only)


@dataclass(frozen=True)
class TrialsCompared:
    """Trials of a sweep side by side. Each other trial is compared with the first one."""

    record: SweepRecord
    trials: tuple[TrialRecord, ...]
    separation: Separation

    def tables(self, width: int) -> list[Table]:
        """Returns tables with a column for each trial: see `tables_of`."""
        metrics = [objective.metric for objective in self.record.objectives]
        rows = rows_of(self.trials, [*dict.fromkeys([*metrics, *trial_tables.scores(self.record)])])
        return tables_of([trial_tables.name_of(self.record, trial) for trial in self.trials], rows, width)

    def lines(self) -> list[str]:
        """Says which settings are equal, why trials ended, and how each other trial compares with the first one."""
        metric = self.record.objective.metric
        endings = [f"{label(t.number)} {trial_tables.ending(t, metric)}" for t in self.trials if t.reason]
        lines = same_settings(self.trials) + [legible(ending, MOST_SHOWN) for ending in endings]
        lines += [self._difference(trial) for trial in self.trials[1:]]
        return lines + best_compared.notes(self.separation)

    def as_json(self, folder: Path) -> dict[str, Any]:
        """Returns entries for the JSON line; `folder` is the sweep's."""
        return {
            "metric": self.record.objective.metric,
            "trials": [trial_json(self.record, trial, folder) for trial in self.trials],
            "differences": [
                {
                    "trial_key": trial.trial_key,
                    "against": self.trials[0].trial_key,
                    **difference_json(self._compared(trial), self.separation),
                }
                for trial in self.trials[1:]
            ],
        }

    def _compared(self, trial: TrialRecord) -> Comparison:
        objective, found = self.record.objective, self.separation.of(trial.trial_key)
        values = [each.value(objective.metric) for each in (trial, self.trials[0])]
        return found or Comparison(trial.trial_key, objective.gain(*values))

    def _difference(self, trial: TrialRecord) -> str:
        found, first = self._compared(trial), self.trials[0]
        own, of_first = found.steps or (trial.best_step, first.best_step)
        name, other = _at(first, of_first), _at(trial, own)
        return best_compared.verdict(name, other, self.record.objective, found, self.separation)


def _at(trial: TrialRecord, step: int | None) -> str:
    return label(trial.number) + (f" (step {step})" if step is not None else "")


def settings_of(trials: Sequence[TrialRecord]) -> tuple[list[tuple[str, list[str]]], dict[str, str]]:
    """Returns the settings that differ, with a text for each trial, and the equal settings, with one text each."""
    differ, same = [], {}
    for name in trial_tables.shown_params(trials):
        values = [trial.params.get(name, "") for trial in trials]
        texts = [trial_tables.value_text(value) for value in values]
        shown = HEADINGS.get(name, name)
        if all(value == values[0] for value in values):
            same[shown] = texts[0]
        else:
            # Different values may look equal with the three digits of tables.
            differ.append((shown, texts if len(set(texts)) > 1 else [legible(str(value)) for value in values]))
    return differ, same


def same_settings(trials: Sequence[TrialRecord]) -> list[str]:
    """Says in a line which settings all trials share; empty if they share none."""
    same = ", ".join(f"{name} {value}" for name, value in settings_of(trials)[1].items())
    return [f"{'the same in all' if trials[1:] else 'settings'}: {same}"] if same else []


def rows_of(trials: Sequence[TrialRecord], metrics: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Returns rows of what differs in the trials' settings, of their values, of what each took, and of its state.

    The first metric has its value at each report, too; the others may be missing.
    """
    first, *others = metrics
    told, rows = [dict(trial.evals) for trial in trials], settings_of(trials)[0]
    for step in sorted({step for each in told for step in each}):
        # Answers may be scored only at the last step.
        name = first if any(first in each.get(step, {}) for each in told) else EVAL_LOSS
        rows.append((f"{name} at step {step}", [number_text(each.get(step, {}).get(name, math.nan)) for each in told]))
    rows.append((f"best {first}", [number_text(trial.value(first)) for trial in trials]))
    rows.append(("at step", ["-" if trial.best_step is None else str(trial.best_step) for trial in trials]))
    for name in others:
        values = [trial.value(name) for trial in trials]
        rows += [(name, [*map(number_text, values)])] if any(map(math.isfinite, values)) else []
    weights = [f"{trial.trainable_params:,}" if trial.trainable_params else "-" for trial in trials]
    return [
        *rows,
        ("steps", [f"{trial.step:,}" for trial in trials]),
        ("tokens", [f"{trial.tokens:,}" for trial in trials]),
        ("seconds", [f"{trial.seconds:,.0f}" for trial in trials]),
        *([("trainable parameters", weights)] if set(weights) != {"-"} else []),
        ("state", [trial.state.value for trial in trials]),
    ]


def tables_of(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], width: int) -> list[Table]:
    """Returns a table with a column for each head; several tables if a terminal of this width has no room for one."""
    room = width - max(len(name) for name, _ in rows)
    groups: list[list[int]] = []
    left = 0
    for place, head in enumerate(heads):
        needed = max(len(head), *(len(values[place]) for _, values in rows)) + _BETWEEN
        if not groups or needed > left:
            groups.append([])
            left = room
        groups[-1].append(place)
        left -= needed
    return [
        trial_tables.rich_table(
            ["", *(heads[place] for place in places)],
            [[name, *(values[place] for place in places)] for name, values in rows],
            words=[""],
        )
        for places in groups
    ]


def trial_json(record: SweepRecord, trial: TrialRecord, folder: Path) -> dict[str, Any]:
    """Returns a trial for the JSON line; `folder` is the sweep's."""
    adapter = trial.adapter_folder(folder)
    metrics = [objective.metric for objective in record.objectives]
    return {
        "trial_key": trial.trial_key,
        "name": label(trial.number),
        "state": trial.state.value,
        "reason": trial.reason,
        "repeats": trial.repeats,
        "params": dict(trial.params),
        "values": {str(step): finite(told.get(metrics[0], math.nan)) for step, told in trial.evals},
        "best": {"step": trial.best_step, **{metric: finite(trial.value(metric)) for metric in metrics}},
        **({} if trial.best_part is None else {"eval_rows": trial.best_part.rows}),
        "steps": trial.step,
        "tokens": trial.tokens,
        "seconds": trial.seconds,
        "trainable_params": trial.trainable_params or None,
        "adapter": adapter and str(adapter),
    }


def difference_json(found: Comparison, separation: Separation) -> dict[str, Any]:
    """Returns a comparison with the first trial for the JSON line."""
    return {
        **found.as_json(),
        "difference": finite(found.difference),
        "confidence": separation.confidence,
        "rows": found.rows or separation.rows,
    }


def finite(value: float) -> float | None:
    """Returns the number; None for NaN and infinity, for which JSON has no word."""
    return value if math.isfinite(value) else None
