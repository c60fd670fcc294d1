"""What of a sweep's folder is sent, and that the mirror is whole at each moment, whatever happens meanwhile."""

from __future__ import annotations

import time
from contextlib import suppress
from unittest.mock import Mock

import mirrors
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore
from pydantic import ValidationError
from sweep_events import base, begun

from sweeps.mirror import timeouts
from sweeps.mirror.contents import TrialFolders, small_files, trial_files
from sweeps.mirror.manifest import OwnManifest, TrialFiles, read_manifest, read_trials, signed, write_manifest
from sweeps.mirror.sending import Sender
from sweeps.mirror.store import Store, Stored, StoreError
from sweeps.record.events import from_line
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.sweep_record import SweepRecord
from sweeps.record.whole_files import write_whole

ADAPTER = ("adapter/adapter_model.safetensors", "eval_rows.json")


class Meddled(Store):
    """A store in memory. Before it takes objects, something happens; it may refuse."""

    def __init__(self):
        memory = MemoryStore()
        super().__init__("s3://b/p/toy", lambda *_, **__: memory)
        self.meanwhile = lambda _names: None
        self.taken: list[str] = []

    def send(self, contents):
        if contents:
            self.meanwhile(list(contents))
        sent = super().send(contents)
        self.taken += sent
        return sent

    def once(self, part, happens):
        """Something happens when it is given an object with such a name, the first time."""

        def meanwhile(names):
            if any(part in name for name in names):
                self.meanwhile = lambda _names: None
                happens()

        self.meanwhile = meanwhile


class World(mirrors.Drive):
    """A sweep's folder and its mirror."""

    def __init__(self, path):
        path.mkdir(exist_ok=True)
        folder = SweepFolder(path)
        write_whole(folder.config, b"{}")
        super().__init__(folder, Journal(folder), None)
        self.store = Meddled()
        first = signed("toy-1", None)
        self.manifest = OwnManifest(self.store, first, write_manifest(self.store, first, None), self.ended.append)
        self.sender = Sender(self.store, self.manifest, self.folder, self.journal)
        self.journal.add(begun())

    def mirrored(self):
        """The record and the trials' files as the mirror has them; nothing that the log names is missing."""
        found = read_manifest(self.store)
        assert found is not None
        manifest = found[0]
        trials = read_trials(self.store, manifest)
        files = {key: dict(each.files) for key, each in trials.items()}
        for stored in [*manifest.files.values(), *(one for each in files.values() for one in each.values())]:
            content = self.store.read(stored.object)
            assert content is not None
            assert len(content[0]) == stored.size
        record = SweepRecord()
        parts = [self.store.read(part.object) for part in manifest.log]
        for line in b"".join(part[0] for part in parts if part is not None).splitlines():
            record = record.apply(from_line(line))
        for trial in record.trials.values():
            if trial.adapter is not None:
                kept = trial.adapter.rpartition("/")[2]
                assert {f"{kept}/{name}" for name in ADAPTER} <= files[trial.trial_key].keys()
            for step, _ in trial.evals:
                assert f"rows-{step:06d}/eval_rows.json" in files[trial.trial_key]
        return record, files

    def is_whole(self):
        """Whether the mirror holds what the folder does."""
        record, files = self.mirrored()
        there = {path.name: set(trial_files(path)) for path in self.folder.trials()}
        return record.trials == self.journal.record.trials and {k: set(v) for k, v in files.items()} == there


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(timeouts, "SETTLED_SECONDS", 0.02)
    return World(tmp_path / "toy")


def test_the_rows_of_a_base_that_is_evaluated_while_files_are_sent_come_with_the_event(world):
    def evaluated():
        write_whole(world.folder.base_rows, b"{}")
        write_whole(world.folder.base_samples, b"{}")
        world.journal.add(base(1.0))

    world.store.once("", evaluated)
    world.sender.send()
    assert world.mirrored()[0].base is not None
    found = read_manifest(world.store)
    assert found is not None and {"base_eval_rows.json", "base_samples.jsonl"} <= found[0].files.keys()


def test_locks_drafts_the_note_the_page_and_requests_are_not_mirrored(world):
    for name in ("driver.lock", ".config.json.1a2b", "mirror.json", "report.html", "tracking.json"):
        (world.folder.path / name).write_text("x")
    world.folder.requests.mkdir()
    assert list(small_files(world.folder.path)) == ["config.json", "tracking.json"]
    world.folder.keep("k", "best", 3, {"adapter/a": b"12", "eval_rows.json": b"3"})
    (world.folder.trial("k") / ".snapshot-000003.1a2b").mkdir()
    (world.folder.trial("k") / "latest").symlink_to("gone")
    assert {path: seen.size for path, seen in trial_files(world.folder.trial("k")).items()} == {
        "best-000003/adapter/a": 2,
        "best-000003/eval_rows.json": 1,
    }


