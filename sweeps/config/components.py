"""Finds schedulers and searchers: a component is one module, found by its name. Nothing is registered."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, Tag

from trainables.specs import Spec

ComponentKind = Literal["schedulers", "searchers"]
SECTIONS: Mapping[str, ComponentKind] = {"scheduler": "schedulers", "searcher": "searchers"}
"""Section of the sweep file -> kind of its component."""
DEFAULTS: Mapping[ComponentKind, str] = {"schedulers": "asha", "searchers": "random"}
"""Component of a section without `kind`."""


def modules(kind: ComponentKind) -> dict[str, ModuleType]:
    """Returns every component of a kind by its name."""
    folder = Path(__file__).parent.parent / kind
    names = [info.name for info in pkgutil.iter_modules([str(folder)]) if not info.name.startswith("_")]
    return {name: importlib.import_module(f"sweeps.{kind}.{name}") for name in names}


def available(kind: ComponentKind) -> dict[str, str]:
    """Returns the name of each component -> the first line of its docstring."""
    return {name: (module.__doc__ or "").split("\n")[0] for name, module in modules(kind).items()}


def default(kind: ComponentKind) -> Any:
    """Returns the configuration of a section that is left out."""
    return modules(kind)[DEFAULTS[kind]].Config()


def config_type(kind: ComponentKind) -> Any:
    """Returns the type of the sweep file's section: a union of the components' `Config`s, discriminated by `kind`."""
    configs = tuple(Annotated[module.Config, Tag(name)] for name, module in modules(kind).items())
    # Field(discriminator="kind") would require a kind although there is a default.
    told_apart = Discriminator(lambda section: named(kind, section))
    return Annotated[Union[configs], told_apart, Field(json_schema_extra=_any_of)]  # noqa: UP007 - built from a tuple


def _any_of(schema: dict[str, Any]) -> None:
    """Replaces oneOf by anyOf, because a section without a kind fits several components."""
    schema["anyOf"] = schema.pop("oneOf")


def named(kind: ComponentKind, section: object) -> str:
    """Returns the component name in a section of the file or in its configuration; it may not exist."""
    given = section.get("kind") if isinstance(section, Mapping) else getattr(section, "kind", None)
    return DEFAULTS[kind] if given is None else str(given)


def keys(kind: ComponentKind, name: str) -> set[str]:
    """Returns the keys that a component's section may have."""
    config: type[Spec] = modules(kind)[name].Config
    return set(config.model_fields)
