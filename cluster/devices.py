"""Tells what this machine trains on and how much memory is free there, without Ray and torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from trainables.contract import Device

MEMORY_SHARE = 0.85
"""The part of the free memory that a plan may use."""


def name(device: Device, own: Sequence[str] = ("0",), hosts: int = 1) -> str:
    """What a host trains on, in the maker's words: "NVIDIA H100 80GB HBM3", or the processor with the host's threads.

    "2x NVIDIA H100 80GB HBM3" for several GPUs; "GPU" for one that nvidia-smi does not tell.

    Args:
        device: the kind.
        own: index or UUID of each GPU of the host.
        hosts: as in `host_threads`.
    """
    if device == "cuda":
        names = Counter(_gpu_name(gpu) for gpu in own)
        return " and ".join(several(count, each) for each, count in names.items())
    count = host_threads(hosts)
    return f"{_processor()}, {count} {'thread' if count == 1 else 'threads'}"


def several(count: int, gpu: str) -> str:
    """The name of so many GPUs of a kind, over which a host spreads its base: "2x H100"; of one its own name."""
    return gpu if count == 1 else f"{count}x {gpu}"


def _gpu_name(gpu: str) -> str:
    try:
        return _nvidia_smi("name", gpu)
    except (OSError, subprocess.CalledProcessError):
        return "GPU"


def threads() -> int:
    """Threads of this machine's processor that this process may use."""
    return len(os.sched_getaffinity(0))


def host_threads(hosts: int) -> int:
    """Threads of each of so many hosts that share this machine's processor: 1 or more."""
    return max(1, threads() // hosts)


def use_threads(hosts: int) -> None:
    """Gives this process the threads of one of so many hosts. Call it before torch is imported.

    Threads that wait by spinning for long make a step several times slower when another process wants a core; threads
    that never spin make it a third slower when none does.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(host_threads(hosts))
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def number_gpus_by_bus() -> None:
    """Makes CUDA number GPUs as nvidia-smi does, unless it is told otherwise. Call it before torch is used.

    By itself it numbers the fastest one first: on unlike GPUs memory and name would be those of another one.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


@contextmanager
def seeing_gpus(count: int) -> Iterator[None]:
    """In this block the process, and those that it starts, see only so many of its GPUs: bases are spread over all.

    torch looks when it first uses a GPU, and not again.
    """
    number_gpus_by_bus()
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if before is None else before.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(list(names)[:count])
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def cache() -> Path:
    """Where this machine keeps bases, tokenised data and rates: $QSWEEP_CACHE, else ~/.cache/qlora-sweeps."""
    return Path(os.environ.get("QSWEEP_CACHE") or Path.home() / ".cache" / "qlora-sweeps")


def gpus() -> int:
    """GPUs of this machine that nvidia-smi lists, at most as many as CUDA_VISIBLE_DEVICES names: so Ray counts them."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = _listed()
    # Beside a GPU's own line there is one for each part that MIG makes of it; Ray counts GPUs.
    gpu_lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    number = len(gpu_lines) if listed.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return number
    return 0 if visible in ("", "NoDevFiles") else min(number, len(visible.split(",")))


def unseen_gpus() -> str | None:
    """Why nvidia-smi lists no GPU here, in its own words; None where it works, or is not there."""
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "NoDevFiles"):
        return None
    listed = _listed()
    said = (listed.stdout + listed.stderr).strip().splitlines()
    return None if listed.returncode == 0 else said[0] if said else f"exit code {listed.returncode}"


def _listed() -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)


def visible() -> list[str]:
    """Index or UUID of each GPU that `gpus` counts."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(gpus())] if named is None else named.split(",")[: gpus()]


def free_bytes(device: Device, own: Sequence[str] = ("0",)) -> int:
    """Free memory: of the fullest of these GPUs (index or UUID of each), or of the machine."""
    if device == "cpu":
        return int(psutil.virtual_memory().available)
    sizes = [mebibytes(_nvidia_smi("memory.free", gpu)) for gpu in own]
    # A GPU without memory of its own (GB10, Jetson) shares the machine's.
    return min(free_bytes("cpu") if size is None else size for size in sizes)


def mebibytes(number: str) -> int | None:
    """Bytes of a size that nvidia-smi tells in MiB; None where it tells none: `[N/A]`."""
    return int(number) * 2**20 if number.isdigit() else None


def _nvidia_smi(field: str, gpu: str) -> str:
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", f"--id={gpu}"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip().splitlines()[0]


def _processor() -> str:
    """The processor's name as Linux tells it (/proc/cpuinfo, x86 only), else the architecture."""
    lines = _cpuinfo().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return processor or os.uname().machine


def _cpuinfo() -> str:
    """What Linux tells of the processors; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