def test_a_folder_is_looked_at_again_until_it_was_looked_at_some_time_after_its_last_change(tmp_path):
    folders = TrialFolders(tmp_path)
    (tmp_path / "k").mkdir()
    at = folders.changed()["k"]
    folders.settled("k", at, at / 1e9 + timeouts.SETTLED_SECONDS / 2)
    assert folders.changed() == {"k": at}
    folders.settled("k", at, time.time() + 2 * timeouts.SETTLED_SECONDS)
    assert folders.changed() == {}
    (tmp_path / "k" / "best-000003").mkdir()
    assert list(folders.changed()) == ["k"]


def test_a_sweep_that_does_nothing_costs_no_request(world):
    world.report("k", 3)
    world.sender.send()
    assert world.is_whole()
    taken, serial = list(world.store.taken), world.manifest.now.serial
    world.sender.send()
    assert (world.store.taken, world.manifest.now.serial) == (taken, serial)


def test_what_a_trial_has_no_longer_goes_from_the_store(world):
    for step in (3, 9):
        world.report("k", step)
        world.sender.send()
    world.finish("k")
    world.sender.send()
    assert world.is_whole()
    manifest = world.manifest.now
    named = {each.object for each in (*manifest.files.values(), *manifest.log)} | set(manifest.trials.values())
    named |= {each.object for each in world.mirrored()[1]["k"].values()}
    assert set(world.store.names("objects")) == named
    assert [name for name in named if "snapshot" in name or "best-000003" in name] == []


def test_a_snapshot_that_vanishes_before_its_turn_leaves_the_last_one_that_is_there(world):
    world.report("k", 3)
    world.sender.send()
    world.snapshot("k", 9)
    world.snapshot("k", 12)

    def goes_on():
        world.snapshot("k", 15)
        world.snapshot("k", 18)

    world.store.once("snapshot", goes_on)
    world.sender.send()
    assert "snapshot-000003/snapshot.bin" in world.mirrored()[1]["k"]
    world.sender.send()
    assert world.is_whole()


def test_what_was_sent_before_an_outage_is_not_sent_again(world):
    world.report("k1", 3)
    world.report("k2", 3)

    world.store.once("trials/k2/best-", Mock(side_effect=StoreError("does not answer")))
    with pytest.raises(StoreError):
        world.sender.send()
    assert world.sender.lacking() == {"k1", "k2"}
    world.sender.send()
    assert world.is_whole()
    assert world.sender.lacking() == set()
    sent = [name.split("/", 3)[3] for name in world.store.taken if "trials/" in name]
    assert len(sent) == len(set(sent))


def test_the_log_is_sent_in_parts_of_which_only_the_last_is_sent_again(world, monkeypatch):
    monkeypatch.setattr(timeouts, "LOG_PART_BYTES", 500)
    for step in range(1, 6):
        world.report("k", step)
        world.sender.send()
        assert [part.size for part in world.manifest.now.log[:-1]] == [500] * (world.journal.log.length // 500)
    assert world.is_whole()
    first = [name for name in world.store.taken if name.endswith("events-0.jsonl")]
    assert len(first) == 1, "it was whole at once"


@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_the_mirror_is_whole_whatever_happens_between_any_two_requests(tmp_path_factory, data):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(timeouts, "SETTLED_SECONDS", 0.02)
        world = World(tmp_path_factory.mktemp("sweep") / "toy")
        steps = {"k1": 0, "k2": 0}
        happenings = st.sampled_from(["report", "report", "snapshot", "finish", "refuse", "nothing"])

        def happens(_names=()):
            key, happening = data.draw(st.sampled_from(list(steps))), data.draw(happenings)
            known = world.journal.record.trials.get(key)
            if known is not None and known.state.is_final:
                return
            if happening in ("report", "snapshot"):
                steps[key] += 1
                getattr(world, happening)(key, steps[key])
            elif happening == "finish" and known is not None:
                world.finish(key)
            elif happening == "refuse":
                raise StoreError("does not answer")

        world.store.meanwhile = happens
        for _ in range(4):
            with suppress(StoreError):
                happens()
                world.sender.send()
            world.mirrored()
        world.store.meanwhile = lambda _: None
        world.sender.send()
        assert world.is_whole()
        assert all(len(world.folder.all(key, "best")) <= 1 for key in steps)
        world.journal.close()


@pytest.mark.parametrize("path", ["", "..", "/etc/passwd", "a/../../x", "a/./b", "a/"])
def test_a_manifest_names_only_files_below_the_folder(path):
    with pytest.raises(ValidationError, match="below the sweep's folder"):
        TrialFiles(files={path: Stored(object="objects/1/1/a", size=1, sha256="0")})
