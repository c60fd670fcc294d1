"""From file and overrides to a checked sweep: where files are looked for, what paths mean, what profiles bring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sweep_files import QLORA, TOY, write_rows

from sweeps.config import load
from sweeps.config.load import LoadedSweep
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The current folder; the sweep files and rows.jsonl are in files/."""
    (tmp_path / "here").mkdir()
    (tmp_path / "files").mkdir()
    write_rows(tmp_path / "files")
    return tmp_path / "here"


def loaded(here: Path, text: str, *changes: str) -> LoadedSweep:
    (here.parent / "files" / "s.yaml").write_text(text)
    return load.load("../files/s.yaml", changes, here)


def wrong(here: Path, text: str, *changes: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(here, text, *changes)
    return list(caught.value.problems)


def test_a_file_comes_before_a_recipe_of_its_name(here: Path) -> None:
    assert load.load("toy", [], here).config.budget.trials == 12
    (here / "toy").write_text(TOY + "budget: {trials: 2}\n")
    assert load.load("toy", [], here).config.budget.trials == 2


def test_paths_in_a_file_are_relative_to_it_and_those_in_overrides_to_the_current_folder(here, monkeypatch) -> None:
    write_rows(here, "mine.jsonl")
    files = here.parent / "files"
    monkeypatch.setenv("HOME", str(files))
    for change, path in (("seed=1", files / "rows.jsonl"), ("data.train=mine.jsonl", here / "mine.jsonl")):
        config = loaded(here, QLORA, change).config
        assert (config.data.train, config.data.hold_out) == (str(path), "drawn")
        assert SweepConfig.model_validate(config.model_dump(mode="json")) == config, "it is kept as it was read"
    at_home = loaded(here, QLORA.replace("rows.jsonl", "~/rows.jsonl")).config.data
    assert at_home.train == str(files / "rows.jsonl")


@pytest.mark.parametrize(
    ("data", "drawn"),
    [
        ("", ("auto", "drawn", "together")),
        ("eval: more.jsonl, ", ("auto", "drawn", "together")),
        ("test: more.jsonl, ", (None, "drawn", "together")),
        ("test: more.jsonl, test_examples: auto, ", (None, "drawn", "together")),
        ("eval: more.jsonl, test: more2.jsonl, ", (None, "last", "apart")),
        ("test_examples: 7, hold_out: last, copies: apart, ", (7, "last", "apart")),
        ("test_examples: null, ", (None, "drawn", "together")),
    ],
)
def test_what_a_sweep_file_leaves_out_of_the_draw_is_filled_in_and_kept(here: Path, data: str, drawn: tuple) -> None:
    files = here.parent / "files"
    for first, name in enumerate(("more.jsonl", "more2.jsonl"), 1):
        write_rows(files, name, 30, 100 * first)
    found = loaded(here, QLORA.replace("train: rows.jsonl, ", f"train: rows.jsonl, {data}")).config
    assert (found.data.test_examples, found.data.hold_out, found.data.copies) == drawn
    (files / "again.yaml").write_text(load.written(found))
    assert load.load("../files/again.yaml", [], here).config.data == found.data


def test_a_configuration_kept_before_there_were_test_rows_has_none(here: Path) -> None:
    kept = loaded(here, QLORA).config.model_dump(mode="json")
    for name in ("test_examples", "copies"):
        del kept["data"][name]
    data = SweepConfig.model_validate(kept).base.data_spec
    assert (data.test_examples, data.copies, data.hold_out) == (None, "apart", "drawn")


def test_a_schema_is_read_from_beside_the_file_when_the_sweep_is_loaded(here: Path) -> None:
    files = here.parent / "files"
    rows = [json.dumps({"question": f"q{n}", "answer": "{}"}) for n in range(30)]
    (files / "rows.jsonl").write_text("\n".join(rows))
    (files / "record.json").write_text('{"type": "object"}')
    metrics = "evaluation: {metrics: [{json_fields: {schema: record.json}}]}\n"
    config = loaded(here, QLORA + metrics).config
    assert config.evaluation.metrics == ({"json_fields": {"schema": {"type": "object"}}},)
    (files / "record.json").unlink()
    (line,) = wrong(here, QLORA + metrics)
    assert line.startswith(f"evaluation.metrics.0: json_fields.schema: '{files}/record.json' cannot be read")


def test_storage_and_database_are_relative_to_the_current_folder(here: Path) -> None:
    for given, folder in (("", here), ("~/", Path.home())):
        config = loaded(here, f"{TOY}storage: {given}out\ntracking: {{uri: 'sqlite:///{given}runs/m.db'}}\n").config
        assert (config.storage, config.tracking.uri) == (f"{folder}/out", f"sqlite:///{folder}/runs/m.db")


@pytest.mark.parametrize("source", ["hub/model", "gpt2", "package:no_such_package/m.gguf"])
def test_hub_ids_and_packages_are_no_paths_where_no_such_folder_is_beside_the_file(here: Path, source: str) -> None:
    text = f"{TOY}model: {{source: '{source}'}}\n"
    assert loaded(here, text).config.model.source == source
    beside = here.parent / "files" / source
    beside.mkdir(parents=True)
    assert loaded(here, text).config.model.source == (source if source.startswith("package:") else str(beside))


def test_a_resolved_configuration_says_the_same_again(here: Path) -> None:
    sweep = loaded(here, TOY + "search_space: toy\nadapter: {target_modules: [q, v]}\n")
    (here / "again.yaml").write_text(sweep.config.model_dump_json())
    assert load.load("again.yaml", [], here).config == sweep.config


def test_conditions_know_what_the_file_says(here: Path) -> None:
    space = "search_space: {adapter.lora_alpha: {choice: [8], when: {adapter.use_rslora: true}}}\n"
    for rslora, point in (("true", {"adapter.lora_alpha": 8}), ("false", {})):
        sweep = loaded(here, TOY + space, f"adapter.use_rslora={rslora}")
        assert (sweep.space.size(), sweep.space.restrict({"adapter.lora_alpha": 8})) == (1, point)


def test_a_profile_stands_under_what_the_file_says_and_no_address_is_of_rays_client(here: Path) -> None:
    config = loaded(here, TOY + "cluster: {profile: attached, hosts: 3}\n").config.cluster
    assert (config.profile, config.address, config.hosts, config.slots_per_host) == ("attached", "auto", 3, "auto")
    assert loaded(here, TOY).config.cluster.address == "local"
    (line,) = wrong(here, TOY, "cluster.address=ray://head:10001")
    assert "ray:// is another protocol" in line and line.endswith("use qsweep submit")


def test_a_profile_brings_storage_tracking_and_variables_and_the_file_wins(here: Path) -> None:
    (here.parent / "files" / "team.yaml").write_text(
        f"address: auto\nstorage: {here}/team\n"
        "tracking: {uri: 'http://mlflow:5000', experiment: team}\n"
        "runtime_env: {env_vars: {HF_HOME: /mnt/hf, A: one}}\n"
    )
    team = TOY + "cluster: {profile: team.yaml}\n"
    mine = "storage: mine\ntracking: {experiment: mine}\n"
    ours = TOY + mine + "cluster: {profile: team.yaml, runtime_env: {env_vars: {A: two}}}\n"
    for text, owner, value in ((team, "team", "one"), (ours, "mine", "two")):
        config = loaded(here, text).config
        assert (config.storage, config.tracking.uri) == (f"{here}/{owner}", "http://mlflow:5000")
        assert config.tracking.experiment == owner
        assert config.cluster.runtime_env.env_vars == {"HF_HOME": "/mnt/hf", "A": value}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("cluster.runtime_env.env_vars.HF_TOKEN=hf_abc", "'HF_TOKEN' looks like the name of a secret"),
        ("cluster.runtime_env.env_vars.GITHUB_PAT=abc", "'GITHUB_PAT' looks like the name of a secret"),
        ("cluster.runtime_env.env_vars.DB_CONN=abc", "'DB_CONN' looks like the name of a secret"),
        ("cluster.runtime_env.env_vars.PGPASSWORD=abc", "'PGPASSWORD' looks like the name of a secret"),
        ("cluster.runtime_env.env_vars.CONNECTION_STRING=abc", "'CONNECTION_STRING' looks like the name of a secret"),
        ("cluster.runtime_env.env_vars.AWS_ACCESS_KEY_ID=abc", "'AWS_ACCESS_KEY_ID' looks like the name of a secret"),
        ("cluster.runtime_env.env_vars.N=1", "cluster.runtime_env.env_vars.N: 1 must be text"),
        ("cluster.runtime_env.env_vars.HTTPS_PROXY='bob:hf_abc@proxy:3128'", "HTTPS_PROXY: holds a password"),
        ("cluster.runtime_env.env_vars.A='x http://h/?token=hf_abc'", "A: holds a password"),
        ("cluster.runtime_env.pip=['p @ git+https://hf_abc@h/p']", "cluster.runtime_env.pip.0: holds a password"),
        ("cluster.runtime_env.pip=['--index-url https://u:hf_abc@h']", "nodes, or in ~/.netrc"),
    ],
)
def test_what_hosts_cannot_be_given_is_refused_and_no_secret_is_shown(here: Path, change: str, problem: str) -> None:
    (line,) = wrong(here, TOY, change)
    assert (problem in line, "hf_abc" in line) == (True, False), line


