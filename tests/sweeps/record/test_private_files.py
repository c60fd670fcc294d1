"""Who may read a sweep's folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WRITES = """
import json, sys
from pathlib import Path
from sweeps.record import folder as folders
from sweeps.record.disk_budget import Disk
from sweeps.record.folder import EventLog
from sweeps.record.whole_files import write_whole
folder = folders.create(Path("results"), "x", {})
with folders.locked(folder):
    EventLog(folder.events).close()
    write_whole(folder.tracking, b"{}")
    folder.keep("key", "best", 3, {"adapter/a": b"1"})
    with Disk(folder, 10**9).room("snapshot", 1, 1.0):
        pass
"""


def modes(folder: Path, umask: int) -> dict[str, str]:
    """The modes of all that a driver and its trials write, by path."""
    done = subprocess.run([sys.executable, "-c", WRITES], cwd=folder, umask=umask, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = folder / "results" / "x"
    return {
        str(path.relative_to(made)): f"{path.stat().st_mode & 0o777:o}" for path in [made, *sorted(made.rglob("*"))]
    }


FOLDERS = {".", "trials", "trials/key", "trials/key/best-000003", "trials/key/best-000003/adapter"}


@pytest.mark.parametrize(
    ("umask", "folders", "files"),
    [
        (0o022, "700", "600"),
        (0o002, "700", "600"),
        (0o077, "700", "600"),
        (0o027, "750", "640"),
        (0o007, "770", "660"),
        (0o000, "777", "666"),
    ],
)
def test_the_owner_alone_unless_the_user_set_a_umask(tmp_path: Path, umask: int, folders: str, files: str) -> None:
    found = modes(tmp_path, umask)
    assert len(found) == len(FOLDERS) + 6, json.dumps(found)
    assert found == {name: folders if name in FOLDERS else files for name in found}
