"""What a program imports, for tests: `import python_imports`."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "pyarrow", "ray", "mlflow")


def heavy(program: str, *arguments: str) -> set[str]:
    """The heavy packages that a program imports in a Python of its own."""
    program += f"\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
