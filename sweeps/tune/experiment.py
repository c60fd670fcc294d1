"""Runs Ray Tune once: trial processes are on the driver's node and, beyond that node's share, on any node."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search.search_generator import SearchGenerator

from cluster.nodes import staying
from cluster.ray_files import WAY_OUT, temporary_folder
from sweeps.errors import StorageError
from sweeps.tune import trial_files, tune_hooks
from sweeps.tune.slot_trial import SlotTrial
from sweeps.tune.sweep_trials import SweepTrials
from sweeps.tune.trial_events import JournalCallback, RuleScheduler
from sweeps.tune.trial_queue import ProcessPlaces, TrialQueue, room_anywhere
from sweeps.tune.watch import Watch


@dataclass(frozen=True)
class Scratch:
    """The folder of one run of Ray Tune. Nobody reads Tune's own files, so they stay out of the sweep's folder."""

    path: Path

    @property
    def holders(self) -> Path:
        """Returns the folder of the keeper's holders; see `trial_files.holder`."""
        return self.path / "holders"

    def spread(self, on_head: int, settings: Mapping[str, Any], say: Callable[[str], None]) -> ProcessPlaces:
        """Returns places of trial processes on all nodes of a cluster.

        Args:
            on_head: processes on the driver's node before further ones go to any node.
            settings: see `trial_files.FolderFiles`.
            say: shows a line when the first process goes to any node.
        """

        def begin() -> Any:
            say(f"the head has its share of trial processes ({on_head}): further ones go to any node")
            return trial_files.create_keeper(settings, self.holders)

        return ProcessPlaces(on_head, room_anywhere, begin)


@contextmanager
def scratch() -> Iterator[Scratch]:
    """Yields a folder for one run of Ray Tune, and removes the folder at the end.

    Raises:
        StorageError: the disk has no room for Tune's files. Tune gives up then, whichever file fails.
    """
    try:
        with temporary_folder("tune") as path:
            made = Scratch(path)
            made.holders.mkdir()
            yield made
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = f"temporary files cannot be written: {error}: {WAY_OUT}, then go on with qsweep resume"
        raise StorageError(problem) from error


def run(
    files: Scratch,
    trials: SweepTrials,
    queue: TrialQueue,
    watch: Watch,
    callback: JournalCallback,
) -> None:
    """Runs trials until the queue has no more or `watch` ends the sweep."""
    deaths = tune_hooks.Deaths(trials.saved, partial(trial_files.holder, files.holders), staying)
    with tune_hooks.survived(deaths), tune_hooks.without_secrets():
        # tune.Tuner would pickle searcher and callbacks into storage for its own restore, which is not used.
        tune.run(
            SlotTrial,
            name="tune",
            metric=trials.config.stops.metric,
            mode=trials.config.stops.mode,
            storage_path=str(files.path),
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
