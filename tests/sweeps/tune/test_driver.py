"""What the driver asks of Ray for a trial's own process."""

from __future__ import annotations

import pytest
from ray._private.ray_constants import MIN_RESOURCE_GRANULARITY
from ray.tune.execution.tune_controller import _get_max_pending_trials
from ray.tune.search.search_generator import SearchGenerator

from cluster.connect import ENVIRONMENT
from sweeps.tune.driver import TRIAL_PROCESS

AT_ONCE = 10_000


def test_memory_and_not_its_number_of_places_limits_the_head() -> None:
    (share,) = TRIAL_PROCESS.required_resources.values()
    assert round(1 / share) == AT_ONCE  # Ray gives each node 1 of the resource that stands for it.
    assert share >= MIN_RESOURCE_GRANULARITY
    assert AT_ONCE * 0.123 > 1000  # GB; see docs/scale.md


def test_processes_start_together_however_many_slots_have_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    searcher = object.__new__(SearchGenerator)
    searcher.searcher = None
    assert _get_max_pending_trials(searcher) == AT_ONCE
