"""Free room on disk: for the sweep's folder against budget.disk and the plan, for bases, and for Ray's own files."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cluster import devices
from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "both", False, False
SECONDS = 30.0
HUNG = "a drive does not answer: check the mounts"
CACHE_BYTES = 5 * 10**9
"""Below this a base that has to be downloaded and quantised may not find room."""
RAY_STOPS = 0.95
"""Where Ray writes no more objects to disk (its `local_fs_capacity_threshold`, 2.60)."""


def look(asked: Asked) -> Facts:
    """The room in the cache, in the folder for temporary files, and where the driver writes the sweep's folder."""
    places = {"cache": devices.cache(), "temporary": Path(tempfile.gettempdir())}
    if asked.work_folder is not None and asked.declared_gpus is None:
        places["storage"] = Path(asked.work_folder)
    found = {}
    for name, place in places.items():
        there = next(path for path in (place, *place.parents) if path.is_dir())
        usage = shutil.disk_usage(there)
        found[name] = {"path": str(place), "free": usage.free, "used": usage.used / max(1, usage.used + usage.free)}
    return found


def judge(facts: Facts, _driver: Facts, asked: Asked) -> Diagnosis:
    """Fails when the storage has less room than budget.disk or the plan; warns where little is left elsewhere."""
    shown = ", ".join(f"{place['free'] / 1e9:.1f} GB free in {place['path']}" for place in facts.values())
    storage = facts.get("storage")
    if storage is not None:
        for what, wanted, way_out in (
            ("budget.disk", asked.disk_budget, "lower budget.disk"),
            ("the plan", None if asked.disk_budget is not None else asked.disk_bytes, "set budget.disk"),
        ):
            if wanted is not None and wanted > storage["free"]:
                seen = f"{what} may take {wanted / 1e9:.1f} GB; {shown}"
                return Diagnosis("fail", seen, f"free room in {storage['path']}, {way_out}, or name another storage")
    temporary = facts["temporary"]
    if temporary["used"] >= RAY_STOPS:
        return Diagnosis(
            "warn",
            f"the disk of {temporary['path']} is {temporary['used']:.0%} full; {shown}",
            "free some room: Ray writes no objects to a disk that is 95% full",
        )
    if facts["cache"]["free"] < CACHE_BYTES and not asked.is_driver_alone:
        return Diagnosis("warn", shown, "free room for bases, or set QSWEEP_CACHE and HF_HOME to a larger disk")
    return Diagnosis("ok", shown)
