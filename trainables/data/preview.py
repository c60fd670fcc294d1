"""Looks at the first rows of local files before a sweep starts: reports problems, warnings and the number of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import compress, islice
from typing import TYPE_CHECKING

from trainables.contract import Preview
from trainables.data import row_files, sources
from trainables.data.findings import Findings, Part
from trainables.data.rendering import Renderer
from trainables.data.sources import SplitName
from trainables.data.templates import Placed
from trainables.data.tokenising import tokenise
from trainables.errors import DataError
from trainables.specs import DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_ROWS = 20_000
LOOKED_BYTES = 20_000_000
"""The preview of a split ends at either limit, after about half a second; `dataset.prepare` looks at all rows."""


def preview(data: DataSpec, whole: str = "launch", tokenizer: PreTrainedTokenizerBase | None = None) -> Preview:
    """Looks at the rows of local files; skips hub data sets. Uses no network and no torch.

    Args:
        whole: name, for messages, of the step that later looks at all rows.
        tokenizer: if given, the rows are also looked at as tokens.
    """
    findings = Findings(data)
    renderer = None if tokenizer is None else Renderer(data, tokenizer)
    problems, partly = [], []
    rows: dict[Part, int | None] = {"eval": data.eval_examples if data.eval is None else None}
    for split in sources.SPLITS:
        source: row_files.Source | None = getattr(data, split)
        if source is None or not sources.is_local(source):
            continue
        if row_files.is_large_array(source):
            partly.append(
                f"data.{split}: one large JSON array is looked at by {whole} only; save it as .jsonl for more"
            )
            continue
        look = _Look(sources.placed(data, split))
        try:
            drawn = _count(data, split, look, findings, renderer)
        except DataError as error:
            problems.append(f"{error}{sources.OTHER_TASK if split == 'test' else ''}")
        else:
            if look.is_cut:
                findings.parts[split].compared.clear()  # the first rows of a file may be of one kind
                partly.append(f"data.{split}: only the first {look.rows} rows were looked at; {whole} looks at all")
            rows |= drawn
            if split == "train" and drawn["train"] is not None:
                held = sum(count or 0 for part, count in drawn.items() if part != "train")
                if drawn["train"] <= 0 < held:
                    problems.append(sources.too_few_to_hold_out(data, held + drawn["train"]))
    if data.all_rows:
        own = [rows.get("train"), rows["eval"]]
        rows |= {"train": None if None in own else sum(count or 0 for count in own), "eval": rows.get("test")}
    return Preview(
        problems=tuple(problems + findings.problems()),
        warnings=tuple(findings.warnings() + partly),
        train_rows=rows.get("train"),
        eval_rows=rows["eval"],
        test_rows=rows.get("test"),
        row_tokens=findings.row_tokens,
        is_doubtful=not problems and not partly and findings.are_doubtful,
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


def _count(
    data: DataSpec, split: SplitName, look: _Look, findings: Findings, renderer: Renderer | None
) -> dict[Part, int | None]:
    """Adds the rows to `findings`, as tokens if there is a renderer; returns the rows of each part, None if unknown."""

    def take(part: Part, rows: Iterable[Placed]) -> None:
        if renderer is not None and part != "test":
            tokenise(renderer, split, rows, findings, part)
            return
        for row in rows:
            findings.add(part, row)

    if split != "train" or not data.may_draw:
        most = data.eval_examples if split == "eval" and not data.all_rows else None
        take(split, islice(look, most))
        total = _rows(data, split, look)
        return {split: total if total is None or most is None else min(total, most)}
    rows = list(look)
    if look.is_cut:  # it is not known which rows are drawn
        take("train", rows)
        total = _rows(data, split, look)
        held = sources.asked_of_train(data).get("eval", 0)
        tests = sources.most_of(data, (total or look.rows) - held)
        uses: dict[Part, int | None] = {"eval": held, "test": tests, "train": total and total - held - tests}
    else:
        of_rows = sources.drawn(data, [placed.row for placed in rows])
        uses = {part: of_rows.count(part) for part in sources.SPLITS}
        for part in sources.SPLITS:
            if uses[part]:
                take(part, compress(rows, map(part.__eq__, of_rows)))
    return {part: uses[part] for part in sources.SPLITS if part == "train" or sources.split_of(data, part) == "train"}


def _rows(data: DataSpec, split: SplitName, look: _Look) -> int | None:
    """Counts the rows of a local file that was looked at; returns None if counting would take long."""
    if not look.is_cut:
        return look.rows
    with suppress(OSError):
        return row_files.count(getattr(data, split))
    return None
