"""Where the processes of trials go once the head's share is used up."""

from __future__ import annotations

import pytest

from sweeps.tune.slot_trial import ANYWHERE, ON_HEAD, PROCESS_BYTES, SlotTrial
from sweeps.tune.trial_queue import ProcessPlaces


def test_places_on_the_head_come_first_and_are_given_again():
    begun: list[str] = []
    places = ProcessPlaces(2, lambda: 100, lambda: begun.append("now"))
    assert [places.place(trial) for trial in "ab"] == [False, False]
    assert begun == []
    assert [places.place(trial) for trial in "cd"] == [True, True]
    places.free("c")
    assert places.place("e")
    places.free("a")
    places.free("a")
    assert [places.place(trial) for trial in "fg"] == [False, True]
    assert begun == ["now"]


def test_the_head_takes_more_than_its_share_when_nobody_has_room():
    room = {"processes": 1}
    places = ProcessPlaces(1, lambda: room["processes"])
    assert [places.place(trial) for trial in "abc"] == [False, True, False]
    places.free("b")
    assert [places.place(trial) for trial in "de"] == [True, False]
    room["processes"] = 2  # a node has joined
    assert places.place("f")


def test_a_ray_of_the_sweeps_own_has_all_processes_on_its_node():
    places = ProcessPlaces(None, lambda: 100)
    assert not any(places.place(str(number)) for number in range(2000))


@pytest.mark.parametrize(("is_anywhere", "asked"), [(False, ON_HEAD), (True, ANYWHERE)])
def test_tune_asks_ray_for_the_place_that_the_trial_has(is_anywhere, asked):
    assert SlotTrial.default_resource_request({"is_anywhere": is_anywhere}) == asked
    assert not set(ANYWHERE.required_resources) & {"CPU", "GPU", "node:__internal_head__"}
    assert ANYWHERE.required_resources == {"memory": PROCESS_BYTES}
