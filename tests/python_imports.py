"""What a program imports, for tests: `import python_imports`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "pyarrow", "ray", "mlflow")
COMMAND = """
import sys
from sweeps.cli import main
sys.argv[0] = "qsweep"
try:
    main()
except SystemExit as end:
    assert end.code == 2, end.code
"""


def heavy(program: str, *arguments: str, folder: Path | None = None) -> set[str]:
    """The heavy packages that a program imports in a Python of its own."""
    program += f"\nprint()\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def refusal(folder: Path, *words: str) -> str:
    """What `qsweep WORDS` says is wrong with them; it imports nothing heavy to find that out."""
    program = COMMAND + f"assert not [name for name in {HEAVY!r} if name in sys.modules], 'heavy'"
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr
