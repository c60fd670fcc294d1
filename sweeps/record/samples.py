"""Writes and reads files of answered rows, one JSON object a line. Inspect and lm-eval read these files too.

Inspect's `json_dataset` takes `id`, `input` and `target`; lm-eval's log of samples has `doc_id`, `target`, `resps`,
`filtered_resps` and each metric as a key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from trainables.contract import AnsweredRow
from trainables.inputs import json_text

OF_TRIAL = "samples.jsonl"
"""File beside the evaluation of a trial's best step."""
OF_BASE = "base_samples.jsonl"
"""File in the sweep's folder."""


def text(answers: Iterable[AnsweredRow]) -> str:
    """Returns the file's content."""
    return "".join(f"{_line(each)}\n" for each in answers)


def _line(answered: AnsweredRow) -> str:
    own = {
        "id": answered.row,
        "place": answered.place,
        "input": answered.prompt,
        "target": answered.expected,
        "answer": answered.answer,
        "ranked": answered.ranked,
        "ended": answered.is_ended,
        "scores": answered.scores,
    }
    of_lm_eval = {"doc_id": answered.row, "resps": [[answered.answer]], "filtered_resps": [answered.answer]}
    return json.dumps({**answered.scores, **of_lm_eval, **own}, ensure_ascii=False)


def read_samples(path: Path) -> tuple[AnsweredRow, ...]:
    """Returns the answered rows of a file; empty if the file is missing or damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return tuple(_row(line) for line in path.read_bytes().splitlines())
    return ()


def _row(line: bytes) -> AnsweredRow:
    raw = json_text.parse(line)
    return AnsweredRow(
        row=raw["id"],
        place=raw.get("place", ""),
        prompt=raw["input"],
        expected=raw["target"],
        answer=raw["answer"],
        ranked=raw.get("ranked"),
        is_ended=raw["ended"],
        scores=raw["scores"],
    )
