"""A sweep's folder and its mirror on a real S3 server: what is there at each moment, and what is fetched elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mirrors
import pytest

from sweeps.errors import ConfigError, StorageError, SweepError
from sweeps.mirror.fetching import fetch
from sweeps.mirror.manifest import FORMAT
from sweeps.mirror.store import Store
from sweeps.record.folder import SweepFolder
from sweeps.steering import local_sweeps
from sweeps.tracking import stores


def lost(folder, tmp_path):
    """The machine of a folder is lost, and with it all that is not on the object store."""
    kept = tmp_path / "what was there"
    folder.path.rename(kept)
    return kept


def test_what_is_fetched_is_what_was_there(bucket, folder, tmp_path):
    assert folder.path == tmp_path / "a" / "results" / "toy"
    with mirrors.driving(folder) as drive:
        for step in (3, 9):
            drive.report("k1", step)
            drive.report("k2", step)
        drive.finish("k1")
        assert drive.drain() is None
    texts = [
        *(path.read_bytes() for path in folder.path.rglob("*") if path.is_file()),
        *map(bucket.read, bucket.names()),
    ]
    assert [text for text in texts if b"key-4711" in text or b"secret-0815" in text] == [], "no credential is written"
    kept = lost(folder, tmp_path)
    said: list[str] = []
    fetched = fetch(f"{bucket.uri}/toy", tmp_path / "b", said.append)
    assert fetched == tmp_path / "b" / "toy"
    assert mirrors.files(fetched) == mirrors.files(kept)
    assert set(mirrors.files(fetched)) >= {"trials/k2/snapshot-000009/snapshot.bin", "events.jsonl", "config.json"}
    assert "trials/k1/snapshot-000009/snapshot.bin" not in mirrors.files(fetched)
    assert said == [f"fetching {bucket.uri}/toy: {len(mirrors.files(kept))} files, 0.0 MB"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["toy"]
    of_k1 = {name for name in bucket.names("toy/objects") if "/trials/k1/" in name}
    assert len(of_k1) == 4, "an adapter of two files, and the rows of two reports"
    with mirrors.driving(SweepFolder(fetched)) as drive:
        drive.report("k2", 27)
        assert drive.drain() is None
    assert of_k1 <= set(bucket.names("toy/objects")), "it goes on without sending everything again"


def test_a_sweep_or_a_mirror_of_another_format_is_refused_before_its_driver_is_fenced(bucket, folder, tmp_path):
    folder.config.write_text(json.dumps({**folder.described(), "format": 77, "qsweep": "9.1"}))
    mirrors.drive(folder, 3)
    before = bucket.document("toy/manifest.json")
    with pytest.raises(StorageError, match=r"has format 77, .* go on with qsweep 9\.1"):
        fetch(f"{bucket.uri}/toy", tmp_path / "b", print)
    assert bucket.document("toy/manifest.json") == before
    bucket.write("toy/manifest.json", json.dumps({**before, "format": 77}).encode())
    told = f"has format 77, and this version reads format {FORMAT} alone: go on with the version that wrote"
    with pytest.raises(StorageError, match=told):
        fetch(f"{bucket.uri}/toy", tmp_path / "b", print)


def test_a_mirror_that_somebody_deleted_is_made_anew(bucket, folder, tmp_path):
    with mirrors.driving(folder) as drive:
        drive.report("k1", 3)
        drive.settle()
        Store(bucket.uri).remove(bucket.names())
        drive.report("k2", 3)
        assert drive.drain() is None
        assert drive.ended == []
    kept = lost(folder, tmp_path)
    assert mirrors.files(fetch(f"{bucket.uri}/toy", tmp_path / "b", print)) == mirrors.files(kept)


def test_a_damaged_object_is_told_and_nothing_is_fetched(bucket, folder, tmp_path):
    name = "adapter_model.safetensors"
    mirrors.drive(folder, 3)
    lost(folder, tmp_path)
    damaged = next(each for each in bucket.names() if each.endswith(name))
    bucket.write(damaged, b"damaged")
    with pytest.raises(StorageError, match=rf"objects/.*{name}: is not what was sent"):
        fetch(f"{bucket.uri}/toy", tmp_path / "b", print)
    assert list((tmp_path / "b").iterdir()) == []
    assert bucket.document("toy/manifest.json")["has_left"], "nobody has to be asked before the next try"


def test_what_a_killed_fetch_has_left_is_removed_by_the_next(bucket, folder, tmp_path, monkeypatch):
    mirrors.drive(folder, 3)
    lost(folder, tmp_path)
    here = tmp_path / "b"
    with monkeypatch.context() as killed:
        killed.setattr(Path, "rename", lambda *_: 1 / 0)
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(ZeroDivisionError):
            fetch(f"{bucket.uri}/toy", here, print)
    (left,) = here.iterdir()
    assert (left / "config.json").is_file()
    other = here / f".toy.{'0' * 8}.{'0' * 8}"  # of a mirror elsewhere
    other.mkdir()
    fetched = fetch(f"{bucket.uri}/toy", here, print)
    assert sorted(here.iterdir()) == [other, fetched]


def test_a_second_launch_of_a_name_is_another_sweep_on_the_store_too(bucket, tmp_path, monkeypatch):
    first = mirrors.created(bucket.uri, tmp_path / "a", monkeypatch)
    elsewhere = mirrors.created(bucket.uri, tmp_path / "b", monkeypatch)
    again = mirrors.created(bucket.uri, tmp_path / "a", monkeypatch)
    assert [folder.path.name for folder in (first, elsewhere, again)] == ["toy", "toy-2", "toy-3"]
    assert not (tmp_path / "b" / "results" / "toy").exists()
    assert bucket.names() == [f"{name}/manifest.json" for name in ("toy-2", "toy-3", "toy")]
    # The name of a launch which mirrored nothing can be freed.
    mirrors.drive(elsewhere)
    Store(bucket.uri).remove(["toy/manifest.json"])
    assert [mirrors.created(bucket.uri, tmp_path / name, monkeypatch).path.name for name in "cd"] == ["toy", "toy-4"]


def test_another_sweep_in_the_place_of_the_mirror_is_not_overwritten(bucket, folder):
    mirrors.drive(folder)
    other = {**bucket.document("toy/manifest.json"), "sweep_id": "other-1"}
    bucket.write("toy/manifest.json", json.dumps(other).encode())
    told = r"toy: holds another sweep, other-1, and not toy-1 of .*: somebody replaced it"
    with pytest.raises(StorageError, match=told):
        mirrors.driving(folder).__enter__()
    assert bucket.document("toy/manifest.json") == other


def test_a_place_without_a_sweep_tells_which_sweeps_are_there(bucket, folder, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"toy: no sweep here: the driver on \S+ \(process \d+\) has taken this name, and has mirrored nothing "
        r"yet; if it is over, .* delete .*/toy/manifest.json, which frees the name$",
    ):
        fetch(f"{bucket.uri}/toy", tmp_path / "b", print)
    with pytest.raises(ConfigError, match=r"other: no sweep here$"):
        fetch(f"{bucket.uri}/other", tmp_path / "b", print)
    mirrors.drive(folder)
    with pytest.raises(ConfigError, match=r"no sweep here; in it are toy$"):
        fetch(bucket.uri, tmp_path / "b", print)
    with pytest.raises(ConfigError, match="must be s3://BUCKET/PREFIX"):
        fetch("s3://", tmp_path / "b", print)


def test_the_folder_of_this_machine_is_used_when_it_is_the_newest(bucket, folder, tmp_path):
    mirrors.drive(folder, 3)
    said: list[str] = []
    assert fetch(f"{bucket.uri}/toy", tmp_path / "b", said.append) == folder.path
    assert said == [f"the sweep's folder is on this machine: {folder.path}"]
    assert not (tmp_path / "b").exists()


def test_a_folder_that_is_behind_is_refused_and_kept_when_the_newest_is_fetched(bucket, folder, tmp_path):
    mirrors.drive(folder, 3)
    old = lost(folder, tmp_path)
    mirrors.drive(SweepFolder(fetch(f"{bucket.uri}/toy", tmp_path / "b", print)), 9)
    newest = mirrors.files(tmp_path / "b" / "toy")
    old.rename(folder.path)
    with pytest.raises(StorageError, match=rf"toy: the sweep has gone on elsewhere.*qsweep resume {bucket.uri}/toy"):
        mirrors.driving(folder).__enter__()
    shutil.rmtree(tmp_path / "b")
    said: list[str] = []
    assert fetch(f"{bucket.uri}/toy", tmp_path / "b", said.append) == folder.path
    assert mirrors.files(folder.path) == newest
    assert said[-1] == f"{folder.path} is behind, and is kept as {folder.path}.behind"
    assert (tmp_path / "a" / "results" / "toy.behind" / "trials" / "k1" / "best-000003").is_dir()


def test_other_commands_say_how_to_name_the_sweep(tmp_path):
    with pytest.raises(SweepError, match="s3://b/p/toy: is read where its driver runs: name the sweep's folder there"):
        local_sweeps.find("s3://b/p/toy", tmp_path)
    with pytest.raises(SweepError, match="s3://b/p/toy: name the sweep by its id or name and the MLflow store"):
        stores.find("s3://b/p/toy")
