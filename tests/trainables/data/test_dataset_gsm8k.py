"""Real rows, where they lie beside the checkout."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import tiny_models

from trainables.data import dataset, sources
from trainables.specs import DataSpec

GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k_train.jsonl"


def test_grade_school_maths_is_prepared_whole(tmp_path: Path) -> None:
    if not GSM8K.is_file():
        pytest.skip("the GSM8K rows do not lie beside this checkout")
    with GSM8K.open("rb") as file:
        (tmp_path / "gsm8k.jsonl").write_bytes(b"".join(itertools.islice(file, 50)))
    data = DataSpec(
        train=str(tmp_path / "gsm8k.jsonl"),
        prompt="{question}",
        completion="{answer}",
        eval_examples=10,
        max_length=2048,
    )
    assert sources.check(data) == []
    tokenizer = tiny_models.tokenizer()
    prepared = dataset.prepare(data, tokenizer, tmp_path)
    train = dataset.load(prepared.payload).train
    found = [train.row(i) for i in range(len(train))]
    learnt = [tokenizer.decode(row.ids[row.labelled].tolist()) for row in found]
    assert learnt == [f"{row['answer']}<|end|>" for row in itertools.islice(sources.read(data, "train"), 40)]
    assert all(row.ids[-1] == tokenizer.eos_token_id for row in found)
    share = sum(row.labels for row in found) / prepared.summary.train_tokens
    assert 0.4 < share < 0.7
    assert (prepared.summary.truncated_rows, prepared.summary.dropped_rows) == (0, 0)
