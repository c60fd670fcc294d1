"""Checks of a machine's software and settings: packages, open files, the token of the Ray cluster, the clock.

None of these can hang or crash.
"""

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
from cluster.doctor.contract import DRIVER, Check, Diagnosis, Facts, Site, fail, ok, warn

OURS = "qlora-sweeps"
LIBRARIES = ("ray", "torch", "transformers", "peft", "bitsandbytes", "datasets", "mlflow")
"""The libraries that decide results."""
DRIVERS_ALONE = ("mlflow",)
"""Only the driver uses these."""
LEAST_FILES, ADVISED_FILES = 4096, 8192
"""Ray warns of lost connections below the first number, and advises the second (_private/worker.py, 2.60: `init`)."""
OFF_SECONDS, FAR_OFF_SECONDS = 2.0, 300.0
"""Differences of clocks: the first is warned of, the second fails. Object stores refuse requests that were signed 15
minutes off, Kerberos those 5 minutes off."""


def versions(_site: Site) -> Facts:
    """Reads the versions, None for a missing library, and this project's requirements that are not met."""
    found = {"python": platform.python_version()} | {name: _version(name) for name in (OURS, *LIBRARIES)}
    unmet = []
    for wanted in map(Requirement, importlib.metadata.requires(OURS) or [] if found[OURS] else []):
        version = _version(wanted.name)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            unmet.append(f"{wanted.name} {version or 'is missing'} (needs {wanted.specifier})")
    return {"versions": found, "unmet": unmet}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def judge_versions(facts: Facts, site: Site) -> Diagnosis:
    """Fails if a requirement is not met, or a version is not the driver's; of Python's last number it only warns."""
    here, there = facts["versions"], facts.get("driver", facts)["versions"]
    shown = ", ".join(f"{name} {version or 'missing'}" for name, version in here.items())
    install = "pip install -c constraints.txt . in Ray's Python there"
    unmet = [line for line in facts["unmet"] if site.node == DRIVER or not line.startswith(DRIVERS_ALONE)]
    if unmet:
        return fail(f"{'; '.join(unmet)}; {shown}", install)
    other = [
        f"{name} {here[name] or 'missing'}, on the driver {there.get(name) or 'missing'}"
        for name in here
        if name not in DRIVERS_ALONE and _deciding(name, here[name]) != _deciding(name, there.get(name))
    ]
    if other:
        return fail("; ".join(other), f"{install}: trials must not depend on the node that trains them")
    if here["python"] != there["python"]:
        return warn(f"python {here['python']}, on the driver {there['python']}; else the same", install)
    return ok(shown)


def _deciding(name: str, version: str | None) -> str:
    """Returns the part of a version that must be equal everywhere: 2.13.0 of 2.13.0+cu130, 3.11 of Python 3.11.9."""
    text = version or ""
    return ".".join(text.split(".")[:2]) if name == "python" else text.partition("+")[0]


def import_names(_site: Site) -> Facts:
    """Finds other distributions with one of our names, and the folder from which each name is imported."""
    by_name = importlib.metadata.packages_distributions()
    # Unrelated packages on PyPI are imported as `sweeps` and `cluster` too.
    others = {name: sorted(set(by_name.get(name, [])) - {OURS}) for name in PACKAGES}
    return {"others": others, "folders": {name: _folder(name) for name in PACKAGES}}


def _folder(name: str) -> str | None:
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent.parent)


def judge_import_names(facts: Facts, _site: Site) -> Diagnosis:
    """Fails if another distribution has one of our names, or the names are not imported from one folder."""
    shared = {name: others for name, others in facts["others"].items() if others}
    if shared:
        words = (f"the distribution {', '.join(others)} is also imported as {name}" for name, others in shared.items())
        remove = sorted({other for others in shared.values() for other in others})
        return fail("; ".join(words), f"pip uninstall {' '.join(remove)}, then install this project again")
    folders = facts["folders"]
    if len(set(folders.values())) > 1:
        seen = ", ".join(f"{name} from {folder or 'nowhere'}" for name, folder in folders.items())
        return fail(seen, "these names must come from one folder: rename files and folders of yours that have one")
    return ok(f"{', '.join(PACKAGES)} come from {folders[PACKAGES[0]]}")


