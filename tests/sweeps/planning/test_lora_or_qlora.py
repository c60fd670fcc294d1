"""LoRA against QLoRA: which fits a GPU of some size, and which the plan advises."""

from __future__ import annotations

import pytest

from sweeps.planning import lora_or_qlora
from trainables.contract import Need


def estimate(_is_old: bool, scheme: str, recomputes: bool) -> Need:
    """A base of 14 GB in 16 bits, 4 GB in 4; slots of 4 GB, of 1 GB where activations are recomputed."""
    base, step = 14 if scheme == "none" else 4, 5 if recomputes else 35
    return Need(base_bytes=base * 10**9, slot_bytes=5 * 10**8, step_bytes=step * 10**8, saturating_slots=9)


def with_bfloat16(*sizes: int) -> list[tuple[int, bool]]:
    return [(size, False) for size in sizes]


def test_each_size_of_gpu_has_the_slots_that_fit_and_an_advice() -> None:
    found = lora_or_qlora.choices(estimate, 1.0, 4, with_bfloat16(4, 5, 12, 15, 24, 80))
    assert [(choice.gpu_gb, choice.lora.words, choice.qlora.words, choice.advice) for choice in found] == [
        (4, "does not fit", "does not fit", "larger GPU, shorter rows"),
        (5, "does not fit", "1 slot, recompute", "QLoRA"),
        (12, "does not fit", "2 slots", "QLoRA"),
        (15, "1 slot, recompute", "2 slots", "QLoRA"),
        (24, "2 slots", "4 slots", "LoRA"),
        (80, "4 slots", "4 slots", "LoRA"),
    ]


def test_slots_that_keep_a_gpu_busy_are_told_from_those_that_memory_bounds() -> None:
    """The model keeps a GPU busy with 9 slots, which 80 GB hold and 24 GB do not; a host has at most 16."""
    small, large = lora_or_qlora.choices(estimate, 1.0, 16, with_bfloat16(24, 80))
    assert [(fit.slots, fit.keeps_busy) for fit in (small.qlora, large.qlora)] == [(5, False), (9, True)]
    (few,) = lora_or_qlora.choices(estimate, 1.0, 4, with_bfloat16(80))
    assert few.qlora.keeps_busy


@pytest.mark.parametrize(
    ("recomputing", "words"),
    [(True, ["1 slot, recompute", "4 slots, recompute"]), (False, ["does not fit", "2 slots"])],
)
def test_the_table_recomputes_where_the_sweep_does(recomputing: bool, words: list[str]) -> None:
    (found,) = lora_or_qlora.choices(estimate, 1.0, 4, with_bfloat16(15), recomputing)
    assert [found.lora.words, found.qlora.words] == words


def test_a_model_of_unknown_size_has_no_table() -> None:
    assert lora_or_qlora.choices(lambda *_: None, 1.0, 4) == ()
