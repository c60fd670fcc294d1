"""A sweep that goes on is the one that was launched, in the place where it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import report_sweeps
from sweep_files import toy

from sweeps import launch as launching
from sweeps import saved_sweep
from sweeps.config.load import LoadedSweep
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError, StorageError
from sweeps.record import folder as folders
from sweeps.record.events import SweepStarted, to_line
from sweeps.record.folder import SweepFolder
from sweeps.report import status, summary
from sweeps.steering import local_sweeps
from sweeps.tracking import stores
from trainables.errors import DataError, NotTrainable

ID = "x-20260101-000000-abcd"


def launched(storage: Path, kept: str | None = None) -> SweepFolder:
    """A sweep's folder after its driver began; its log keeps the configuration, or this text in its place."""
    config, _ = toy()
    folder = folders.create(storage, "x", saved_sweep.document(config, ID))
    started = SweepStarted(time=0.0, config=kept or config.model_dump_json(), sweep_id=ID)
    folder.events.write_text(to_line(started) + "\n")
    return folder


def edit(folder: SweepFolder, **changes: object) -> None:
    """Changes keys of its document; None takes one away."""
    document = json.loads(folder.config.read_text()) | changes
    folder.config.write_text(json.dumps({name: value for name, value in document.items() if value is not None}))


def refused(folder: SweepFolder) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        saved_sweep.load(folder)
    return caught.value.problems


def test_a_sweep_goes_on_under_its_id(tmp_path: Path) -> None:
    folder = launched(tmp_path)
    assert saved_sweep.load(folder)[1] == ID
    assert saved_sweep.note_place(folder) is None


@pytest.mark.parametrize(
    ("stamp", "told"),
    [
        ({"format": None, "qsweep": None}, "has format none, and .* reads format 2 alone: go on with the version that"),
        ({"format": 1, "qsweep": "0.2.0"}, "has format 1, and this version reads format 2 alone: go on with qsweep 0"),
    ],
)
def test_a_folder_of_another_format_is_refused_in_one_line(tmp_path: Path, stamp: dict[str, object], told: str) -> None:
    folder = launched(tmp_path)
    edit(folder, **stamp)
    for asks in (
        lambda: saved_sweep.load(folder),
        lambda: status.read_status(folder, 0.0),
        lambda: status.read_status(local_sweeps.find("x", tmp_path), 0.0),
        lambda: status.read_status(local_sweeps.find(ID, tmp_path), 0.0),
        lambda: stores.find(str(folder.path)),
    ):
        with pytest.raises(StorageError, match=rf"^{folder.config}: {told}.*$"):
            asks()


def test_another_id_is_refused(tmp_path: Path) -> None:
    folder = launched(tmp_path)
    edit(folder, sweep_id="another")
    change, way_out = refused(folder)
    assert change == f'{folder.config}: sweep_id was "{ID}" at launch and is "another" now'
    assert way_out == "a sweep goes on as it was launched: put the values back, or launch a new sweep"


def test_a_copy_beside_its_original_is_refused(tmp_path: Path) -> None:
    original = launched(tmp_path)
    copy = SweepFolder(Path(shutil.copytree(original.path, tmp_path / "copy")))
    (problem,) = refused(copy)
    assert problem.startswith(f"{copy.path}: is a copy of the sweep in {original.path}, and MLflow would get every")
    assert f"qsweep resume {original.path}" in problem
    saved_sweep.load(original)


def test_a_folder_that_was_moved_goes_on_and_knows_its_place(tmp_path: Path) -> None:
    original = launched(tmp_path)
    moved = SweepFolder(original.path.rename(tmp_path / "moved"))
    saved_sweep.load(moved)
    assert saved_sweep.note_place(moved) == original.path
    assert json.loads(moved.config.read_text())["dir"] == str(moved.path)
    assert saved_sweep.note_place(moved) is None
    saved_sweep.load(moved)


