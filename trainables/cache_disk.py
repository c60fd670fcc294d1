"""Tells what the disk of the cache refuses, with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.errors import TrainableError


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Names the folder of the cache that is written in the block, where the disk refuses it.

    Raises:
        TrainableError: in place of an OSError, and of the error of safetensors 0.8, which writes files by itself and
            tells in words what the system said.
    """
    try:
        yield
    except TrainableError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and "(os error " not in str(error):
            raise
        way_out = "make room, or name a folder on another disk with QSWEEP_CACHE"
        raise TrainableError(f"{folder}: the cache cannot be written: {error}: {way_out}") from error
