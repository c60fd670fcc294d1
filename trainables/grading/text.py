"""Grades answers as text: exact_match, contains, and regex against a column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import field_validator

from trainables.grading.grader import RightOrWrong


class ExactMatch(RightOrWrong):
    """Grades whether the answer is the completion."""

    metric = "exact_match"
    strip: bool = True
    """Leave out the white space around both."""
    lower: bool = False
    """Compare both in lower case."""

    def _is_right(self, row: Mapping[str, Any], expected: str, answer: str) -> bool:
        return self._plain(answer) == self._plain(expected)

    def _plain(self, text: str) -> str:
        text = text.strip() if self.strip else text
        return text.lower() if self.lower else text


class Contains(ExactMatch):
    """Grades whether the answer contains the completion.

    The options are those of `ExactMatch`.
    """

    metric = "contains"

    def _is_right(self, row: Mapping[str, Any], expected: str, answer: str) -> bool:
        if not expected.strip():
            raise ValueError("the completion is blank, and every answer contains it")
        return self._plain(expected) in self._plain(answer)


class Regex(RightOrWrong):
    """Grades whether the first match of the pattern in the answer is the value of a column."""

    metric = "regex"
    pattern: str
    """A regular expression with a group of the name `answer`: (?P<answer>...)."""
    column: str
    """Column whose value, as text, is compared with the group. White space around either does not count."""

    @field_validator("pattern")
    @classmethod
    def _has_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groupindex
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if "answer" not in groups:
            raise ValueError(f"{pattern!r} lacks a group of the name answer: (?P<answer>...)")
        return pattern

    @property
    def columns(self) -> frozenset[str]:
        """See `Grader.columns`."""
        return frozenset([self.column])

    def _is_right(self, row: Mapping[str, Any], expected: str, answer: str) -> bool:
        wanted = row.get(self.column)
        if wanted is None:
            raise ValueError(f"the column {self.column!r} is missing or null")
        found = re.search(self.pattern, answer)
        return found is not None and (found["answer"] or "").strip() == str(wanted).strip()
