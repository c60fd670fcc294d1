"""Turns the rows of a split into tokens and labels, in batches, and cuts rows that are too long."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from trainables.data import row_files, templates
from trainables.data.findings import Findings, Part
from trainables.data.rendering import Encoded, Renderer, Text, decoded
from trainables.data.sources import SplitName
from trainables.data.templates import Placed
from trainables.errors import DataError
from trainables.specs import DataSpec

if TYPE_CHECKING:
    import numpy as np

BATCH_ROWS = 256
"""Rows per call of the tokenizer, which works on them in parallel."""


@dataclass
class Tokenised:
    """The rows of one split so far, in arrays rather than lists, so that a token takes 4 bytes."""

    ids: array[int] = field(default_factory=lambda: array("i"))
    starts: array[int] = field(default_factory=lambda: array("q", [0]))
    labelled: bytearray = field(default_factory=bytearray)
    truncated: int = 0
    dropped: int = 0
    sizes: array[int] = field(default_factory=lambda: array("q"))
    """See `Evaluation.row_bytes`; empty for rows to train on."""
    groups: array[int] = field(default_factory=lambda: array("i"))
    """Number of each kept row's group; empty without data.group_by."""
    strata: array[int] = field(default_factory=lambda: array("i"))
    """Number of the label of each of the rows in `sizes`; empty without data.stratify_by."""
    content: hashlib._Hash = field(default_factory=hashlib.sha256)
    """Hash over `templates.content` of the rows in `sizes`."""
    numbers: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    """The columns of the first row."""
    least_length: int | None = None
    """The smallest max_length that would have kept one of the dropped rows."""

    @property
    def rows(self) -> int:
        """Number of kept rows."""
        return len(self.starts) - 1

    def add(self, row: Encoded, max_length: int, group: str) -> bool:
        """Appends a row, cut to `max_length`, if a label is left. Returns whether the cut removed all labels."""
        self.truncated += len(row.ids) > max_length
        labelled = row.labelled[:max_length]
        if not any(labelled):
            self.dropped += 1
            least = row.labelled.find(1) + 1
            if least:
                self.least_length = min(self.least_length or least, least)
            return least > 0
        self.ids.extend(row.ids[:max_length])
        self.starts.append(len(self.ids))
        self.labelled.extend(labelled)
        if group:
            self.groups.append(self.numbers.setdefault(group, len(self.numbers)))
        return False

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, *tuple[tuple[int, ...], ...]]:
        """Returns the ids, starts, labelled, groups, sizes and strata of `dataset.Split`."""
        import numpy as np

        # A copy, because torch warns about read-only arrays and the buffer may still grow.
        labelled = np.array(np.frombuffer(self.labelled, np.bool_))
        of_rows = (tuple(self.groups), tuple(self.sizes), tuple(self.strata))
        return np.array(self.ids, "<i4"), np.array(self.starts, "<i8"), labelled, *of_rows


def tokenise(
    renderer: Renderer,
    split: SplitName,
    rows: Iterable[Placed],
    findings: Findings | None = None,
    part: Part | None = None,
) -> Tokenised:
    """Tokenises rows of a split, and counts them in `findings` as `part`. Raises `DataError` if no row has a label."""
    data = renderer.data
    tokenised = Tokenised()
    is_evaluated = findings is None or part is not None
    stream = iter(rows)
    while batch := list(islice(stream, BATCH_ROWS)):
        if not tokenised.columns:
            tokenised.columns = tuple(batch[0].row)
            if problems := templates.absent(data, batch[0].row, row_files.in_words(getattr(data, split))):
                raise DataError("\n".join(problems))
        texts, groups = zip(*(_text(renderer, split, row) for row in batch), strict=True)
        for placed, text, row, group in zip(batch, texts, renderer.encode(texts), groups, strict=True):
            before = tokenised.rows
            is_cut_away = tokenised.add(row, data.max_length, group)
            if is_evaluated and tokenised.rows > before:
                tokenised.sizes.append(_size(renderer, text, row))
                tokenised.content.update(templates.content(data, placed.row).encode())
                if data.stratify_by is not None:
                    label = str(placed.row.get(data.stratify_by))
                    tokenised.strata.append(tokenised.labels.setdefault(label, len(tokenised.labels)))
            if findings is None:
                continue
            holds = {
                "cut_away": is_cut_away,
                "shortened": text.loses_words,
                "unserved": not text.follows_its_prompt,
                "split_tokens": row.splits_a_token,
            }
            doubts = [(name, "") for name, is_so in holds.items() if is_so]
            doubts += [("special", text.special)] if text.special else []
            findings.add(part or split, placed, [*doubts, *(("left_out", what) for what in text.left_out)])
    if not tokenised.rows:
        raise DataError(_nothing_left(data, split, tokenised))
    return tokenised


def _size(renderer: Renderer, text: Text, row: Encoded) -> int:
    """Returns the UTF-8 bytes of a row's learnt text, without the text that data.max_length cuts off."""
    most = renderer.data.max_length
    cut = [token for token, is_learnt in zip(row.ids[most:], row.labelled[most:], strict=True) if is_learnt]
    lost = len(decoded(renderer.tokenizer, cut).encode()) if cut else 0
    return max(0, len(text.learnt.encode()) - lost)


def _text(renderer: Renderer, split: SplitName, placed: Placed) -> tuple[Text, str]:
    try:
        return renderer.text(placed.row), templates.group(renderer.data, placed.row)
    except DataError as error:
        raise DataError(f"data.{split}: {getattr(renderer.data, split)}, {placed.place}: {error}") from error


def _nothing_left(data: DataSpec, split: SplitName, tokenised: Tokenised) -> str:
    source = f"data.{split}: {row_files.in_words(getattr(data, split))}"
    if not tokenised.dropped:
        return f"{source} has no rows"
    fields = " and ".join(f"data.{name}" for name in (*templates.TEMPLATES, "messages") if getattr(data, name))
    length = tokenised.least_length
    longer = f"raise data.max_length = {data.max_length} ({length} would keep one), or " if length else ""
    problem = f"none of {tokenised.dropped} rows has a token to learn"
    return f"{source}: {problem}: {longer}check {fields}; columns: {', '.join(tokenised.columns)}"
