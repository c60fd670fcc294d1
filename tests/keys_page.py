"""Writes docs/keys.md, all keys of the sweep file, from the schema that `qsweep schema` prints.

`python -m tests.keys_page` after a change of the schema; a test compares the page with what would be written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeps.config.model import SweepConfig

PAGE = Path(__file__).parent.parent / "docs" / "keys.md"
HEAD = """# All keys of the sweep file

Made by `python -m tests.keys_page` from the schema that `qsweep schema` prints. In brackets: the default; `null` is no
value. A key without brackets must be given where its section is. `a.b` is the key `b` of the section `a`.
"""
Schema = Mapping[str, Any]


def page() -> str:
    """Returns the page: a list for each section, the keys that stand alone last."""
    schema = SweepConfig.model_json_schema()
    sections = {name: list(_section(key, name, schema)) for name, key in schema["properties"].items()}
    alone = [_row(name, key) for name, key in schema["properties"].items() if not sections[name]]
    lists = {"Top level": alone, **{name: rows for name, rows in sections.items() if rows}}
    return "\n".join([HEAD, *("\n".join([f"## {name}", *rows, ""]) for name, rows in lists.items())])


def _section(key: Schema, path: str, schema: Schema) -> Iterator[str]:
    """Yields a row for each key below `key`; of several classes that it may be, each key once with their defaults."""
    kinds = [schema["$defs"][name.rpartition("/")[2]] for name in _references(key)]
    names = dict.fromkeys(name for kind in kinds for name in kind["properties"])
    for name in names:
        there = [kind["properties"][name] for kind in kinds if name in kind["properties"]]
        below = list(_section(there[0], f"{path}.{name}", schema))
        if name == "kind":
            kind = getattr(SweepConfig(name="any"), path).kind
            yield _row(f"{path}.kind", {"enum": [key["const"] for key in there], "default": kind})
        else:
            yield from below or [_row(f"{path}.{name}", there[0])]


def _references(key: Schema) -> list[str]:
    return [one["$ref"] for one in [key, *key.get("anyOf", ()), *key.get("oneOf", ()), *_items(key)] if "$ref" in one]


def _items(key: Schema) -> list[Schema]:
    return [one.get("items", {}) for one in [key, *key.get("anyOf", ()), *key.get("oneOf", ())]]


def _row(path: str, key: Schema) -> str:
    words = ", ".join(f"`{word}`" for word in key.get("enum", ()))
    says = " ".join(part for part in (words and f"{words}.", *key.get("description", "").split()) if part)
    default = f" (`{json.dumps(key['default'])}`)".replace('"', "") if "default" in key else ""
    return f"- `{path}`{default}{': ' if says else ''}{says}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
