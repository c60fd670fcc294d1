"""The answers of trials and of the base to the same rows, and the rows on which two of them differ.

The answers are read from the sweep's folder: `samples.jsonl` beside the best adapter of a trial, and
`base_samples.jsonl` of the base. They are text from strangers, so each place that shows them escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sweeps.config.number_words import counted
from sweeps.record import samples
from sweeps.record.folder import SweepFolder
from sweeps.record.run_names import label
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import best_compared
from sweeps.report.trials_compared import difference_json
from sweeps.statistics.comparison import Comparison, Separation
from sweeps.statistics.trials import Chosen, compare_answers
from trainables.contract import AnsweredRow
from trainables.errors import GradingError
from trainables.grading import catalogue
from trainables.grading.choice import Confusion, confusion
from trainables.inputs.legible import legible
from trainables.objective import Objective
from trainables.scoring.requests import BASE
from trainables.specs import EvaluationSpec

MOST_SHOWN = 3
"""Number of rows with worse answers, and of rows with better ones, that a terminal shows; `--json` has all."""
MOST_ERRORS = 10
"""Number of wrong rows that a terminal shows."""
_MOST_CHARACTERS = 300


@dataclass(frozen=True)
class Answers:
    """The answers of a trial or of the base."""

    name: str
    """Name in tables, such as "t03" or "base"."""
    rows: Mapping[int, AnsweredRow]
    """Place of the row among the evaluation rows -> its answer."""


@dataclass(frozen=True)
class Changes:
    """The rows on which two sets of answers differ in their score by one metric."""

    metric: str
    first: Answers
    other: Answers
    rows: tuple[int, ...]
    """Places of the rows whose answers both have a score."""
    better: tuple[int, ...]
    """Places of the rows on which `first` scores better than `other`."""
    worse: tuple[int, ...]
    """Places of the rows on which `first` scores worse than `other`."""
    separation: Separation
    """The comparison of both by this metric (`compare_answers`)."""

    @property
    def compared(self) -> Comparison | None:
        """Returns the comparison; None if the base has no value of this metric."""
        return self.separation.trials[0] if self.separation.trials else self.separation.base

    def line(self) -> str:
        """Says how many rows differ, and whether that may be chance."""
        counts = (
            f"answers by {self.metric}: {self.first.name} is better than {self.other.name} on {len(self.better)} of "
            f"{counted(len(self.rows), 'answered row')}, and worse on {len(self.worse)}"
        )
        if (found := self.compared) is None:
            return counts
        told = {True: "beyond chance", False: "this may be chance", None: "whether by chance cannot be told"}
        why = found.chance_in_words(self.separation.confidence, self.separation.rows_in_words)
        return f"{counts}: {told[found.apart]}, {why}"

    def pairs(self) -> list[tuple[AnsweredRow, AnsweredRow]]:
        """Returns (answer of `first`, answer of `other`) for each row that differs, worse ones first."""
        return [(self.first.rows[place], self.other.rows[place]) for place in (*self.worse, *self.better)]

    def lines(self) -> list[str]:
        """Returns the first worse and better rows for a terminal, and says how many more rows differ."""
        shown, places = [], (*self.worse[:MOST_SHOWN], *self.better[:MOST_SHOWN])
        own, its = self.first.name, self.other.name
        for mine, theirs in ((self.first.rows[place], self.other.rows[place]) for place in places):
            texts = {"prompt": mine.prompt, "expected": mine.expected, its: theirs.answer, own: mine.answer}
            width = max(map(len, texts))
            scores = f"{mine.scores[self.metric]:g} of {own}, {theirs.scores[self.metric]:g} of {its}"
            shown.append(f"{mine.place or f'row {mine.row}'}: {self.metric} {scores}")
            shown += [f"  {title:<{width}}  {legible(text, _MOST_CHARACTERS)}" for title, text in texts.items()]
        more = len(self.better) + len(self.worse) - len(places)
        return [*shown, f"{more} more rows differ: --json has them all"] if more > 0 else shown

    def as_json(self) -> dict[str, Any]:
        """Returns an object for the JSON line, with all rows that differ."""
        own, its = self.first.name, self.other.name
        differing = [
            mine.model_dump(include={"row", "place", "prompt", "expected"})
            | {own: mine.answer, its: theirs.answer, "scores": {own: mine.scores, its: theirs.scores}}
            for mine, theirs in self.pairs()
        ]
        counts: dict[str, Any] = {"rows": len(self.rows), "better": len(self.better), "worse": len(self.worse)}
        told = None if self.compared is None else difference_json(self.compared, self.separation)
        counts |= {"compared": told, "differing": differing}
        return {"metric": self.metric, "trial": own, "against": its, **counts}

    def table(self) -> dict[str, list[Any]]:
        """Returns all rows that differ as a table for MLflow (3.17.2, `MlflowClient.log_table`)."""
        own, its = self.first.name, self.other.name
        data = [
            [mine.place, mine.prompt, mine.expected, theirs.answer, mine.answer,
             theirs.scores[self.metric], mine.scores[self.metric]]
            for mine, theirs in self.pairs()
        ]  # fmt: skip
        scores = [f"{self.metric} {name}" for name in (its, own)]
        return {"columns": ["place", "prompt", "expected", its, own, *scores], "data": data}


@dataclass(frozen=True)
class Errors:
    """The rows that a trial answers wrong, by one metric."""

    metric: str
    answers: Answers
    rows: tuple[AnsweredRow, ...]
    """The rows without the full score, the worst first."""
    confusion: Confusion | None
    """None if the answers are not those that `choice` scored."""

    def summary(self) -> list[str]:
        """Says how many rows are wrong, and how often each label is right."""
        name, rows = self.answers.name, counted(len(self.answers.rows), "answered row")
        is_graded = any(row.scores[self.metric] not in (0.0, 1.0) for row in self.answers.rows.values())
        told = f"falls short on {len(self.rows)} of {rows}" if is_graded else f"gets {len(self.rows)} of {rows} wrong"
        lines = [f"{name} {told}, by {self.metric}"]
        if self.confusion is not None:
            head = f"confusion of {name} (rows: the expected label, columns: its answer):"
            lines += ["", head, *self.confusion.text().splitlines(), self.confusion.recall()]
            lines += self.confusion.never_answered()
        return lines

    def lines(self) -> list[str]:
        """Returns the summary and the worst rows, for a terminal."""
        shown = []
        for row in self.rows[:MOST_ERRORS]:
            texts = {"prompt": row.prompt, "expected": row.expected, self.answers.name: row.answer}
            width = max(map(len, texts))
            shown += ["", f"{row.place or f'row {row.row}'}: {self.metric} {row.scores[self.metric]:g}"]
            shown += [f"  {title:<{width}}  {legible(text, _MOST_CHARACTERS)}" for title, text in texts.items()]
        more = len(self.rows) - MOST_ERRORS
        return [*self.summary(), *shown, *([f"{more} more rows are wrong: --json has them all"] if more > 0 else [])]

    def as_json(self) -> dict[str, Any]:
        """Returns an object for the JSON line, with all rows that are wrong."""
        told = {"trial": self.answers.name, "metric": self.metric, "answered": len(self.answers.rows)}
        rows = [row.model_dump(include={"row", "place", "prompt", "expected", "answer", "scores"}) for row in self.rows]
        return {**told, "wrong": rows, "confusion": self.confusion and self.confusion.model_dump(mode="json")}


def errors(record: SweepRecord, answers: Answers | None) -> Errors | None:
    """Returns the rows that are answered wrong, by the first score of the sweep that they have; None without answers.

    The full score is 1, or the best one of these rows if that is better; 0 where a lower score is better.
    """
    rows = [] if answers is None else list(answers.rows.values())
    known = (each for each in scores_of(record) if rows and all(each.metric in row.scores for row in rows))
    objective = next(known, None)
    if answers is None or objective is None:
        return None
    value = {row.row: row.scores[objective.metric] for row in rows}
    full = max(1.0, *value.values()) if objective.mode == "max" else min(0.0, *value.values())
    wrong = [row for row in rows if value[row.row] != full]
    wrong.sort(key=lambda row: (-objective.loss(value[row.row]), row.row))
    return Errors(objective.metric, answers, tuple(wrong), confusion_of(answers))


def closing(folder: SweepFolder, best: TrialRecord | None) -> list[str]:
    """Returns a line for each label that the best trial never answers."""
    found = None if best is None else confusion_of(of_trial(folder, best))
    return [] if found is None else found.never_answered()


def of_trial(folder: SweepFolder, trial: TrialRecord) -> Answers | None:
    """Reads the answers of a trial at its best step; returns None if there are none."""
    if trial.best_step is None:
        return None
    return _answers(folder.kept(trial.trial_key, "best", trial.best_step) / samples.OF_TRIAL, label(trial.number))


def of_base(folder: SweepFolder, record: SweepRecord, trial: TrialRecord) -> Answers | None:
    """Reads the answers of a trial's base without an adapter; returns None if there are none."""
    base = record.base_of(trial)
    return _answers(folder.of_base("" if base is None else base.base)[1], BASE)


