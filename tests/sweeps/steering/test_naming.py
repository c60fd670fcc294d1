"""What the words of `qsweep compare` and `report` name: trials of the first sweep, SWEEP:TRIAL, or sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from two_sweeps import sweep

from sweeps.errors import SweepError
from sweeps.steering.naming import compare_named, named


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    for name in ("a", "b", "t01"):
        sweep(tmp_path, name)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("a", ["a"]),
        ("a t01 T00", ["a:t01", "a:T00"]),
        ("a base aaaa", ["a:base", "a:aaaa"]),
        ("a b", ["a", "b"]),
        ("a:t01 b:t00", ["a:t01", "b:t00"]),
        ("a:t01", ["a:t01"]),
        ("a t01 b", ["a:t01", "b"]),
        ("a b t01", ["b", "a:t01"]),
        ("a t01:t00", ["a", "t01:t00"]),
        ("t01 b", ["t01", "b"]),
    ],
)
def test_words_name_trials_of_the_first_sweep_or_sweeps(storage: Path, words: str, meant: list[str]) -> None:
    found = named(words.split(), storage, 200.0)
    assert [":".join(filter(None, (each.folder.path.name, each.word))) for each in found] == meant


def test_beside_another_sweep_a_folders_name_goes_before_the_newest_of_that_name(tmp_path: Path) -> None:
    sweep(tmp_path, "toy")
    newest = sweep(tmp_path, "toy-2", at=50.0)
    newest.config.write_text(newest.config.read_text().replace('"name": "toy-2"', '"name": "toy"'))
    for words in (["toy", "toy-2"], ["toy-2", "toy"]):
        assert [each.folder.path.name for each in named(words, tmp_path, 200.0)] == words
    for words in (["toy"], ["toy", "t00"]):
        assert {each.folder.path.name for each in named(words, tmp_path, 200.0)} == {"toy-2"}


def test_a_word_that_names_nothing_is_told_with_the_ways_out(storage: Path) -> None:
    with pytest.raises(SweepError) as caught:
        named(["a", "zzz", "b"], storage, 200.0)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"zzz: no sweep of this id or name in {storage}; the newest there: ")
    assert line.endswith("with --storage; and as a trial: the sweep has no trial zzz: it has t00, t01")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("a", "a: there is no other sweep to compare it with: name two or more"),
        ("", "name two sweeps or more"),
        ("a:t00", "a:t00: there is no trial of another sweep to compare it with: name one, as SWEEP or SWEEP:t03"),
        ("a t00", "a:t00: there is no trial of another sweep to compare it with: "),
        ("a: b", "a: name a trial after the colon, such as a:t00"),
        ("a b:", "b: name a trial after the colon, such as b:t00"),
        ("a b a", "a is named more than once, or by its trials: name each sweep once; qsweep compare a t00 t01 "),
        ("a t00 t01", "a is named more than once, or by its trials: "),
        ("a b:t07", "the sweep has no trial t07: it has t00, t01"),
        ("a:base b", "base: stands beside trials of one sweep: name no other sweep"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(storage: Path, words: str, says: str) -> None:
    with pytest.raises(SweepError) as caught:
        compare_named(named(words.split(), storage, 200.0))
    assert str(caught.value).startswith(says)
