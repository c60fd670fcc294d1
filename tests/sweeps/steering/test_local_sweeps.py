"""A sweep is found by its folder, its id or its name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock, call

import pytest
from sweep_events import begun

from sweeps.config.model import SweepConfig
from sweeps.errors import SweepError
from sweeps.record.events import SweepEnded, to_line
from sweeps.record.folder import FORMAT, SweepFolder, locked
from sweeps.steering.local_sweeps import find, line_on_earlier, new_id

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make(storage: Path, folder: str, sweep_id: str, began: float) -> Path:
    path = storage / folder
    path.mkdir()
    config = {"name": "x", "budget": {"trials": 4}, "tracking": {"uri": "sqlite:///mlflow.db"}}
    document = {"format": FORMAT, "sweep_id": sweep_id, "dir": str(path), "config": config}
    (path / "config.json").write_text(json.dumps(document))
    (path / "events.jsonl").write_text(f"{to_line(begun(began))}\n")
    return path


def change(folder: Path, **changes: str) -> None:
    """Changes what a sweep's folder says of itself."""
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Two sweeps of one name; the folder that sorts last is the older one."""
    make(tmp_path, "x", "x-new", began=20.0)
    make(tmp_path, "x-2", "x-old", began=10.0)
    (tmp_path / "no-sweep").mkdir()
    (tmp_path / "no-sweep" / "config.json").write_text("[]")
    return tmp_path


@pytest.mark.parametrize(("sweep", "folder"), [("x", "x"), ("x-old", "x-2"), ("x-new", "x"), ("x-2", "x-2")])
def test_a_sweep_is_found_by_id_or_name_and_the_newest_is_meant(storage: Path, sweep: str, folder: str) -> None:
    assert find(sweep, storage).path == storage / folder


def test_one_that_is_just_being_launched_is_the_newest(storage: Path) -> None:
    """Its log is empty for seconds: MLflow is imported, and the model is read."""
    launched = SweepFolder(make(storage, "x-3", "x-3", began=30.0))
    launched.events.write_text("")
    with locked(launched):
        assert find("x", storage).path == launched.path
    assert find("x", storage).path == storage / "x", "it never began"


def test_a_copy_of_its_folder_is_not_taken_for_the_sweep(tmp_path: Path) -> None:
    """The disk may list any of them first."""
    original = SweepFolder(tmp_path / "x")
    for name in (*(f"copy-{number}" for number in range(4)), "x", "x.behind"):
        change(make(tmp_path, name, "x-id", began=10.0), dir=str(original.path), mirror="s3://b/p/x")
    assert [find(sweep, tmp_path).path for sweep in ("x", "x-id", "s3://b/p/x")] == [original.path] * 3
    assert find("x.behind", tmp_path).path == tmp_path / "x.behind", "it has a name of its own"
    config = SweepConfig(name="x", trainable="toy", storage=str(tmp_path))
    with pytest.raises(SweepError, match=f"qsweep resume {original.path}$"):
        new_id(config, NOW, lambda *_words: False, {"QSWEEP_SWEEP_ID": "x-id"})
    original.config.write_text(original.config.read_text().replace('"dir"', '"no_dir"'))  # an early version's
    with locked(original):
        assert find("x-id", tmp_path).path == original.path, "a copy has no driver"


def test_a_model_in_the_current_folder_is_not_taken_for_the_sweep_of_its_name(storage, monkeypatch):
    here = storage / "here"
    (here / "x").mkdir(parents=True)
    (here / "x" / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.chdir(here)
    assert find("x", storage).path == storage / "x"
    assert find("x", here / "nowhere").path == here / "x", "perhaps a damaged sweep"
    assert find("./x", storage).path == here / "x"
    make(here, "x-2", "x-here", began=1.0)
    assert find("x-2", storage).path == here / "x-2", "a sweep of this folder comes first"


def test_a_sweep_is_found_by_its_mirror_and_one_that_is_not_there_is_told(storage: Path) -> None:
    change(storage / "x-2", mirror="s3://b/p/x")
    assert find("s3://b/p/x", storage).path == find("s3://b/p/x/", storage).path == storage / "x-2"
    with pytest.raises(SweepError, match="s3://b/p/x-2: is read where its driver runs"):
        find("s3://b/p/x-2", storage)
    make(storage, ".x.12ab34cd.12ab34cd", "x-half", began=30.0)  # as a killed fetch leaves it
    for sweep in ("y", "no-sweep", "./y", "x-half"):
        with pytest.raises(SweepError, match="no sweep"):
            find(sweep, storage)
    told = f"x: no sweep .* there is no folder {storage}/no; name .* with --storage, or its cluster with --address$"
    with pytest.raises(SweepError, match=told):
        find("x", storage / "no")
    with pytest.raises(SweepError, match=r"with --storage$"):
        find("x", storage / "no", has_address=False)


def test_a_name_that_is_wrong_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=f"in {tmp_path}; name its folder"):
        find("quikstart", tmp_path)
    make(tmp_path, "quickstart", "quickstart-20260102", began=10.0)
    for number in range(6):
        make(tmp_path, f"abc{number}", f"abc{number}", began=float(number))
    with pytest.raises(SweepError, match=r"; did you mean quickstart\?; name its folder"):
        find("quikstart", tmp_path)
    with pytest.raises(SweepError, match="; the newest there: quickstart, abc5, abc4, abc3, abc2; name its folder"):
        find("zzzzzzz", tmp_path)


def test_the_id_of_a_job_is_given_to_one_sweep_only(storage: Path) -> None:
    config = SweepConfig(name="x", trainable="toy", storage=str(storage))
    is_tracked = Mock(side_effect=lambda _uri, sweep_id: sweep_id == "x-lost")

    def given(sweep_id: str) -> str:
        return new_id(config, NOW, is_tracked, {"QSWEEP_SWEEP_ID": sweep_id})

    assert new_id(config, NOW, is_tracked, {}).startswith("x-20260102-030405-")
    is_tracked.assert_not_called()
    assert given("x-3") == "x-3"
    with pytest.raises(SweepError, match=r"x-2: the sweep x-old is there already: go on with it with qsweep resume /"):
        given("x-old")
    with pytest.raises(SweepError, match=r"x-lost: MLflow \(sqlite:.* has a sweep of this id .* --submission-id"):
        given("x-lost")
    assert is_tracked.mock_calls == [call(config.tracking.uri, "x-3"), call(config.tracking.uri, "x-lost")]


def test_a_launch_is_told_of_the_newest_sweep_of_its_name_and_what_to_do_with_it(storage: Path) -> None:
    launched = SweepFolder(storage / "x-3")
    make(storage, "x-3", "x-3", began=30.0)
    there = SweepFolder(storage / "x")
    told = "the sweep x-new, launched before, "
    assert line_on_earlier(launched, "x", 40.0) == f"{told}has not finished: qsweep resume {there.path} goes on with it"
    with locked(there):
        assert line_on_earlier(launched, "x", 40.0) == f"{told}is running: qsweep status {there.path} --watch shows it"
    begun_and_ended = there.events.read_text() + to_line(SweepEnded(time=25.0, reason="finished")) + "\n"
    there.events.write_text(begun_and_ended)
    assert line_on_earlier(launched, "x", 40.0) == f"{told}is finished: qsweep status {there.path} shows it"
    there.events.write_text(begun_and_ended + "torn\n")
    assert "damaged" in (line_on_earlier(launched, "x", 40.0) or "")
    assert line_on_earlier(launched, "y", 40.0) is None
