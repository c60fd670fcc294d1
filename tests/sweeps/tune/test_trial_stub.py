"""What Ray Tune asks Ray for, for the stub of a trial."""

from __future__ import annotations

import pytest

from sweeps.tune.trial_stub import ANYWHERE, ON_HEAD, PROCESS_BYTES, TrialStub


@pytest.mark.parametrize(("is_anywhere", "asked"), [(False, ON_HEAD), (True, ANYWHERE)])
def test_tune_asks_ray_for_the_place_that_the_trial_has(is_anywhere, asked):
    assert TrialStub.default_resource_request({"is_anywhere": is_anywhere}) == asked
    assert not set(ANYWHERE.required_resources) & {"CPU", "GPU", "node:__internal_head__"}
    assert ANYWHERE.required_resources == {"memory": PROCESS_BYTES}
