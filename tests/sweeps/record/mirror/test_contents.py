"""What of a sweep's folder is mirrored, and when it is looked at."""

from __future__ import annotations

import os
import shutil

import pytest
from sweep_events import begun, ended, reported, started

from sweeps.errors import StorageError
from sweeps.record.events import TrialState
from sweeps.record.folder import EventLog, SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.mirror import contents
from sweeps.record.mirror.contents import Contents, link, small_files, trial_files
from sweeps.record.mirror.manifest import Seen, Stored, TrialFiles
from sweeps.record.whole_files import write_whole


class World:
    """A sweep's folder whose mirror holds all that was taken."""

    def __init__(self, path):
        self.folder = SweepFolder(path)
        path.mkdir(exist_ok=True)
        write_whole(self.folder.config, b"{}")
        self.journal = Journal(self.folder)
        self.contents = Contents(self.folder, self.journal)
        self.journal.listen(self.contents.heard)
        self.known: dict[str, TrialFiles] = {}

    def take(self):
        taken = self.contents.take({}, self.known)
        for key, seen in taken.trials.items():
            stored = {
                path: Stored(object=path, size=at.size, sha256="0", mtime_ns=at.mtime_ns) for path, at in seen.items()
            }
            self.known[key] = TrialFiles(files=stored)
        self.contents.arrived(taken)
        return taken

    def age(self, key):
        """Makes the trial's folder one that was changed long ago."""
        os.utime(self.folder.trial(key), ns=(1, 1))


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.journal.add(begun())
    return made


def test_locks_drafts_the_note_and_requests_are_not_mirrored(world):
    for name in ("driver.lock", ".config.json.1a2b", "mirror.json", "tracking.json"):
        (world.folder.path / name).write_text("x")
    (world.folder.requests).mkdir()
    assert small_files(world.folder.path) == ["config.json", "tracking.json"]


def test_a_trials_files_are_all_but_drafts(world):
    world.folder.keep("k", "best", 3, {"adapter/a": b"12", "eval_rows.json": b"3"})
    (world.folder.trial("k") / ".snapshot-000003.1a2b").mkdir()
    assert {path: seen.size for path, seen in trial_files(world.folder.trial("k")).items()} == {
        "best-000003/adapter/a": 2,
        "best-000003/eval_rows.json": 1,
    }
    assert trial_files(world.folder.trial("other")) == {}


def test_a_link_that_leads_nowhere_is_no_file(world):
    world.journal.add(started("k"))
    world.folder.keep("k", "best", 3, {"adapter/a": b"12"})
    (world.folder.trial("k") / "latest").symlink_to("gone")
    assert set(world.take().trials["k"]) == {"best-000003/adapter/a"}


@pytest.mark.parametrize("is_absolute", [True, False])
def test_of_a_link_that_somebody_has_put_there_the_file_is_taken(world, is_absolute):
    world.journal.add(started("k"))
    kept = world.folder.keep("k", "best", 3, {"adapter/a": b"1"})
    (world.folder.path / "trials" / "mine").write_bytes(b"123")
    (kept / "adapter" / "b").symlink_to(world.folder.path / "trials" / "mine" if is_absolute else "../../../mine")
    assert (kept / "adapter" / "b").read_bytes() == b"123"
    for _ in range(2):
        world.contents.take({}, {})
        assert (world.contents.stage / "k" / "best-000003" / "adapter" / "b").read_bytes() == b"123"


def test_what_is_new_is_linked_so_that_it_outlives_its_removal(world):
    world.journal.add(started("k"))
    kept = world.folder.keep("k", "snapshot", 3, {"snapshot.bin": b"123"})
    world.contents.take({}, {})
    shutil.rmtree(kept)
    assert (world.contents.stage / "k" / "snapshot-000003" / "snapshot.bin").read_bytes() == b"123"


def test_a_disk_without_hard_links_gets_copies(world, monkeypatch):
    def refuses(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuses)
    source, target = world.folder.path / "a", world.folder.path / "b" / "a"
    source.write_bytes(b"12")
    state = source.stat()
    link(source, target, Seen(state.st_size, state.st_mtime_ns), world.folder.path)
    assert target.read_bytes() == b"12"
    assert target.stat().st_mtime_ns == state.st_mtime_ns


def test_a_sweep_that_is_moved_while_it_is_looked_at_does_not_come_back_half(tmp_path, monkeypatch):
    world = World(tmp_path / "sweep")
    world.journal.add(begun())
    world.journal.add(started("k"))
    world.folder.keep("k", "snapshot", 3, {"snapshot.bin": b"123"})

    def moved(*words):
        world.folder.path.rename(tmp_path / "elsewhere")
        link(*words)

    monkeypatch.setattr(contents, "link", moved)
    with pytest.raises(FileNotFoundError):
        world.contents.take({}, {})
    assert not world.folder.path.exists()


def test_an_older_link_of_the_same_name_is_replaced(world):
    source, target = world.folder.path / "a", world.folder.path / "b" / "a"
    for content in (b"12", b"345"):
        source.unlink(missing_ok=True)
        source.write_bytes(content)
        state = source.stat()
        link(source, target, Seen(state.st_size, state.st_mtime_ns), world.folder.path)
        assert target.read_bytes() == content


