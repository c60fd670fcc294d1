"""Puts the files of a submitted sweep where they stay, on each node of the cluster and before the sweep starts.

Ray unpacks a job's package into a folder that ends with the cluster. A sweep outlives the cluster, and its
configuration names its files: so they are copied to a path that is the same on every node.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from contextlib import suppress
from pathlib import Path

from cluster.devices import cache
from trainables.inputs import paths

SHIPPED = "submitted"
"""The folder for sweeps, in the package and in the cache folder of each node."""
SWEEP_FILE = "sweep.yaml"
SWEEP_ID = "QSWEEP_SWEEP_ID"
"""Environment variable with the job's id, which is also the id of the sweep that the job launches."""
ENTRY = "cluster.submission.on_node"
HOOK = f"{ENTRY}.place"


def place() -> None:
    """Copies the files that travelled with the sweep. Ray calls this first in each process of the job.

    A folder appears whole. A folder that is there already has the same content: its name is the content's hash.
    """
    packed = Path(__file__).resolve().parents[2] / SHIPPED
    for source in packed.iterdir() if packed.is_dir() else ():
        target = cache() / SHIPPED / source.name
        if target.exists():
            continue
        target.parent.mkdir(0o700, parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            shutil.copytree(source, draft)
            with suppress(OSError):  # another process was first
                draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def main(words: list[str]) -> None:
    """Becomes the job's command, in the home folder, so that relative paths do not lie in Ray's folder.

    Args:
        words: the id of the job, and the words after `qsweep`. A word that begins with `submitted:` is a sweep file
            that travelled; `~` is the home folder on this node.
    """
    place()
    os.environ[SWEEP_ID] = words[0]
    os.chdir(Path.home())
    command = [_here(word) for word in words[1:]]
    # -P: files in the home folder shadow no module.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "sweeps", *command])


def _here(word: str) -> str:
    if word.startswith(f"{SHIPPED}:"):
        return str(cache() / SHIPPED / word.removeprefix(f"{SHIPPED}:") / SWEEP_FILE)
    return str(paths.at_home(Path(word))) if word.startswith("~") else word


if __name__ == "__main__":
    main(sys.argv[1:])
