"""A trial's process on a real Ray that dies while Tune keeps it for the next trial."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chaos_runs as runs
import pytest
from ray import tune
from ray.tune import PlacementGroupFactory
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from cluster.connect import connected
from sweeps.tune import tune_hooks

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


@pytest.fixture(scope="module", autouse=True)
def connection() -> Iterator[None]:
    with connected("local", "processes"):
        yield


def ends_at_once() -> type[tune.Trainable]:
    """A trial that tells its process. It is defined here so that it travels: a process cannot import this module."""

    class EndsAtOnce(tune.Trainable):
        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"process": os.getpid(), "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

    return EndsAtOnce


class OneAfterTheOther(Searcher):
    """Hands out the second trial once the process that is kept for it is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = ["a", "b"]
        self.processes: list[int] = []

    def set_search_properties(self, *_words: Any, **_more: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self.keys:
            return Searcher.FINISHED
        if len(self.keys) == 1:
            if not self.processes:
                return None
            runs.kill(self.processes[0])
        return {"trial_key": self.keys.pop(0), "run": 1}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.processes.append((result or {}).get("process", 0))


def test_a_trial_that_gets_a_process_which_is_dead_gets_another(tmp_path: Path) -> None:
    searcher = OneAfterTheOther()
    with tune_hooks.survived(), tune_hooks.without_secrets():
        done = tune.run(
            ends_at_once(), name="tune", storage_path=str(tmp_path), num_samples=-1,
            search_alg=SearchGenerator(searcher),
            resources_per_trial=PlacementGroupFactory([{"node:__internal_head__": 0.0001}]), reuse_actors=True,
            raise_on_failed_trial=False, verbose=0, log_to_file=False,
        )  # fmt: skip
    assert [trial.status for trial in done.trials] == ["TERMINATED"] * 2
    first, second = searcher.processes
    assert first != second != 0
