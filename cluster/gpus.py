"""Memory of common types of GPUs, as their makers state it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

MEMORY_GB: Mapping[str, int] = {
    "T4": 16, "V100": 16, "A10": 24, "A10G": 24, "L4": 24, "RTX 3090": 24, "RTX 4090": 24, "RTX 5090": 32,
    "RTX A6000": 48, "L40S": 48, "A40": 48, "A100": 40, "A100 80GB": 80, "H100": 80, "H200": 141, "B200": 180,
}  # fmt: skip
"""Memory of a GPU by its type, as its maker states it, in GB. Of types with several sizes, the smallest."""


def memory_gb(kind: str) -> int | None:
    """Memory of a type of GPU in GB, whatever its capitals; None for a type that is not in the table."""
    return next((size for name, size in MEMORY_GB.items() if name.lower() == kind.strip().lower()), None)
