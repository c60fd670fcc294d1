"""The plan of a sweep whose rungs count examples: its most steps, and its words."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import toy

from sweeps.config import resource
from sweeps.planning.capacity import Machine
from sweeps.planning.plan import Plan, plan
from sweeps.report.plan_lines import plan_lines
from sweeps.searchers import REPEATED
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


@pytest.mark.parametrize("repeats", [0, 1])
def test_at_most_holds_the_listed_points_with_a_batch_below_the_spaces(repeats: int) -> None:
    searcher = {
        "kind": "random",
        "repeats": repeats,
        "points": [{"training.batch_size": 1}],
        "start_with_default": False,
    }
    sections: dict[str, Any] = {"scheduler": {"kind": "fifo"}, "budget": {"trials": 4, "examples_per_trial": 48}}
    found = planned({"training.batch_size": {"choice": [4, 8]}}, searcher=searcher, **sections)
    # 12 steps each with a batch of 4; the listed point, and its repeat, take 48.
    assert found.worst_steps == (4 + repeats * REPEATED) * 12 + (1 + repeats) * (48 - 12)


def test_the_best_of_few_trials_goes_on_alone_to_so_many_examples() -> None:
    found = planned({}, budget={"trials": 8, "examples_per_trial": 216})
    assert "      few trials: the best one goes on to 216 examples alone" in plan_lines(found)


def test_a_report_after_one_example_is_told_in_the_singular() -> None:
    found = planned({}, training={"batch_size": 1}, budget={"trials": 2, "examples_per_trial": 1})
    assert ", reports after 1 example, whatever the batch; " in plan_lines(found)[0]


def test_a_first_report_at_the_end_names_the_examples_of_a_trial() -> None:
    """The default batch is 4: 10 examples are rounded up to 12, which the 3 steps of scheduler.grace_steps are too."""
    (warning,) = planned({}, budget={"trials": 8, "examples_per_trial": 10}).warnings
    assert warning == (
        "scheduler.grace_steps reaches the 12 examples of a trial: no trial can be stopped early; lower grace_steps or "
        "raise budget.examples_per_trial, or what is given in its place"
    )


@pytest.mark.parametrize(("sizes", "share"), [([5, 7, 11, 13], 73), ([1, 2, 4], None), ([4, 6], None)])
def test_batches_without_a_small_common_multiple_are_told_with_the_share(sizes: list[int], share: int | None) -> None:
    """At the first rung of 15 examples a batch of 5 has seen 15, and one of 13 has seen 26."""
    found = planned({"training.batch_size": {"choice": sizes}}, training={"batch_size": sizes[0]})
    told = [line for line in found.warnings if "common multiple" in line]
    assert len(told) == (share is not None)
    for line in told:
        assert line.startswith("training.batch_size x training.gradient_accumulation_steps: batches of 5, 7, 11, 13 ")
        assert f"have seen up to {share}% more examples than others; choose batches with a small common" in line
