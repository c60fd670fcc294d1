"""What travels with a submitted sweep, and what is refused before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sweep_files

from sweeps.config import load, points, shipping
from sweeps.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep file, with its rows beside it."""
    sweep_files.write_rows(tmp_path)
    (tmp_path / "sweep.yaml").write_text(sweep_files.QLORA)
    return tmp_path


def packed(folder: Path, *changes: str, files: bool = True) -> shipping.Shipment:
    return shipping.pack(load.read_sweep_file("sweep.yaml", changes, folder)[0], (folder,), files)


def shipped(folder: Path, *changes: str, files: bool = True) -> tuple[shipping.Shipment, load.LoadedSweep]:
    """As `qsweep submit` does it, in this order."""
    words = [*changes, "cluster.profile=attached"]
    shipment = packed(folder, *words, files=files)
    return shipment, load.load("sweep.yaml", words, folder, shipment.there)


def on_cluster(shipment: shipping.Shipment, place: Path) -> load.LoadedSweep:
    """The sweep as the cluster reads it."""
    place.mkdir()
    (place / "sweep.yaml").write_text(shipment.text())
    for name, path in shipment.files.items():
        (place / name).symlink_to(path)
    return load.load("sweep.yaml", [], place)


def test_a_function_in_a_file_travels(folder: Path, tmp_path: Path) -> None:
    (folder / "scores.py").write_text("def right(row, answer):\n    return 1.0\n")
    shipment, here = shipped(folder, "evaluation.metrics=[exact_match, scores.py:right]")
    assert here.config.evaluation.metrics == ("exact_match", f"{folder / 'scores.py'}:right")
    there = on_cluster(shipment, tmp_path / "there")
    assert there.config.evaluation.metrics == ("exact_match", f"{tmp_path / 'there' / 'metric-1.py'}:right")


def test_a_trainable_in_a_file_travels_and_its_trials_keep_their_keys(folder: Path, tmp_path: Path) -> None:
    (folder / "mine.py").write_text(
        'from trainables import catalogue\n\nclass Curves(type(catalogue.find("toy"))):\n    pass\n'
    )
    shipment, here = shipped(folder, "trainable=mine.py:Curves")
    there = on_cluster(shipment, tmp_path / "there").config
    assert here.config.trainable == f"{folder}/mine.py:Curves"
    assert there.trainable == f"{tmp_path}/there/mine.py:Curves"
    specs = [config.base.model_copy(update={"seed": 1}) for config in (here.config, there)]
    assert points.trial_key(specs[0], {}) == points.trial_key(specs[1], {})


def test_the_cluster_reads_the_same_sweep(folder: Path, tmp_path: Path) -> None:
    sweep_files.write_rows(folder, "held_out.jsonl", first=100)
    changes = ["data.eval=held_out.jsonl", "training.learning_rate=2e-4", 'name="1e-4"', 'data.system="2026-01-01"']
    shipment, here = shipped(folder, *changes)
    place = tmp_path / "there"
    there = on_cluster(shipment, place).config
    assert set(shipment.files) == {"train.jsonl", "eval.jsonl"}
    assert (there.name, there.data.train, there.data.system) == ("1e-4", str(folder / "rows.jsonl"), "2026-01-01")
    same = ("name", "training", "adapter", "search_space", "budget", "scheduler", "searcher", "cluster")
    assert {key: getattr(there, key) for key in same} == {key: getattr(here.config, key) for key in same}


def test_a_model_and_a_profile_travel(folder: Path) -> None:
    (folder / "tiny-1.5").mkdir()
    (folder / "mine.yaml").write_text("address: auto\nhosts: 2\n")
    raw: dict[str, Any] = load.read_sweep_file(
        "sweep.yaml", ["model.source=./tiny-1.5", "cluster.profile=mine.yaml"], folder
    )[0]
    raw["model"]["facts"] = {"of": raw["model"]["source"]}
    shipment = shipping.pack(raw, (folder,))
    assert shipment.document["model"]["source"].startswith("./")
    assert shipment.document["model"]["facts"]["of"] == shipment.document["model"]["source"]
    assert shipment.document["cluster"]["profile"] == "./profile.yaml"
    assert sorted(path.name for path in shipment.files.values()) == ["mine.yaml", "rows.jsonl", "tiny-1.5"]


