"""What the disk of the cache refuses is told as such, and nothing else is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from trainables.cache_disk import writing
from trainables.errors import DataError, TrainableError


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_what_the_disk_refuses_names_the_folder_and_the_way_out(tmp_path: Path, error: Exception) -> None:
    told = rf"^{tmp_path}: the cache cannot be written: .*No space left on device.*: make room, or .* QSWEEP_CACHE$"
    with pytest.raises(TrainableError, match=told), writing(tmp_path):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        DataError("data.train: cannot load split 'train': No space left on device (os error 28)"),
        SafetensorError("Error while deserializing header: HeaderTooLarge"),
        KeyError("rows"),
    ],
)
def test_other_errors_stay_as_they_are(tmp_path: Path, error: Exception) -> None:
    """Such as that the hub's own cache is full, which is told before."""
    with pytest.raises(type(error)) as raised, writing(tmp_path):
        raise error
    assert raised.value is error
