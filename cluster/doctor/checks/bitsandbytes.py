"""Whether bitsandbytes loads, and quantises right on each GPU, or on the CPU where there is none."""

from __future__ import annotations

from cluster.doctor import nvidia_smi
from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "nodes", False, True
SECONDS = 120.0
HUNG = "run `python -m bitsandbytes` there: it tells what it finds of CUDA and of its own library"
MOST_ERROR = 0.15
"""NF4 misses a normally distributed weight of deviation 1 by 0.07 to 0.08 on average."""


def look(_asked: Asked) -> Facts:
    """Quantises a matrix on each device that torch sees."""
    from trainables.base import device_probe

    return {"listed": len(nvidia_smi.look()["gpus"]), **device_probe.probe()}


def judge(facts: Facts, _driver: Facts, asked: Asked) -> Diagnosis:
    """Fails when a library does not load, torch does not see the GPUs, or the weights come back wrong."""
    if facts["problem"] is not None:
        return Diagnosis("fail", facts["problem"], HUNG)
    wants_gpu = facts["listed"] > 0 and asked.declared_gpus != 0
    if wants_gpu and not facts["sees_gpus"]:
        built = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for CPUs only"
        return Diagnosis(
            "fail",
            f"PyTorch {facts['torch']} ({built}) sees no GPU",
            "install the PyTorch build for the driver's CUDA (pytorch.org), or a newer driver",
        )
    wrong = [
        f"{device['name']}: {device['problem'] or 'NF4 weights come back wrong'}"
        for device in facts["devices"]
        if device["problem"] is not None or device["error"] > MOST_ERROR
    ]
    if wrong:
        return Diagnosis("fail", "; ".join(wrong), HUNG)
    names = [device["name"] for device in facts["devices"]]
    return Diagnosis("ok", f"{facts['bitsandbytes']} quantises to NF4 and back on {', '.join(names)}")
