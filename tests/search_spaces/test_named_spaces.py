"""The spaces that ship: each loads, searches the learning rate, and says where its ranges are from."""

from __future__ import annotations

import ast
import importlib
import json
import math
import re
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

import search_spaces
from search_spaces import SpaceError
from search_spaces.space import SearchSpace

PACKAGE = Path(search_spaces.__file__).parent
NAMES = ["lora_core", "lora_wide", "toy"]
FIELD = re.compile(r'^    "([\w.]+)":')


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


UNKNOWN = [
    ("lora_cor", "did you mean lora_core? there are lora_core, lora_wide, toy, or write a mapping"),
    ("domains", "there are lora_core, lora_wide, toy, or write a mapping"),
    ("space", "there are lora_core, lora_wide, toy, or write a mapping"),
    ("values", "there are lora_core, lora_wide, toy, or write a mapping"),
    ("../toy", "there are lora_core, lora_wide, toy, or write a mapping"),
    ("", "there are lora_core, lora_wide, toy, or write a mapping"),
]


@pytest.mark.parametrize(("name", "rest"), UNKNOWN, ids=[name for name, _ in UNKNOWN])
def test_unknown_space_is_refused_with_the_names_there_are(name: str, rest: str) -> None:
    with pytest.raises(SpaceError) as caught:
        search_spaces.load(name)
    (problem,) = caught.value.problems
    assert problem.startswith(f"search_space: unknown space {name!r}")
    assert problem.endswith(rest)


@pytest.mark.parametrize("name", NAMES)
def test_named_space_loads_from_plain_data_and_comes_back_as_written(name: str) -> None:
    module = importlib.import_module(f"search_spaces.{name}")
    raw = {**module.SPACE, **({"portfolio": module.PORTFOLIO} if hasattr(module, "PORTFOLIO") else {})}
    assert json.loads(json.dumps(raw)) == raw
    space = search_spaces.load(name)
    assert space.to_raw() == raw
    assert space.contains(space.sample(Random(0)))


@pytest.mark.parametrize("name", NAMES)
def test_named_space_searches_the_learning_rate_and_the_three_knobs(name: str) -> None:
    domains = search_spaces.load(name).domains
    assert domains["training.learning_rate"].form == "loguniform"
    assert {"adapter.r", "adapter.target_modules"} <= domains.keys()
    assert len(domains.keys() & {"adapter.lora_alpha", "adapter.alpha_over_r"}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_range_has_its_source_in_the_comment_above(name: str) -> None:
    lines = (PACKAGE / f"{name}.py").read_text().splitlines()
    found = {}
    for number, line in enumerate(lines):
        if match := FIELD.match(line):
            above = number - 1
            while lines[above].startswith("    # "):
                above -= 1
            found[match.group(1)] = " ".join(part.strip() for part in lines[above + 1 : number])
    assert list(found) == list(search_spaces.load(name).domains)
    assert [field for field, comment in found.items() if not comment.startswith("# Source: ")] == []


@pytest.mark.parametrize("name", ["lora_core", "lora_wide"])
def test_lora_spaces_cite_studies(name: str) -> None:
    text = (PACKAGE / f"{name}.py").read_text()
    assert {"2305.14314", "2508.02932", "2106.09685"} <= set(re.findall(r"arXiv (\d{4}\.\d{5})", text))


def test_core_is_contained_in_wide_where_both_are_plain_lora() -> None:
    core, wide = search_spaces.load("lora_core"), search_spaces.load("lora_wide")
    rest: dict[str, Any] = {
        "adapter.use_rslora": False,
        "adapter.lora_dropout": 0.0,
        "training.batch_size": 4,
        "training.schedule": "linear",
        "training.warmup_ratio": 0.02,
        "training.weight_decay": 0.0,
    }
    assert all(wide.contains({**core.sample(Random(seed)), **rest}) for seed in range(50))


@pytest.mark.parametrize("name", ["lora_core", "lora_wide"])
def test_alpha_is_searched_itself_so_that_one_range_of_rates_serves_all_ranks(name: str) -> None:
    space = search_spaces.load(name)
    points: list[dict[str, Any]] = [dict(space.sample(Random(seed))) for seed in range(200)]
    assert not any("adapter.alpha_over_r" in point for point in points)
    assert len({(point["adapter.r"], point["adapter.lora_alpha"]) for point in points}) > 8


def test_wide_reaches_the_rslora_setting_of_the_peft_comparison() -> None:
    space = search_spaces.load("lora_wide")
    measured: dict[str, Any] = {
        "adapter.r": 64,
        "adapter.use_rslora": True,
        "adapter.lora_alpha": 64,
        "adapter.lora_dropout": 0.0,
        "adapter.target_modules": "attention-qv",
        "training.learning_rate": 1e-4,
        "training.batch_size": 4,
        "training.schedule": "cosine",
        "training.warmup_ratio": 0.0,
        "training.weight_decay": 0.1,
    }
    assert space.contains(measured)


def test_toy_range_is_centred_on_the_best_learning_rate_of_the_toy() -> None:
    ends: Any = search_spaces.load("toy").domains["training.learning_rate"].extremes()
    assert math.isclose(math.sqrt(math.prod(ends)), 3e-4, rel_tol=0.1)


def test_package_imports_the_standard_library_and_itself_only() -> None:
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {name.partition(".")[0] for name in names}
            assert tops <= sys.stdlib_module_names | {"search_spaces"}, path


def test_public_names_are_exactly_these() -> None:
    assert search_spaces.__all__ == ["Point", "SearchSpace", "SpaceError", "available", "load"]
    assert (PACKAGE / "py.typed").is_file()
