"""Compares plain LoRA with QLoRA for a model on GPUs of common sizes. Pure: estimates are arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from sweeps.config.number_words import counted
from trainables.contract import Need

GPUS = ((12, False), (16, True), (16, False), (24, False), (40, False), (80, False))
"""Memory in GB of common GPUs, and whether they lack bfloat16: RTX 3060 to 4070, T4 and V100, A4000, L4, A100, H100."""


@dataclass(frozen=True)
class Fit:
    """The slots of one method, LoRA or QLoRA, on a GPU."""

    slots: int
    """Trials that train side by side; 0 if not one fits."""
    recomputes: bool = False
    """Whether the slots need gradient checkpointing: about a third more arithmetic, a fraction of the activations."""
    keeps_busy: bool = False
    """Whether these slots keep the GPU busy, so that no memory would give more."""

    @property
    def words(self) -> str:
        """Returns the text of a table's cell."""
        if self.slots == 0:
            return "does not fit"
        count = counted(self.slots, "slot")
        return f"{count}, recompute" if self.recomputes else count


@dataclass(frozen=True)
class GpuAdvice:
    """LoRA and QLoRA on a GPU of one size."""

    gpu_gb: int
    lora: Fit
    qlora: Fit
    lacks_bfloat16: bool = False

    @property
    def advice(self) -> str:
        """Returns the method to use. LoRA wins with at least half of QLoRA's slots, because its steps are faster."""
        if self.lora.slots == 0 and self.qlora.slots == 0:
            return "larger GPU, shorter rows"
        if self.lora.slots == 0:
            return "QLoRA"
        if self.lora.recomputes and not self.qlora.recomputes:
            return "QLoRA"
        return "LoRA" if 2 * self.lora.slots >= self.qlora.slots else "QLoRA for more slots"


Estimate = Callable[[bool, str, bool], Need | None]
"""Estimates a host's memory, from whether its GPU lacks bfloat16, a quantisation scheme, and whether it recomputes."""


def choices(
    estimate: Estimate,
    share: float,
    at_most: int,
    gpus: Sequence[tuple[int, bool]] = GPUS,
    recomputing: Literal["auto"] | bool = "auto",
) -> tuple[GpuAdvice, ...]:
    """Compares LoRA with QLoRA on GPUs of these sizes; empty if the model's sizes are unknown.

    Plans with a `share` of the memory; `gpus` are as in `GPUS`, in GB of 10^9 bytes. `recomputing` is the sweep file's
    `training.gradient_checkpointing`; auto, as on a host, recomputes only if not one slot fits without.
    """
    ways = (False, True) if recomputing == "auto" else (recomputing,)
    rows = []
    for size, is_old in gpus:
        free = int(size * 1e9 * share)
        lora, qlora = (_fit(partial(estimate, is_old, scheme), free, at_most, ways) for scheme in ("none", "nf4"))
        if lora is None or qlora is None:
            return ()
        rows.append(GpuAdvice(size, lora, qlora, is_old))
    return tuple(rows)


def _fit(estimate: Callable[[bool], Need | None], free_bytes: int, at_most: int, ways: Sequence[bool]) -> Fit | None:
    for recomputes in ways:
        need = estimate(recomputes)
        if need is None:
            return None
        if need.total(1) <= free_bytes:
            slots = need.slots(free_bytes, at_most)
            return Fit(slots, recomputes, slots >= min(need.saturating_slots, at_most))
    return Fit(0)