def changes(
    first: Answers | None,
    other: Answers | None,
    objectives: Sequence[Objective],
    compare: Callable[[Objective], Separation],
) -> Changes | None:
    """Compares two sets of answers by the first of `objectives` that scores both on some row; None if there is none."""
    if first is None or other is None:
        return None
    for objective in objectives:
        found = {
            place: (other.rows[place].scores[objective.metric], mine.scores[objective.metric])
            for place, mine in first.rows.items()
            if place in other.rows and objective.metric in mine.scores.keys() & other.rows[place].scores.keys()
        }
        if found:
            gains = {place: objective.gain(*scores) for place, scores in found.items()}
            better = tuple(place for place, gain in gains.items() if gain > 0)
            worse = tuple(place for place, gain in gains.items() if gain < 0)
            return Changes(objective.metric, first, other, tuple(gains), better, worse, compare(objective))
    return None


def scores_of(record: SweepRecord) -> list[Objective]:
    """Returns the sweep's objective, and the scores that its configuration names, each with its direction.

    Scores of a user's function that cannot be imported here are left out, because their direction is unknown.
    """
    found, scores = best_compared.configuration(record), [record.objective]
    for entry in () if found is None else found[0].evaluation.metrics:
        with suppress(GradingError):
            known = catalogue.directions(EvaluationSpec(metrics=(entry,)))
            scores += [Objective(metric=name, mode=better) for name, better in known.items()]
    return scores


