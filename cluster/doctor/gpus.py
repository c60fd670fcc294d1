"""Checks of the GPUs that train on a machine, or of its processor."""

from __future__ import annotations

import csv
import subprocess
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path

from cluster import devices
from cluster.doctor.contract import CheckResult, Site
from trainables.base import device_probe
from trainables.contract import has_bfloat16

FIELDS = ("index", "name", "driver_version", "compute_cap", "memory.free", "memory.total")
"""Fields of nvidia-smi; memory is in MiB."""
KERNEL_FILE = Path("/dev/nvidiactl")
"""The kernel's driver shows a GPU by this file."""
LEAST_CAPABILITY, ADVISED_CAPABILITY = (6, 0), (7, 5)
"""Compute capabilities that bitsandbytes needs and recommends (its README of 0.50: SM60+, and SM75+)."""
MOST_ERROR = 0.15
"""Largest mean error of weights in NF4, which is 0.07 to 0.08 for normally distributed weights of deviation 1."""
RUN_BITSANDBYTES = "run `python -m bitsandbytes` there: it tells what it finds of CUDA and of its own library"
Listed = list[dict[str, str]]


@cache
def listed() -> tuple[Listed, str | None]:
    """Returns the GPUs that nvidia-smi lists, by `FIELDS`, and why nvidia-smi fails, None if it works or is missing."""
    query = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True)
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], str(error)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        return [], said[0] if said else f"exit code {done.returncode}"
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [dict(zip(FIELDS, row, strict=True)) for row in rows if len(row) == len(FIELDS)], None


def gpu(site: Site) -> CheckResult:
    """Fails if nvidia-smi fails or is missing, or Ray counts too many GPUs; warns if Ray counts too few."""
    (gpus, error), declared = listed(), site.declared_gpus
    start = f"start Ray there with --num-gpus={len(gpus)}, or without that option and with CUDA_VISIBLE_DEVICES unset"
    if error is not None:
        return CheckResult(
            "fail", f"nvidia-smi: {error}", "install a driver that fits the kernel, or restart the machine"
        )
    if not gpus and KERNEL_FILE.exists():
        mend = "install the driver's tools; in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        return CheckResult("fail", f"there is a GPU ({KERNEL_FILE}), but no nvidia-smi in PATH", mend)
    if declared and declared > len(gpus):
        return CheckResult("fail", f"Ray counts {declared:g} GPUs, nvidia-smi lists {len(gpus)}", start)
    if not gpus:
        return CheckResult("ok", f"no GPU: trials train on the CPU with {devices.threads()} threads")
    kinds: Counter[str] = Counter()
    for each in gpus:
        size = devices.mebibytes(each["memory.total"])
        kinds[f"{each['name']} with {'memory of the machine' if size is None else f'{size / 2**30:.0f} GiB'}"] += 1
    seen = f"{', '.join(f'{count} x {kind}' for kind, count in kinds.items())}; driver {gpus[0]['driver_version']}"
    if declared is not None and declared < len(gpus):
        return CheckResult("warn", f"{seen}; Ray counts only {declared:g} of them", start)
    return CheckResult("ok", seen)


def compute_capability(_site: Site) -> CheckResult:
    """Fails below the capability that bitsandbytes needs, and warns below the one that it recommends."""
    found = {each["compute_cap"]: each["name"] for each in listed()[0]}
    if not found:
        return CheckResult("ok", "no GPU")
    least = min(map(devices.capability, found))
    seen = ", ".join(f"{capability} ({name})" for capability, name in found.items())
    if least < LEAST_CAPABILITY:
        return CheckResult("fail", seen, "bitsandbytes needs 6.0 or more: take this GPU out of the cluster")
    if least < ADVISED_CAPABILITY:
        return CheckResult("warn", seen, "bitsandbytes recommends 7.5 or more, and PyTorch builds for CUDA 13 need it")
    return CheckResult("ok", seen)


def _lacking(gpus: Listed) -> list[str]:
    """Returns the names of the GPUs without bfloat16."""
    return sorted({each["name"] for each in gpus if not has_bfloat16(devices.capability(each["compute_cap"]))})


