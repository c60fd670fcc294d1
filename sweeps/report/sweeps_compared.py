"""Compares several sweeps side by side: their files, the best trial of each, and what each took."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import yaml

from sweeps.errors import SweepError
from sweeps.record.events import TrialReported
from sweeps.record.folder import SweepFolder
from sweeps.record.run_names import label
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import answers, best_compared, facts
from sweeps.report.answers import Changes
from sweeps.report.status import WORDS, Status
from sweeps.report.trial_tables import value_text
from sweeps.report.trials_compared import (
    difference_json,
    finite,
    rows_of,
    same_settings,
    trial_json,
)
from sweeps.statistics.comparison import Separation
from sweeps.statistics.trials import Chosen, common_objective, compare_sweeps, rows_differ
from trainables.inputs.legible import legible
from trainables.objective import EVAL_BITS, EVAL_LOSS, LOWEST_LOSS, Objective

_NOT_COMPARED = ("name", "storage", "tracking", "notify", "promotion")
"""Keys of a sweep file that change no result."""
_CONTENTS = {"model.source": "model"} | {f"data.{split}": f"data.{split}" for split in ("train", "eval", "test")}
"""Key that names a model or a file -> beginning of its fingerprints' names. Fingerprints decide what differs."""
_LONGEST = 70
"""Characters of a value that a table shows."""
Rows = list[tuple[str, list[str]]]


class Curve(NamedTuple):
    """The reports of a trial."""

    name: str
    """The trial's name in tables."""
    is_compared: bool
    points: tuple[tuple[int, int, float, float], ...]
    """(step, tokens, seconds, value) of each report with a finite value."""


@dataclass(frozen=True)
class Side:
    """One of the compared sweeps, with the trial that stands for it."""

    name: str
    status: Status
    trial: TrialRecord

    @property
    def record(self) -> SweepRecord:
        """Returns the sweep's record."""
        return self.status.record

    @property
    def trial_name(self) -> str:
        """Returns a name such as "lora t03 (step 18)"."""
        return f"{self.name} {label(self.trial.number)} (step {self.trial.best_step})"


@dataclass(frozen=True)
class SweepsCompared:
    """Sweeps side by side. Each other sweep is compared with the first one."""

    sides: tuple[Side, ...]
    objective: Objective
    separation: Separation
    """Each other side's trial against the first side's, in the order of the sides."""
    changes: tuple[Changes, ...]
    """Rows on which answers of the first side's trial and of another side's differ, if both answered the same rows."""

    def curves(self, reports: Sequence[Sequence[TrialReported]]) -> tuple[Objective, dict[str, list[Curve]]]:
        """Returns an objective, and name of a sweep -> curves of its trials by this objective.

        The objective is that of the comparison, or the loss if no trial has two values of it.
        """
        for objective in (self.objective, LOWEST_LOSS):
            sides = zip(self.sides, reports, strict=True)
            found = {side.name: _curves(side, objective.metric, told) for side, told in sides}
            if any(len(curve.points) > 1 for curves in found.values() for curve in curves):
                break
        return objective, found

    def settings(self) -> dict[str, list[Any]]:
        """Returns key of the sweep file -> its differing values, one per sweep. Data and models differ by content."""
        flat = [{**_flat(facts.raw_config(side.record)), **side.record.changes} for side in self.sides]
        differing = {}
        for key in dict.fromkeys(key for each in flat for key in each):
            values = [each.get(key) for each in flat]
            contents = [_contents(side.record, _CONTENTS.get(key)) for side in self.sides]
            decides = contents if all(contents) else values
            if all(each == decides[0] for each in decides):
                continue
            if all(value == values[0] for value in values):  # one name for two contents
                values = [f"{value} ({content})" for value, content in zip(values, contents, strict=True)]
            differing[key] = values
        return differing

    def tables(self, price: float | None = None) -> list[tuple[str, Rows]]:
        """Returns the tables of settings, trials and cost: titles, with rows of a name and a text for each sweep."""
        files = [(key, [_text(value) for value in values]) for key, values in self.settings().items()]
        trials = [side.trial for side in self.sides]
        own = (side.record.judges(side.trial).metric for side in self.sides)
        metrics = dict.fromkeys([self.objective.metric, *own, EVAL_LOSS, EVAL_BITS, *self._scores()])
        values = [("trial", [label(trial.number) for trial in trials]), *rows_of(trials, metrics)]
        told = [{f.name: f.value for f in facts.taken(side.record, side.status.seconds, price)} for side in self.sides]
        states = [WORDS[side.status.state].partition(":")[0] for side in self.sides]
        cost = [("state", states), *((name, [each[name] for each in told]) for name in told[0])]
        tables = {"Their files differ in": files, "The trials": values, "The sweeps": [r for r in cost if any(r[1])]}
        return [(title, rows) for title, rows in tables.items() if rows]

    def lines(self) -> list[str]:
        """Says which rows and settings the sweeps share, and how each trial compares with the first one."""
        lines = [*self._rows(), *same_settings([side.trial for side in self.sides])]
        if len({side.record.judges(side.trial) for side in self.sides}) > 1 and self.objective.metric == EVAL_LOSS:
            lines.append(f"their objectives differ: the trials are compared by {EVAL_LOSS}")
        if self.objective.metric == EVAL_BITS:
            lines.append(f"their tokens differ, and so does what {EVAL_LOSS} counts: compared by {EVAL_BITS}")
        first = self.sides[0].trial_name
        lines += [
            best_compared.verdict(first, other.trial_name, self.objective, found, self.separation)
            for other, found in zip(self.sides[1:], self.separation.trials, strict=True)
        ]
        return lines + best_compared.notes(self.separation) + [each.line() for each in self.changes]

    def as_json(self) -> dict[str, Any]:
        """Returns the JSON line of `qsweep compare`."""
        return {
            "metric": self.objective.metric,
            "sweeps": [
                {
                    "sweep": side.status.sweep_id,
                    "name": side.name,
                    "dir": str(side.status.folder),
                    "state": side.status.state,
                    "trial": trial_json(side.record, side.trial, side.status.folder),
                    "value": finite(side.trial.value(self.objective.metric)),
                    "scores": {name: side.trial.value(name) for name in self._scores()},
                    "trials": len(side.record.trials),
                    "spent": facts.spent_of(side.record).model_dump(),
                }
                for side in self.sides
            ],
            "settings": self.settings(),
            "differences": [
                {
                    "sweep": other.status.sweep_id,
                    "against": self.sides[0].status.sweep_id,
                    **difference_json(found, self.separation),
                }
                for other, found in zip(self.sides[1:], self.separation.trials, strict=True)
            ],
            "answers": [each.as_json() for each in self.changes],
        }

    def _rows(self) -> list[str]:
        first, *others = (side.record for side in self.sides)
        train, evaluated = (first.data.get(name) for name in ("train_rows", "eval_rows"))
        if not train:  # a trainable without data
            return []
        if all(other.data.get("fingerprint") == first.data.get("fingerprint") is not None for other in others):
            return [f"the same {train} rows to train on, and {evaluated} to evaluate on"]
        is_same = not any(rows_differ(first, other) for other in others)
        return [f"the same {evaluated} rows to evaluate on"] if is_same else []

    def _scores(self) -> list[str]:
        found = [objective.metric for objective in _shared_scores(self.sides)]
        return [name for name in found if all(math.isfinite(side.trial.value(name)) for side in self.sides)]


