"""The answers that trials and the base gave to the same rows, and on which rows two of them differ.

Read from the sweep's folder: `samples.jsonl` beside the best adapter of a trial, `base_samples.jsonl` of the base. What
stands there is text from strangers: whoever shows it escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.config.number_words import counted
from sweeps.record import samples
from sweeps.record.folder import SweepFolder
from sweeps.record.run_names import label
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import closing_lines
from trainables.contract import AnsweredRow
from trainables.errors import GradingError
from trainables.grading import catalogue
from trainables.grading.choice import Confusion, confusion
from trainables.inputs.legible import legible
from trainables.objective import Objective
from trainables.scoring.requests import BASE
from trainables.specs import EvaluationSpec

MOST_SHOWN = 3
"""Rows that a terminal shows of those that got worse, and of those that got better; `--json` has all."""
_MOST_CHARACTERS = 300


@dataclass(frozen=True)
class Answers:
    """What a trial, or the base, answered."""

    name: str
    """As tables name it: "t03", "base"."""
    rows: Mapping[int, AnsweredRow]
    """Place of the row among the evaluation rows -> its answer."""


@dataclass(frozen=True)
class Changes:
    """The rows whose score by one metric differs between two answers."""

    metric: str
    first: Answers
    other: Answers
    rows: tuple[int, ...]
    """Places of the rows that both answered."""
    better: tuple[int, ...]
    """Those on which the first one scores better, and below those on which it scores worse."""
    worse: tuple[int, ...]

    def line(self) -> str:
        """How many rows differ, in words."""
        return (
            f"answers by {self.metric}: {self.first.name} is better than {self.other.name} on {len(self.better)} of "
            f"{counted(len(self.rows), 'answered row')}, and worse on {len(self.worse)}"
        )

    def pairs(self) -> list[tuple[AnsweredRow, AnsweredRow]]:
        """The rows that differ, those that got worse first: as the first one answered, and as the other did."""
        return [(self.first.rows[place], self.other.rows[place]) for place in (*self.worse, *self.better)]

    def lines(self) -> list[str]:
        """The first rows of both kinds for a terminal, and how many more differ."""
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
        """Its object in the JSON line, with all rows that differ."""
        own, its = self.first.name, self.other.name
        differing = [
            mine.model_dump(include={"row", "place", "prompt", "expected"})
            | {own: mine.answer, its: theirs.answer, "scores": {own: mine.scores, its: theirs.scores}}
            for mine, theirs in self.pairs()
        ]
        counts = {"rows": len(self.rows), "better": len(self.better), "worse": len(self.worse)}
        return {"metric": self.metric, "trial": own, "against": its, **counts, "differing": differing}

    def table(self) -> dict[str, list[Any]]:
        """All rows that differ, in the form of a table of MLflow's (3.17.2, `MlflowClient.log_table`)."""
        own, its = self.first.name, self.other.name
        data = [
            [mine.place, mine.prompt, mine.expected, theirs.answer, mine.answer,
             theirs.scores[self.metric], mine.scores[self.metric]]
            for mine, theirs in self.pairs()
        ]  # fmt: skip
        scores = [f"{self.metric} {name}" for name in (its, own)]
        return {"columns": ["place", "prompt", "expected", its, own, *scores], "data": data}


def of_trial(folder: SweepFolder, trial: TrialRecord) -> Answers | None:
    """What a trial answered at its best step; None where no answers of that step are there."""
    if trial.best_step is None:
        return None
    return _answers(folder.kept(trial.trial_key, "best", trial.best_step) / samples.OF_TRIAL, label(trial.number))


def of_base(folder: SweepFolder) -> Answers | None:
    """What the base without an adapter answered; None where its answers are not there."""
    return _answers(folder.path / samples.OF_BASE, BASE)


def changes(first: Answers | None, other: Answers | None, objectives: Sequence[Objective]) -> Changes | None:
    """On which rows two answers differ; None where one has no answers, or none of both is scored by an objective.

    Args:
        objectives: scores of answers, see `scores_of`: the first one that both answers have counts.
    """
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
            return Changes(objective.metric, first, other, tuple(gains), better, worse)
    return None


def scores_of(record: SweepRecord) -> list[Objective]:
    """The sweep's objective, and the scores that its configuration names, each with its direction.

    Those of a function of the user's that cannot be imported here are left out: which value is better is not known.
    """
    found, scores = closing_lines.configuration(record), [record.objective]
    for entry in () if found is None else found[0].evaluation.metrics:
        with suppress(GradingError):
            known = catalogue.directions(EvaluationSpec(metrics=(entry,)))
            scores += [Objective(metric=name, mode=better) for name, better in known.items()]
    return scores


def best_against_base(folder: SweepFolder, record: SweepRecord, best: TrialRecord | None) -> Changes | None:
    """On which rows the best trial and the base differ; None where that is not known."""
    return None if best is None else changes(of_trial(folder, best), of_base(folder), scores_of(record))


def confusion_of(answers: Answers | None) -> Confusion | None:
    """Which label was taken for which; None where the answers there are not those that `choice` scored."""
    rows = [] if answers is None else list(answers.rows.values())
    labels, expected = [row.ranked or row.answer for row in rows], [row.expected for row in rows]
    scores = [float(label.strip() == right.strip()) for label, right in zip(labels, expected, strict=True)]
    if not rows or scores != [row.scores.get("choice") for row in rows]:
        return None
    return confusion(expected, labels)


def _answers(path: Path, name: str) -> Answers | None:
    rows = samples.read(path)
    return Answers(name, {row.row: row for row in rows}) if rows else None