def memory(site: Site) -> CheckResult:
    """Fails if the base and one adapter fit nowhere; warns if they do not fit everywhere, or the plan does not fit."""
    gpus, needs = listed()[0], site.needs
    device, host_free = site.trains_on(len(gpus)), devices.free_bytes("cpu")
    if device == "cuda":
        told = {f"GPU {each['index']}": devices.mebibytes(each["memory.free"]) for each in gpus}
        free = {place: host_free if size is None else size for place, size in told.items()}
    else:
        hosts = max(1, needs.cpu_hosts)
        free = {"the machine" if hosts == 1 else f"each of {hosts} hosts": host_free // hosts}
    shown = ", ".join(f"{place}: {size / 1e9:.1f} GB free" for place, size in free.items())
    if 1 < needs.gpus_per_host > (len(gpus) if site.declared_gpus is None else site.declared_gpus):
        too_few = f"{shown}; a host takes {needs.gpus_per_host} GPUs of one machine, so none is placed here"
        return CheckResult("fail" if site.declared_gpus is None else "warn", too_few, "lower cluster.gpus_per_host")
    kind = "cuda float32" if device == "cuda" and _lacking(gpus) else device
    needed, planned = needs.one_slot_bytes.get(kind), needs.planned_bytes.get(device)
    if needed is None:
        mend = "give model.facts in the file"
        return CheckResult("unknown", f"{shown}; what the sweep needs is not known here", mend)
    usable = {place: size * devices.MEMORY_SHARE for place, size in free.items()}
    too_small = [place for place, size in usable.items() if size < needed]
    on_each = " on each GPU of a host" if device == "cuda" and needs.gpus_per_host > 1 else ""
    takes = f"the base with one adapter takes {needed / 1e9:.1f} GB{on_each}"
    one = f"{shown}; {takes}, of {devices.MEMORY_SHARE:.0%} of what is free"
    if too_small:
        mend = "end what else runs there, or take a smaller model, rank or batch, or gradient checkpointing"
        seen = f"{one}: too little on {', '.join(too_small)}"
        return CheckResult("fail" if len(too_small) == len(free) else "warn", seen, mend)
    if planned is not None and any(size < planned for size in usable.values()):
        mend = "end what else runs there, or set fewer cluster.slots_per_host (auto takes as many as fit)"
        return CheckResult("warn", f"{one}; the plan's slots take {planned / 1e9:.1f} GB", mend)
    return CheckResult("ok", one if planned is None else f"{shown}; the plan takes {planned / 1e9:.1f} GB")


def bf16(site: Site) -> CheckResult:
    """Judges the device that trains and the compute type in the file, which is `auto` without a file."""
    gpus, base = listed()[0], site.needs.base
    named = "auto" if base is None else base.quantization.compute_dtype
    if site.trains_on(len(gpus)) == "cpu":
        speed = None
        with suppress(Exception):  # the check `bitsandbytes` reports a PyTorch that does not load
            speed = device_probe.bfloat16_speed(None if base is None else base.model)
        return _bfloat16_of_cpu(speed, named)
    lacking = _lacking(gpus)
    if not lacking:
        return CheckResult("ok", "every GPU has it")
    seen = f"not on {', '.join(lacking)} (it comes with compute capability 8.0)"
    if named == "bfloat16":
        return CheckResult("fail", seen, "set quantization.compute_dtype to float32, or use other GPUs")
    if named != "auto":
        return CheckResult("ok", f"{seen}, and quantization.compute_dtype is {named}")
    mend = (
        "trials train there in float32, which is slower; where other GPUs have it, set "
        "quantization.compute_dtype=float32, so that all trials are compared in one type"
    )
    return CheckResult("warn", seen, mend)


def _bfloat16_of_cpu(speed: float | None, named: str) -> CheckResult:
    """Warns if the file asks for bfloat16 and float32 is faster; says if bfloat16 would be faster."""
    computes = "auto is float32" if named == "auto" else f"is {named}"
    seen = f"trials train on the CPU, where quantization.compute_dtype {computes}; "
    mend = "set quantization.compute_dtype to float32"
    if speed is None:
        seen += "how fast the CPU is in bfloat16 was not measured"
        return CheckResult("unknown", seen, mend) if named == "bfloat16" else CheckResult("ok", seen)
    seen += f"the CPU {device_probe.in_words(speed)}"
    if named == "bfloat16" and device_probe.is_slow(speed):
        return CheckResult("warn", seen, mend)
    if device_probe.is_slow(1 / speed) and named in ("auto", "float32"):
        seen += ": quantization.compute_dtype=bfloat16 makes steps faster (docs/models.md)"
    return CheckResult("ok", seen)


def bitsandbytes(site: Site) -> CheckResult:
    """Fails if a library does not load, torch does not see the GPUs, or weights in NF4 come back wrong."""
    found = device_probe.probe()
    if found["problem"] is not None:
        return CheckResult("fail", found["problem"], RUN_BITSANDBYTES)
    if listed()[0] and site.declared_gpus != 0 and not found["sees_gpus"]:
        built = f"built for CUDA {found['cuda']}" if found["cuda"] else "built for CPUs only"
        mend = "install the PyTorch build for the driver's CUDA (pytorch.org), or a newer driver"
        return CheckResult("fail", f"PyTorch {found['torch']} ({built}) sees no GPU", mend)
    wrong = [
        f"{device['name']}: {device['problem'] or 'NF4 weights come back wrong'}"
        for device in found["devices"]
        if device["problem"] is not None or device["error"] > MOST_ERROR
    ]
    if wrong:
        return CheckResult("fail", "; ".join(wrong), RUN_BITSANDBYTES)
    names = ", ".join(device["name"] for device in found["devices"])
    return CheckResult("ok", f"{found['bitsandbytes']} quantises to NF4 and back on {names}")
