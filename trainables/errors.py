"""Errors of this package. Each one is also the standard error that it refines.

QsweepError                       base of all errors of this project that the user can mend
TrainableError
├── DataError (ValueError)        the rows cannot be used as described
├── GradingError (ValueError)     evaluation.metrics cannot be computed as described; holds every problem at once
├── ModelError (ValueError)       the base model cannot be found or loaded
├── NotTrainable (LookupError)    no trainable of that name, or a module that breaks the contract
└── InfeasibleError (ValueError)  this point can't be trained on this base: no module matches, for example
"""

from __future__ import annotations

from collections.abc import Sequence


class QsweepError(Exception):
    """Base of all errors of this project that say what to do; they print without a traceback."""


class TrainableError(QsweepError):
    """Base of this package's errors, which the user can mend."""


class NotTrainable(TrainableError, LookupError):  # noqa: N818 - reads as what it is
    """There is no trainable of that name, or the module breaks the contract of one."""


class DataError(TrainableError, ValueError):
    """The rows cannot be used as described."""


class GradingError(TrainableError, ValueError):
    """The metrics of answers cannot be computed as described.

    Attributes:
        problems: one line each, "evaluation.metrics.N: what is wrong: the way out".
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[GradingError], tuple[tuple[str, ...]]]:
        return GradingError, (self.problems,)


class ModelError(TrainableError, ValueError):
    """The base model cannot be found or loaded."""


class InfeasibleError(TrainableError, ValueError):
    """This point cannot be trained on this base, whatever the machine does."""
