"""Builds the graders that `evaluation.metrics` names, and lists the problems of its entries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainables.errors import GradingError
from trainables.grading.choice import Choice
from trainables.grading.function import Function
from trainables.grading.grader import Grader
from trainables.grading.json_answers import JsonFields, JsonValid, read_schema
from trainables.grading.mathematics import Math
from trainables.grading.number import Number
from trainables.grading.text import Contains, ExactMatch, Regex
from trainables.inputs import paths
from trainables.inputs.legible import legible
from trainables.inputs.similar import did_you_mean
from trainables.objective import EVAL_LOSS, Direction
from trainables.specs import EvaluationSpec

_SIMPLE = (ExactMatch, Contains, Choice, Number, Regex, JsonValid, Math)
GRADERS: Mapping[str, type[Grader]] = {kind.metric: kind for kind in _SIMPLE} | {"json_fields": JsonFields}
"""Name of the entry, and of its main metric -> grader."""
ANSWERS_ENDED = "answers_ended"
"""Share of the generated answers that ended by themselves."""
_WORDS = {"Value error, ": "", "Input should be": "must be", "a valid tuple": "a list", "Field required": "is required"}
"""Words of pydantic -> words of this project's messages."""


def graders(spec: EvaluationSpec) -> tuple[Grader, ...]:
    """Returns the grader of each entry of `metrics`, in order. Raises `GradingError`."""
    made: list[Grader] = []
    problems: list[str] = []
    taken = {EVAL_LOSS, ANSWERS_ENDED}
    for number, entry in enumerate(spec.metrics):
        name = entry if isinstance(entry, str) else " and ".join(entry)
        try:
            grader = _grader(name, {} if isinstance(entry, str) else entry.get(name, {}))
            if not taken.isdisjoint(grader.metrics):
                raise ValueError("its name is taken: write each metric once")
        except ValueError as error:
            problems += _lines(number, name, error)
        else:
            made.append(grader)
            taken.update(grader.metrics)
    if problems:
        raise GradingError(problems)
    return tuple(made)


def directions(spec: EvaluationSpec) -> Mapping[str, Direction]:
    """Returns metric -> which value is better. Raises `GradingError`."""
    found = {name: better for grader in graders(spec) for name, better in grader.metrics.items()}
    return found | {ANSWERS_ENDED: "max"} if needs_answers(spec) else found


def verdicts(spec: EvaluationSpec) -> Mapping[str, str]:
    """Returns the `Grader.verdicts` of this package's graders, and the verdict of `ANSWERS_ENDED`.

    Leaves out graders that cannot be made, such as those with missing libraries: a sweep may be read on another machine
    than it was trained on.
    """
    found = {ANSWERS_ENDED: "ended"}
    for entry in spec.metrics:
        if "".join(entry) in GRADERS:
            with suppress(GradingError):
                found.update(graders(spec.model_copy(update={"metrics": (entry,)}))[0].verdicts)
    return found


def without_rows(spec: EvaluationSpec) -> frozenset[str]:
    """Returns the metrics without a value per row, by which no promotion can decide. Raises `GradingError`."""
    return frozenset().union(*(grader.of_all for grader in graders(spec)))


def needs_answers(spec: EvaluationSpec) -> bool:
    """Tells whether any grader needs generated answers. Raises `GradingError`."""
    return any(not grader.ranks_labels for grader in graders(spec))


def ranked_labels(made: Sequence[Grader], completions: Collection[str]) -> tuple[str, ...]:
    """Returns the labels to rank, as `Choice.with_labels` writes them; empty if none are ranked.

    Raises:
        GradingError: the completions are no labels; see `Choice.with_labels`.
    """
    for number, grader in enumerate(made):
        if isinstance(grader, Choice):
            try:
                labels = grader.with_labels(completions).labels or ()
            except ValueError as error:
                raise GradingError(_lines(number, "choice", error)) from None
            return labels if grader.ranks_labels else ()
    return ()


def wrong_row(made: Sequence[Grader], row: Mapping[str, Any], expected: str) -> str | None:
    """Returns why no answer to a row can be right, or None.

    Each grader except a user's function grades the row's own completion.
    """
    for number, grader in enumerate(made):
        if isinstance(grader, Function):
            continue
        try:
            grader.grade(row, expected, expected)
        except ValueError as error:
            return f"evaluation.metrics.{number}: {next(iter(grader.metrics))}: {legible(str(error))}"
    return None


def with_files(entries: Sequence[Any], folder: Path) -> list[Any]:
    """Returns the entries of a sweep file without paths relative to `folder`.

    The path of a function becomes absolute. The content of a schema's file replaces the file's path. `graders` reports
    the problems of an entry.
    """
    found = list(entries)
    for number, entry in enumerate(entries):
        match entry:
            case str() if ".py:" in entry:
                found[number] = str(paths.absolute(folder / paths.at_home(Path(entry))))
            case {"json_fields": {"schema": str(path), **options}} if len(entry) == 1:
                schema: object = str(paths.absolute(folder / paths.at_home(Path(path))))
                with suppress(ValueError):
                    schema = read_schema(schema)
                found[number] = {"json_fields": {**options, "schema": schema}}
    return found


def _grader(name: str, options: Mapping[str, Any]) -> Grader:
    if ":" in name:
        return Function.model_validate({**options, "path": name})
    if name not in GRADERS:
        meant = "; choice has the accuracy" if name == "accuracy" else did_you_mean(name, GRADERS)
        raise ValueError(
            f"no such grader{meant} (there are: {', '.join(GRADERS)}; a function of your own is "
            "named MODULE:FUNCTION; an entry names one, with options as {NAME: {...}})"
        )
    return GRADERS[name].model_validate(options)


def _lines(number: int, name: str, error: ValueError) -> list[str]:
    where = f"evaluation.metrics.{number}: {legible(name, 100)}"
    if not isinstance(error, ValidationError):
        return [f"{where}: {error}"]
    lines = []
    for detail in error.errors(include_url=False):
        rule = detail["msg"]
        for pydantic, ours in _WORDS.items():
            rule = rule.replace(pydantic, ours)
        if detail["type"] == "extra_forbidden":
            keys = [field.alias or key for key, field in GRADERS[name].model_fields.items()] if name in GRADERS else []
            meant = did_you_mean(str(detail["loc"][-1]), keys)
            rule = f"unknown option{meant} (options here: {', '.join(keys) or 'none'})"
        elif detail["type"] not in ("value_error", "missing"):
            rule += f", not {legible(repr(detail['input']), 100)}"
        lines.append(f"{'.'.join(map(str, (where, *detail['loc'])))}: {rule}")
    return lines