def test_another_sweep_in_the_former_place_is_no_original(tmp_path: Path) -> None:
    original = launched(tmp_path)
    moved = SweepFolder(original.path.rename(tmp_path / "moved"))
    edit(launched(tmp_path), sweep_id="x-2")
    assert saved_sweep.load(moved)[1] == ID


def test_a_log_whose_configuration_is_damaged_is_told(tmp_path: Path) -> None:
    folder = launched(tmp_path, kept="[" * 100_000)
    with pytest.raises(StorageError, match="the configuration in its first line is damaged: it is nested more than"):
        saved_sweep.load(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "no sweep_id"),
        (b'{"config": 5, "sweep_id": "x"}', "its config is no mapping"),
        (b'{"config": {}}', "no sweep_id"),
        (b"[" * 100_000, "nested more than"),
        (b"1" * 10_000, "thousands of digits"),
    ],
)
def test_a_config_that_is_none_is_told(tmp_path: Path, content: bytes, reason: str) -> None:
    folder = launched(tmp_path)
    folder.config.write_bytes(content)
    (problem,) = refused(folder)
    assert problem.startswith(f"{folder.config}: not the configuration of a sweep: ")
    assert reason in problem


def test_a_sweep_whose_data_is_gone_says_where_to_put_it(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    given = {"train": str(data), "text": "{text}"}
    config = SweepConfig.model_validate({"name": "x", "data": given, "model": {"source": "tiny/model"}})
    sweep = LoadedSweep(config, toy()[1])
    data.write_text('{"text": "a"}\n')
    began_with = saved_sweep.fingerprints(sweep, {})
    assert saved_sweep.fingerprints(sweep, began_with) == began_with
    data.write_text('{"text": "b"}\n')
    with pytest.raises(ConfigError, match=r"data\.train: its content is not what the sweep began with"):
        saved_sweep.fingerprints(sweep, began_with)
    data.unlink()
    with pytest.raises(ConfigError, match=r"^data\.train: .*\.jsonl does not exist; put .* there again: "):
        saved_sweep.fingerprints(sweep, began_with)
    with pytest.raises(DataError):
        saved_sweep.fingerprints(sweep, {})


def test_a_finished_sweep_is_sent_again_without_its_data(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"train": str(tmp_path / "gone.jsonl"), "text": "{text}"}
    # The writer may go on once the test is over: where it writes must not depend on where it stands.
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}
    document = report_sweeps.config(trainable="qlora", data=data, model={"source": "tiny/model"}, tracking=tracking)
    folder = report_sweeps.write(tmp_path / "x", report_sweeps.events(3, document), document)
    monkeypatch.setattr(launching, "DRAIN_SECONDS", 0.1)
    launching.resume(folder.path, summary.displays(0.0), resend=True)
    assert "finished already: no trial is run" in capsys.readouterr().err


OWN = """
from trainables.toy import *
from trainables.toy import REQUIRES, check, need, open_pack, prepare

def fingerprint(base):
    raise KeyError("broken")
"""


def test_a_broken_fingerprint_of_an_own_trainable_leaves_no_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    config, space = toy({}, trainable=str(tmp_path / "mine.py"), storage=str(tmp_path / "results"))
    with pytest.raises(NotTrainable, match="its fingerprint"):
        launching.prepare(LoadedSweep(config, space), print, offline=True)
    assert not (tmp_path / "results").exists()


COUNTED = OWN.replace(
    'raise KeyError("broken")',
    'with open(__file__ + ".log", "a") as log:\n        log.write("once")\n    return {"rows": "5"}',
)


def test_a_sweep_that_begins_asks_an_own_trainable_for_its_fingerprint_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(COUNTED)
    config, space = toy({}, trainable=str(tmp_path / "mine.py"), storage=str(tmp_path / "results"))
    sweep, _ = launching.prepare(LoadedSweep(config, space), print, offline=True)
    assert saved_sweep.fingerprints(sweep, {}) == {"rows": "5"}
    assert (tmp_path / "mine.py.log").read_text() == "once"
