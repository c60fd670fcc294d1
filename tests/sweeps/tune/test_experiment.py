"""What becomes of a run of Ray Tune whose own files have no room."""

from __future__ import annotations

import errno
import os

import pytest

from sweeps.errors import StorageError
from sweeps.tune import experiment


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StorageError), (errno.ECONNRESET, ConnectionResetError)])
def test_a_full_disk_under_tunes_own_files_is_told_with_the_way_out(number, kind):
    with pytest.raises(kind) as told, experiment.scratch():
        raise OSError(number, os.strerror(number), "/tmp/ray/experiment_state.json")
    if kind is StorageError:
        assert str(told.value) == (
            "temporary files cannot be written: [Errno 28] No space left on device: '/tmp/ray/experiment_state.json': "
            "make room there, or name another place with TMPDIR, then go on with qsweep resume"
        )
