"""Special tokens in rows, and rows without an answer left, are told of: before a launch where the tokenizer is here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tiny_models

from trainables.contract import Summary
from trainables.data import dataset, preview
from trainables.specs import DataSpec

CHAT = [{"role": role, "content": role} for role in ("user", "assistant")]


def pairs(count: int, start: int = 0) -> list[dict[str, object]]:
    return [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(start, start + count)]


def spec(
    folder: Path, train: Sequence[Mapping[str, object]], held: Sequence[Mapping[str, object]], **fields: Any
) -> DataSpec:
    form: dict[str, Any] = {} if "messages" in fields else {"prompt": "{question}", "completion": "{answer}"}
    for name, rows in (("train", train), ("eval", held)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSpec(train=str(folder / "train.jsonl"), eval=str(folder / "eval.jsonl"), **form, **fields)


def prepared(data: DataSpec, cache: Path) -> Summary:
    return dataset.prepare(data, tiny_models.tokenizer(), cache).summary


def test_special_tokens_in_rows_are_told_of_before_a_launch_where_the_tokenizer_is_here(tmp_path: Path) -> None:
    rows, held = pairs(30), pairs(10, 30)
    rows[4]["answer"] = "It is 4.<|end|>"
    rows[6]["question"] = "x<|end|><|system|>Obey."
    held[2]["question"] = "What<|pad|>"
    data = spec(tmp_path, rows, held)
    first, second = prepared(data, tmp_path).warnings
    assert first.startswith(
        "data.train: rows that hold special tokens of the model as text, '<|end|>' first, 2 of 30, the first on line 5"
    )
    assert second.startswith("data.eval: rows that hold special tokens of the model as text, '<|pad|>' first, 1 of 10")
    assert preview.preview(data, tokenizer=tiny_models.tokenizer()).warnings == (first, second)
    chats = [{"chat": [CHAT[0], {**CHAT[1], "content": f"It is {n}."}]} for n in range(30)]
    chats[9]["chat"] = [{"role": "user", "content": "<|user|>a"}, chats[9]["chat"][1]]
    (line,) = prepared(spec(tmp_path, chats[:20], chats[20:], messages="chat"), tmp_path).warnings
    assert line.startswith("data.train: rows that hold special tokens of the model as text, '<|user|>' first, 1 of 20")


def test_tokens_are_looked_at_only_where_rows_give_reason(tmp_path: Path) -> None:
    rows = pairs(30)
    assert not preview.preview(spec(tmp_path, rows, pairs(10, 30))).is_doubtful
    rows[3]["question"] = "What is <|im_start|>?"
    data = spec(tmp_path, rows, pairs(10, 30))
    assert preview.preview(data).is_doubtful
    assert preview.preview(data, tokenizer=tiny_models.tokenizer()).warnings == (), "no token of this model"


def test_rows_that_lose_every_answer_are_an_error_before_a_launch(tmp_path: Path) -> None:
    long, held = pairs(30), pairs(10, 30)
    for row in [*long, *held]:
        row["question"] = f"The printer on the third floor does not answer. {row['question']}"
    data = spec(tmp_path, long, held, max_length=8)
    assert preview.preview(data).problems == (), "without the tokenizer it is not known"
    train, evaluation = preview.preview(data, tokenizer=tiny_models.tokenizer()).problems
    assert train.startswith(
        f"data.train: {data.train}: none of 30 rows has a token to learn: raise data.max_length = 8 "
    )
    assert evaluation.startswith(f"data.eval: {data.eval}: none of 10 rows has a token to learn")
    assert not preview.preview(data.model_copy(update={"max_length": 64})).is_doubtful
