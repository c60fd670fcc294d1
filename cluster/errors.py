"""Errors of this package, each also the standard error that it refines.

ClusterError
├── ConnectionFailed (ConnectionError)   no Ray cluster is at the address
├── NotStarted (RuntimeError)            Ray could not be started on this machine
├── HostError (RuntimeError)             a host cannot start: its base or its data cannot be loaded
└── LeaseOver (LookupError)              a lease is not open on this host: its trial takes another
"""

from __future__ import annotations


class ClusterError(Exception):
    """Base of this package's errors: they print without a traceback."""


class ConnectionFailed(ClusterError, ConnectionError):  # noqa: N818 - reads as what happened
    """No Ray cluster is at the address."""


class NotStarted(ClusterError, RuntimeError):  # noqa: N818 - reads as what happened
    """Ray could not be started on this machine."""


class HostError(ClusterError, RuntimeError):
    """A host cannot start."""


class LeaseOver(ClusterError, LookupError):  # noqa: N818 - reads as what happened
    """A lease is not open on this host. No KeyError: a trainable may raise that itself."""
