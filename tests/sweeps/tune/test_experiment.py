"""What becomes of a run of Ray Tune whose own files have no room."""

from __future__ import annotations

import errno
import os
from unittest.mock import Mock

import pytest
from ray import tune
from ray.tune.search import Searcher

from sweeps.errors import StorageError
from sweeps.tune.experiment import Experiment
from trainables.objective import MIN_EVAL_LOSS


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StorageError), (errno.ECONNRESET, ConnectionResetError)])
def test_a_full_disk_under_tunes_own_files_is_told_with_the_way_out(monkeypatch, number, kind):
    refused = OSError(number, os.strerror(number), "/tmp/ray/experiment_state.json")
    monkeypatch.setattr(tune, "run", Mock(side_effect=refused))
    with pytest.raises(kind) as told:
        Experiment(Searcher(), Mock(), Mock(), Mock(), Mock(), None).run(MIN_EVAL_LOSS)
    if kind is StorageError:
        assert str(told.value) == (
            "temporary files cannot be written: [Errno 28] No space left on device: '/tmp/ray/experiment_state.json': "
            "make room there, or name another place with TMPDIR, then go on with qsweep resume"
        )
