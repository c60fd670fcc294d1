"""How many hosts a cluster has room for."""

from __future__ import annotations

import pytest

from cluster.nodes import Node, free_gpus, gpus, wanted

HEAD = Node("head", 0.0, 0.0)
FREE = Node("a", 2.0, 2.0)
BUSY = Node("b", 2.0, 0.0)
LEAVING = Node("c", 4.0, 4.0, is_leaving=True)


def test_the_head_needs_no_gpu_and_a_node_that_is_leaving_counts_for_nothing():
    assert (gpus((HEAD, FREE, BUSY, LEAVING)), free_gpus((HEAD, FREE, BUSY, LEAVING))) == (4, 2)


@pytest.mark.parametrize(
    ("nodes", "held", "unplaced", "hosts"),
    [
        ((HEAD, FREE), {}, 0, 2),
        ((HEAD, BUSY), {}, 0, 1),  # all GPUs are someone else's: one host waits for one
        ((HEAD, BUSY), {"b": 2}, 0, 2),
        ((HEAD, FREE), {"a": 1}, 0, 2),  # Ray has not said yet that one of the two is taken
        ((HEAD, FREE, BUSY), {"b": 1}, 0, 3),
        ((HEAD, FREE, LEAVING), {"c": 4}, 0, 2),
        ((HEAD,), {"gone": 2}, 0, 1),
        ((HEAD, BUSY), {"b": 1}, 1, 2),  # the host that is being made holds the other one
        ((HEAD, FREE), {}, 1, 2),  # it will be placed on one of the two
        ((), {}, 0, 1),
    ],
)
def test_auto_takes_the_gpus_that_are_there_and_free(nodes, held, unplaced, hosts):
    assert wanted("auto", True, nodes, held, unplaced) == hosts


def test_a_number_is_asked_for_whole_so_that_nodes_are_brought_for_it():
    assert wanted(8, True, (HEAD, FREE), {"a": 2}) == 8


def test_on_cpus_there_is_one_host_or_as_many_as_were_asked_for():
    assert wanted("auto", False, (HEAD, FREE), {}) == 1
    assert wanted(3, False, (HEAD,), {}) == 3
