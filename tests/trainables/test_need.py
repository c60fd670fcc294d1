"""Memory as a trainable is asked for it: with the shape of the rows where that is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from trainables import catalogue, qlora
from trainables.contract import Memory, Need, RowShape, Summary
from trainables.errors import NotTrainable
from trainables.specs import AdapterSpec, DataSpec, ModelSpec, TrialSpec

SHAPE = RowShape(longest=40, mean=30.0, labelled=0.5, train_rows=9, eval_rows=3)
SPEC = TrialSpec(data=DataSpec(train="rows.jsonl", text="{text}", max_length=100))


def asked(rows: RowShape | None, **offers: Any) -> tuple[Need | None, list[Any]]:
    """What a trainable answers, and the lengths of rows that it was asked for."""
    seen: list[Any] = []

    def need(base: TrialSpec, largest: list[TrialSpec], device: str) -> Need:
        seen.extend([base.data_spec.max_length, *(spec.data_spec.max_length for spec in largest)])
        return Need(base_bytes=1, slot_bytes=2, step_bytes=3, saturating_slots=1)

    def need_of_rows(base: TrialSpec, largest: list[TrialSpec], device: str, rows: RowShape) -> Need:
        seen.append(rows)
        return Need(base_bytes=10, slot_bytes=2, step_bytes=3, saturating_slots=1)

    every = {"need": need, "need_of_rows": need_of_rows}
    trainable = catalogue.of_module(SimpleNamespace(**{name: every[name] for name in ("need", *offers)}))
    return catalogue.need(trainable, SPEC, [SPEC], "cpu", rows), seen


def test_a_trainable_is_asked_with_the_shape_of_the_rows_where_it_takes_one() -> None:
    assert asked(SHAPE, need_of_rows=True)[1] == [SHAPE]
    assert asked(None, need_of_rows=True)[1] == [100, 100]


@pytest.mark.parametrize(("longest", "told"), [(40, 40), (3, 8), (100, 100), (500, 100)])
def test_one_that_takes_none_is_told_the_longest_row(longest: int, told: int) -> None:
    """8 is the least that data.max_length may be."""
    assert asked(SHAPE.model_copy(update={"longest": longest}))[1] == [told, told]


def test_what_is_no_estimate_is_refused_with_what_it_was() -> None:
    trainable = catalogue.of_module(SimpleNamespace(need=lambda *_: 3))
    with pytest.raises(NotTrainable, match="its need raises TypeError: it answers 3, not a Need"):
        catalogue.need(trainable, SPEC, [], "cpu", None)
    settles = catalogue.of_module(SimpleNamespace(settle_auto=lambda *_: "enough"))
    with pytest.raises(NotTrainable, match="its settle_auto raises TypeError: it answers 'enough', not a Need"):
        catalogue.settle_auto(settles, Mock(), SPEC, [], None, catalogue.Room("cpu", 1, 1))


def test_where_dora_is_searched_each_slot_counts_its_operators() -> None:
    plain = TrialSpec(model=ModelSpec(source="meta-llama/Llama-3.1-8B"), data=SPEC.data)
    dora = plain.model_copy(update={"adapter": AdapterSpec(use_dora=True)})
    needs = [qlora.need(base, [spec], "cuda") for base, spec in ((plain, plain), (plain, dora), (dora, dora))]
    without, searched, fixed = (each.work.slot_operators for each in needs)
    assert without < searched == fixed


def summary(**fields: Any) -> Summary:
    return Summary(fingerprint="0" * 16, **{"train_rows": 4, "eval_rows": 2, "train_tokens": 80, **fields})


def test_the_shape_of_rows_follows_from_what_was_prepared() -> None:
    found = summary(longest_row=30, longest_train_row=25, train_row_deviation=3.0, labelled_tokens=20).shape
    shape = RowShape(longest=25, mean=20.0, labelled=0.25, train_rows=4, eval_rows=2, deviation=3.0, longest_of_all=30)
    assert found == shape
    assert summary(longest_row=30).shape.deviation is None  # prepared by an earlier version


def told(*totals: int) -> Need:
    """A need that tells what hosts with 1, 2, ... slots hold."""
    hosts = tuple(Memory(base=100, activations=total - 100) for total in totals)
    return Need(base_bytes=100, slot_bytes=10, step_bytes=40, saturating_slots=9, by_slots=hosts)


def test_slots_that_share_memory_are_counted_by_what_they_take_together() -> None:
    need = told(150, 180, 190)
    assert [need.total(slots) for slots in (1, 2, 3)] == [150, 180, 190]
    assert [need.slots(free, 9) for free in (0, 150, 179, 180, 189, 190)] == [1, 1, 1, 2, 2, 3]
    assert need.slots(190, at_most=2) == 2


def test_slots_beyond_those_that_are_told_take_as_much_as_the_first() -> None:
    need = told(150, 180)
    assert [need.total(slots) for slots in (3, 4)] == [230, 280]
    assert need.slots(279, 9) == 3
    assert need.memory(3) == Memory(base=100, adapters=10, activations=120)
