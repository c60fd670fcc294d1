"""Tells what this machine trains on and how much memory is free there, without Ray and torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from trainables.contract import Device, has_bfloat16

MEMORY_SHARE = 0.85
"""The part of the free memory that a plan may use."""


def name(device: Device, own: Sequence[str] = ("0",), hosts: int = 1) -> str:
    """Names what a host trains on: "NVIDIA H100 80GB HBM3", or the processor with the host's threads.

    "2x NVIDIA H100 80GB HBM3" for several GPUs; "GPU" for a GPU that nvidia-smi does not name.

    Args:
        own: index or UUID of each GPU of the host.
        hosts: as in `host_threads`.
    """
    if device == "cuda":
        names = Counter(_gpu_name(gpu) for gpu in own)
        return " and ".join(several(count, each) for each, count in names.items())
    count = host_threads(hosts)
    return f"{_processor()}, {count} {'thread' if count == 1 else 'threads'}"


def several(count: int, gpu: str) -> str:
    """Names the GPUs of one kind over which a host spreads its base: "2x H100", or "H100" for one."""
    return gpu if count == 1 else f"{count}x {gpu}"


def _gpu_name(gpu: str) -> str:
    try:
        return _nvidia_smi("name", gpu)
    except (OSError, subprocess.CalledProcessError):
        return "GPU"


def threads() -> int:
    """Returns the number of this machine's threads that this process may use."""
    return len(os.sched_getaffinity(0))


def host_threads(hosts: int) -> int:
    """Returns the threads of each of the hosts that share this machine's processor: 1 or more."""
    return max(1, threads() // hosts)


def use_threads(hosts: int) -> None:
    """Gives this process the threads of one of `hosts` hosts. Call it before torch is imported.

    Threads that spin for long while they wait make a step several times slower when another process wants a core.
    Threads that never spin make a step a third slower when no other process does.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(host_threads(hosts))
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def number_gpus_by_bus() -> None:
    """Makes CUDA number GPUs as nvidia-smi does, unless CUDA_DEVICE_ORDER is set. Call it before torch is used.

    By itself CUDA numbers the fastest GPU first: among unlike GPUs, memory and name would be those of another GPU.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


@contextmanager
def seeing_gpus(count: int) -> Iterator[None]:
    """Lets this process and its children see only the first `count` GPUs in the block: a base is spread over all.

    torch reads the variable only when it first uses a GPU.
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
    """Returns the folder for bases, tokenised data and rates: $QSWEEP_CACHE, else ~/.cache/qlora-sweeps."""
    return Path(os.environ.get("QSWEEP_CACHE") or Path.home() / ".cache" / "qlora-sweeps")


def gpus() -> int:
    """Counts the GPUs that nvidia-smi lists, at most as many as CUDA_VISIBLE_DEVICES names. Ray counts the same way."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = _listed()
    # A GPU's own line is followed by a line for each of its MIG parts; Ray counts GPUs.
    gpu_lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    number = len(gpu_lines) if listed.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return number
    return 0 if visible in ("", "NoDevFiles") else min(number, len(visible.split(",")))


def unseen_gpus() -> str | None:
    """Returns why nvidia-smi fails, in its own words; None if it works, is missing, or all GPUs are hidden."""
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "NoDevFiles"):
        return None
    listed = _listed()
    said = (listed.stdout + listed.stderr).strip().splitlines()
    return None if listed.returncode == 0 else said[0] if said else f"exit code {listed.returncode}"


def _listed() -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)


def visible() -> list[str]:
    """Returns the index or UUID of each GPU that `gpus` counts."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(gpus())] if named is None else named.split(",")[: gpus()]


def free_bytes(device: Device, own: Sequence[str] = ("0",)) -> int:
    """Returns the free bytes of the fullest of these GPUs (index or UUID of each), or of the machine."""
    if device == "cpu":
        return int(psutil.virtual_memory().available)
    sizes = [mebibytes(_nvidia_smi("memory.free", gpu)) for gpu in own]
    # A GPU without memory of its own (GB10, Jetson) shares the machine's.
    return min(free_bytes("cpu") if size is None else size for size in sizes)


def lacks_bfloat16(own: Sequence[str] = ("0",)) -> bool:
    """Tells whether one of these GPUs (index or UUID of each) has no bfloat16; False if nvidia-smi does not say."""
    with suppress(OSError, subprocess.CalledProcessError):
        return not all(has_bfloat16(capability(_nvidia_smi("compute_cap", gpu))) for gpu in own)
    return False


def capability(text: str) -> tuple[int, int]:
    """Parses a compute capability such as "8.6"; (0, 0) for anything else."""
    major, _, minor = text.partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() and (minor or "0").isdigit() else (0, 0)


def mebibytes(number: str) -> int | None:
    """Converts a size in MiB, as nvidia-smi prints it, to bytes; None for `[N/A]`."""
    return int(number) * 2**20 if number.isdigit() else None


def _nvidia_smi(field: str, gpu: str) -> str:
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", f"--id={gpu}"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip().splitlines()[0]


def _processor() -> str:
    """Returns the processor's name from /proc/cpuinfo (x86 only), else the architecture."""
    lines = _cpuinfo().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return processor or os.uname().machine


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
