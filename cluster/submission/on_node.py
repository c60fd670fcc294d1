"""What a submitted sweep does on the cluster's nodes before it starts: puts its files where they stay.

Ray unpacks a job's package into a folder of its own that goes with the cluster. A sweep outlives that, and its
configuration names its files, so they are copied to a path that is the same on every node.
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
"""The variable that has the id of the job: a sweep that it launches has the same one."""
ENTRY = "cluster.submission.on_node"
HOOK = f"{ENTRY}.place"


def place() -> None:
    """Copies what travelled with the sweep; Ray calls it in each process of the job, before anything else.

    A folder appears whole, and one that is there already has the same content: its name is the content's hash.
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
    """Becomes the command that the job is for, in the home folder: relative paths do not lie in Ray's own.

    Args:
        words: the id of the job, and the words after `qsweep`. One that begins with `submitted:` is a sweep file
            that travelled, and `~` is a home folder here.
    """
    place()
    os.environ[SWEEP_ID] = words[0]
    os.chdir(Path.home())
    command = [_here(word) for word in words[1:]]
    # -P: what lies in the home folder shadows nothing.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "sweeps", *command])


def _here(word: str) -> str:
    """A word as it is meant on this node."""
    if word.startswith(f"{SHIPPED}:"):
        return str(cache() / SHIPPED / word.removeprefix(f"{SHIPPED}:") / SWEEP_FILE)
    return str(paths.at_home(Path(word))) if word.startswith("~") else word


if __name__ == "__main__":
    main(sys.argv[1:])
