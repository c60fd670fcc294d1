"""Keeps one slot's failure from its neighbours: a shared operation that raises is repeated on halves of the slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from trainables.contract import Failure
from trainables.errors import InfeasibleError

Result = TypeVar("Result")


def isolated(
    slots: Sequence[int],
    operation: Callable[[Sequence[int]], Mapping[int, Result | Failure]],
    clear: Callable[[], None],
) -> dict[int, Result | Failure]:
    """Runs `operation` over all slots at once; when it raises, over each half, down to the slot that is to blame.

    Out of memory is handled the same way: smaller parts need less, and a slot that does not fit alone fails alone.

    Args:
        slots: the slots that take part; none gives an empty answer.
        operation: must not have changed any slot when it raises.
        clear: drops what a broken operation left behind; called before it is tried again.

    Returns:
        What `operation` returned for each slot, or why that slot can't go on.
    """
    if not slots:
        return {}
    try:
        return dict(operation(slots))
    except Exception as error:
        if is_sticky(error):
            raise
        # The traceback holds the broken pass's tensors: let go of it before trying again.
        failure = failure_of(error)
    clear()
    if len(slots) == 1:
        return {slots[0]: failure}
    half = len(slots) // 2
    return isolated(slots[:half], operation, clear) | isolated(slots[half:], operation, clear)


def is_sticky(error: Exception) -> bool:
    """Whether the whole process is spoilt: after a CUDA error other than a lack of memory, every later call fails."""
    text = str(error)
    return "CUDA error" in text and "out of memory" not in text


def failure_of(error: Exception) -> Failure:
    """What an exception means for the slot that raised it; one without words goes by its name."""
    text, name = str(error), type(error).__name__
    if isinstance(error, InfeasibleError):
        return Failure(kind="infeasible", message=text or name)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate" in text:
        return Failure(kind="out_of_memory", message=text.split("\n")[0] or name)
    return Failure(kind="failed", message=f"{name}: {text}" if text else name)
