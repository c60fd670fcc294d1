"""The sweep file's object: its defaults, its strictness, its schema; and every recipe that is shipped."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from sweep_files import QLORA, TOY

from sweeps.config import components, load, yaml_files
from sweeps.config.model import SweepConfig, size_bytes
from trainables.specs import seconds


@pytest.mark.parametrize("kind", ["schedulers", "searchers"])
def test_every_component_is_found_by_the_kind_that_it_says(kind: components.ComponentKind) -> None:
    section = kind.removesuffix("s")
    found = components.modules(kind)
    assert components.DEFAULTS[kind] in found
    for name, module in found.items():
        assert module.Config().kind == name
        config = SweepConfig.model_validate({"name": "x", section: {"kind": name}})
        assert type(getattr(config, section)) is module.Config
        assert components.available(kind)[name]


@pytest.mark.parametrize("name", ["-x", "x" * 101, "x\n"])
def test_a_name_is_one_word_of_a_path(name: str) -> None:
    with pytest.raises(ValidationError):
        SweepConfig(name=name)


def test_a_duration_and_a_size_have_a_unit() -> None:
    times = {"90s": 90, "30m": 1800, "2h": 7200, "1d": 86400, "1.5h": 5400, " 2 h ": 7200}
    assert {text: seconds(text) for text in times} == times
    sizes = {"500MB": 5 * 10**8, "20GB": 2 * 10**10, "1TB": 10**12, "1.5 GB": 1_500_000_000}
    assert {text: size_bytes(text) for text in sizes} == sizes


@pytest.mark.parametrize("text", ["", "90", "-1h", "0.0h", "1h30m", "1e3s", "2H", "24GiB", "-1GB", "0GB"])
def test_what_is_no_duration_and_no_size_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 30m, 2h or 1d"):
        seconds(text)
    with pytest.raises(ValueError, match="500MB, 20GB or 1TB"):
        size_bytes(text)


FILES: list[dict[str, Any]] = [
    yaml.safe_load(TOY),
    yaml.safe_load(QLORA),
    {"name": "x", "scheduler": {"grace_steps": 4}, "searcher": {"start_with_default": False}},
    {"name": "x", "scheduler": {"kind": "fifo"}, "searcher": {"kind": "grid"}},
    {"name": "x", "adapter": {"target_modules": ["q_proj"], "lora_alpha": 8}, "cluster": {"hosts": 2}},
    {"name": "x", "search_space": {"adapter.r": {"choice": [8]}}, "training": {"max_grad_norm": None}},
    *(
        {"name": "x", "tracking": {"uri": uri}}
        for uri in ("sqlite:////abs/m.db", "https://host/path", "mysql+pymysql://host/db", "databricks")
    ),
]
WRONG_FILES: list[dict[str, Any]] = [
    {},
    {"name": "x", "sead": 1},
    {"name": "x", "adapter": {"r": 0}},
    {"name": "x", "scheduler": {"kind": "other"}},
    {"name": "x", "scheduler": {"kind": "asha", "points": 3}},
    {"name": "x", "quantization": {"scheme": "int8"}},
    {"name": "a/b"},
]


def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(SweepConfig.model_json_schema()))
    return found


def recipe(name: str) -> dict[str, Any]:
    return yaml_files.read_yaml(load.RECIPES / f"{name}.yaml")


def test_the_schema_describes_every_section_and_what_it_allows() -> None:
    found = schema()
    assert list(found["properties"]) == list(SweepConfig.model_fields)
    assert (found["required"], found["additionalProperties"]) == (["name"], False)
    for name, definition in found["$defs"].items():
        assert definition["additionalProperties"] is False, name
        assert definition.get("description"), name


def test_the_schema_takes_what_the_sweep_file_takes() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    for raw in [*FILES, *(recipe(name) for name in load.recipes())]:
        assert [error.message for error in validator.iter_errors(raw)] == []
        SweepConfig.model_validate(raw)
    for raw in WRONG_FILES:
        assert list(validator.iter_errors(raw)), raw
        with pytest.raises(ValidationError):
            SweepConfig.model_validate(raw)
