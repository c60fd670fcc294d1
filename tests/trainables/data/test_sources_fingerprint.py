from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainables.data import sources
from trainables.errors import DataError
from trainables.specs import DataSpec


def spec(train: Path | str, eval: str | None = None, **fields: Any) -> DataSpec:
    form = {"prompt": "{question}", "completion": "{answer}", "eval_examples": 5}
    return DataSpec(**{"train": str(train), "eval": eval, **form, **fields})


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "Why?", "answer": "So."}\n')
    return path


def test_fingerprint_follows_content_not_place(train: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "copy.jsonl"
    copy.write_bytes(train.read_bytes())
    first = sources.fingerprint(spec(train))
    assert sources.fingerprint(spec(copy)) == first
    assert first.keys() == {"train", "form"}
    assert all(len(value) == 16 for value in first.values())
    copy.write_bytes(copy.read_bytes() + b"\n")
    changed = sources.fingerprint(spec(copy))
    assert changed["train"] != first["train"]
    assert changed["form"] == first["form"]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "{question} "},
        {"completion": "{answer}."},
        {"system": "Be brief."},
        {"max_length": 64},
        {"eval_examples": 6},
    ],
)
def test_fingerprint_follows_how_rows_read(train: Path, change: dict[str, Any]) -> None:
    before, after = sources.fingerprint(spec(train)), sources.fingerprint(spec(train, **change))
    assert after["form"] != before["form"]
    assert after["train"] == before["train"]


def test_fingerprint_of_chats_is_that_of_sweeps_that_knew_the_last_answer_only(train: Path) -> None:
    chats = {"prompt": None, "completion": None, "messages": "chat"}
    found = [sources.fingerprint(spec(train, **chats, **said))["form"] for said in ({}, {"train_on": "last"})]
    assert found == ["18f95295d82a0900"] * 2
    assert sources.fingerprint(spec(train, **chats, train_on="all"))["form"] != found[0]


def test_fingerprint_of_hub_rows_is_what_was_declared() -> None:
    data = spec("a/b:c", "a/b", test="a/b", revision="v1")
    found = sources.fingerprint(data)
    assert found["train"] == "hub:a/b:c@v1/train"
    assert found["eval"] == "hub:a/b@v1/validation"
    assert found["test"] == "hub:a/b@v1/test"
    assert sources.fingerprint(spec("a/b"))["train"] == "hub:a/b@main/train"


def test_fingerprint_of_a_missing_file_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train: .*/none\.csv does not exist"):
        sources.fingerprint(spec(tmp_path / "none.csv"))
