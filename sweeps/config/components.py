"""Schedulers and searchers by name: a component is one module, found by its name. Nothing is registered."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, Tag

from trainables.specs import Spec

Kind = Literal["schedulers", "searchers"]
SECTIONS: Mapping[str, Kind] = {"scheduler": "schedulers", "searcher": "searchers"}
"""Section of the sweep file -> the components that it names one of."""
DEFAULTS: Mapping[Kind, str] = {"schedulers": "asha", "searchers": "random"}
"""What a sweep file gets whose section names no `kind`."""


def modules(kind: Kind) -> dict[str, ModuleType]:
    """Every component of a kind by its name."""
    folder = Path(__file__).parent.parent / kind
    names = [info.name for info in pkgutil.iter_modules([str(folder)]) if not info.name.startswith("_")]
    return {name: importlib.import_module(f"sweeps.{kind}.{name}") for name in names}


def available(kind: Kind) -> dict[str, str]:
    """Name -> first line of its docstring."""
    return {name: (module.__doc__ or "").split("\n")[0] for name, module in modules(kind).items()}


def default(kind: Kind) -> Any:
    """The configuration of a section that is left out."""
    return modules(kind)[DEFAULTS[kind]].Config()


def config_type(kind: Kind) -> Any:
    """The type of the sweep file's section: the components' configurations, told apart by `kind`."""
    configs = tuple(Annotated[module.Config, Tag(name)] for name, module in modules(kind).items())
    # Not Field(discriminator="kind"): that asks for a kind even where there is a default.
    told_apart = Discriminator(lambda section: named(kind, section))
    return Annotated[Union[configs], told_apart, Field(json_schema_extra=_any_of)]  # noqa: UP007 - built from a tuple


def _any_of(schema: dict[str, Any]) -> None:
    """A section without a kind fits several components."""
    schema["anyOf"] = schema.pop("oneOf")


def named(kind: Kind, section: object) -> str:
    """The name of the component that a section of the file, or its configuration, asks for; it may not exist."""
    given = section.get("kind") if isinstance(section, Mapping) else getattr(section, "kind", None)
    return DEFAULTS[kind] if given is None else str(given)


def keys(kind: Kind, name: str) -> set[str]:
    """Keys that a component's section may have."""
    config: type[Spec] = modules(kind)[name].Config
    return set(config.model_fields)
