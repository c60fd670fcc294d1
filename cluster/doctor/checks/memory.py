"""Free memory of each GPU, or of the machine without one, against the plan of the sweep file."""

from __future__ import annotations

from cluster import devices
from cluster.doctor import nvidia_smi
from cluster.doctor.contract import Asked, Diagnosis, Facts, Health

ON, NEEDS_FILE, TAKES_GPU = "nodes", True, False
SECONDS, HUNG = nvidia_smi.SECONDS, nvidia_smi.HUNG


def look(_asked: Asked) -> Facts:
    """What nvidia-smi tells, and the free memory of the machine."""
    return {**nvidia_smi.look(), "host_free": devices.free_bytes("cpu")}


def judge(facts: Facts, _driver: Facts, asked: Asked) -> Diagnosis:
    """Fails when the base and one adapter fit nowhere; warns when they do not fit everywhere, or the plan does not."""
    device = asked.trains_on(len(facts["gpus"]))
    if device == "cuda":
        told = {f"GPU {gpu['index']}": devices.mebibytes(gpu["memory.free"]) for gpu in facts["gpus"]}
        free = {place: facts["host_free"] if size is None else size for place, size in told.items()}
    else:
        hosts = max(1, asked.cpu_hosts)
        free = {"the machine" if hosts == 1 else f"each of {hosts} hosts": facts["host_free"] // hosts}
    shown = ", ".join(f"{place}: {size / 1e9:.1f} GB free" for place, size in free.items())
    there = len(facts["gpus"]) if asked.declared_gpus is None else asked.declared_gpus
    if 1 < asked.gpus_per_host > there:
        too_few = f"{shown}; a host takes {asked.gpus_per_host} GPUs of one machine, so none is placed here"
        return Diagnosis("warn" if asked.declared_gpus is not None else "fail", too_few, "lower cluster.gpus_per_host")
    needed, planned = asked.needed_bytes.get(device), asked.planned_bytes.get(device)
    if needed is None:
        return Diagnosis("unknown", f"{shown}; what the sweep needs is not known here", "give model.facts in the file")
    usable = {place: size * devices.MEMORY_SHARE for place, size in free.items()}
    too_small = [place for place, size in usable.items() if size < needed]
    on_each = " on each GPU of a host" if device == "cuda" and asked.gpus_per_host > 1 else ""
    takes = f"the base with one adapter takes {needed / 1e9:.1f} GB{on_each}"
    one = f"{shown}; {takes}, of {devices.MEMORY_SHARE:.0%} of what is free"
    if too_small:
        state: Health = "fail" if len(too_small) == len(free) else "warn"
        way_out = "end what else runs there, or take a smaller model, rank or batch, or gradient checkpointing"
        return Diagnosis(state, f"{one}: too little on {', '.join(too_small)}", way_out)
    if planned is not None and any(size < planned for size in usable.values()):
        return Diagnosis(
            "warn",
            f"{one}; the plan's slots take {planned / 1e9:.1f} GB",
            "end what else runs there, or set fewer cluster.slots_per_host (auto takes as many as fit)",
        )
    return Diagnosis("ok", one if planned is None else f"{shown}; the plan takes {planned / 1e9:.1f} GB")
