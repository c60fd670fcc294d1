"""From file and overrides to a checked sweep: where files are looked for, what paths mean, what profiles bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweep_files import QLORA, TOY, write_rows

from sweeps.config import load
from sweeps.config.load import Sweep
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The current folder; the sweep files are in files/."""
    (tmp_path / "here").mkdir()
    (tmp_path / "files").mkdir()
    return tmp_path / "here"


def loaded(here: Path, text: str, *changes: str) -> Sweep:
    (here.parent / "files" / "s.yaml").write_text(text)
    return load.load("../files/s.yaml", changes, here)


def wrong(here: Path, text: str, *changes: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(here, text, *changes)
    return list(caught.value.problems)


# Which file


def test_a_file_comes_before_a_recipe_of_its_name(here: Path) -> None:
    assert load.load("toy", [], here).config.budget.trials == 12
    (here / "toy").write_text(TOY + "budget: {trials: 2}\n")
    assert load.load("toy", [], here).config.budget.trials == 2


# Paths


def test_paths_in_a_file_are_relative_to_it(here: Path) -> None:
    files = here.parent / "files"
    write_rows(files)
    sweep = loaded(here, QLORA)
    assert sweep.config.data is not None and sweep.config.data.train == str(files / "rows.jsonl")


def test_a_schema_is_read_from_beside_the_file_when_the_sweep_is_loaded(here: Path) -> None:
    rows = [json.dumps({"question": f"q{n}", "answer": "{}"}) for n in range(30)]
    (here.parent / "files" / "rows.jsonl").write_text("\n".join(rows))
    (here.parent / "files" / "record.json").write_text('{"type": "object"}')
    metrics = "evaluation: {metrics: [{json_fields: {schema: record.json}}]}\n"
    config = loaded(here, QLORA + metrics).config
    assert config.evaluation.metrics == ({"json_fields": {"schema": {"type": "object"}}},)
    (here.parent / "files" / "record.json").unlink()
    (line,) = wrong(here, QLORA + metrics)
    assert line.startswith(
        f"evaluation.metrics.0: json_fields.schema: '{here.parent}/files/record.json' cannot be read"
    )


def test_paths_in_overrides_are_relative_to_the_current_folder(here: Path) -> None:
    write_rows(here.parent / "files")
    write_rows(here, "mine.jsonl")
    sweep = loaded(here, QLORA, "data.train=mine.jsonl")
    assert sweep.config.data is not None and sweep.config.data.train == str(here / "mine.jsonl")


def test_storage_and_database_are_relative_to_the_current_folder(here: Path) -> None:
    config = loaded(here, TOY + "storage: out\ntracking: {uri: 'sqlite:///runs/m.db'}\n").config
    assert config.storage == str(here / "out")
    assert config.tracking.uri == f"sqlite:///{here / 'runs' / 'm.db'}"
    at_home = loaded(here, TOY, "tracking.uri=sqlite:///~/m.db").config.tracking.uri
    assert at_home == f"sqlite:///{Path.home() / 'm.db'}"


def test_a_tilde_is_the_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here.parent / "files"))
    write_rows(here.parent / "files")
    config = loaded(here, QLORA.replace("rows.jsonl", "~/rows.jsonl"), "storage=~/out").config
    assert config.storage == str(here.parent / "files" / "out")
    assert config.data is not None and config.data.train == str(here.parent / "files" / "rows.jsonl")


@pytest.mark.parametrize("source", ["hub/model", "gpt2", "package:no_such_package/m.gguf"])
def test_hub_ids_and_packages_are_no_paths(here: Path, source: str) -> None:
    sweep = loaded(here, TOY + f"model: {{source: '{source}'}}\n")
    assert sweep.config.model is not None and sweep.config.model.source == source


def test_a_folder_beside_the_file_is_meant_before_a_hub_id(here: Path) -> None:
    (here.parent / "files" / "hub" / "model").mkdir(parents=True)
    sweep = loaded(here, TOY + "model: {source: hub/model}\n")
    assert sweep.config.model is not None
    assert sweep.config.model.source == str(here.parent / "files" / "hub" / "model")


# The space


def test_a_file_has_its_rows_held_out_drawn_and_is_kept_as_it_was_read(here: Path) -> None:
    write_rows(here.parent / "files")
    config = loaded(here, QLORA).config
    assert config.data is not None and config.data.hold_out == "drawn"
    assert SweepConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_resolved_configuration_says_the_same_again(here: Path, tmp_path: Path) -> None:
    sweep = loaded(here, TOY + "search_space: toy\nadapter: {target_modules: [q, v]}\n")
    (here / "again.yaml").write_text(sweep.config.model_dump_json())
    assert load.load("again.yaml", [], here).config == sweep.config


