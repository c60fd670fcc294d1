"""Reads YAML as people mean it: 2e-4 is a number, and a key that stands twice is a mistake."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sweeps.errors import ConfigError

MOST_BYTES = 1_000_000
"""Maximum size of a file."""
MOST_VALUES = 10_000
"""Maximum number of keys and values of a file. An alias counts all of its values: aliases of aliases grow fast."""
MOST_LEVELS = 50
"""Maximum depth of lists and mappings inside each other: the reader recurses once per level."""
_TEXT, _NUMBERS = "tag:yaml.org,2002:str", ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OLD_NUMBER = re.compile(r"[-+]?0[0-9_]+|.*:.*")
"""Numbers of YAML 1.1 that nobody means: 010 is 8, and 1:30 is 90."""
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that cannot be in a file or its name; surrogates are halves of characters."""
_MOST_CHARACTERS = 1000
"""Maximum length of a value that is not text: a number with more digits takes long to read."""


class OldNumber(yaml.constructor.ConstructorError):
    """A number of YAML 1.1 that nobody means; `problem` names the number and says what to write."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats (PyYAML follows 1.1, where 2e-4 is text) and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        # PyYAML refuses the tag of a mapping on any other node.
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # << merges the keys of another mapping
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _error("a key is text: braces need quotes", key_node)
            if key in seen:
                raise _error(f"the key {key!r} stands twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        shown = f"{node.value[:60]!r}" if isinstance(node, yaml.ScalarNode) else f"what is tagged {node.tag}"
        if isinstance(node, yaml.ScalarNode) and node.tag != _TEXT and len(node.value) > _MOST_CHARACTERS:
            raise _error(f"a value of {len(node.value)} characters that is not text: put it in quotes", node)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
            # The value, or its tag, looks like a date or a number but is none (2026-13-01). PyYAML lets through any
            # error of its conversions.
            reason = f" ({error})" if isinstance(error, ValueError) else ""
            raise _error(f"{shown} is not what it looks like{reason}: put it in quotes", node) from error
        if isinstance(value, str) and (wrong := _NO_TEXT.search(value)):
            raise _error(f"text cannot hold the character {wrong[0]!a}", node)
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and _OLD_NUMBER.fullmatch(node.value):
            way_out = "write the number without zeros before it and without colons, or put it in quotes"
            raise OldNumber(None, None, f"{shown} is the number {value} in YAML: {way_out}", node.start_mark)
        return value


def _check_bounds(text: str) -> None:
    """Raises yaml.YAMLError for a text that is too deep or too long, before anything is built from the text."""
    total = 0
    sizes: dict[str | None, int] = {}
    begun: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _error(f"the alias *{event.anchor} stands for nothing that ends before the alias", event)
            total += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            begun.append((event.anchor, total))
            total += 1
        if len(begun) > MOST_LEVELS:
            raise _error(f"lists and mappings stand more than {MOST_LEVELS} deep in each other", event)
        if total > MOST_VALUES:
            counted = "those that an alias stands for counted each time"
            raise _error(f"more than {MOST_VALUES} keys and values, {counted}: list fewer", event)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            sizes[anchor] = total - before


def _error(problem: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads the mapping in a YAML file; raises ConfigError with line and reason for anything else."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(
                [f"{path}: a sweep file has at most {MOST_BYTES / 1e6:g} MB: give data files by their names"]
            )
        raw = parse(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not valid YAML: {_reason(error)}"]) from error
    if not isinstance(raw, dict):
        raise ConfigError([f"{path}: a sweep file is a mapping that begins with, for example, name: my-sweep"])
    return raw


def parse(text: str) -> Any:
    """Parses YAML text within the bounds above; raises yaml.YAMLError."""
    _check_bounds(text)
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def section(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the mapping at a key of a sweep file; an empty one for anything else, which the file's check refuses."""
    found = raw.get(name)
    return found if isinstance(found, dict) else {}


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    problem = str(getattr(error, "problem", None) or error)
    is_escape = problem.startswith("found unknown escape character")
    return place + problem + (r": \ begins an escape in double quotes: take single quotes" if is_escape else "")
