"""The GPUs of a machine and their driver, against what Ray counts there."""

from __future__ import annotations

from cluster.devices import mebibytes, threads
from cluster.doctor import nvidia_smi
from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "nodes", False, False
SECONDS, HUNG = nvidia_smi.SECONDS, nvidia_smi.HUNG
_AS_RAY_SEES = "start Ray there with --num-gpus={count}, or without that option and with CUDA_VISIBLE_DEVICES unset"


def look(_asked: Asked) -> Facts:
    """What nvidia-smi tells, and the threads that are ours."""
    return {**nvidia_smi.look(), "threads": threads()}


def judge(facts: Facts, _driver: Facts, asked: Asked) -> Diagnosis:
    """Fails when nvidia-smi fails, or when Ray counts GPUs that are not there."""
    gpus, declared = facts["gpus"], asked.declared_gpus
    if facts["error"] is not None:
        return Diagnosis(
            "fail", f"nvidia-smi: {facts['error']}", "install a driver that fits the kernel, or restart the machine"
        )
    if not gpus and facts["has_device"]:
        return Diagnosis(
            "fail",
            "there is a GPU (/dev/nvidiactl), but no nvidia-smi in PATH",
            "install the driver's tools; in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )
    if declared and declared > len(gpus):
        return Diagnosis(
            "fail", f"Ray counts {declared:g} GPUs, nvidia-smi lists {len(gpus)}", _AS_RAY_SEES.format(count=len(gpus))
        )
    if not gpus:
        return Diagnosis("ok", f"no GPU: trials train on the CPU with {facts['threads']} threads")
    kinds: dict[str, int] = {}
    for gpu in gpus:
        size = mebibytes(gpu["memory.total"])
        kind = f"{gpu['name']} with {'memory of the machine' if size is None else f'{size / 2**30:.0f} GiB'}"
        kinds[kind] = kinds.get(kind, 0) + 1
    seen = f"{', '.join(f'{count} x {kind}' for kind, count in kinds.items())}; driver {gpus[0]['driver_version']}"
    if declared is not None and declared < len(gpus):
        return Diagnosis("warn", f"{seen}; Ray counts only {declared:g} of them", _AS_RAY_SEES.format(count=len(gpus)))
    return Diagnosis("ok", seen)
