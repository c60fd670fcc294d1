"""The versions of the libraries that decide results, on each node as on the driver."""

from __future__ import annotations

import importlib.metadata
import platform

from packaging.requirements import Requirement

from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "both", False, False
SECONDS = 30.0
HUNG = "Python's packages lie on a drive that does not answer: check its mount"
OURS = "qlora-sweeps"
LIBRARIES = ("ray", "torch", "transformers", "peft", "bitsandbytes", "datasets", "mlflow")
DRIVERS_ALONE = ("mlflow",)
"""Only the driver uses these."""


def look(_asked: Asked) -> Facts:
    """The versions, None for what is not installed, and the requirements of this project that they do not meet."""
    versions = {"python": platform.python_version(), OURS: _version(OURS)}
    versions |= {name: _version(name) for name in LIBRARIES}
    unmet = []
    for line in _requirements():
        wanted = Requirement(line)
        version = _version(wanted.name)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            unmet.append(f"{wanted.name} {version or 'is missing'} (needs {wanted.specifier})")
    return {"versions": versions, "unmet": unmet}


def judge(facts: Facts, driver: Facts, asked: Asked) -> Diagnosis:
    """Fails when a requirement is not met, or a node's library is not the driver's; warns of Python's last number."""
    here, there = facts["versions"], (driver or facts)["versions"]
    shown = ", ".join(f"{name} {version or 'missing'}" for name, version in here.items())
    install = "pip install -c constraints.txt . in Ray's Python there"
    unmet = [line for line in facts["unmet"] if asked.is_driver_alone or not line.startswith(DRIVERS_ALONE)]
    if unmet:
        return Diagnosis("fail", f"{'; '.join(unmet)}; {shown}", install)
    compared = {name for name in here if name not in ("python", *DRIVERS_ALONE)}
    other = [
        f"{name} {here[name] or 'missing'}, on the driver {there.get(name) or 'missing'}"
        for name in here
        if name in compared and _public(here[name]) != _public(there.get(name))
    ]
    if _minor(here["python"]) != _minor(there["python"]):
        other.insert(0, f"python {here['python']}, on the driver {there['python']}")
    if other:
        return Diagnosis("fail", "; ".join(other), f"{install}: trials must not depend on the node that trains them")
    if here["python"] != there["python"]:
        return Diagnosis("warn", f"python {here['python']}, on the driver {there['python']}; else the same", install)
    return Diagnosis("ok", shown)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires(OURS) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _public(version: str | None) -> str | None:
    """Without what names the build: 2.13.0+cpu and 2.13.0+cu130 are one version."""
    return None if version is None else version.partition("+")[0]


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
