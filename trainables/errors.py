"""Errors of this package, each also the standard error that it refines.

TrainableError
├── DataError (ValueError)        the rows cannot be used as described
├── ModelError (ValueError)       the base model cannot be found or loaded
├── NotTrainable (LookupError)    no trainable of that name, or a module that breaks the contract
└── InfeasibleError (ValueError)  this point can't be trained on this base: no module matches, for example
"""

from __future__ import annotations


class TrainableError(Exception):
    """Base of this package's errors: the user can mend them, so they print without a traceback."""


class NotTrainable(TrainableError, LookupError):  # noqa: N818 - reads as what it is
    """There is no trainable of that name, or the module breaks the contract of one."""


class DataError(TrainableError, ValueError):
    """The rows cannot be used as described."""


class ModelError(TrainableError, ValueError):
    """The base model cannot be found or loaded."""


class InfeasibleError(TrainableError, ValueError):
    """This point cannot be trained on this base, whatever the machine does."""
