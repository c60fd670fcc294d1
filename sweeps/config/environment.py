"""Reads numbers from environment variables."""

from __future__ import annotations

import os
from contextlib import suppress

from sweeps.errors import ConfigError
from trainables.inputs.legible import legible


def number(name: str, default: float, least: float, most: float) -> float:
    """Returns the number in an environment variable; `default` if the variable is not set.

    Raises:
        ConfigError: the variable holds anything but a number from `least` to `most`.
    """
    given = os.environ.get(name)
    if given is None:
        return default
    with suppress(ValueError):
        if least <= float(given) <= most:
            return float(given)
    raise ConfigError([f"{name}: {legible(repr(given))} must be a number from {least:g} to {most:g}"])
