"""Sweep files in few words, for tests: what every file needs, and the rows and models that it may name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces.space import SearchSpace
from sweeps.config import load
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError

TOY = "name: x\ntrainable: toy\n"
"""A whole sweep file of the toy."""
QLORA = """\
name: x
model: {source: hub/model}
data: {train: rows.jsonl, prompt: "{question}", completion: "{answer}", eval_examples: 5}
"""
"""A whole sweep file of the real trainable; needs `write_rows`."""
RATES: dict[str, Any] = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}
"""A space of learning rates alone."""


def write_rows(folder: Path, name: str = "rows.jsonl", rows: int = 30, first: int = 0) -> Path:
    """Rows with the columns question and answer, numbered from `first`."""
    path = folder / name
    path.write_text(
        "".join(json.dumps({"question": f"q{n}", "answer": f"a{n}"}) + "\n" for n in range(first, first + rows))
    )
    return path


def toy(space: dict[str, Any] | None = None, **sections: Any) -> tuple[SweepConfig, SearchSpace]:
    """A checked sweep of the toy."""
    space = space or {"adapter.r": {"choice": [4, 8, 16]}}
    config = SweepConfig.model_validate({"name": "x", "trainable": "toy", "search_space": space, **sections})
    return config, SearchSpace.parse(space)


def loaded(folder: Path, text: str, *changes: str) -> load.LoadedSweep:
    """The sweep of s.yaml in `folder`, which holds `text`, loaded there with these overrides."""
    (folder / "s.yaml").write_text(text)
    return load.load("s.yaml", changes, folder)


def refused(folder: Path, text: str, *changes: str) -> list[str]:
    """As `loaded`, of a file that is wrong: the mistakes that are told."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, *changes)
    return list(caught.value.problems)
