"""How many hosts a cluster has room for."""

from __future__ import annotations

import pytest

from cluster.nodes import Node, gpus, outlook, problem, wanted

HEAD = Node("head", 0.0, 0.0)
FREE = Node("a", 2.0, 2.0)
BUSY = Node("b", 2.0, 0.0)
LEAVING = Node("c", 4.0, 4.0, is_leaving=True)


def test_the_head_needs_no_gpu_and_a_node_that_is_leaving_counts_for_nothing():
    seen = (HEAD, FREE, BUSY, LEAVING)
    assert gpus(seen) == 4
    assert outlook(2, 1, seen) is None
    assert outlook(3, 1, seen) == (
        "3 hosts are wanted, and 2 of the cluster's 4 GPUs are free: the sweep begins with those, and takes more as "
        "they come"
    )


@pytest.mark.parametrize(
    ("number", "each", "nodes", "held", "unplaced", "hosts"),
    [
        # "auto" takes the GPUs that are there and free.
        ("auto", 1, (HEAD, FREE), {}, 0, 2),
        ("auto", 1, (HEAD, BUSY), {}, 0, 1),  # all GPUs are someone else's: one host waits for one
        ("auto", 1, (HEAD, BUSY), {"b": 2}, 0, 2),
        ("auto", 1, (HEAD, FREE), {"a": 1}, 0, 2),  # Ray has not said yet that one of the two is taken
        ("auto", 1, (HEAD, FREE, BUSY), {"b": 1}, 0, 3),
        ("auto", 1, (HEAD, FREE, LEAVING), {"c": 4}, 0, 2),
        ("auto", 1, (HEAD,), {"gone": 2}, 0, 1),
        ("auto", 1, (HEAD, BUSY), {"b": 1}, 1, 2),  # the host that is being made holds the other one
        ("auto", 1, (HEAD, FREE), {}, 1, 2),  # it will be placed on one of the two
        ("auto", 1, (), {}, 0, 1),
        # A host takes all its GPUs of one node.
        ("auto", 2, (HEAD, FREE), {}, 0, 1),
        ("auto", 2, (Node("d", 5.0, 5.0),), {}, 0, 2),  # the fifth GPU is of no use
        ("auto", 2, (Node("d", 1.0, 1.0), Node("e", 1.0, 1.0)), {}, 0, 1),  # none has two: one host waits
        ("auto", 2, (Node("d", 4.0, 3.0),), {}, 0, 1),
        ("auto", 2, (Node("d", 4.0, 4.0),), {"d": 1}, 0, 2),
        ("auto", 2, (FREE, BUSY), {"b": 1}, 1, 2),
        # A number is asked for whole, so that nodes are brought for it.
        (8, 1, (HEAD, FREE), {"a": 2}, 0, 8),
        # On CPUs there is one host, or as many as were asked for.
        ("auto", 0, (HEAD, FREE), {}, 0, 1),
        (3, 0, (HEAD,), {}, 0, 3),
    ],
)
def test_so_many_hosts_are_wanted(number, each, nodes, held, unplaced, hosts):
    assert wanted(number, each, nodes, held, unplaced) == hosts


TOO_FEW = (
    "cluster.hosts: {} asked for, but the cluster has {} GPUs, which is room for {} with 2 GPUs of one machine each: "
)


@pytest.mark.parametrize(
    ("number", "each", "nodes", "said"),
    [
        (1, 2, (FREE,), None),
        (2, 2, (FREE, BUSY), None),
        (2, 2, (FREE, LEAVING), TOO_FEW.format(2, 2, "1 host") + "launch with"),
        (
            1,
            4,
            (FREE, LEAVING),
            "cluster.gpus_per_host: 4 asked for, but no machine of the cluster has more than 2: set",
        ),
        (1, 2, (HEAD,), TOO_FEW.format(1, 0, "0 hosts") + "set"),
    ],
)
def test_more_gpus_than_a_machine_has_are_told(number, each, nodes, said):
    found = problem(number, each, nodes)
    assert found is None if said is None else str(found).startswith(said)


@pytest.mark.parametrize(
    ("number", "nodes", "said"),
    [
        (1, (FREE,), None),
        (2, (FREE, BUSY), "there is room for 1: the sweep begins with those, and takes more as they come"),
        (1, (BUSY,), "there is room for 0: the sweep begins when the first one is there, and takes more as they come"),
        (
            1,
            (HEAD, LEAVING),
            "no machine of the cluster has more than 0: the sweep begins when a machine with 2 GPUs joins",
        ),
    ],
)
def test_the_start_says_that_it_waits_for_machines_with_so_many(number, nodes, said):
    found = outlook(number, 2, nodes)
    assert found is None if said is None else str(found).endswith(said)
