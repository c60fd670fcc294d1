"""Tables of trials for the terminal, MLflow's notes and the page."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from sweeps.config.number_words import counted
from sweeps.record.run_names import HEADINGS, label
from sweeps.record.selection import Selection, pareto, ranking
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import best_compared
from sweeps.statistics.comparison import Comparison, Separation
from trainables.inputs import json_text
from trainables.inputs.legible import MOST_SHOWN, legible
from trainables.objective import EVAL_LOSS
from trainables.scoring.requests import BASE
from trainables.specs import EvaluationSpec, short_names

NO_ADAPTER = "no adapter"
"""Stands instead of a state in the row of the base."""
MOST_ROWS = 40
"""Most rows in a note in MLflow, which cuts a tag after 8000 characters (mlflow/utils/validation.py, 3.17.2)."""
_APART = {True: "yes", False: "no", None: "?"}
APART = "differs"
PARETO = "Pareto"
WORDS = ("modules", "quantization", "compute_dtype", "state", PARETO, APART)
"""Heads of the columns that hold words, which stand on the left."""


def order(record: SweepRecord) -> list[TrialRecord]:
    """Sorts the trials: ranked ones from the best on, each with its repeats; then the others by number."""
    trials = record.trials.values()
    repeats: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        if trial.repeats is not None:
            repeats.setdefault(trial.repeats, []).append(trial)
    ranked = [each for trial in ranking(record) for each in (trial, *repeats.get(trial.trial_key, ()))]
    keys = {trial.trial_key for trial in ranked}
    rest = [trial for trial in trials if trial.trial_key not in keys]
    return ranked + sorted(rest, key=lambda trial: trial.number)


def how_many(record: SweepRecord, planned: int | str | None = None, noun: str = "") -> str:
    """Says how many trials there are, of how many `planned`. Repeats stand apart: the budget does not count them."""
    again = f" and {counted(record.repeats, 'repeat')}" if record.repeats else ""
    return f"{len(record.trials) - record.repeats}{'' if planned is None else f'/{planned}'}{noun}{again}"


def name_of(record: SweepRecord, trial: TrialRecord) -> str:
    """Returns the trial's name in tables, with the trial whose point it repeats, or that a person has added it."""
    first = record.trials.get(trial.repeats or "")
    if first is not None:
        return f"{label(trial.number)} ({label(first.number)} again)"
    return f"{label(trial.number)}{' (added)' if trial.point in record.added else ''}"


class Cells(NamedTuple):
    """The table of trials as texts."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The trials, then the base if it was evaluated."""


def cells(record: SweepRecord, trials: Sequence[TrialRecord], separation: Separation | None = None) -> Cells:
    """Returns the trials, in this order, as texts. The best trial's `separation` adds a column if it has intervals."""
    params = shown_params(trials)
    metric, *others = (objective.metric for objective in record.objectives)
    # With one objective there is no column `PARETO`; without any interval there is no column `APART`.
    chosen = {trial.trial_key for trial in pareto(record)} if others else None
    if EVAL_LOSS not in others and any(t.best_metrics and record.judges(t) != record.objective for t in trials):
        others.append(EVAL_LOSS)  # what ranks the trials whose answers were not scored
    others += [name for name in scores(record) if name not in (metric, *others)]
    told = separation if separation is not None and separation.is_told else None

    def ends(key: str) -> list[str]:
        found = [] if chosen is None else ["yes" if key in chosen else ""]
        if told is not None:
            compared = told.base if key == BASE else told.of(key)
            found.append("" if compared is None else _apart(compared))
        return found

    last = [*([] if chosen is None else [PARETO]), *([] if told is None else [APART])]
    names = (HEADINGS.get(name, name) for name in params)
    heads = ("trial", *names, "steps", f"best {metric}", "at", *others, "state", *last)
    rows = []
    for trial in trials:
        values = [value_text(trial.params.get(name, "")) for name in params]
        at = "" if trial.best_step is None else str(trial.best_step)
        best, *shown = (number_text(trial.value(name)) for name in (metric, *others))
        end = (best, at, *shown, trial.state.value, *ends(trial.trial_key))
        rows.append((name_of(record, trial), *values, str(trial.step), *end))
    ranked, called = ranking(record), short_names(record.bases)
    compared = record.base_of(ranked[0]) if ranked else record.base
    for base in record.bases.values():
        best, *shown = (number_text(base.metrics.get(name, math.nan)) for name in (metric, *others))
        name = f"{BASE} {called[base.base]}" if len(called) > 1 else BASE
        apart = ends(BASE if base is compared else "")
        rows.append((name, *("" for _ in params), "0", best, "0", *shown, NO_ADAPTER, *apart))
    return Cells(heads, tuple(rows))


