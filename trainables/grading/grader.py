"""Defines a grader: one entry of `evaluation.metrics` with its options, which scores the answer to a row.

Rows and answers are text from strangers: a grader reads them, and never runs any of them as code.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from trainables.objective import Direction
from trainables.specs import Spec


class Grader(Spec):
    """One entry of `evaluation.metrics` with its options. Subclasses add the options as fields."""

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Direction]:
        """Metric -> which value is better. The first metric has the name of the entry."""

    @property
    def of_all(self) -> frozenset[str]:
        """The metrics that are not the mean of the rows' scores."""
        return frozenset()

    @property
    def verdicts(self) -> Mapping[str, str]:
        """Metric that is 1 or 0 for each row -> the word for an answer with a 1, such as "right"."""
        return {}

    @property
    def columns(self) -> frozenset[str]:
        """The columns that each row must have."""
        return frozenset()

    @property
    def ranks_labels(self) -> bool:
        """Whether the answer is the likeliest label, so that nothing is generated for this grader."""
        return False

    @abstractmethod
    def grade(self, row: Mapping[str, Any], expected: str, answer: str) -> Mapping[str, float]:
        """Scores the answer to a row: a value for each metric that is the mean of its rows.

        Args:
            row: the row's columns.
            expected: the row's completion.
            answer: the generated text, without the end token; the likeliest label if labels are ranked.

        Raises:
            ValueError: no answer to this row can be right; `catalogue.wrong_row` finds such rows before training.
            Exception: the grader is broken. The evaluation then lacks this grader's metrics, with this error.
        """

    def overall(self, expected: Sequence[str], answers: Sequence[str]) -> Mapping[str, float]:
        """Scores all rows together: a value for each metric in `of_all`."""
        return {}


class RightOrWrong(Grader):
    """A grader that gives 1 to a right answer and 0 to any other."""

    metric: ClassVar[str]
    verdict: ClassVar[str] = "right"

    @property
    def metrics(self) -> Mapping[str, Direction]:
        """See `Grader.metrics`."""
        return {self.metric: "max"}

    @property
    def verdicts(self) -> Mapping[str, str]:
        """See `Grader.verdicts`."""
        return {self.metric: self.verdict}

    def grade(self, row: Mapping[str, Any], expected: str, answer: str) -> Mapping[str, float]:
        """See `Grader.grade`."""
        return {self.metric: float(self._is_right(row, expected, answer))}

    @abstractmethod
    def _is_right(self, row: Mapping[str, Any], expected: str, answer: str) -> bool:
        """Tells whether an answer is right. Arguments and errors are those of `grade`."""
