"""Checks of a machine's software and settings: packages, open files, the token of the Ray cluster."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import resource
import stat
from pathlib import Path

from packaging.requirements import Requirement

from cluster import PACKAGES
from cluster.doctor.contract import DRIVER, CheckResult, Site

OURS = "qlora-sweeps"
LIBRARIES = ("ray", "torch", "transformers", "peft", "bitsandbytes", "datasets", "mlflow")
"""The libraries that decide results."""
DRIVERS_ALONE = ("mlflow",)
"""Only the driver uses these."""
LEAST_FILES, ADVISED_FILES = 4096, 8192
"""Ray warns of lost connections below the first number, and advises the second (_private/worker.py, 2.60: `init`)."""


def installed() -> dict[str, str | None]:
    """Returns the versions of Python, this project and the libraries that decide results; None for a missing one."""
    return {"python": platform.python_version()} | {name: _version(name) for name in (OURS, *LIBRARIES)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def unmet() -> list[str]:
    """Returns this project's requirements that are not met, each with the version that is there."""
    found = []
    for wanted in map(Requirement, importlib.metadata.requires(OURS) or [] if _version(OURS) else []):
        version = _version(wanted.name)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            found.append(f"{wanted.name} {version or 'is missing'} (needs {wanted.specifier})")
    return found


def versions(site: Site) -> CheckResult:
    """Fails if a requirement is not met, or a version is not the driver's; of Python's last number it only warns."""
    here = installed()
    there = site.driver_versions or here
    shown = ", ".join(f"{name} {version or 'missing'}" for name, version in here.items())
    install = "pip install -c constraints.txt . in Ray's Python there"
    missing = [line for line in unmet() if site.node == DRIVER or not line.startswith(DRIVERS_ALONE)]
    if missing:
        return CheckResult("fail", f"{'; '.join(missing)}; {shown}", install)
    other = [
        f"{name} {here[name] or 'missing'}, on the driver {there.get(name) or 'missing'}"
        for name in here
        if name not in DRIVERS_ALONE and _deciding(name, here[name]) != _deciding(name, there.get(name))
    ]
    if other:
        return CheckResult("fail", "; ".join(other), f"{install}: trials must not depend on the node that trains them")
    if here["python"] != there["python"]:
        return CheckResult("warn", f"python {here['python']}, on the driver {there['python']}; else the same", install)
    return CheckResult("ok", shown)


def _deciding(name: str, version: str | None) -> str:
    """Returns the part of a version that must be equal everywhere: 2.13.0 of 2.13.0+cu130, 3.11 of Python 3.11.9."""
    text = version or ""
    return ".".join(text.split(".")[:2]) if name == "python" else text.partition("+")[0]


def import_names(_site: Site) -> CheckResult:
    """Fails if another distribution has one of our names, or the names are not imported from one folder."""
    by_name = importlib.metadata.packages_distributions()
    # Unrelated packages on PyPI are imported as `sweeps` and `cluster` too.
    others = {name: sorted(set(by_name.get(name, [])) - {OURS}) for name in PACKAGES}
    words = [
        f"the distribution {', '.join(other)} is also imported as {name}" for name, other in others.items() if other
    ]
    if words:
        remove = sorted({other for each in others.values() for other in each})
        mend = f"pip uninstall {' '.join(remove)}, then install this project again"
        return CheckResult("fail", "; ".join(words), mend)
    specs = {name: importlib.util.find_spec(name) for name in PACKAGES}
    folders = {
        name: "nowhere" if spec is None or spec.origin is None else str(Path(spec.origin).parent.parent)
        for name, spec in specs.items()
    }
    if len(set(folders.values())) > 1:
        seen = ", ".join(f"{name} from {folder}" for name, folder in folders.items())
        mend = "these names must come from one folder: rename files and folders of yours that have one"
        return CheckResult("fail", seen, mend)
    return CheckResult("ok", f"{', '.join(PACKAGES)} come from {folders[PACKAGES[0]]}")


def file_descriptors(_site: Site) -> CheckResult:
    """Judges how many files a process may hold open by the hard limit: Ray raises the soft one to it, up to 65536."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (f"{value}" if value >= 0 else "unlimited" for value in limits)
    seen, most = f"ulimit -n: {soft}, at most {hard}", limits[1] if limits[1] >= 0 else 65536
    if most >= ADVISED_FILES:
        return CheckResult("ok", seen)
    mend = "raise it before Ray starts: ulimit -n 65536 (limits.conf, LimitNOFILE= of a service, --ulimit of Docker)"
    return CheckResult("fail" if most < LEAST_FILES else "warn", seen, mend)


def token(site: Site) -> CheckResult:
    """Fails if RAY_AUTH_MODE wants a token and there is none; warns if others can read it, or none is wanted.

    Ray finds the token in the same way (ray/_private/authentication, 2.60).
    """
    mode, given = os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    in_environment = bool(os.environ.get("RAY_AUTH_TOKEN"))
    file = Path(given).expanduser() if given else Path.home() / ".ray" / "auth_token"
    try:
        rights = file.stat().st_mode
    except OSError:
        rights = None
    if mode == "token" and not in_environment and rights is None:
        mend = "copy the token of the head node, or make one there: ray get-auth-token --generate"
        return CheckResult("fail", f"RAY_AUTH_MODE=token, but there is no {file} and no RAY_AUTH_TOKEN", mend)
    if (rights or 0) & (stat.S_IRGRP | stat.S_IROTH) and not in_environment:
        return CheckResult("warn", f"others can read {file}", f"chmod 600 {file}")
    if mode == "token":
        return CheckResult("ok", "RAY_AUTH_MODE=token, and there is a token")
    if site.node == DRIVER:
        return CheckResult(
            "warn",
            f"RAY_AUTH_MODE is {mode or 'not set'}: a cluster that asks for a token refuses this driver, and one that "
            "does not runs the code of whoever reaches its ports",
            "start Ray with RAY_AUTH_MODE=token and set it here too (docs/cluster.md)",
        )
    return CheckResult("ok", "a Ray of the sweep's own needs none")