def test_conditions_know_what_the_file_says(here: Path) -> None:
    space = "search_space: {adapter.lora_alpha: {choice: [8], when: {adapter.use_rslora: true}}}\n"
    sweep = loaded(here, TOY + space + "adapter: {use_rslora: true}\n")
    assert sweep.space.size() == 1
    assert loaded(here, TOY + space).space.size() == 1  # the empty point
    assert sweep.space.restrict({"adapter.lora_alpha": 8}) == {"adapter.lora_alpha": 8}


# Profiles


def test_a_profile_stands_under_what_the_file_says(here: Path) -> None:
    config = loaded(here, TOY + "cluster: {profile: attached, hosts: 3}\n").config.cluster
    assert (config.profile, config.address, config.hosts, config.slots_per_host) == ("attached", "auto", 3, "auto")
    assert loaded(here, TOY).config.cluster.address == "local"
    assert loaded(here, TOY, "cluster.profile=attached").config.cluster.address == "auto"


def test_an_address_of_rays_client_is_refused(here: Path) -> None:
    (line,) = wrong(here, TOY, "cluster.address=ray://head:10001")
    assert "ray:// is another protocol" in line and line.endswith("use qsweep submit")


def test_a_profile_brings_storage_tracking_and_variables_and_the_file_wins(here: Path) -> None:
    (here.parent / "files" / "team.yaml").write_text(
        f"address: auto\nstorage: {here}/team\n"
        "tracking: {uri: 'http://mlflow:5000', experiment: team}\n"
        "runtime_env: {env_vars: {HF_HOME: /mnt/hf, A: one}}\n"
    )
    config = loaded(here, TOY + "cluster: {profile: team.yaml}\n").config
    assert (config.storage, config.tracking.uri) == (f"{here}/team", "http://mlflow:5000")
    assert config.cluster.runtime_env.env_vars == {"HF_HOME": "/mnt/hf", "A": "one"}
    mine = "storage: mine\ntracking: {experiment: mine}\n"
    cluster = "cluster: {profile: team.yaml, runtime_env: {env_vars: {A: two}}}\n"
    config = loaded(here, TOY + mine + cluster).config
    assert config.storage == str(here / "mine")
    assert (config.tracking.uri, config.tracking.experiment) == ("http://mlflow:5000", "mine")
    assert config.cluster.runtime_env.env_vars == {"HF_HOME": "/mnt/hf", "A": "two"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("cluster.runtime_env.env_vars.HF_TOKEN=hf_abc", "'HF_TOKEN' looks like the name of a secret"),
        ("cluster.runtime_env.env_vars.N=1", "cluster.runtime_env.env_vars.N: 1 must be text"),
        ("cluster.runtime_env.env_vars.HTTPS_PROXY='bob:hf_abc@proxy:3128'", "HTTPS_PROXY: 'bob:***@proxy:3128' holds"),
        (
            "cluster.runtime_env.env_vars.A='x http://h/?token=hf_abc'",
            "env_vars.A: 'x http://h/?token=***' holds a pas",
        ),
        ("cluster.runtime_env.pip=['p @ git+https://hf_abc@h/p']", "'p @ git+https://***@h/p' holds a password"),
        ("cluster.runtime_env.pip=['--index-url https://u:hf_abc@h']", "put the password into ~/.netrc on the nodes"),
    ],
)
def test_what_hosts_cannot_be_given_is_refused_and_no_secret_is_shown(here: Path, change: str, problem: str) -> None:
    with pytest.raises(ConfigError) as told:
        loaded(here, TOY, change)
    assert problem in str(told.value)
    assert "hf_abc" not in str(told.value)


# Every problem in one pass