def scores(record: SweepRecord) -> list[str]:
    """Names the main metric of each grader that scored answers of a trial or of the base."""
    given = [trial.best_metrics for trial in record.trials.values()]
    given += [] if record.base is None else [record.base.metrics]
    return [name for name in _evaluation(record).names[:-1] if any(name in metrics for metrics in given)]


def _evaluation(record: SweepRecord) -> EvaluationSpec:
    return EvaluationSpec.model_validate(json_text.parse(record.config or "{}").get("evaluation", {}))


def _apart(compared: Comparison) -> str:
    """Says whether two trials differ, with the steps of both if their report points are unequal."""
    told = _APART[compared.apart]
    if compared.apart is None or compared.steps is None or compared.point is not None:
        return told
    return f"{told} ({compared.steps[0]}/{compared.steps[1]})"


def terminal(
    record: SweepRecord, trials: Sequence[TrialRecord], note: str | None = None, separation: Separation | None = None
) -> Table:
    """Returns the trials as a table for a terminal, with a note below."""
    found = cells(record, trials, separation)
    return rich_table(found.heads, found.rows, WORDS, note)


def rich_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[str], note: str | None = None
) -> Table:
    """Returns a table for a terminal. Columns with a head in `words` stand on the left, the others on the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", caption=note, caption_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head in words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def markdown(record: SweepRecord, selection: Selection, separation: Separation | None = None) -> str:
    """Returns the result as Markdown, with the best trials if there are many.

    The answer comes first, because MLflow folds a note after its first lines.
    """
    answer, *compared = best_compared.best_lines(record, selection, separation)
    shown = {} if selection.winner is None else selection.winner.params
    settings = ", ".join(f"{name} {value_text(value)}" for name, value in shown.items())
    lines = [f"**{answer}**{f' ({settings})' if settings else ''}", "", *(f"- {line}" for line in compared), ""]
    every = order(record)
    trials = every[:MOST_ROWS]
    found = cells(record, trials, separation)
    head, *rows = (f"| {' | '.join(row)} |" for row in (found.heads, *found.rows))
    lines += [head, "|" + "---|" * len(found.heads), *rows]
    if len(every) > len(trials):
        lines.append(f"\n{len(every) - len(trials)} more trials are in the table of runs.")
    lines += [f"\n{note}" for note in notes(record)]
    return "\n".join(lines)


def notes(record: SweepRecord) -> list[str]:
    """Says what the table cannot show: target modules that run under another name or not at all, missing scores."""
    lines = [legible(target.line) for target in record.targets.values()]
    named, trials = set(scores(record)), record.trials.values()
    if parts := sorted({trial.best_part.rows for trial in trials if trial.best_part is not None}):
        of = counted(sum(trial.best_part is not None for trial in trials), "trial")
        lines.append(
            f"best values of a part of the evaluation rows: {of} ({', '.join(map(str, parts))} rows); the base brings "
            "them to all rows: value on the part + base on all rows - base on the part"
        )
    lines += [f"{label(trial.number)}: {lacking(trial.lacking)}" for trial in trials if trial.lacking]
    if any(trial.best_metrics and named - trial.best_metrics.keys() - trial.lacking.keys() for trial in trials):
        when = _evaluation(record).when
        at = "finalists are, when the sweep ends" if when == "best" else "answers are scored at a trial's last step"
        lines.append(f"-: not scored: {at} (evaluation.when: {when})")
    return lines


def lacking(unscored: Mapping[str, str]) -> str:
    """Says which scores are missing, and why."""
    return legible("; ".join(f"no {name}: {why}" for name, why in unscored.items()), MOST_SHOWN)


def ending(trial: TrialRecord, metric: str) -> str:
    """Says in a line how a trial ended. MLflow's table shows some 40 characters of it on a page 1000 pixels wide."""
    parts = [f"{trial.state.value} at step {trial.step}"]
    if trial.seconds:
        parts.append(f"{trial.seconds:.0f} s")
    if trial.evals:
        best = trial.value(metric)
        parts.append(f"best {best:.4f}" if math.isfinite(best) else f"{EVAL_LOSS} {trial.value(EVAL_LOSS):.4f}")
    return ", ".join(parts) + (f": {trial.reason}" if trial.reason else "")


def shown_params(trials: Sequence[TrialRecord]) -> list[str]:
    """Names the settings of trials that have a column in tables."""
    # alpha_over_r follows from r and lora_alpha, which are always shown.
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [name for name in names if name != "alpha_over_r"]


def value_text(value: object) -> str:
    """Formats a setting for tables."""
    return f"{value:.3g}" if isinstance(value, float) else legible(str(value))


def number_text(value: float) -> str:
    """Formats a value of a metric for tables."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1000 else f"{value:.4f}"
