"""Checks of the GPUs that train on a machine, or of its processor. Each check can hang or crash."""

from __future__ import annotations

import csv
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster import devices, timeouts
from cluster.doctor.contract import Check, Diagnosis, Facts, Site, fail, ok, warn
from trainables.base import device_probe
from trainables.contract import has_bfloat16

FIELDS = ("index", "name", "driver_version", "compute_cap", "memory.free", "memory.total")
"""Fields of nvidia-smi; memory is in MiB."""
LEAST_CAPABILITY, ADVISED_CAPABILITY = (6, 0), (7, 5)
"""Compute capabilities that bitsandbytes needs and recommends (its README of 0.50: SM60+, and SM75+)."""
MOST_ERROR = 0.15
"""Largest mean error of weights in NF4, which is 0.07 to 0.08 for normally distributed weights of deviation 1."""
_SMI_HUNG = "nvidia-smi hangs when the driver does: look for Xid errors in `dmesg`, and restart the machine"
_LIBRARY_HUNG = "run `python -m bitsandbytes` there: it tells what it finds of CUDA and of its own library"


def devices_here(_site: Site) -> Facts:
    """Reads nvidia-smi, and the machine's threads and free memory. Loads no torch.

    `gpus` is a list of mappings of `FIELDS`; `error` is set if nvidia-smi fails; `has_device` tells whether the
    kernel's driver shows a GPU.
    """
    return {**_nvidia_smi(), "threads": devices.threads(), "host_free": devices.free_bytes("cpu")}


def _nvidia_smi() -> dict[str, Any]:
    facts: dict[str, Any] = {"gpus": [], "error": None, "has_device": Path("/dev/nvidiactl").exists()}
    query = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True)
    except FileNotFoundError:
        return facts
    except OSError as error:
        return {**facts, "error": str(error)}
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        return {**facts, "error": said[0] if said else f"exit code {done.returncode}"}
    return {**facts, "gpus": rows(done.stdout)}


def rows(table: str) -> list[dict[str, str]]:
    """Parses the rows of nvidia-smi's answer into mappings of `FIELDS`."""
    read = csv.reader(table.splitlines(), skipinitialspace=True)
    return [dict(zip(FIELDS, row, strict=True)) for row in read if len(row) == len(FIELDS)]