def test_an_idle_sweep_has_its_trials_folders_read_no_more(world, monkeypatch):
    monkeypatch.setattr(contents, "RECENT_SECONDS", -1.0)
    for number in range(30):
        key = f"k{number:02d}"
        world.journal.add(started(key, number))
        world.folder.keep(key, "best", 3, {"adapter/a": b"12"})
        world.journal.add(ended(key, TrialState.COMPLETED))
        world.age(key)
    world.take()
    looked: list[str] = []
    stat, scandir = os.stat, os.scandir

    def seen_stat(path, **more):
        looked.append(str(path))
        return stat(path, **more)

    def seen_scandir(path):
        looked.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "stat", seen_stat)
    monkeypatch.setattr(os, "scandir", seen_scandir)
    assert world.take().trials == {}
    assert str(world.folder.path) in looked
    assert [path for path in looked if "trials" in path] == []


def test_a_snapshot_of_a_live_trial_is_seen_without_an_event(world):
    world.journal.add(started("k"))
    world.take()
    world.folder.keep("k", "snapshot", 3, {"snapshot.bin": b"123"})
    assert set(world.take().trials["k"]) == {"snapshot-000003/snapshot.bin"}
    world.age("k")
    world.take()
    assert "k" not in world.take().trials


def test_what_an_event_makes_superfluous_is_seen_to_go_after_it(world):
    world.journal.add(started("k"))
    world.folder.keep("k", "snapshot", 3, {"snapshot.bin": b"123"})
    world.journal.add(ended("k", TrialState.COMPLETED))
    world.age("k")
    assert set(world.take().trials["k"]) == {"snapshot-000003/snapshot.bin"}
    world.folder.drop_snapshots("k")
    assert world.take().trials["k"] == {}


def test_the_log_is_taken_as_it_was_while_the_trials_were_looked_at(world, monkeypatch):
    """An event in between would name an adapter that was not seen, or have one removed that the log names."""
    world.journal.add(started("k"))
    world.folder.keep("k", "best", 1, {"adapter/a": b"1"})
    real = trial_files
    calls: list[object] = []

    def reports_meanwhile(path):
        found = real(path)
        if not calls:
            calls.append(path)
            kept = world.folder.keep("k", "best", 3, {"adapter/a": b"12"})
            world.journal.add(reported("k", 3, 1.0))
            world.folder.prune_adapters("k", kept)
        return found

    monkeypatch.setattr(contents, "trial_files", reports_meanwhile)
    taken = world.take()
    assert taken.log_bytes == world.journal.log.length
    assert set(taken.trials["k"]) == {"best-000003/adapter/a"}


def test_all_that_is_taken_of_a_trial_is_linked_though_it_goes_on_meanwhile(world, monkeypatch):
    """It reports when it was seen, is seen again, and has another snapshot before that one is linked."""
    world.journal.add(started("k"))
    world.folder.keep("k", "snapshot", 1, {"snapshot.bin": b"1"})
    real = trial_files
    looks: list[object] = []

    def goes_on_meanwhile(path):
        found = real(path)
        if path == world.contents.stage / "k":
            return found
        looks.append(path)
        if len(looks) in (2, 3):
            world.folder.keep("k", "snapshot", len(looks), {"snapshot.bin": b"1"})
            world.folder.drop_snapshots("k", but=1)
        if len(looks) == 2:
            world.journal.add(reported("k", 1, 1.0))
        return found

    monkeypatch.setattr(contents, "trial_files", goes_on_meanwhile)
    taken = world.contents.take({}, {})
    assert taken.trials["k"] == real(world.contents.stage / "k")
    assert set(taken.trials["k"]) == {"snapshot-000003/snapshot.bin"}


def test_a_log_that_never_rests_is_told(world, monkeypatch):
    lengths = iter(range(10**6))
    monkeypatch.setattr(EventLog, "length", property(lambda _: next(lengths)), raising=False)
    with pytest.raises(StorageError, match="faster than its mirror"):
        world.take()


def test_what_did_not_arrive_is_looked_at_again(world):
    world.journal.add(started("k"))
    world.folder.keep("k", "best", 3, {"adapter/a": b"12"})
    world.age("k")
    taken = world.contents.take({}, {})
    assert world.contents.unsent == {"k"}
    world.contents.missed(taken)
    again = world.take()
    assert again.trials == taken.trials
    assert world.contents.unsent == set()


def test_what_did_not_arrive_and_is_gone_takes_no_room(world):
    """The store takes small objects, so that the lease is held, and no large one: an outage may last for hours."""
    world.journal.add(started("k"))
    for step in range(1, 6):
        world.folder.keep("k", "snapshot", step, {"snapshot.bin": bytes(1000)})
        world.folder.drop_snapshots("k", but=1)
        world.contents.missed(world.contents.take({}, {}))
    linked = [path for path in world.contents.stage.rglob("*") if path.is_file()]
    assert [path.parent.name for path in linked] == ["snapshot-000005"]


def test_small_files_are_read_only_when_they_changed(world):
    state = world.folder.config.stat()
    known = {"config.json": Stored(object="o", size=state.st_size, sha256="0", mtime_ns=state.st_mtime_ns)}
    assert world.contents.take(known, {}).files["config.json"][1] is None
    write_whole(world.folder.config, b"{ }")
    assert world.contents.take(known, {}).files["config.json"][1] == b"{ }"


def test_a_folder_that_is_gone_is_no_empty_one(world):
    shutil.rmtree(world.folder.path)
    with pytest.raises(OSError, match="No such file"):
        world.contents.take({}, {})