def file_descriptors(_site: Site) -> Facts:
    """Reads how many files a process may hold open: Ray needs one for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {"soft": soft, "hard": hard}


def judge_file_descriptors(facts: Facts, _site: Site) -> Diagnosis:
    """Judges the hard limit: Ray raises the soft one to it, up to 65536."""
    soft, hard = (f"{value}" if value >= 0 else "unlimited" for value in (facts["soft"], facts["hard"]))
    seen = f"ulimit -n: {soft}, at most {hard}"
    most = facts["hard"] if facts["hard"] >= 0 else 65536
    mend = "raise it before Ray starts: ulimit -n 65536 (limits.conf, LimitNOFILE= of a service, --ulimit of Docker)"
    if most < LEAST_FILES:
        return fail(seen, mend)
    return warn(seen, mend) if most < ADVISED_FILES else ok(seen)


def token(_site: Site) -> Facts:
    """Finds the token that Ray takes (ray/_private/authentication, 2.60), and whether others can read its file."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(given).expanduser() if given else Path.home() / ".ray" / "auth_token"
    try:
        rights = file.stat().st_mode
    except OSError:
        rights = None
    return {
        "mode": os.environ.get("RAY_AUTH_MODE"),
        "in_environment": bool(os.environ.get("RAY_AUTH_TOKEN")),
        "file": str(file),
        "is_there": rights is not None,
        "is_open": bool((rights or 0) & (stat.S_IRGRP | stat.S_IROTH)),
    }


def judge_token(facts: Facts, site: Site) -> Diagnosis:
    """Fails if RAY_AUTH_MODE wants a token and there is none; warns if others can read it, or none is wanted."""
    mode, has_token = facts["mode"], facts["in_environment"] or facts["is_there"]
    if mode == "token" and not has_token:
        return fail(
            f"RAY_AUTH_MODE=token, but there is no {facts['file']} and no RAY_AUTH_TOKEN",
            "copy the token of the head node, or make one there: ray get-auth-token --generate",
        )
    if facts["is_open"] and not facts["in_environment"]:
        return warn(f"others can read {facts['file']}", f"chmod 600 {facts['file']}")
    if mode == "token":
        return ok("RAY_AUTH_MODE=token, and there is a token")
    if site.node == DRIVER:
        return warn(
            f"RAY_AUTH_MODE is {mode or 'not set'}: a cluster that asks for a token refuses this driver, and one that "
            "does not runs the code of whoever reaches its ports",
            "start Ray with RAY_AUTH_MODE=token and set it here too (docs/cluster.md)",
        )
    return ok("a Ray of the sweep's own needs none")


def judge_clock(least: float, most: float) -> Diagnosis:
    """Warns if a node's clock certainly differs from the driver's by seconds, and fails if by minutes.

    The node's time was read between two readings on the driver, and is between `least` and `most` seconds ahead.
    """
    certain = max(0.0, least, -most)
    side = "ahead" if least > 0 else "behind"
    seen = f"{side} by at least {certain:.1f} s" if certain else "agrees with the driver's"
    mend = "start a time service there (chrony, systemd-timesyncd): timedatectl set-ntp true"
    if certain > FAR_OFF_SECONDS:
        return fail(seen, mend)
    if certain > OFF_SECONDS:
        return warn(seen, mend)
    return ok(f"{seen} (within {max(abs(least), abs(most)):.1f} s)")


CHECKS = (
    Check("versions", "both", versions, judge_versions),
    Check("import_names", "both", import_names, judge_import_names),
    Check("file_descriptors", "both", file_descriptors, judge_file_descriptors),
    Check("token", "driver", token, judge_token),
)