EVERYWHERE = """
name: x
sead: 1
model: {source: ./nowhere}
data: {train: rowz.jsonl, prompt: "{question}", completion: "{answer}"}
adapter: {target_modules: attention-vq}
training: {batch_size: 0}
budget: {wall_clock: 90}
searcher: {kind: grid}
cluster: {profile: locl}
tracking: {uri: ./mlruns}
search_space:
  training.learning_rate: {loguniform: [1e-5, 1e-3]}
  model.source: {choice: [a, b]}
  adapter.rank: {choice: [8]}
  adapter.r: {choice: [0, 8]}
  adapter.lora_dropout: {uniform: [0.5, 0.1]}
  training.schedule: {choice: [liner]}
  adapter.target_modules: {choice: [mpl, mlp]}
  training.weight_decay: {choice: [0.1], when: {adapter.x: 1}}
"""
PLACES = [
    *("sead", "model.source", "data.train", "adapter.target_modules", "training.batch_size", "budget.wall_clock"),
    *("cluster.profile", "tracking.uri", "budget.trials"),
    *(f"search_space.training.{field}" for field in ("learning_rate", "schedule", "weight_decay")),
    *(f"search_space.adapter.{field}" for field in ("rank", "r", "lora_dropout", "target_modules")),
    "search_space.model.source",
]


