"""Who may write a mirror, decided by what the driver that waits has seen, on its own clock."""

from __future__ import annotations

import pytest

from sweeps.record.mirror.lease import Lease, Sighting, following, is_same_hold, renewed, sight, verdict

OTHER = Lease(holder="other", token=3, seconds=60.0, machine="a", process=7)
MINE = Lease(holder="mine", token=0, seconds=60.0, machine="b", process=8)


def look(times: list[tuple[float, Lease]], own: str | None = None) -> str:
    """What is decided when the lease was seen like this at these seconds."""
    seen: Sighting | None = None
    for now, found in times:
        seen = sight(seen, found, now)
    assert seen is not None
    return verdict(times[0][1], seen, times[-1][0], own)


def test_a_lease_that_is_first_seen_is_waited_for_however_old_it_is():
    assert look([(1e9, OTHER)]) == "wait"


@pytest.mark.parametrize(("seconds", "decided"), [(59.9, "wait"), (60.0, "take")])
def test_a_lease_lapses_when_it_was_seen_unchanged_for_as_long_as_it_lasts(seconds, decided):
    assert look([(100.0, OTHER), (100.0 + seconds, OTHER)]) == decided


def test_a_lease_that_is_renewed_meanwhile_is_anothers():
    assert look([(0.0, OTHER), (59.0, renewed(OTHER))]) == "refuse"


def test_a_lease_that_another_has_taken_meanwhile_is_anothers():
    assert look([(0.0, OTHER), (59.0, following(MINE, OTHER))]) == "refuse"


def test_a_renewed_lease_lapses_when_its_driver_dies_after_all():
    last = renewed(OTHER)
    assert look([(0.0, OTHER), (10.0, last), (69.9, last)]) == "refuse"
    assert look([(0.0, OTHER), (10.0, last), (70.0, last)]) == "take"


def test_the_lease_says_how_long_it_lasts_not_the_driver_that_waits():
    short = OTHER.model_copy(update={"seconds": 2.0})
    assert look([(0.0, short), (2.0, short)]) == "take"


def test_a_lease_that_was_given_back_is_free_at_once():
    assert look([(0.0, OTHER.model_copy(update={"is_released": True}))]) == "take"


def test_the_lease_of_a_dead_driver_of_the_same_folder_is_free_at_once():
    assert look([(0.0, OTHER)], own="other") == "take"
    assert look([(0.0, OTHER)], own="somebody") == "wait"


def test_tokens_grow_also_when_the_lease_was_deleted():
    assert following(MINE, None).token == 1
    assert following(MINE, OTHER).token == 4
    assert following(MINE, None, floor=9).token == 10
    assert following(MINE, OTHER, floor=9).token == 10


def test_a_renewal_is_the_same_hold_and_a_take_over_is_not():
    assert is_same_hold(OTHER, renewed(OTHER))
    assert not is_same_hold(OTHER, following(MINE, OTHER))
