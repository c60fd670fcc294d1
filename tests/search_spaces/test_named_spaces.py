"""The spaces that ship, and those that are put beside them."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from random import Random

import pytest

import search_spaces
from search_spaces.space import SearchSpace

NAMES = ["lora_core", "lora_or_qlora", "lora_wide", "toy"]


def test_available_are_the_modules_with_a_space_and_their_first_lines() -> None:
    assert list(search_spaces.available()) == NAMES
    for name, line in search_spaces.available().items():
        module = importlib.import_module(f"search_spaces.{name}")
        assert line
        assert (module.__doc__ or "").splitlines()[0] == line


def test_a_new_module_with_a_space_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text('"""My ranges."""\nSPACE = {"adapter.r": {"choice": [3]}}\n')
    (tmp_path / "helper.py").write_text('"""No space."""\n')
    monkeypatch.setattr(search_spaces, "__path__", [*search_spaces.__path__, str(tmp_path)])
    try:
        assert search_spaces.available()["mine"] == "My ranges."
        assert search_spaces.load("mine") == SearchSpace.parse({"adapter.r": {"choice": [3]}})
        assert "helper" not in search_spaces.available()
    finally:
        for module in ("mine", "helper"):
            sys.modules.pop(f"search_spaces.{module}", None)
            vars(search_spaces).pop(module, None)


@pytest.mark.parametrize("name", NAMES)
def test_named_space_loads_from_plain_data_and_comes_back_as_written(name: str) -> None:
    module = importlib.import_module(f"search_spaces.{name}")
    raw = {**module.SPACE, **({"portfolio": module.PORTFOLIO} if hasattr(module, "PORTFOLIO") else {})}
    assert json.loads(json.dumps(raw)) == raw
    space = search_spaces.load(name)
    assert space.to_raw() == raw
    assert [point for point in (space.sample(Random(0)), *space.portfolio) if not space.contains(point)] == []
    assert (len(space.portfolio) >= 2) == name.startswith("lora")


@pytest.mark.parametrize("name", NAMES)
def test_every_range_has_its_source_in_the_comment_above(name: str) -> None:
    text = (Path(search_spaces.__file__).parent / f"{name}.py").read_text()
    found = {field: comment for comment, field in re.findall(r'(?m)^((?:    # .*\n)*)    "([\w.]+)":', text)}
    assert list(found) == list(search_spaces.load(name).domains)
    assert [field for field, comment in found.items() if not comment.startswith("    # Source: ")] == []
