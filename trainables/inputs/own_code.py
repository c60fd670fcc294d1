"""Imports code of the user's own, from a module on the import path or from a file."""

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
"""The modules of files whose code runs now for the first time."""


def parts(name: str) -> tuple[str, str]:
    """The dotted path or file of MODULE:NAME and FILE.py:NAME, and the name; empty where there is none."""
    place, colon, inside = name.rpartition(":")
    return (place, inside) if colon else (name, "")


def missing_file(name: str) -> str | None:
    """The line about a FILE.py that is not there; None for a module's dotted path."""
    if not name.endswith(".py") or Path(name).is_file():
        return None
    beside = "a relative path is read from the sweep file's folder, on a command line or in Python the current one"
    return f"{legible(name)}: there is no such file; {beside}"


def module_of(name: str) -> ModuleType:
    """The module at a dotted path, or in a file that ends in .py; raises whatever its code raises."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    return _of_file(name, Path(name).stat().st_mtime_ns)


def known(name: str) -> ModuleType | None:
    """The module of `module_of`, where this process has imported it."""
    return sys.modules.get(_name_of_file(name) if name.endswith(".py") else name)


def _name_of_file(file: str) -> str:
    return f"qsweep_{Path(file).stem}_{hashlib.sha256(file.encode()).hexdigest()[:12]}"


@cache
def _of_file(file: str, _written: int) -> ModuleType:
    """The module in a file, read again where the file was written anew."""
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
