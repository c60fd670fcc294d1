"""Looks at the first rows of local files before a sweep starts: reports problems, warnings and the number of rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from trainables.contract import Preview
from trainables.data import row_files, sources
from trainables.data.findings import Findings
from trainables.data.sources import SplitName
from trainables.data.templates import Placed
from trainables.errors import DataError
from trainables.specs import DataSpec

LOOKED_ROWS = 20_000
LOOKED_BYTES = 20_000_000
"""The preview of a split ends here, after about half a second; `dataset.prepare` looks at all rows."""


def preview(data: DataSpec, whole: str = "launch") -> Preview:
    """Looks at the rows of local files; skips hub data sets. Uses no network and no torch.

    Args:
        whole: what looks at all rows later, in words.
    """
    findings = Findings(data)
    problems, partly = [], []
    train_rows = None
    eval_rows = data.eval_examples if data.eval is None else None
    for split in sources.SPLITS:
        source: str | None = getattr(data, split)
        if source is None or not sources.is_local(source):
            continue
        if row_files.is_large_array(Path(source)):
            partly.append(
                f"data.{split}: one large JSON array is looked at by {whole} only; save it as .jsonl for more"
            )
            continue
        look = _Look(sources.placed(data, split))
        try:
            _count(data, split, look, findings)
        except DataError as error:
            problems.append(f"{error}{sources.OTHER_TASK if split == 'test' else ''}")
        else:
            if look.is_cut:
                partly.append(f"data.{split}: only the first {look.rows} rows were looked at; {whole} looks at all")
            if split == "train":
                train_rows = _train_rows(data, look)
                if train_rows is not None and train_rows <= 0:
                    problems.append(sources.too_few_to_hold_out(data, train_rows + (data.eval_examples or 0)))
            if split == "eval":
                eval_rows = _eval_rows(data, source, look)
    return Preview(
        problems=tuple(problems + findings.problems()),
        warnings=tuple(findings.warnings() + partly),
        train_rows=train_rows,
        eval_rows=eval_rows,
        test_rows_in_train=findings.parts["test"].trained_on.rows,
    )


class _Look:
    """The first rows of a split."""

    def __init__(self, stream: Iterator[Placed]) -> None:
        self._stream = stream
        self.rows = 0
        self.is_cut = False
        """Whether the split has more rows than these."""

    def __iter__(self) -> Iterator[Placed]:
        size = 0
        for row in self._stream:
            if self.rows == LOOKED_ROWS or size >= LOOKED_BYTES:
                self.is_cut = True
                return
            self.rows += 1
            size += row.size
            yield row


def _count(data: DataSpec, split: SplitName, look: _Look, findings: Findings) -> None:
    if split != "train":
        for row in islice(look, data.eval_examples if split == "eval" else None):
            findings.add(split, row)
        return
    # The last rows are held out, if the preview reaches the end of the file.
    held: deque[Placed] = deque()
    for row in look:
        held.append(row)
        if data.eval is not None or len(held) > (data.eval_examples or 0):
            findings.add("train", held.popleft())
    for row in held:
        findings.add("train" if look.is_cut else "eval", row)


def _train_rows(data: DataSpec, look: _Look) -> int | None:
    """Counts the training rows, without those held out; returns None when counting would take long."""
    total = _rows(data.train, look)
    if total is None:
        return None
    return total - (data.eval_examples or 0) if data.eval is None else total


def _eval_rows(data: DataSpec, source: str, look: _Look) -> int | None:
    """Counts the rows of an evaluation on a file of its own; returns None when counting would take long."""
    total = _rows(source, look)
    return total if total is None or data.eval_examples is None else min(total, data.eval_examples)


def _rows(source: str, look: _Look) -> int | None:
    """Counts the rows of a local file that was looked at; returns None when counting would take long."""
    if not look.is_cut:
        return look.rows
    with suppress(OSError):
        return row_files.count(Path(source))
    return None
