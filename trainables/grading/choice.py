"""Grades answers that are one of a few labels, and counts the confusions of labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from statistics import fmean
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainables.grading.grader import RightOrWrong
from trainables.inputs.legible import legible
from trainables.inputs.similar import did_you_mean
from trainables.objective import Direction
from trainables.specs import Spec

MOST_LABELS = 1000
MOST_RANKED = 100
"""The most labels that are ranked. Each row is computed once with each label."""


class Choice(RightOrWrong):
    """Grades whether the label of the highest log-probability is the row's label. Nothing is generated.

    With `by: answer` the generated text is the label. White space around labels does not count.
    """

    metric = "choice"
    labels: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """All labels; the labels in the data when left out."""
    by: Literal["ranking", "answer"] = "ranking"
    """ranking: the answer is the label of the highest log-probability, and nothing is generated. answer: the answer is
    the generated text."""

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        if self.labels is None:
            return self
        count = len(self.labels)
        if not all(map(str.strip, self.labels)):
            raise ValueError("a label is blank: write one in its place, or leave it out")
        if count < 2:
            raise ValueError("has fewer than two labels, so there is nothing to choose")
        if len({label.strip() for label in self.labels}) < count:
            raise ValueError("a label stands twice: leave it out once")
        if count > MOST_LABELS:
            raise ValueError(f"has {count:,} labels, and takes at most {MOST_LABELS:,}: take exact_match instead")
        if count > MOST_RANKED and self.ranks_labels:
            raise ValueError(f"has {count:,} labels, and ranks at most {MOST_RANKED}: write by: answer, or list fewer")
        return self

    @property
    def metrics(self) -> Mapping[str, Direction]:
        """See `Grader.metrics`."""
        return {"choice": "max", "choice_macro_f1": "max"}

    @property
    def verdicts(self) -> Mapping[str, str]:
        """See `Grader.verdicts`."""
        return {self.metric: "right by ranking" if self.ranks_labels else self.verdict}

    @property
    def of_all(self) -> frozenset[str]:
        """See `Grader.of_all`."""
        return frozenset(["choice_macro_f1"])

    @property
    def ranks_labels(self) -> bool:
        """See `Grader.ranks_labels`."""
        return self.by == "ranking"

    def with_labels(self, completions: Collection[str]) -> Self:
        """Returns the grader with all its labels, each written as in a completion, white space included.

        Raises:
            ValueError: there are too many or too few labels, or a completion is none of `labels`.
        """
        written = {text.strip(): text for text in sorted(completions)}
        names = sorted(written) if self.labels is None else [label.strip() for label in self.labels]
        unknown = sorted(written.keys() - set(names))
        if unknown:
            meant = did_you_mean(unknown[0], names)
            raise ValueError(
                f"the completion {legible(repr(unknown[0]), 60)} is none of its labels{meant}: add it, or leave labels "
                "out to take those in the data"
            )
        return type(self)(labels=tuple(written.get(name, name) for name in names), by=self.by)

    def _is_right(self, row: Mapping[str, Any], expected: str, answer: str) -> bool:
        return answer.strip() == expected.strip()

    def overall(self, expected: Sequence[str], answers: Sequence[str]) -> Mapping[str, float]:
        """See `Grader.overall`."""
        return {"choice_macro_f1": confusion(expected, answers).macro_f1}


class Confusion(Spec):
    """Counts of rows by their expected label and their answered label."""

    labels: tuple[str, ...]
    """The expected labels, sorted."""
    counts: tuple[tuple[int, ...], ...]
    """For each expected label: the number of rows with each answered label, and last with any other answer."""

    @property
    def macro_f1(self) -> float:
        """The mean over labels of 2 x right / (rows that expect the label + rows that answer the label)."""
        answered = [sum(column) for column in zip(*self.counts, strict=True)]
        return fmean(2 * row[place] / (sum(row) + answered[place]) for place, row in enumerate(self.counts))

    def recall(self) -> str:
        """Says for each label how many of the rows that expect the label get it."""
        told = (f"{legible(label, 30)} {row[place]} of {sum(row)}" for label, row, place in self._rows())
        return f"recall: {', '.join(told)}"

    def never_answered(self) -> list[str]:
        """Returns a line for each label that no row gets."""
        return [
            f"`{legible(label, 30)}` is never answered ({sum(row)} row{'' if sum(row) == 1 else 's'})"
            for label, row, place in self._rows()
            if not any(each[place] for each in self.counts)
        ]

    def _rows(self) -> Iterator[tuple[str, tuple[int, ...], int]]:
        return zip(self.labels, self.counts, count(), strict=False)

    def text(self) -> str:
        """Returns a table for people: a line for each expected label, a column for each answered label."""
        names = [legible(label, 30) for label in self.labels]
        cells = [
            ["", *names, "(other)"],
            *([name, *map(str, row)] for name, row in zip(names, self.counts, strict=True)),
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in cells)


def confusion(expected: Sequence[str], answers: Sequence[str]) -> Confusion:
    """Counts the answers to one row or more, by the label that each row expects."""
    labels = sorted({text.strip() for text in expected})
    place = {label: number for number, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for wanted, answer in zip(expected, answers, strict=True):
        counts[place[wanted.strip()]][place.get(answer.strip(), -1)] += 1
    return Confusion(labels=tuple(labels), counts=tuple(map(tuple, counts)))
