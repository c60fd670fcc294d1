"""A host's loop evaluates each trial on its part of the rows, and keeps the adapter that is best on common rows."""

from __future__ import annotations

from collections.abc import Iterator

import packs
import pytest
from pack_loops import DEADLINE

from cluster.loop import Finalist, Judged, Outcome, PackLoop
from trainables.contract import Evaluation, Opened, RowsDue
from trainables.objective import EVAL_LOSS, LOWEST_LOSS, SortKey
from trainables.packing.adapter_pack import AdapterPack

SPEC = packs.spec(seed=3, learning_rate=0.05)


@pytest.fixture
def loop() -> Iterator[PackLoop]:
    made = PackLoop(AdapterPack(packs.ENGINE(packs.base()), packs.rows(24, 20)), 2)
    for lease in "ab":
        assert isinstance(made.open(lease, SPEC, None).result(DEADLINE), Opened)
    yield made
    made.stop()


def reached(loop: PackLoop, lease: str, target: int, rows: RowsDue, best: SortKey) -> Outcome:
    outcome = loop.advance(lease, target, best, 0, DEADLINE, Judged(LOWEST_LOSS, rows))
    assert outcome is not None
    assert outcome.failure is None
    return outcome


def found(outcome: Outcome) -> Evaluation:
    assert outcome.evaluation is not None
    return outcome.evaluation


def test_trials_of_one_host_are_evaluated_on_their_own_parts(loop: PackLoop) -> None:
    part = found(reached(loop, "a", 1, RowsDue(7), SortKey()))
    whole = found(reached(loop, "b", 1, RowsDue(None, None, 7), SortKey()))
    assert (len(part.places), len(part.row_losses), whole.places) == (7, 7, ())
    # Both have the same spec, so the part is one of the same adapter, and the rung ranks both alike.
    assert part.row_losses == pytest.approx([whole.row_losses[place] for place in part.places], abs=1e-3)
    assert part.loss == pytest.approx(whole.beside(7)[EVAL_LOSS], abs=packs.FP32)
    assert part.loss != pytest.approx(whole.loss, abs=1e-3)


@pytest.mark.parametrize(("than", "is_kept"), [(0.01, True), (-0.01, False)])
def test_the_adapter_comes_if_it_is_better_on_the_rows_of_the_best(loop: PackLoop, than: float, is_kept: bool) -> None:
    first = found(reached(loop, "a", 1, RowsDue(7), SortKey()))
    later = reached(loop, "a", 3, RowsDue(13, 7), LOWEST_LOSS.sort_key(first.metrics))
    on_common = found(later).beside(7)
    again = reached(loop, "b", 3, RowsDue(13, 7), SortKey(on_common[EVAL_LOSS] + than))
    assert found(again).loss == pytest.approx(found(later).loss, abs=packs.FP32)
    assert (again.adapter is not None) is is_kept


def test_a_best_adapter_is_evaluated_on_all_rows_without_scores(loop: PackLoop) -> None:
    outcome = reached(loop, "a", 2, RowsDue(7), SortKey())
    whole = found(reached(loop, "b", 2, RowsDue(), SortKey()))
    assert outcome.adapter is not None
    (again,) = loop.evaluate_finalists([Finalist(spec=SPEC, adapter=outcome.adapter, is_scored=False)]).result(DEADLINE)
    assert isinstance(again, Evaluation)
    assert again.row_losses == pytest.approx(whole.row_losses, abs=1e-3)
