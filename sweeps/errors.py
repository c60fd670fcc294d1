"""Errors of this package, each also the standard error that it refines.

SweepError
├── ConfigError (ValueError)    the sweep file says something that cannot be; holds every problem at once
├── Failed (RuntimeError)       what is at fault is outside: MLflow is away, for example
├── NotStored (LookupError)     MLflow does not have the artifacts of a run
├── RayGone (RuntimeError)      Ray is gone or does not answer: the sweep ends without it
└── StorageError (OSError)      the sweep's folder can't be written or is not what it should be
    └── BudgetUsedUp            budget.disk leaves no room for an adapter
"""

from __future__ import annotations

from collections.abc import Sequence

from trainables.errors import QsweepError


class SweepError(QsweepError):
    """Base of this package's errors, which are printed without a traceback."""

    exit_code = 2
    """Exit code of a command that ends with this error."""


class ConfigError(SweepError, ValueError):
    """The sweep file, or what it refers to, is wrong.

    Attributes:
        problems: one line each, "field: value and rule, way out".
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return ConfigError, (self.problems,)


class Failed(SweepError, RuntimeError):  # noqa: N818 - reads as what happened
    """Something outside failed, by no mistake of the user's: the same command may succeed later."""

    exit_code = 1


class NotStored(SweepError, LookupError):  # noqa: N818 - reads as what happened
    """MLflow does not have the artifacts of a run, or has lost them."""


class StorageError(SweepError, OSError):
    """The sweep's folder cannot be written or read."""


class BudgetUsedUp(StorageError):  # noqa: N818 - reads as what happened
    """budget.disk leaves no room for an adapter."""


class RayGone(SweepError, RuntimeError):  # noqa: N818 - reads as what happened
    """Ray is gone or does not answer."""
