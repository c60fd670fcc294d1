"""Which hosts change their base, and which base a new host gets."""

from __future__ import annotations

import pytest

from cluster.placement import Held, changes, of_new


@pytest.mark.parametrize(
    "hosts, starting, waiting, expected",
    [
        ({"h": Held("A", 2, True)}, {}, {"B": 1}, {"h": "B"}),
        ({"h": Held("A", 1, False)}, {}, {"B": 1}, {}),
        ({"h": Held("A", 2, True)}, {}, {"A": 1, "B": 5}, {}),
        ({"h": Held("A", 2, True)}, {"B": 2}, {"B": 2}, {}),
        ({"h": Held("A", 2, True)}, {"B": 2}, {"B": 3}, {"h": "B"}),
        ({"h": Held("A", 2, True), "i": Held("A", 2, True)}, {}, {"B": 1, "C": 2}, {"h": "C", "i": "B"}),
        ({"h": Held("A", 2, True), "i": Held("B", 0, False)}, {}, {"B": 9, "C": 1}, {"h": "C"}),
        ({"h": Held("A", 2, True)}, {}, {}, {}),
    ],
    ids=["changes", "busy", "own", "being made", "too few", "each its own", "a base without a host first", "no work"],
)
def test_an_idle_host_takes_the_base_for_which_trials_wait(hosts, starting, waiting, expected):
    assert changes(hosts, starting, waiting) == expected


def test_new_hosts_are_shared_out_by_the_trials_that_wait_and_else_evenly():
    assert of_new({}, {}, ["A", "B"]) == "A"
    assert of_new({"A": 1}, {}, ["A", "B"]) == "B"
    assert of_new({"A": 1, "B": 1}, {"A": 4, "B": 1}, ["A", "B"]) == "A"
    assert of_new({"A": 3, "B": 1}, {"A": 4, "B": 3}, ["A", "B"]) == "B"