def test_files_that_are_too_large_are_refused_the_largest_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_files.write_rows(folder, "few.jsonl", rows=10, first=100)
    size = (folder / "rows.jsonl").stat().st_size
    monkeypatch.setattr(shipping, "MOST_BYTES", size)
    with pytest.raises(ConfigError) as told:
        shipped(folder, "data.eval=few.jsonl")
    (problem,) = told.value.problems
    assert problem.startswith(f"data.train: {folder}/rows.jsonl has ")
    assert "write data.train=THAT_PATH" in problem


def test_a_path_that_is_not_here_is_one_of_the_cluster(folder: Path) -> None:
    shipment, sweep = shipped(folder, "model.source=/shared/models/llama", "data.train=/shared/rows.jsonl")
    assert shipment.there == ("model.source", "data.train")
    assert shipment.files == {}
    assert shipment.document["data"]["train"] == "/shared/rows.jsonl"
    assert list(shipping.notices(shipment, sweep.config)) == [
        "model.source: /shared/models/llama is taken for a path of the cluster's nodes",
        "data.train: /shared/rows.jsonl is taken for a path of the cluster's nodes",
    ]
    with pytest.raises(ConfigError, match=r"data\.train"):
        shipped(folder, "data.train=rosw.jsonl")


def test_storage_is_not_looked_for_on_this_machine(folder: Path) -> None:
    """A file is in its way here."""
    elsewhere = [f"storage={folder}/rows.jsonl/results", f"tracking.uri=sqlite:///{folder}"]
    _, sweep = shipped(folder, *elsewhere)
    assert sweep.config.storage == f"{folder}/rows.jsonl/results"
    with pytest.raises(ConfigError) as told:
        load.load("sweep.yaml", elsewhere, folder)
    assert [problem.partition(":")[0] for problem in told.value.problems] == ["storage", "tracking.uri"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], ("~/results/x", "sqlite:///~/mlflow.db")),
        (["storage=./out", "tracking.uri=sqlite:///a/b.db"], ("~/out/x", "sqlite:///~/a/b.db")),
        (["storage=/shared/", "tracking.uri=http://mlflow:5000"], ("/shared/x", "http://mlflow:5000")),
        (["storage=s3://bucket/a"], ("~/results/x, mirrored in s3://bucket/a/x", "sqlite:///~/mlflow.db")),
        (["storage=~nobodyx/s", "tracking.uri=sqlite:////d/m.db"], ("~nobodyx/s/x", "sqlite:////d/m.db")),
    ],
)
def test_where_things_will_lie(folder: Path, changes: list[str], expected: tuple[str, str]) -> None:
    assert shipping.places(shipped(folder, *changes)[0]) == expected


def test_a_profile_says_where_things_lie_that_the_file_does_not_place(folder: Path) -> None:
    (folder / "team.yaml").write_text("{address: auto, storage: team/sweeps/, tracking: {uri: 'sqlite:///team.db'}}")
    shipment = packed(folder, "tracking.uri=http://mlflow:5000", "cluster.profile=team.yaml")
    assert shipping.storage(shipment) == "team/sweeps"
    assert shipping.places(shipment) == ("~/team/sweeps/x", "http://mlflow:5000")
    assert "storage" not in shipment.document, "the file travels as it is"


@pytest.mark.parametrize("key", ["2026-01-01", "!!binary gGE="])
def test_a_key_that_is_no_text_is_a_mistake(folder: Path, key: str) -> None:
    (folder / "sweep.yaml").write_text(f"{sweep_files.QLORA}\n{key}: 1\n")
    with pytest.raises(ConfigError, match=r"the sweep file: .* must be text"):
        shipped(folder)


def test_what_cannot_be_submitted(folder: Path) -> None:
    _, sweep = shipped(folder, "cluster.address=local")
    told = list(shipping.refusals(sweep.config))
    assert [problem.partition(":")[0] for problem in told] == ["cluster.profile"]


def test_a_server_on_this_machine_is_told(folder: Path) -> None:
    shipment, sweep = shipped(folder, "tracking.uri=http://localhost:5000")
    (line,) = shipping.notices(shipment, sweep.config)
    assert "the head node itself" in line
    assert json.loads(shipment.text())["tracking"] == {"uri": "http://localhost:5000"}


def test_a_list_of_files_does_not_travel(tmp_path) -> None:
    raw = {"name": "x", "data": {"train": [str(tmp_path / "a.jsonl")]}}
    with pytest.raises(ConfigError, match="a list of files does not travel with a sweep: name a folder that holds"):
        shipping.pack(raw, (tmp_path,))
    assert shipping.pack(raw, (tmp_path,), ships_files=False).document["data"] == raw["data"]