def test_all_problems_of_a_file_are_told_in_one_pass(here: Path) -> None:
    lines = wrong(here, EVERYWHERE, "budget.trials")
    assert sorted(line.split(":")[0] for line in lines) == sorted(PLACES), lines


RANK = "search_space.adapter.r"
ASKED_ROUND = (
    "search_space: {adapter.r: {choice: [0], when: {adapter.use_rslora: true}}, "
    "adapter.use_rslora: {choice: [true], when: {adapter.r: 0}}}\nsearcher: {kind: grid}\n"
)
PRIOR = "searcher: {kind: prior}\nsearch_space: {adapter.r: {choice: [8, 16], prior: 8}}\n"


@pytest.mark.parametrize(
    ("text", "change", "told"),
    [
        (ASKED_ROUND, "seed=1", ["search_space: the conditions adapter.r -> ", f"{RANK}: 0 must be greater than 0"]),
        ("model: {sorce: a/b}\ndata: [1]\n", "trainable=qlora", ["model.source:", "model.sorce:", "data:"]),
        ("", f"{RANK}={{randint: [-4, 0]}}", [f"{RANK}: -4 must be greater than 0", f"{RANK}: 0 must be greater than"]),
        (PRIOR, f"{RANK}={{choice: [8, 16], prior: 7}}", [RANK]),
        (PRIOR, "training.num_epochs=3", ["training.num_epochs"]),
    ],
    ids=["conditions", "a section that is wrong is not missing", "each once", "prior", "searcher"],
)
def test_a_mistake_hides_no_other_and_brings_none_that_goes_with_it(here, text, change, told) -> None:
    lines = wrong(here, TOY + text, change)
    assert [line[: len(start)] for line, start in zip(lines, told, strict=True)] == told, lines


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("adapter.r=12", []),
        ("search_space={adapter.r: {choice: [4, 16, 320, 600, 24]}}", ["adapter.r: 24, 600"]),
        ("search_space={adapter.r: {randint: [15, 33]}}", ["adapter.r: 17, 18, 19 and 13 more"]),
    ],
)
def test_ranks_that_vllm_does_not_take_as_they_are_are_told(here: Path, change: str, told: list[str]) -> None:
    assert [line.partition(": vLLM")[0] for line in loaded(here, QLORA, change).notices] == told
    assert loaded(here, TOY, "adapter.r=24").notices == ()


def test_a_webhooks_url_in_place_of_a_variables_name_is_refused_and_not_shown(here: Path) -> None:
    (line,) = wrong(here, TOY, "notify.url_env='https://hooks.example/T0/hf_abc'")
    assert line.startswith("notify.url_env: must be the name of an environment variable that holds the URL")
    (section,) = wrong(here, TOY, "notify='https://hooks.example/T0/hf_abc'")
    assert "hf_abc" not in line + section and "hooks" not in line + section


def test_a_secrets_letters_in_another_word_are_no_secret(here: Path) -> None:
    names = ("TOKENIZERS_PARALLELISM", "MAX_TOKENS", "SECRETARY", "SORT_KEY")
    changes = [f"cluster.runtime_env.env_vars.{name}='1'" for name in names]
    assert loaded(here, TOY, *changes).config.cluster.runtime_env.env_vars == dict.fromkeys(names, "1")


def test_addresses_without_a_password_are_given_to_hosts(here: Path) -> None:
    pip = "['einops==0.8', 'p @ git+https://h/o/p@v1.0', 'q @ git+ssh://git@h/o/q@v1', '-i https://h:8443/simple']"
    changes = ["cluster.runtime_env.env_vars.HTTPS_PROXY='http://h:3128'", f"cluster.runtime_env.pip={pip}"]
    given = loaded(here, TOY, *changes).config.cluster.runtime_env
    assert (given.env_vars, len(given.pip)) == ({"HTTPS_PROXY": "http://h:3128"}, 4)
