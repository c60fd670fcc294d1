"""Grades answers by the last number in them, as GSM8K does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Context, Decimal, localcontext
from typing import Annotated, Any

from pydantic import Field

from trainables.grading.grader import RightOrWrong

_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)%])[-+\u2212])?[$€£¥]?"  # the minus of 7-5 is no sign of 5
    r"(?P<size>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)"
)


class Number(RightOrWrong):
    """Grades whether the last number of the answer is that of the completion, within the larger tolerance."""

    metric = "number"
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """The largest difference that still counts as right."""
    relative_tolerance: Annotated[float, Field(ge=0)] = 0.0
    """The largest difference that counts as right, as a share of the completion's number."""

    def _is_right(self, row: Mapping[str, Any], expected: str, answer: str) -> bool:
        with localcontext(Context(traps=[])):  # too large a number raises no error, but is not finite
            wanted, given = _last_number(expected), _last_number(answer)
            if wanted is None:
                raise ValueError("the completion holds no number")
            most = max(Decimal(str(self.tolerance)), Decimal(str(self.relative_tolerance)) * abs(wanted))
            return given is not None and abs(given - wanted) <= most


def _last_number(text: str) -> Decimal | None:
    """Returns 1234.5 for "so $1,234.50."; None if there is no number, or the last one is not finite.

    Commas separate thousands. A fraction is two numbers.
    """
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    number = Decimal(found[-1]["size"].replace(",", ""))
    return None if not number.is_finite() else number if found[-1]["sign"] in (None, "+") else number.copy_negate()
