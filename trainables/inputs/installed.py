"""The versions of installed packages. A look into a package's metadata takes a millisecond, so each is read once."""

from __future__ import annotations

import importlib.metadata
from functools import cache


@cache
def version(name: str) -> str:
    """Returns the version of an installed package; raises `PackageNotFoundError` if it is not installed."""
    return importlib.metadata.version(name)
