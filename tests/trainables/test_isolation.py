"""A shared operation that raises costs the slot that is to blame, and no other."""

from __future__ import annotations

import weakref
from collections.abc import Set

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.contract import Failure
from trainables.errors import DataError, InfeasibleError
from trainables.isolation import failure_of, is_sticky, isolated

NO_MEMORY = (
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
)


@pytest.mark.parametrize("words", NO_MEMORY)
def test_a_lack_of_memory_spoils_no_process(words):
    assert not is_sticky(RuntimeError(words))


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_any_other_cuda_error_spoils_the_process(words):
    assert is_sticky(RuntimeError(words))


class Shared:
    """An operation over slots that raises for some of them, or for too many at once."""

    def __init__(self, broken: Set[int] = frozenset(), at_most: int = 99, error: type[Exception] = ValueError) -> None:
        self.broken, self.at_most, self.error = broken, at_most, error
        self.calls: list[tuple[int, ...]] = []
        self.served: list[int] = []
        self.story: list[str] = []

    def __call__(self, slots):
        self.calls.append(tuple(slots))
        self.story.append("call")
        if self.broken & set(slots):
            raise self.error("this slot")
        if len(slots) > self.at_most:
            raise MemoryError("too much at once")
        self.served += slots
        return {slot: f"done {slot}" for slot in slots}

    def clear(self) -> None:
        self.story.append("clear")

    def run(self, slots):
        return isolated(slots, self, self.clear)


def test_all_slots_share_one_call_when_nothing_goes_wrong():
    shared = Shared()
    assert shared.run([4, 1, 2]) == {4: "done 4", 1: "done 1", 2: "done 2"}
    assert shared.calls == [(4, 1, 2)]
    assert shared.story == ["call"]


@given(slots=st.lists(st.integers(0, 20), unique=True, max_size=12), data=st.data())
def test_each_slot_gets_its_own_answer_and_is_served_once(slots, data):
    broken = data.draw(st.sets(st.sampled_from(slots))) if slots else set()
    shared = Shared(broken)
    answers = shared.run(slots)
    failure = Failure(kind="failed", message="ValueError: this slot")
    assert answers == {slot: failure if slot in broken else f"done {slot}" for slot in slots}
    assert sorted(shared.served) == sorted(set(slots) - broken)


@given(slots=st.integers(1, 16), at_most=st.integers(1, 16))
def test_what_does_not_fit_at_once_is_done_in_smaller_parts(slots, at_most):
    shared = Shared(at_most=at_most)
    assert shared.run(list(range(slots))) == {slot: f"done {slot}" for slot in range(slots)}
    assert sorted(shared.served) == list(range(slots))


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
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
            "[enforce fail] DefaultCPUAllocator: can't allocate memory",
        ),
        *((RuntimeError(words), "out_of_memory", words) for words in NO_MEMORY),
        (DataError("row 3: no column x"), "failed", "DataError: row 3: no column x"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
        (AssertionError(), "failed", "AssertionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_becomes_a_failure_of_its_kind(error, kind, message):
    assert failure_of(error) == Failure(kind=kind, message=message)
