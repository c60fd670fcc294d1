"""Runs Ray Tune once."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray import tune
from ray.tune.search.search_generator import SearchGenerator

from cluster.ray_files import WAY_OUT, temporary_folder
from sweeps.errors import StorageError
from sweeps.tune import tune_hooks
from sweeps.tune.sweep_trials import SweepTrials
from sweeps.tune.trial_queue import TrialQueue
from sweeps.tune.trial_stub import TrialStub
from sweeps.tune.tune_callbacks import JournalCallback, RuleScheduler
from sweeps.tune.watch import Watch


@contextmanager
def scratch() -> Iterator[Path]:
    """Yields a folder for one run of Ray Tune, and removes the folder at the end.

    Nobody reads Tune's own files, so they stay out of the sweep's folder.

    Raises:
        StorageError: the disk has no room for Tune's files. Tune gives up then, whichever file fails.
    """
    try:
        with temporary_folder("tune") as path:
            yield path
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = f"temporary files cannot be written: {error}: {WAY_OUT}, then go on with qsweep resume"
        raise StorageError(problem) from error


def run(
    files: Path,
    trials: SweepTrials,
    queue: TrialQueue,
    watch: Watch,
    callback: JournalCallback,
) -> None:
    """Runs trials until the queue has no more or `watch` ends the sweep."""
    with tune_hooks.survived(), tune_hooks.without_secrets():
        # tune.Tuner would pickle searcher and callbacks into storage for its own restore, which is not used.
        tune.run(
            TrialStub,
            name="tune",
            storage_path=str(files),
            num_samples=-1,
            search_alg=SearchGenerator(queue),
            scheduler=RuleScheduler(trials, callback.write),
            reuse_actors=True,
            stop=watch,
            callbacks=[callback],
            raise_on_failed_trial=False,
            verbose=0,
            log_to_file=False,
        )
