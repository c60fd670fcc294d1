"""Memory, peak speed and compute capability of common types of GPUs, as their makers state them. Pure.

The peaks are those of dense matrix products, without sparsity, at the card's usual clock. A type with several forms
(H100, A100) has the peaks of SXM; PCIe cards reach about three quarters. Products of 16-bit numbers are summed in
float32, as torch does; GeForce cards do this at half of their advertised speed.

Sources: the data sheets of T4, V100, A10, A10G, L4, L40S, A40, RTX A6000, A100, H100, H200 and HGX B200 (NVIDIA; where
a sheet states sparse products alone, half of that), and the white papers of the architectures GA102, AD102 and RTX
Blackwell for RTX 3090, 4090 and 5090; capabilities from NVIDIA's table of CUDA GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trainables.contract import has_bfloat16


class Gpu(NamedTuple):
    """A type of GPU."""

    memory_gb: tuple[int, ...]
    """Memory sizes of the type, the smallest first."""
    tflops: float
    """Peak of products of 16-bit numbers, in 10^12 floating point operations per second."""
    tflops_float32: float
    """Peak in float32, without TensorFloat-32, in the same unit."""
    capability: tuple[int, int]
    """Compute capability."""

    @property
    def has_bfloat16(self) -> bool:
        """Whether the type computes in bfloat16."""
        return has_bfloat16(self.capability)

    def peak(self, dtype: str) -> float:
        """Returns the floating point operations per second if `quantization.compute_dtype` is `dtype`.

        A GPU without bfloat16 computes in float32 under auto.
        """
        is_narrow = dtype == "float16" or (dtype != "float32" and self.has_bfloat16)
        return (self.tflops if is_narrow else self.tflops_float32) * 1e12


GPUS: Mapping[str, Gpu] = {
    "T4": Gpu((16,), 65, 8.1, (7, 5)),
    "V100": Gpu((16, 32), 125, 15.7, (7, 0)),
    "A10": Gpu((24,), 125, 31.2, (8, 6)),
    "A10G": Gpu((24,), 70, 35, (8, 6)),
    "L4": Gpu((24,), 121, 30.3, (8, 9)),
    "RTX 3090": Gpu((24,), 71, 35.6, (8, 6)),
    "RTX 4090": Gpu((24,), 165, 82.6, (8, 9)),
    "RTX 5090": Gpu((32,), 209, 104.8, (12, 0)),
    "RTX A6000": Gpu((48,), 155, 38.7, (8, 6)),
    "L40S": Gpu((48,), 362, 91.6, (8, 9)),
    "A40": Gpu((48,), 150, 37.4, (8, 6)),
    "A100": Gpu((40, 80), 312, 19.5, (8, 0)),
    "A100 80GB": Gpu((80,), 312, 19.5, (8, 0)),
    "H100": Gpu((80, 94), 989, 67, (9, 0)),
    "H200": Gpu((141,), 989, 67, (9, 0)),
    "B200": Gpu((180, 192), 2250, 75, (10, 0)),
}
NEAR = 0.15
"""Largest relative difference between a memory and a size of the type: nvidia-smi shows 80 GB as 85.9 GB or less."""
_WORD = re.compile(r"[\w.]+")


def is_named(device: str, asked: str) -> bool:
    """Tells whether the device's name has all words of `asked`: an A10 is no A100, "A100 80GB" is an A100-SXM4-80GB.

    2.20GHz is one word: "2 threads" does not name a 2.20GHz processor with 64 threads.
    """
    return set(_WORD.findall(asked.lower())) <= set(_WORD.findall(device.lower()))


def named(kind: str) -> str | None:
    """Returns the table's name of a type of GPU, given in any capitals and with or without RTX; None if it has none."""
    asked = kind.strip().lower()
    return next((name for name in GPUS if name.lower() in (asked, f"rtx {asked}")), None)


def types(device: str | None, memory_bytes: int | None) -> tuple[str, ...]:
    """Returns the types that a device may be: the type in its name, else the types with its memory.

    Args:
        device: name, as nvidia-smi or `cluster.gpu` has it; None if the device has none.
        memory_bytes: memory of one GPU; None if unknown.
    """
    if device is not None:
        return tuple(sorted((name for name in GPUS if is_named(device, name)), key=len)[-1:])
    if memory_bytes is None:
        return ()
    return tuple(name for name in GPUS if not name.endswith("GB") and contradiction(name, memory_bytes) is None)


def lack_bfloat16(names: Sequence[str]) -> bool:
    """Tells whether a GPU that is one of these types has no bfloat16; False without types."""
    return bool(names) and not any(GPUS[name].has_bfloat16 for name in names)


def memory_gb(kind: str) -> int | None:
    """Returns the smallest memory of a type of GPU in GB; None for a type that is not in the table."""
    name = named(kind)
    return None if name is None else GPUS[name].memory_gb[0]


def contradiction(kind: str, memory_bytes: int) -> str | None:
    """Returns, in words, the memory sizes of a type of GPU if the given memory is none of them, else None."""
    name = named(kind)
    sizes = () if name is None else GPUS[name].memory_gb
    if not sizes or any(abs(memory_bytes - size * 10**9) <= NEAR * size * 10**9 for size in sizes):
        return None
    return f"{' or '.join(map(str, sizes))} GB"