def compared(named: Sequence[tuple[Status, TrialRecord | None]]) -> SweepsCompared:
    """Compares two or more sweeps, each by its named trial; None takes its best trial, or the best so far.

    Raises:
        SweepError: a trial to compare, or each trial of a sweep, has not reported yet.
    """
    names = [str(facts.raw_config(status.record).get("name", status.folder.name)) for status, _ in named]
    for others in ([status.folder.name for status, _ in named], [str(status.folder) for status, _ in named]):
        names = names if len(set(names)) == len(names) else others
    sides = tuple(
        Side(legible(name), status, _reported(status, trial))
        for name, (status, trial) in zip(names, named, strict=True)
    )
    chosen = [Chosen(SweepFolder(side.status.folder), side.record, side.trial) for side in sides]
    objective = common_objective(chosen)
    changes = (_changes(sides[0], other) for other in sides[1:])
    told = tuple(each for each in changes if each is not None)
    return SweepsCompared(sides, objective, compare_sweeps(objective, chosen), told)


def _reported(status: Status, trial: TrialRecord | None) -> TrialRecord:
    """Returns the trial, or the best one for None. Raises SweepError if the trial has not reported."""
    found = trial or status.selection.winner
    if found is None or not found.evals:
        which = "no trial has" if found is None else f"{label(found.number)} has not"
        raise SweepError(f"{status.folder.name}: {which} reported yet: there is nothing to compare")
    return found


def _shared_scores(sides: Sequence[Side]) -> list[Objective]:
    first, *others = (answers.scores_of(side.record) for side in sides)
    shared = [score for score in first if all(score in its for its in others)]
    return [score for score in shared if score.metric not in (EVAL_LOSS, EVAL_BITS)]


def _changes(first: Side, other: Side) -> Changes | None:
    """Compares the answers of two sides; returns None if this is not possible, or if the sides have other rows."""
    if rows_differ(first.record, other.record):
        return None
    found = [
        answered and replace(answered, name=side.trial_name)
        for side in (first, other)
        for answered in [answers.of_trial(SweepFolder(side.status.folder), side.trial)]
    ]
    chosen = [Chosen(SweepFolder(side.status.folder), side.record, side.trial) for side in (first, other)]
    return answers.changes(found[0], found[1], _shared_scores((first, other)), lambda by: compare_sweeps(by, chosen))


def _contents(record: SweepRecord, start: str | None) -> str:
    """Returns the fingerprints of a model or a file; empty if they are unknown."""
    prints = record.fingerprints.items()
    return " ".join(value for name, value in prints if start is not None and f"{name}.".startswith(f"{start}."))


def _curves(side: Side, metric: str, reports: Sequence[TrialReported]) -> list[Curve]:
    points: dict[str, list[tuple[int, int, float, float]]] = {}
    for told in reports:
        value = told.metrics.get(metric, math.nan)
        if math.isfinite(value):
            points.setdefault(told.trial_key, []).append((told.step, told.tokens, told.seconds, value))
    numbers = {key: trial.number for key, trial in side.record.trials.items()}
    return [Curve(label(numbers[key]), key == side.trial.trial_key, tuple(each)) for key, each in points.items()]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted key -> value. A domain of the search space is one value."""
    return dict(_leaves({key: value for key, value in config.items() if key not in _NOT_COMPARED}, ""))


def _leaves(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value or at.startswith("search_space."):
        yield at, value
        return
    for key, each in value.items():
        yield from _leaves(each, f"{at}.{key}" if at else str(key))


def _text(value: object) -> str:
    """Formats a value for tables; a key that a file lacks is "-"."""
    if isinstance(value, list | dict):
        value = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return "-" if value is None else legible(value_text(value), _LONGEST)
