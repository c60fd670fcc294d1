"""SQLite databases as a writer leaves them that is killed in a transaction."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def kill_in_transaction(file: Path, change: str, half: str) -> None:
    """Carries the SQL `change` out on a database, and `half` in a transaction that does not come to its end."""
    # A process of its own: it closes nothing.
    writes = f"""
import os, sqlite3
database = sqlite3.connect({str(file)!r}, isolation_level=None)
database.execute("pragma cache_size = 1")
database.execute({change!r})
database.execute("begin")
database.execute({half!r})
database.execute("create table filled as select randomblob(999999)")
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", writes], check=False).returncode == -9
    assert file.with_name(f"{file.name}-journal").stat().st_size > 0
