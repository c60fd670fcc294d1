"""Grades answers by a function of the user's, found by MODULE:FUNCTION or FILE.py:FUNCTION."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self, cast

from pydantic import model_validator

from trainables.grading.grader import Grader
from trainables.inputs import own_code
from trainables.inputs.legible import legible
from trainables.inputs.similar import did_you_mean
from trainables.objective import Direction, wrong_names


class Function(Grader):
    """Grades by the result of `function(row, answer)`: a finite number, or a mapping of names to such numbers.

    The higher number is better. The function's attribute `metrics`, such as {"words": "min"}, declares names; only a
    declared name can be an objective.
    """

    path: str
    """MODULE:FUNCTION, or FILE.py:FUNCTION with an absolute path."""

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        function = self._function()
        problem = _wrong_arguments(function)
        if problem is not None:
            raise ValueError(problem)
        declared = getattr(function, "metrics", None)
        is_sound = isinstance(declared, Mapping) and all(better in ("min", "max") for better in declared.values())
        if declared is not None and not (declared and is_sound):
            raise ValueError(
                f'its attribute metrics is {legible(repr(declared), 100)}: write {{"name": "max"}} or "min"'
            )
        problem = wrong_names(self.metrics)
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def metrics(self) -> Mapping[str, Direction]:
        """See `Grader.metrics`."""
        return self._named(getattr(self._function(), "metrics", "max"))

    def grade(self, row: Mapping[str, Any], expected: str, answer: str) -> Mapping[str, float]:
        """See `Grader.grade`."""
        function, scores = self._function(), dict[str, float]()
        returned = function(row, answer)
        with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # float() takes numbers of NumPy and PyTorch
            named = self._named(returned).items()
            scores = {name: math.nan if isinstance(each, str | bytes) else float(each) for name, each in named}
        if not scores or not all(map(math.isfinite, scores.values())):
            rule = "a score is a finite number (True is 1, False is 0), or a mapping of names to such numbers"
            raise TypeError(f"{self.path} returns {legible(repr(returned), 100)}: {rule}: return one for any answer")
        problem = wrong_names(scores)
        if hasattr(function, "metrics") and scores.keys() != self.metrics.keys():
            problem = f"has {', '.join(scores)}, and its attribute metrics declares {', '.join(self.metrics)}"
        if problem is not None:
            raise TypeError(f"{self.path} returns {legible(repr(returned), 100)}, which {problem}")
        return scores

    def _named(self, value: Any) -> dict[str, Any]:
        name = self.path.rpartition(":")[2]
        return {f"{name}_{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}

    def _function(self) -> Callable[[Mapping[str, Any], str], Any]:
        """Imports the function. Raises ValueError if it cannot be found."""
        module, name = own_code.parts(self.path)
        missing = own_code.missing_file(module)
        if missing is not None:
            raise ValueError(missing)
        try:
            found = own_code.module_of(module)
        except (Exception, SystemExit) as error:
            why = f"{type(error).__name__}: {legible(str(error), 200)}"
            searched = "" if module.endswith(".py") else " (the current folder is searched, too)"
            raise ValueError(f"{module!r} cannot be imported{searched}: {why}") from None
        function = getattr(found, name, None)
        if not callable(function):
            raise ValueError(f"{module} has no function {name!r}{did_you_mean(name, vars(found))}")
        return cast(Callable[[Mapping[str, Any], str], Any], function)


def _wrong_arguments(function: Callable[..., Any]) -> str | None:
    try:
        arguments = inspect.signature(function)
    except (TypeError, ValueError):  # some functions that are written in C do not tell theirs
        return None
    try:
        arguments.bind({}, "")
    except TypeError:
        return f"has the arguments {legible(str(arguments), 100)}: a function that scores answers takes (row, answer)"
    return None
