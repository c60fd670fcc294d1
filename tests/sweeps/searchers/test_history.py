"""What searchers were told: each point once, compared where others have been too."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from search_spaces.space import Point, SearchSpace
from sweeps.searchers._learner import History, Learner

A, B, C = ({"adapter.r": r} for r in (4, 8, 16))


def history(*told: tuple[dict[str, int], int, float]) -> History:
    found = History()
    for point, resource, value in told:
        found.tell(point, resource, value, False)
    return found


def test_a_point_is_kept_once_however_often_it_is_told() -> None:
    seen = history((A, 1, 3.0), (B, 1, 2.5), (A, 3, 2.0), ({"adapter.r": 4.0}, 9, 1.0))  # type: ignore[dict-item]
    assert [point.point for point in seen.seen] == [A, B]
    assert seen.seen[0].values == {1: 3.0, 3: 2.0, 9: 1.0}


def test_the_best_are_those_that_came_further_then_those_with_lower_values() -> None:
    ranked = history((A, 1, 1.0), (B, 1, 3.0), (B, 3, 2.0), (C, 1, 4.0), (C, 3, 1.5)).ranked()
    assert [seen.point for seen in ranked] == [C, B, A]
    # A point that is ahead alone is judged where the others have been.
    ranked = history((A, 1, 3.0), (A, 3, 2.9), (A, 9, 2.8), (B, 1, 2.0), (C, 1, 2.5)).ranked()
    assert [seen.point for seen in ranked] == [B, C, A]


def test_failures_are_not_ranked_and_a_fault_of_the_machine_says_nothing() -> None:
    found = history((A, 1, 1.0), (B, 1, 2.0))
    found.tell(A, 3, "diverged", False)
    found.tell(C, 0, "failed", False)
    assert [seen.point for seen in found.ranked()] == [B]
    assert C not in [seen.point for seen in found.with_results]
    assert C in found


def test_a_proposal_without_a_new_point_is_computed_again_only_when_something_is_known_that_was_not() -> None:
    """A space that is nearly used up must not cost a proposal of TPE for each suggestion that is dropped."""
    proposed: list[int] = []

    def propose(_history: History, _rng: Random, dropped: int) -> Iterator[Point]:
        proposed.append(dropped)
        return iter([{"adapter.r": 8}])

    learner = Learner(SearchSpace.parse({"adapter.r": {"choice": [8, 16]}}), 0, propose)
    learner.tell({"adapter.r": 8}, 3, 1.0, False)
    assert {point["adapter.r"] for _ in range(9) if (point := learner.suggest()) is not None} == {8, 16}
    assert proposed == [0]
    learner.tell({"adapter.r": 8}, 9, 0.5, False)
    learner.suggest()
    assert proposed == [0, 9]
