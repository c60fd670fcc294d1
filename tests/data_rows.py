"""Rows in files, the specs that read them, and what is learnt of them, for tests: `import data_rows`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.data import dataset
from trainables.specs import DataSpec

CALL = {"type": "function", "function": {"name": "find", "arguments": {"id": 4711}}}


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(start, start + count)]


def chat(*texts: str) -> list[dict[str, Any]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Writes rows in the format that the suffix says; in JSON lines U+2028 stands as it is."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def spec(train: Path | str, **fields: Any) -> DataSpec:
    """Rows of `pairs`, unless the fields say that they are chats or texts."""
    form = {} if fields.keys() & {"messages", "text"} else {"prompt": "{question}", "completion": "{answer}"}
    files = {"train": train, **{name: fields.pop(name) for name in ("eval", "test") if fields.get(name)}}
    return DataSpec.model_validate({name: str(path) for name, path in files.items()} | form | fields)


def answers(split: dataset.Split) -> list[str]:
    """The labelled text of each row."""
    import tiny_models  # torch takes seconds, and other tests of rows need none

    decode = tiny_models.tokenizer().decode
    return [decode(row.ids[row.labelled].tolist()) for row in map(split.row, range(len(split)))]
