"""Overrides: `dotted.key=value` words after the sweep file, values read as YAML. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import yaml

import search_spaces
from cluster import gpus
from search_spaces import SpaceError
from sweeps.config import components, yaml_files
from sweeps.config.model import SweepConfig, size_bytes

LENGTHS = ("steps_per_trial", "examples_per_trial", "epochs_per_trial")
"""Keys of `budget` that say how long a trial is; one of them is given."""
_TEXTS = ("data.prompt", "data.completion", "data.text", "data.system")
_LENGTH_KEYS = [f"budget.{name}" for name in LENGTHS]


def apply(raw: dict[str, Any], changes: Sequence[str], resolve_paths: Callable[[dict[str, Any]], None]) -> list[str]:
    """Changes `raw` in place; returns a line for each mistake in the overrides themselves.

    All that follows `search_space.` is one key, since the fields of a space hold a dot. A named space is expanded
    before one of its fields is changed. Overriding a `kind` drops the keys that the new kind does not have, and
    overriding how long a trial is drops the key in which the file says that; `cluster.gpu` brings its memory, and drops
    a `gpu_memory` of the file that it does not have. A text that YAML reads as something else
    is a mistake, and is taken as it was typed: left out, it would be said to be missing.

    Args:
        raw: the sweep file's content.
        changes: `dotted.key=YAML value` each.
        resolve_paths: makes relative paths in a mapping shaped like the sweep file absolute.
    """
    wrong = []
    overridden = {change.partition("=")[0] for change in changes}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            wrong.append(f"{change}: an override is key=value, for example budget.trials=4")
            continue
        is_meant_as_text = key in _TEXTS and not _is_text(text)
        if is_meant_as_text:
            wrong.append(_not_text(key, text))
        try:
            value = text if is_meant_as_text else yaml_files.parse(text)
        except yaml_files.OldNumber as error:
            wrong.append(f"{key}: {error.problem}")
            continue
        except yaml.YAMLError:
            wrong.append(
                f"{key}: {text!r} is not a YAML value; quote it for the shell, for example '{key}={{choice: [8]}}'"
            )
            continue
        if value is not None and key in _LENGTH_KEYS and isinstance(budget := raw.get("budget"), dict):
            said = {name for name in LENGTHS if f"budget.{name}" not in overridden}
            raw["budget"] = {name: kept for name, kept in budget.items() if name not in said}
        if key == "cluster.gpu" and "cluster.gpu_memory" not in overridden:
            _drop_other_memory(raw, str(value))
        problem = _set(raw, _parts(key), value, resolve_paths)
        if problem is not None:
            wrong.append(f"{key}: {problem}")
    return wrong


def _drop_other_memory(raw: dict[str, Any], gpu: str) -> None:
    cluster = yaml_files.section(raw, "cluster")
    with suppress(ValueError):  # a memory that is no size is told of by the check of the whole file
        if gpus.contradiction(gpu, size_bytes(str(cluster.get("gpu_memory")))) is not None:
            raw["cluster"] = {key: value for key, value in cluster.items() if key != "gpu_memory"}


def _is_text(text: str) -> bool:
    """Whether YAML reads it as text, or as nothing."""
    try:
        value = yaml_files.parse(text)
    except yaml.YAMLError:
        return False
    return value is None or isinstance(value, str)


def _not_text(key: str, text: str) -> str:
    """What to type for a text that YAML reads as something else: {question} is a mapping there."""
    # A JSON string is a YAML string too.
    quoted = shlex.quote(f"{key}={json.dumps(text, ensure_ascii=False)}")
    return f"{key}: {text} is not text as YAML reads it; type {quoted}"


def _parts(key: str) -> list[str]:
    section, dot, rest = key.partition(".")
    return [section, rest] if section == "search_space" and dot else key.split(".")


def _set(
    raw: dict[str, Any], parts: list[str], value: object, resolve_paths: Callable[[dict[str, Any]], None]
) -> str | None:
    if parts[0] == "search_space" and len(parts) == 2:
        return _set_field(raw, parts[1], value)
    change: dict[str, Any] = {parts[-1]: value}
    for part in reversed(parts[:-1]):
        change = {part: change}
    resolve_paths(change)
    for section, kind in components.SECTIONS.items():
        if parts == [section, "kind"] and isinstance(raw.get(section), dict):
            known = components.keys(kind, str(value)) if str(value) in components.modules(kind) else {"kind"}
            raw[section] = {key: kept for key, kept in raw[section].items() if key in known}
    at = raw
    for part in parts[:-1]:
        change = change[part]
        if at.get(part) is None:
            at[part] = {}
        if not isinstance(at[part], dict):
            return f"{part} is {at[part]!r}, which has no keys"
        at = at[part]
    at[parts[-1]] = change[parts[-1]]
    return None


def _set_field(raw: dict[str, Any], field: str, value: object) -> str | None:
    space = raw.get("search_space", SweepConfig.model_fields["search_space"].default)
    if isinstance(space, str):
        try:
            space = search_spaces.load(space).to_raw()
        except SpaceError:
            return None  # the check of the space says that it does not exist
    if not isinstance(space, Mapping):
        return "search_space is not a mapping of fields to domains"
    raw["search_space"] = {**space, field: value}
    return None
