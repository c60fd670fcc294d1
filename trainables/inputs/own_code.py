"""Imports the user's own code, from a module on the import path or from a file."""

from __future__ import annotations

import hashlib
import importlib
import sys
from functools import cache
from importlib import util
from pathlib import Path
from types import ModuleType

from trainables.inputs.legible import legible

_RUNNING: set[str] = set()
"""Names of the modules of files whose code is running for the first time."""


def parts(name: str) -> tuple[str, str]:
    """Splits MODULE:NAME or FILE.py:NAME into the module or file, and the name; "" without a name."""
    place, colon, inside = name.rpartition(":")
    return (place, inside) if colon else (name, "")


def missing_file(name: str) -> str | None:
    """Returns the problem of a FILE.py that does not exist; None for a file that exists, and for a dotted path."""
    if not name.endswith(".py") or Path(name).is_file():
        return None
    beside = "a relative path is read from the sweep file's folder, on a command line or in Python the current one"
    return f"{legible(name)}: there is no such file; {beside}"


def module_of(name: str) -> ModuleType:
    """Returns the module at a dotted path, or in a file that ends in .py. Raises whatever the module's code raises."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    return _of_file(name, Path(name).stat().st_mtime_ns)


def known(name: str) -> ModuleType | None:
    """Returns the module of `module_of` if this process has imported it, else None."""
    return sys.modules.get(_name_of_file(name) if name.endswith(".py") else name)


def _name_of_file(file: str) -> str:
    return f"qsweep_{Path(file).stem}_{hashlib.sha256(file.encode()).hexdigest()[:12]}"


@cache
def _of_file(file: str, _written: int) -> ModuleType:
    """Returns the module in a file. Reads the file again if it was written anew."""
    name = _name_of_file(file)
    if name in _RUNNING:
        raise ImportError(
            f'{file} names itself while it runs: put what launches or checks below if __name__ == "__main__":'
        )
    spec = util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks for its module while the module runs
    _RUNNING.add(name)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _RUNNING.remove(name)
    return module
