"""Where the processes of trials are: on the head, and on any node once the head's share is used up."""

from __future__ import annotations

from collections.abc import Callable

import ray
from ray.tune import PlacementGroupFactory

from cluster.nodes import staying

PROCESS_BYTES = 128 * 2**20
"""Memory of one trial's process; see docs/scale.md."""
HEAD_SHARE = 0.5
"""The part of the memory that Ray counts on the head which trials' processes may take."""
ON_HEAD = PlacementGroupFactory([{"node:__internal_head__": 0.0001}])
"""What a trial's process takes there: a place, and no CPU, since it only waits. Ray counts no smaller share: 10,000
processes at once on a cluster."""
ANYWHERE = PlacementGroupFactory([{"memory": PROCESS_BYTES}])
"""What it takes otherwise. Memory, since every node has some: Ray then takes the node that has the most of it free."""


class Places:
    """Says of each trial whether its process may be on any node."""

    def __init__(
        self,
        on_head: int | None,
        room_anywhere: Callable[[], int] = lambda: 0,
        begin: Callable[[], object] = lambda: None,
    ) -> None:
        """All places are free.

        Args:
            on_head: how many processes are on the head before others are placed anywhere; None: all are on the head.
            room_anywhere: how many more than those of the head's share the cluster has room for. The head takes those
                that are too many: they would wait for ever.
            begin: called before the first trial whose process may be on any node. What it returns lives on with these
                places: Ray ends an actor that nobody holds.
        """
        self._most_on_head = on_head
        self._room_anywhere, self._begin = room_anywhere, begin
        self._on_head: set[str] = set()
        self._anywhere: set[str] = set()
        self._has_begun = False
        self._held: object = None

    def take(self, trial_id: str) -> bool:
        """Gives a trial its place; whether that may be on any node."""
        if self._is_for_head():
            self._on_head.add(trial_id)
            return False
        if not self._has_begun:
            self._held, self._has_begun = self._begin(), True
        self._anywhere.add(trial_id)
        return True

    def free(self, trial_id: str) -> None:
        """The trial is over, or gives its place back."""
        self._on_head.discard(trial_id)
        self._anywhere.discard(trial_id)

    def _is_for_head(self) -> bool:
        if self._most_on_head is None or len(self._on_head) < self._most_on_head:
            return True
        return len(self._anywhere) >= self._room_anywhere()


def share_of_head() -> int:
    """How many processes of trials the driver's node takes before others go anywhere."""
    here = staying().get(ray.get_runtime_context().get_node_id())
    return max(1, int((here.memory if here is not None else 0.0) * HEAD_SHARE / PROCESS_BYTES))


def room_anywhere() -> int:
    """How many processes of trials the nodes have memory for, as Ray counts it; 0 while Ray does not answer."""
    try:
        return sum(int(node.memory // PROCESS_BYTES) for node in staying().values())
    except Exception:  # What Ray raises when its head service does not answer.
        return 0