def judge_gpu(facts: Facts, site: Site) -> Diagnosis:
    """Fails if nvidia-smi fails or is missing, or Ray counts too many GPUs; warns if Ray counts too few."""
    gpus, declared = facts["gpus"], site.declared_gpus
    start = f"start Ray there with --num-gpus={len(gpus)}, or without that option and with CUDA_VISIBLE_DEVICES unset"
    if facts["error"] is not None:
        return fail(f"nvidia-smi: {facts['error']}", "install a driver that fits the kernel, or restart the machine")
    if not gpus and facts["has_device"]:
        return fail(
            "there is a GPU (/dev/nvidiactl), but no nvidia-smi in PATH",
            "install the driver's tools; in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )
    if declared and declared > len(gpus):
        return fail(f"Ray counts {declared:g} GPUs, nvidia-smi lists {len(gpus)}", start)
    if not gpus:
        return ok(f"no GPU: trials train on the CPU with {facts['threads']} threads")
    kinds: Counter[str] = Counter()
    for gpu in gpus:
        size = devices.mebibytes(gpu["memory.total"])
        kinds[f"{gpu['name']} with {'memory of the machine' if size is None else f'{size / 2**30:.0f} GiB'}"] += 1
    seen = f"{', '.join(f'{count} x {kind}' for kind, count in kinds.items())}; driver {gpus[0]['driver_version']}"
    if declared is not None and declared < len(gpus):
        return warn(f"{seen}; Ray counts only {declared:g} of them", start)
    return ok(seen)


def judge_compute_capability(facts: Facts, _site: Site) -> Diagnosis:
    """Fails below the capability that bitsandbytes needs, and warns below the one that it recommends."""
    if not facts["gpus"]:
        return ok("no GPU")
    found = {gpu["compute_cap"]: gpu["name"] for gpu in facts["gpus"]}
    least = min(map(devices.capability, found))
    seen = ", ".join(f"{capability} ({name})" for capability, name in found.items())
    if least < LEAST_CAPABILITY:
        return fail(seen, "bitsandbytes needs 6.0 or more: take this GPU out of the cluster")
    if least < ADVISED_CAPABILITY:
        return warn(seen, "bitsandbytes recommends 7.5 or more, and PyTorch builds for CUDA 13 need it")
    return ok(seen)


def _lacking(facts: Facts) -> set[str]:
    """Returns the names of the GPUs without bfloat16."""
    return {gpu["name"] for gpu in facts["gpus"] if not has_bfloat16(devices.capability(gpu["compute_cap"]))}


def judge_memory(facts: Facts, site: Site) -> Diagnosis:
    """Fails if the base and one adapter fit nowhere; warns if they do not fit everywhere, or the plan does not fit."""
    needs, device = site.needs, site.trains_on(len(facts["gpus"]))
    if device == "cuda":
        told = {f"GPU {gpu['index']}": devices.mebibytes(gpu["memory.free"]) for gpu in facts["gpus"]}
        free = {place: facts["host_free"] if size is None else size for place, size in told.items()}
    else:
        hosts = max(1, needs.cpu_hosts)
        free = {"the machine" if hosts == 1 else f"each of {hosts} hosts": facts["host_free"] // hosts}
    shown = ", ".join(f"{place}: {size / 1e9:.1f} GB free" for place, size in free.items())
    there = len(facts["gpus"]) if site.declared_gpus is None else site.declared_gpus
    if 1 < needs.gpus_per_host > there:
        too_few = f"{shown}; a host takes {needs.gpus_per_host} GPUs of one machine, so none is placed here"
        return (fail if site.declared_gpus is None else warn)(too_few, "lower cluster.gpus_per_host")
    kind = "cuda float32" if device == "cuda" and _lacking(facts) else device
    needed, planned = needs.one_slot_bytes.get(kind), needs.planned_bytes.get(device)
    if needed is None:
        return Diagnosis("unknown", f"{shown}; what the sweep needs is not known here", "give model.facts in the file")
    usable = {place: size * devices.MEMORY_SHARE for place, size in free.items()}
    too_small = [place for place, size in usable.items() if size < needed]
    on_each = " on each GPU of a host" if device == "cuda" and needs.gpus_per_host > 1 else ""
    takes = f"the base with one adapter takes {needed / 1e9:.1f} GB{on_each}"
    one = f"{shown}; {takes}, of {devices.MEMORY_SHARE:.0%} of what is free"
    if too_small:
        return (fail if len(too_small) == len(free) else warn)(
            f"{one}: too little on {', '.join(too_small)}",
            "end what else runs there, or take a smaller model, rank or batch, or gradient checkpointing",
        )
    if planned is not None and any(size < planned for size in usable.values()):
        return warn(
            f"{one}; the plan's slots take {planned / 1e9:.1f} GB",
            "end what else runs there, or set fewer cluster.slots_per_host (auto takes as many as fit)",
        )
    return ok(one if planned is None else f"{shown}; the plan takes {planned / 1e9:.1f} GB")


def bf16(site: Site) -> Facts:
    """Reads nvidia-smi, and measures the CPU's speed in bfloat16 if the CPU trains."""
    found, speed = _nvidia_smi(), None
    if site.trains_on(len(found["gpus"])) == "cpu":
        with suppress(Exception):  # the check `bitsandbytes` reports a PyTorch that does not load
            speed = device_probe.bfloat16_speed(None if site.needs.base is None else site.needs.base.model)
    return {**found, "bfloat16_speed": speed}


def judge_bf16(facts: Facts, site: Site) -> Diagnosis:
    """Judges the device that trains and the compute type in the file, which is `auto` without a file."""
    named = "auto" if site.needs.base is None else site.needs.base.quantization.compute_dtype
    if site.trains_on(len(facts["gpus"])) == "cpu":
        return _bfloat16_of_cpu(facts["bfloat16_speed"], named)
    lacking = sorted(_lacking(facts))
    if not lacking:
        return ok("every GPU has it")
    seen = f"not on {', '.join(lacking)} (it comes with compute capability 8.0)"
    if named == "bfloat16":
        return fail(seen, "set quantization.compute_dtype to float32, or use other GPUs")
    if named != "auto":
        return ok(f"{seen}, and quantization.compute_dtype is {named}")
    return warn(
        seen,
        "trials train there in float32, which is slower; where other GPUs have it, set "
        "quantization.compute_dtype=float32, so that all trials are compared in one type",
    )


def _bfloat16_of_cpu(speed: float | None, named: str) -> Diagnosis:
    """Warns if the file asks for bfloat16 and float32 is faster; says if bfloat16 would be faster."""
    computes = "auto is float32" if named == "auto" else f"is {named}"
    seen = f"trials train on the CPU, where quantization.compute_dtype {computes}; "
    mend = "set quantization.compute_dtype to float32"
    if speed is None:
        seen += "how fast the CPU is in bfloat16 was not measured"
        return Diagnosis("unknown", seen, mend) if named == "bfloat16" else ok(seen)
    seen += f"the CPU {device_probe.in_words(speed)}"
    if named == "bfloat16" and device_probe.is_slow(speed):
        return warn(seen, mend)
    if device_probe.is_slow(1 / speed) and named in ("auto", "float32"):
        seen += ": quantization.compute_dtype=bfloat16 makes steps faster (docs/models.md)"
    return ok(seen)


def bitsandbytes(_site: Site) -> Facts:
    """Quantises a matrix on each device that torch sees."""
    return {"listed": len(_nvidia_smi()["gpus"]), **device_probe.probe()}


def judge_bitsandbytes(facts: Facts, site: Site) -> Diagnosis:
    """Fails if a library does not load, torch does not see the GPUs, or the weights come back wrong."""
    if facts["problem"] is not None:
        return fail(facts["problem"], _LIBRARY_HUNG)
    if facts["listed"] and site.declared_gpus != 0 and not facts["sees_gpus"]:
        built = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for CPUs only"
        return fail(
            f"PyTorch {facts['torch']} ({built}) sees no GPU",
            "install the PyTorch build for the driver's CUDA (pytorch.org), or a newer driver",
        )
    wrong = [
        f"{device['name']}: {device['problem'] or 'NF4 weights come back wrong'}"
        for device in facts["devices"]
        if device["problem"] is not None or device["error"] > MOST_ERROR
    ]
    if wrong:
        return fail("; ".join(wrong), _LIBRARY_HUNG)
    names = ", ".join(device["name"] for device in facts["devices"])
    return ok(f"{facts['bitsandbytes']} quantises to NF4 and back on {names}")


_SLOW = timeouts.DOCTOR_TORCH_SECONDS
CHECKS = (
    Check("gpu", "nodes", devices_here, judge_gpu, _SMI_HUNG),
    Check("compute_capability", "nodes", devices_here, judge_compute_capability, _SMI_HUNG),
    Check("memory", "nodes", devices_here, judge_memory, _SMI_HUNG, needs_file=True),
    Check("bf16", "nodes", bf16, judge_bf16, _SMI_HUNG, _SLOW),
    Check("bitsandbytes", "nodes", bitsandbytes, judge_bitsandbytes, _LIBRARY_HUNG, _SLOW, takes_gpu=True),
)
