"""Memory of common types of GPUs, as their makers state it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

MEMORY_GB: Mapping[str, tuple[int, ...]] = {
    "T4": (16,), "V100": (16, 32), "A10": (24,), "A10G": (24,), "L4": (24,), "RTX 3090": (24,), "RTX 4090": (24,),
    "RTX 5090": (32,), "RTX A6000": (48,), "L40S": (48,), "A40": (48,), "A100": (40, 80), "A100 80GB": (80,),
    "H100": (80, 94), "H200": (141,), "B200": (180, 192),
}  # fmt: skip
"""Memory of a GPU by its type, as its maker states it, in GB: each size that the type has, the smallest first."""
NEAR = 0.15
"""Share by which a memory that is given may be off such a size: what nvidia-smi shows of 80 GB is 85.9 GB or less."""


def named(kind: str) -> str | None:
    """The name of a type of GPU in the table, whatever its capitals, and for a 4090 also without RTX; None without."""
    asked = kind.strip().lower()
    return next((name for name in MEMORY_GB if name.lower() in (asked, f"rtx {asked}")), None)


def memory_gb(kind: str) -> int | None:
    """The smallest memory of a type of GPU in GB; None for a type that is not in the table."""
    name = named(kind)
    return None if name is None else MEMORY_GB[name][0]


def contradiction(kind: str, memory_bytes: int) -> str | None:
    """The memory sizes of a type of GPU, in words, where the given memory is none of them; else None."""
    sizes = MEMORY_GB.get(named(kind) or "", ())
    if not sizes or any(abs(memory_bytes - size * 10**9) <= NEAR * size * 10**9 for size in sizes):
        return None
    return f"{' or '.join(map(str, sizes))} GB"
