"""A shared operation that raises costs the slot that is to blame, and no other."""

from __future__ import annotations

import weakref
from collections.abc import Set

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.contract import Failure
from trainables.errors import DataError, InfeasibleError
from trainables.slot_failures import failure_of, is_sticky, isolated

NO_MEMORY = (
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
)
ON_THE_CPU = "[enforce fail] DefaultCPUAllocator: can't allocate memory"


def test_any_cuda_error_but_a_lack_of_memory_spoils_the_process():
    spoils = (
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasCreate(handle)`",
    )
    assert [words for words in (*NO_MEMORY, *spoils) if is_sticky(RuntimeError(words))] == list(spoils)


class Shared:
    """An operation over slots that raises for some of them, or for too many at once."""

    def __init__(self, broken: Set[int] = frozenset(), at_most: int = 99) -> None:
        self.broken, self.at_most = broken, at_most
        self.served: list[int] = []
        self.story: list[object] = []

    def __call__(self, slots):
        self.story.append(tuple(slots))
        if self.broken & set(slots):
            raise ValueError("this slot")
        if len(slots) > self.at_most:
            raise MemoryError("too much at once")
        self.served += slots
        return {slot: f"done {slot}" for slot in slots}

    def run(self, slots):
        return isolated(slots, self, lambda: self.story.append("clear"))


def test_all_slots_share_one_call_when_nothing_goes_wrong():
    shared = Shared()
    assert shared.run([4, 1, 2]) == {4: "done 4", 1: "done 1", 2: "done 2"}
    assert shared.story == [(4, 1, 2)]


@given(slots=st.lists(st.integers(0, 20), unique=True, max_size=16), at_most=st.integers(1, 16), data=st.data())
def test_each_slot_gets_its_own_answer_and_is_served_once(slots, at_most, data):
    """Also where not all fit at once."""
    broken = data.draw(st.sets(st.sampled_from(slots))) if slots else set()
    shared = Shared(broken, at_most)
    answers = shared.run(slots)
    failure = Failure(kind="failed", message="ValueError: this slot")
    assert answers == {slot: failure if slot in broken else f"done {slot}" for slot in slots}
    assert sorted(shared.served) == sorted(set(slots) - broken)


def test_a_failure_that_is_returned_is_passed_on_without_another_try():
    calls = []
    failure = Failure(kind="diverged", message="step 3: train_loss nan")

    def operation(slots):
        calls.append(tuple(slots))
        return {slots[0]: failure, slots[1]: "done"}

    assert isolated([0, 1], operation, lambda: None) == {0: failure, 1: "done"}
    assert calls == [(0, 1)]


def test_what_the_broken_call_held_is_released_before_leftovers_are_cleared():
    held: list[weakref.ref] = []
    alive_at_clear: list[bool] = []

    class Activations:
        pass

    def operation(slots):
        activations = Activations()
        held.append(weakref.ref(activations))
        raise MemoryError("out of memory")

    isolated([0, 1], operation, lambda: alive_at_clear.append(held[-1]() is not None))
    assert alive_at_clear == [False, False, False]


def test_interrupts_are_nobodys_failure():
    def interrupted(slots):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        isolated([0], interrupted, lambda: None)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (InfeasibleError("no module matches"), "infeasible", "no module matches"),
        (MemoryError("Unable to allocate 7 TiB"), "out_of_memory", "Unable to allocate 7 TiB"),
        (MemoryError(), "out_of_memory", "MemoryError"),
        (RuntimeError("CUDA out of memory. Tried 2 GiB\nmore"), "out_of_memory", "CUDA out of memory. Tried 2 GiB"),
        *((RuntimeError(words), "out_of_memory", words) for words in (*NO_MEMORY, ON_THE_CPU)),
        (DataError("row 3: no column x"), "failed", "DataError: row 3: no column x"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
        (AssertionError(), "failed", "AssertionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_becomes_a_failure_of_its_kind(error, kind, message):
    assert failure_of(error) == Failure(kind=kind, message=message)
