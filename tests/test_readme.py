"""The README is true: its recipe is the shipped one, its make targets and files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKE = re.findall(r"^make ([\w-]+)", README, re.MULTILINE)


def test_make_targets_are_found():
    assert len(MAKE) >= 4


@pytest.mark.parametrize("target", MAKE)
def test_make_target_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_recipe_shown_is_the_shipped_one():
    assert (ROOT / "sweeps" / "recipes" / "quickstart.yaml").read_text() in README


def test_every_file_in_the_tree_exists():
    tree = README.split("## Files")[1].split("```")[1]
    names = re.findall(r"[a-z_]+\.py\b", tree)
    assert len(names) > 30
    assert [name for name in names if not list(ROOT.glob(f"*/**/{name}"))] == []
