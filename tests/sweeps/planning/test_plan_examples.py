"""The plan of a sweep whose rungs count examples: its most steps, and its words."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import toy

from sweeps.config import resource
from sweeps.planning.plan import Machine, Plan, plan
from sweeps.planning.trial_source import REPEATED
from trainables.contract import Need

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)
RATE = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}


def planned(space: dict[str, Any], **sections: Any) -> Plan:
    config, parsed = toy({**RATE, **space}, **sections)
    config, wrong = resource.settled(config, parsed, None)
    assert wrong == []
    return plan(config, parsed, NEED, Machine("cpu", 1, 10**6))


@pytest.mark.parametrize("sizes", [[1, 2, 4], [5, 7, 11, 13]])
@pytest.mark.parametrize("repeats", [0, 2])
def test_at_most_is_for_trials_that_all_have_the_smallest_batch(sizes: list[int], repeats: int) -> None:
    found = planned(
        {"training.batch_size": {"choice": sizes}},
        training={"batch_size": sizes[-1]},
        searcher={"kind": "random", "repeats": repeats},
        scheduler={"kind": "fifo"},
        budget={"trials": 8, "steps_per_trial": 9},
    )
    each = -(-found.points[-1] // sizes[0])
    assert found.expected_steps < (8 + repeats * REPEATED) * each <= found.worst_steps


def test_at_most_is_exact_where_the_smallest_batch_divides_every_report_point() -> None:
    found = planned({"training.batch_size": {"choice": [1, 2, 4]}}, scheduler={"kind": "fifo"}, budget={"trials": 8})
    assert found.worst_steps == 8 * found.points[-1]
