"""Domains and named search spaces, each with the source of its ranges. Imports nothing else of this project.

A named space is a module of this package with a constant `SPACE` in exactly the YAML form; adding one is adding a
file. Its docstring's first line is what `available` shows, and a comment above each field says where the range is from.
A module may also hold `PORTFOLIO`: points to try first, for the searcher `prior`.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from search_spaces._values import did_you_mean
from search_spaces.errors import SpaceError
from search_spaces.space import PORTFOLIO as _PORTFOLIO
from search_spaces.space import Point, SearchSpace


def available() -> dict[str, str]:
    """Name of every named space -> the first line of its docstring, by name."""
    return {name: (spaces.__doc__ or "").strip().partition("\n")[0] for name, spaces in _modules().items()}


def load(name: str) -> SearchSpace:
    """The named space; raises SpaceError, with the names there are, for an unknown one."""
    spaces = _modules()
    if name not in spaces:
        hint = did_you_mean(name, tuple(spaces))
        raise SpaceError(
            [f"search_space: unknown space {name!r}{hint or ':'} there are {', '.join(spaces)}, or write a mapping"]
        )
    portfolio = getattr(spaces[name], "PORTFOLIO", [])
    return SearchSpace.parse({**spaces[name].SPACE, **({_PORTFOLIO: portfolio} if portfolio else {})})


def _modules() -> dict[str, ModuleType]:
    """The modules that hold a SPACE. The package's machinery holds none, so it needs no list of exceptions."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "SPACE")}


__all__ = ["Point", "SearchSpace", "SpaceError", "available", "load"]
