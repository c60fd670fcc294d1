"""Compares plain LoRA with QLoRA for a model on GPUs of common sizes. Pure: estimates are arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sweeps.config.number_words import counted
from trainables.contract import Need

GPU_GB = (12, 16, 24, 40, 80)
"""Memory of common GPUs: RTX 3060 to 4070, A4000, A10G, L4 and RTX 4090, A100, H100."""
OLD_GPU_GB = (16,)
"""Memory of common GPUs without bfloat16: T4 and V100."""


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


Estimate = Callable[[str, bool], Need | None]
"""Estimates the memory of a host from a quantisation scheme and whether it uses gradient checkpointing."""


def choices(
    estimate: Estimate,
    share: float,
    at_most: int,
    sizes: Sequence[int] = GPU_GB,
    recomputing: Literal["auto"] | bool = "auto",
) -> tuple[GpuAdvice, ...]:
    """Compares LoRA with QLoRA on GPUs of these sizes; empty if the model's sizes are unknown.

    Plans with a `share` of the memory; `sizes` are in GB of 10^9 bytes. `recomputing` is the sweep file's
    `training.gradient_checkpointing`; auto, as on a host, recomputes only if not one slot fits without.
    """
    ways = (False, True) if recomputing == "auto" else (recomputing,)
    rows = []
    for size in sizes:
        free = int(size * 1e9 * share)
        lora, qlora = (_fit(estimate, scheme, free, at_most, ways) for scheme in ("none", "nf4"))
        if lora is None or qlora is None:
            return ()
        rows.append(GpuAdvice(size, lora, qlora))
    return tuple(rows)


def _fit(estimate: Estimate, scheme: str, free_bytes: int, at_most: int, ways: Sequence[bool]) -> Fit | None:
    for recomputes in ways:
        need = estimate(scheme, recomputes)
        if need is None:
            return None
        if need.total(1) <= free_bytes:
            slots = need.slots(free_bytes, at_most)
            return Fit(slots, recomputes, slots >= min(need.saturating_slots, at_most))
    return Fit(0)
