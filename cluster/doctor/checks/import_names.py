"""Whether this project's import names are its own: unrelated packages on PyPI are called `sweeps` and `cluster` too."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "both", False, False
SECONDS = 30.0
HUNG = "Python's packages lie on a drive that does not answer: check its mount"
NAMES = ("sweeps", "cluster", "trainables", "search_spaces")
OURS = "qlora-sweeps"


def look(_asked: Asked) -> Facts:
    """Which other distributions have one of the names, and from which folder each name is imported."""
    by_name = importlib.metadata.packages_distributions()
    others = {name: sorted(set(by_name.get(name, [])) - {OURS}) for name in NAMES}
    return {"others": others, "folders": {name: _folder(name) for name in NAMES}}


def judge(facts: Facts, _driver: Facts, _asked: Asked) -> Diagnosis:
    """Fails when another distribution has a name, or the four are not imported from one folder."""
    shared = {name: others for name, others in facts["others"].items() if others}
    if shared:
        seen = "; ".join(
            f"the distribution {', '.join(others)} is also imported as {name}" for name, others in shared.items()
        )
        remove = sorted({other for others in shared.values() for other in others})
        return Diagnosis("fail", seen, f"pip uninstall {' '.join(remove)}, then install this project again")
    folders = facts["folders"]
    if len(set(folders.values())) > 1:
        seen = ", ".join(f"{name} from {folder or 'nowhere'}" for name, folder in folders.items())
        return Diagnosis(
            "fail", seen, "the four names must come from one folder: rename files and folders of yours that have one"
        )
    return Diagnosis("ok", f"{', '.join(NAMES)} come from {folders[NAMES[0]]}")


def _folder(name: str) -> str | None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent.parent)
