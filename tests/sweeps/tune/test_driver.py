"""What the driver asks of Ray for a trial's own process."""

from __future__ import annotations

from ray._private.ray_constants import MIN_RESOURCE_GRANULARITY

from sweeps.tune.driver import TRIAL_PROCESS


def test_memory_and_not_its_number_of_places_limits_the_head() -> None:
    (share,) = TRIAL_PROCESS.required_resources.values()
    at_once = round(1 / share)  # Ray gives each node 1 of the resource that stands for it.
    assert share >= MIN_RESOURCE_GRANULARITY
    assert at_once * 0.123 > 1000  # GB; see docs/scale.md
