"""How often a trial's own process may die."""

from __future__ import annotations

import pytest

from sweeps.tune.trial_files import Holder
from sweeps.tune.tune_hooks import DEATHS, Deaths


def test_a_trial_is_given_up_after_deaths_in_a_row_with_nothing_saved_in_between():
    saved = dict[str, int]()
    deaths = Deaths(saved.get)
    for step in range(4 * DEATHS):
        saved["a"] = step
        assert deaths.may_go_on("a", step)
    assert [deaths.may_go_on("a", 99) for _ in range(DEATHS - 1)] == [True] * (DEATHS - 2) + [False]
    assert [deaths.may_go_on("b", attempt) for attempt in range(DEATHS)] == [True] * (DEATHS - 1) + [False]


class Processes:
    """Which process has taken trial `a` up, and the nodes that stay."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = set(nodes)
        self.holder: Holder | None = None
        self._attempt = 0
        self._deaths = Deaths(lambda _key: 0, lambda _key: self.holder, lambda: self.nodes)

    def dies(self, node_id: str | None) -> bool:
        """One more process of the trial dies, after it took it up on this node, or before; whether there is another."""
        self._attempt += 1
        if node_id is not None:
            self.holder = Holder(f"process-{self._attempt}", node_id, self._attempt)
        return self._deaths.may_go_on("a", self._attempt)


def test_a_process_that_went_with_its_node_is_no_death_of_the_trials():
    processes = Processes("n1", "n2")
    assert all(processes.dies(f"spot-{number}") for number in range(3 * DEATHS))
    assert [processes.dies("n1") for _ in range(DEATHS)] == [True] * (DEATHS - 1) + [False]


def test_no_trial_is_to_blame_while_the_nodes_are_not_known():
    def lost() -> set[str]:
        raise RuntimeError("the head service does not answer")

    deaths = Deaths(lambda _key: 0, lambda _key: Holder("process", "n1", 1), lost)
    assert all(deaths.may_go_on("a", 1) for _ in range(2 * DEATHS))


@pytest.mark.parametrize("later", [None, "n2"], ids=["no other", "on a node that stays"])
def test_a_process_that_never_took_the_trial_up_died_wherever_an_earlier_one_was(later):
    """On the head too: there it takes up nothing, and the trial was on another node before it was parked."""
    processes = Processes("n2")
    assert processes.dies("n1")
    assert [processes.dies(None) for _ in range(DEATHS - 1)] == [True] * (DEATHS - 1)
    assert not processes.dies(later)