EVERYWHERE: dict[str, Any] = {
    "sead: 1": "sead: unknown key; did you mean seed?",
    "model: {source: ./nowhere}": "no such file or folder",
    "data: {train: rowz.jsonl, prompt: '{question}', completion: '{answer}'}": "did you mean rows.jsonl?",
    "adapter: {target_modules: attention-vq}": "adapter.target_modules: 'attention-vq' is not a preset",
    "training: {batch_size: 0}": "training.batch_size: 0 must be greater than 0",
    "budget: {wall_clock: 90}": "budget.wall_clock: 90 must be a duration",
    "searcher: {kind: grid}": "search_space.training.learning_rate: a continuous domain has no grid",
    "cluster: {profile: locl}": "cluster.profile: unknown profile 'locl'; did you mean local?",
    "tracking: {uri: ./mlruns}": "tracking.uri: './mlruns' must be a database or a server",
}
SPACE = {
    "training.learning_rate: {loguniform: [1e-5, 1e-3]}": "",
    "model.source: {choice: [a, b]}": "search_space.model.source: all trials of a sweep share one base model",
    "adapter.rank: {choice: [8]}": "search_space.adapter.rank: unknown field 'adapter.rank'; did you mean adapter.r?",
    "adapter.r: {choice: [0, 8]}": "search_space.adapter.r: 0 must be greater than 0",
    "adapter.lora_dropout: {uniform: [0.5, 0.1]}": "search_space.adapter.lora_dropout: uniform: low 0.5 is above",
    "training.schedule: {choice: [liner]}": "search_space.training.schedule: 'liner' must be 'linear'",
    "adapter.target_modules: {choice: [mpl, mlp]}": "search_space.adapter.target_modules: 'mpl' is not a preset",
    "training.weight_decay: {choice: [0.1], when: {adapter.x: 1}}": "search_space.training.weight_decay: when: unknown",
}


def test_all_problems_of_a_file_are_told_in_one_pass(here: Path) -> None:
    write_rows(here.parent / "files")
    space = "search_space:\n" + "".join(f"  {line}\n" for line in SPACE)
    lines = wrong(here, "name: x\n" + "\n".join(EVERYWHERE) + "\n" + space, "budget.trials")
    expected = [*EVERYWHERE.values(), *filter(None, SPACE.values()), "budget.trials: an override is key=value"]
    assert [text for text in expected if not any(text in line for line in lines)] == []
    assert len(lines) == len(expected), lines


def test_conditions_that_do_not_hold_together_hide_no_other_problem(here: Path) -> None:
    rank = "adapter.r: {choice: [0], when: {adapter.use_rslora: true}}"
    rslora = "adapter.use_rslora: {choice: [true], when: {adapter.r: 0}}"
    lines = wrong(here, f"{TOY}search_space: {{{rank}, {rslora}}}\nsearcher: {{kind: grid}}\n")
    assert [line.split(" wait")[0] for line in lines] == [
        "search_space: the conditions adapter.r -> adapter.use_rslora -> adapter.r",
        "search_space.adapter.r: 0 must be greater than 0",
    ]


def test_a_wrong_section_is_not_said_to_be_missing(here: Path) -> None:
    lines = wrong(here, "name: x\nmodel: {sorce: a/b}\ndata: [1]\n")
    assert [line.split(":")[0] for line in lines] == ["model.source", "model.sorce", "data"]


def test_a_value_that_is_wrong_many_times_is_told_once_each(here: Path) -> None:
    lines = wrong(here, TOY + "search_space: {adapter.r: {randint: [-4, 0]}}\n")
    assert lines == [
        "search_space.adapter.r: -4 must be greater than 0",
        "search_space.adapter.r: 0 must be greater than 0",
    ]


@pytest.mark.parametrize("change", ["search_space.adapter.r={choice: [8, 16], prior: 7}", "training.num_epochs=3"])
def test_a_mistake_brings_no_second_one_that_goes_with_the_first(here: Path, change: str) -> None:
    text = TOY + "searcher: {kind: prior}\nsearch_space: {adapter.r: {choice: [8, 16], prior: 8}}\n"
    (line,) = wrong(here, text, change)
    assert line.startswith(change.partition("=")[0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("adapter.r=12", []),
        ("search_space={adapter.r: {choice: [4, 16, 320, 600, 24]}}", ["adapter.r: 24, 600"]),
        ("search_space={adapter.r: {randint: [15, 33]}}", ["adapter.r: 17, 18, 19 and 13 more"]),
    ],
)
def test_ranks_that_vllm_does_not_take_as_they_are_are_told(here: Path, change: str, told: list[str]) -> None:
    write_rows(here.parent / "files")
    assert [line.partition(": vLLM")[0] for line in loaded(here, QLORA, change).notices] == told
    assert loaded(here, TOY, "adapter.r=24").notices == ()


def test_addresses_without_a_password_are_given_to_hosts(here: Path) -> None:
    pip = "['einops==0.8', 'p @ git+https://h/o/p@v1.0', 'q @ git+ssh://git@h/o/q@v1', '-i https://h:8443/simple']"
    changes = ["cluster.runtime_env.env_vars.HTTPS_PROXY='http://h:3128'", f"cluster.runtime_env.pip={pip}"]
    given = loaded(here, TOY, *changes).config.cluster.runtime_env
    assert (given.env_vars, len(given.pip)) == ({"HTTPS_PROXY": "http://h:3128"}, 4)
