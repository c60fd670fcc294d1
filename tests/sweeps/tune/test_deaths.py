"""How often a trial's own process may die."""

from __future__ import annotations

import pytest

from sweeps.tune.processes import DEATHS, Deaths


@pytest.fixture
def saved() -> dict[str, int]:
    """Trial key -> the step that the trial would go on from."""
    return {}


@pytest.fixture
def deaths(saved) -> Deaths:
    return Deaths(saved.get)


def test_a_trial_is_given_up_after_deaths_in_a_row(deaths):
    assert [deaths.may_go_on("a") for _ in range(DEATHS)] == [True] * (DEATHS - 1) + [False]


def test_what_was_saved_in_between_begins_the_count_anew(deaths, saved):
    for step in range(4 * DEATHS):
        saved["a"] = step
        assert deaths.may_go_on("a")
    assert [deaths.may_go_on("a") for _ in range(DEATHS - 1)] == [True] * (DEATHS - 2) + [False]


def test_one_trials_deaths_are_not_anothers(deaths):
    assert all(deaths.may_go_on(key) for key in "abcdefg")