def best_against_base(folder: SweepFolder, record: SweepRecord, best: TrialRecord | None) -> Changes | None:
    """Compares the answers of the best trial and of the base; returns None if that is not possible."""
    return None if best is None else of_two(folder, record, best, None)


def of_two(folder: SweepFolder, record: SweepRecord, first: TrialRecord, other: TrialRecord | None) -> Changes | None:
    """Compares the answers of two trials, or of a trial and the base for None; None if that is not possible."""
    its = of_base(folder, record, first) if other is None else of_trial(folder, other)
    compare = partial(compare_answers, first=Chosen(folder, record, first), other=other)
    return changes(of_trial(folder, first), its, scores_of(record), compare)


def confusion_of(answers: Answers | None) -> Confusion | None:
    """Counts which label was taken for which; returns None if the answers are not those that `choice` scored."""
    rows = [] if answers is None else list(answers.rows.values())
    labels, expected = [row.ranked or row.answer for row in rows], [row.expected for row in rows]
    scores = [float(label.strip() == right.strip()) for label, right in zip(labels, expected, strict=True)]
    if not rows or scores != [row.scores.get("choice") for row in rows]:
        return None
    return confusion(expected, labels)


def _answers(path: Path, name: str) -> Answers | None:
    rows = samples.read_samples(path)
    return Answers(name, {row.row: row for row in rows}) if rows else None
