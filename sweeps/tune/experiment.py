"""One run of Ray Tune: the trials of a queue, in processes on the driver's node and, past its share, on any node."""

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
from sweeps.tune import folder_keeper, processes
from sweeps.tune.callback import JournalCallback
from sweeps.tune.scheduler import RuleScheduler
from sweeps.tune.slot_trial import SlotTrial
from sweeps.tune.trial_places import Places, room_anywhere
from sweeps.tune.trial_queue import TrialQueue
from sweeps.tune.watch import Watch
from trainables.objective import Objective

HOLDERS = "holders"
"""Folder beside Tune's files, for which process has which trial; see `folder_keeper`."""


@dataclass(frozen=True)
class Spread:
    """How the processes of trials spread over a cluster."""

    on_head: int
    """How many are on the driver's node before others go anywhere."""
    settings: Mapping[str, Any]
    """Of the sweep's folder; see `FolderFiles`."""
    say: Callable[[str], None]
    """Is told once that there are others."""

    def places(self, holders: Path) -> Places:
        """All places, free; `holders` is an empty folder on this node."""
        return Places(self.on_head, room_anywhere, partial(self._begin, holders))

    def _begin(self, holders: Path) -> Any:
        keeper = folder_keeper.create(self.settings, holders)
        self.say(f"the head has its share of trial processes ({self.on_head}): further ones go to any node")
        return keeper


@dataclass(frozen=True)
class Experiment:
    """What a run of Ray Tune is made of."""

    queue: TrialQueue
    """The trials. It is told where their processes may be."""
    scheduler: RuleScheduler
    """Says which of them end early."""
    watch: Watch
    """Is asked between Tune's steps, and may end it."""
    callback: JournalCallback
    """Is told what becomes of the trials."""
    saved: Callable[[str], object]
    """What the trial of a key would go on from now."""
    spread: Spread | None
    """None keeps all processes on this node."""

    def run(self, objective: Objective) -> None:
        """Runs trials until the queue has no more, or `watch` ends them."""
        # Nobody reads Tune's own files: they must not fill the sweep's folder, nor fail with it.
        with _full_disk_told(), temporary_folder("tune") as scratch:
            holders = scratch / HOLDERS
            holders.mkdir()
            if self.spread is not None:
                self.queue.places = self.spread.places(holders)
            deaths = processes.Deaths(self.saved, partial(folder_keeper.holder, holders), staying)
            with processes.survived(deaths), processes.numbered(), processes.without_secrets():
                # Not tune.Tuner: it pickles searcher and callbacks into storage for its own restore, not used here.
                tune.run(
                    SlotTrial,
                    name="tune",
                    metric=objective.metric,
                    mode=objective.mode,
                    storage_path=str(scratch),
                    num_samples=-1,
                    search_alg=SearchGenerator(self.queue),
                    scheduler=self.scheduler,
                    reuse_actors=True,
                    stop=self.watch,
                    callbacks=[self.callback],
                    raise_on_failed_trial=False,
                    verbose=0,
                    log_to_file=False,
                )


@contextmanager
def _full_disk_told() -> Iterator[None]:
    """Raises as a `StorageError` that there is no room for Tune's own files: Tune gives up then, whatever it writes."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = f"temporary files cannot be written: {error}: {WAY_OUT}, then go on with qsweep resume"
        raise StorageError(problem) from error
