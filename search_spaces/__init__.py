"""Holds the domains and the named search spaces. Imports nothing else of this project.

A named space is a module of this package with a constant `SPACE` in the form of the YAML file. To add a space, add a
module. `available` shows the first line of its docstring, and a comment above each field names the source of its range.
A module may also hold `PORTFOLIO`: points to try first, for the searcher `prior`.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from search_spaces.space import PORTFOLIO as _PORTFOLIO
from search_spaces.space import Point, SearchSpace
from search_spaces.values import SpaceError, did_you_mean


def available() -> dict[str, str]:
    """Returns name of every named space -> the first line of its docstring, sorted by name."""
    return {name: (spaces.__doc__ or "").strip().partition("\n")[0] for name, spaces in _modules().items()}


def load(name: str) -> SearchSpace:
    """Returns the named space. Raises SpaceError, which lists the known names, for an unknown one."""
    spaces = _modules()
    if name not in spaces:
        told = f"unknown space {name!r}{did_you_mean(name, tuple(spaces))} there are {', '.join(spaces)}"
        raise SpaceError([f"search_space: {told}, or write a mapping"])
    portfolio = getattr(spaces[name], "PORTFOLIO", [])
    return SearchSpace.parse({**spaces[name].SPACE, **({_PORTFOLIO: portfolio} if portfolio else {})})


def _modules() -> dict[str, ModuleType]:
    """Returns the modules with a SPACE, by name. The other modules of the package have none."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "SPACE")}


__all__ = ["Point", "SearchSpace", "SpaceError", "available", "load"]
