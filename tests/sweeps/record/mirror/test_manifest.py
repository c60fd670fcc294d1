"""What a mirror holds, and what has to be sent."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sweeps.record.mirror import manifest
from sweeps.record.mirror.manifest import Manifest, Seen, Stored, TrialFiles, parts_that_stay, to_send, unused


def part(size: int, number: int = 0) -> Stored:
    return Stored(object=f"objects/1/{number}/events.jsonl", size=size, sha256="0")


def test_a_new_file_and_a_changed_one_are_sent():
    stored = {
        name: Stored(object=f"objects/{name}", size=3, sha256="0", mtime_ns=5)
        for name in ("same", "size", "time", "gone")
    }
    seen = {"same": Seen(3, 5), "size": Seen(4, 5), "time": Seen(3, 6), "new": Seen(3, 5)}
    assert to_send(stored, seen) == ["size", "time", "new"]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_the_parts_of_the_log_are_few_and_make_up_the_log(growths):
    parts: tuple[Stored, ...] = ()
    length = 0
    for growth in growths:
        length += growth
        stay = parts_that_stay(parts, length)
        assert stay == parts[: len(stay)]
        parts = (*stay, part(length - sum(each.size for each in stay)))
    assert sum(each.size for each in parts) == length
    assert all(before.size > 2 * after.size for before, after in pairwise(parts))
    assert len(parts) <= 18  # 2 ** 18 is more than 60 * 3000 bytes


def test_a_large_part_of_the_log_is_not_sent_again():
    large = part(manifest.LARGEST_MERGED_BYTES + 1)
    assert parts_that_stay((large,), 3 * large.size) == (large,)
    small = part(manifest.LARGEST_MERGED_BYTES)
    assert parts_that_stay((small,), 3 * small.size) == ()


def test_objects_that_nothing_names_any_more():
    assert unused(["a", "b", "c", "b"], ["b", "d"]) == ["a", "c"]


def test_a_manifest_names_all_its_objects():
    file = Stored(object="objects/1/1/config.json", size=3, sha256="0")
    of_trial = Stored(object="objects/1/2/trials/k/best-000001/adapter/a", size=3, sha256="0")
    told = Manifest(
        token=1, serial=1, sweep_id="s", files={"config.json": file}, log=(part(4),), trials={"k": "i", "l": "j"}
    )
    named = manifest.objects(told, {"k": TrialFiles(files={"best-000001/adapter/a": of_trial})})
    assert sorted(named) == ["i", "objects/1/0/events.jsonl", file.object, of_trial.object]
    assert Manifest.model_validate_json(told.model_dump_json()) == told


@pytest.mark.parametrize("path", ["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/"])
def test_a_manifest_names_only_files_below_the_folder(path):
    with pytest.raises(ValidationError, match="below the sweep's folder"):
        TrialFiles(files={path: part(1)})
