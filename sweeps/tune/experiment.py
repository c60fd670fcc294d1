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
from sweeps.tune import trial_files, tune_hooks
from sweeps.tune.slot_trial import SlotTrial
from sweeps.tune.sweep_trials import SweepTrials
from sweeps.tune.trial_events import JournalCallback, RuleScheduler
from sweeps.tune.trial_queue import ProcessPlaces, TrialQueue, room_anywhere
from sweeps.tune.watch import Watch


@dataclass(frozen=True)
class Scratch:
    """The folder of one run of Ray Tune. Nobody reads Tune's own files; they must not fill the sweep's folder."""

    path: Path

    @property
    def holders(self) -> Path:
        """A folder for which process has which trial; see `trial_files.holder`."""
        return self.path / "holders"

    def spread(self, on_head: int, settings: Mapping[str, Any], say: Callable[[str], None]) -> ProcessPlaces:
        """ProcessPlaces on any node of a cluster, all free.

        Args:
            on_head: how many processes are on the driver's node before others go anywhere.
            settings: what trials share; see `trial_files.FolderFiles`.
            say: is told once that there are others.
        """

        def begin() -> Any:
            say(f"the head has its share of trial processes ({on_head}): further ones go to any node")
            return trial_files.create_keeper(settings, self.holders)

        return ProcessPlaces(on_head, room_anywhere, begin)


@contextmanager
def scratch() -> Iterator[Scratch]:
    """A folder for one run of Ray Tune, which goes with the block.

    Raises:
        StorageError: there is no room for Tune's files. Tune gives up then, whatever it writes.
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
    """Runs trials until the queue has no more, or `watch` ends them."""
    deaths = tune_hooks.Deaths(trials.saved, partial(trial_files.holder, files.holders), staying)
    with tune_hooks.survived(deaths), tune_hooks.without_secrets():
        # Not tune.Tuner: it pickles searcher and callbacks into storage for its own restore, not used here.
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
