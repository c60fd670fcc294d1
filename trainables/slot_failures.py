"""Keeps one slot's failure from its neighbours: a shared operation that raises is repeated on halves of the slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from trainables.contract import Failure
from trainables.errors import InfeasibleError

Result = TypeVar("Result")
SlotOrBase = TypeVar("SlotOrBase", int, None)
"""A slot, or None for the base without an adapter."""


def isolated(
    slots: Sequence[SlotOrBase],
    operation: Callable[[Sequence[SlotOrBase]], Mapping[SlotOrBase, Result | Failure]],
    clear: Callable[[], None],
) -> dict[SlotOrBase, Result | Failure]:
    """Runs `operation` over all slots at once; if it raises, over each half, down to the slot that is to blame.

    A lack of memory is handled in the same way: fewer slots need less, and a slot that does not fit alone fails alone.

    Args:
        slots: the slots that take part; none gives an empty answer.
        operation: must not have changed any slot when it raises.
        clear: frees the remains of a broken operation; called before each new try.

    Returns:
        The result of `operation` for each slot, or why the slot cannot go on.
    """
    if not slots:
        return {}
    try:
        return dict(operation(slots))
    except Exception as error:
        if is_sticky(error):
            raise
        # The traceback holds the broken pass's tensors, so the error must be gone before the next try.
        failure = failure_of(error)
    clear()
    if len(slots) == 1:
        return {slots[0]: failure}
    half = len(slots) // 2
    return isolated(slots[:half], operation, clear) | isolated(slots[half:], operation, clear)


def is_sticky(error: Exception) -> bool:
    """Tells whether the whole process is broken: every call fails after a CUDA error other than a lack of memory."""
    return "CUDA error" in str(error) and not lacks_memory(error)


def lacks_memory(error: Exception) -> bool:
    """Tells whether memory was missing, by the messages of Python, PyTorch, cuBLAS and cuDNN.

    cuBLAS says "not initialised" if there is no memory for its own handle, which a thread makes at its first product.
    """
    text = str(error)
    is_missing = "out of memory" in text.lower() or "can't allocate" in text or "_STATUS_ALLOC_FAILED" in text
    has_no_handle = "CUBLAS_STATUS_NOT_INITIALIZED" in text and "cublasCreate" in text
    return isinstance(error, MemoryError) or is_missing or has_no_handle


def failure_of(error: Exception) -> Failure:
    """Returns the failure of the slot that raised an exception; an error without a message is named by its type."""
    text, name = str(error), type(error).__name__
    if isinstance(error, InfeasibleError):
        return Failure(kind="infeasible", message=text or name)
    if lacks_memory(error):
        return Failure(kind="out_of_memory", message=text.split("\n")[0] or name)
    return Failure(kind="failed", message=f"{name}: {text}" if text else name)
