"""Prepares rows as tokens and labels, caches them as bytes, and draws them in a seeded order.

`prepare` runs once per sweep; every host reads the prepared bytes with `load`. A row is a sequence of token ids; the
labelled tokens count in the loss. A token is predicted from the tokens before it, so the first token never counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from trainables.cache_files import told_as_cache, write_whole
from trainables.contract import Prepared, Summary
from trainables.data import sources
from trainables.data.findings import Findings, Tally
from trainables.data.rendering import Renderer, tokenizer_fingerprint
from trainables.data.sources import SplitName
from trainables.data.templates import Placed
from trainables.data.tokenising import tokenise
from trainables.errors import DataError
from trainables.inputs import safetensors_header
from trainables.specs import DataSpec

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

LAYOUT = 8
"""Raise this number when the same rows give other bytes, so that caches of an earlier layout are not used."""
_ARRAYS = ("ids", "starts", "labelled")
_OF_ROWS = ("groups", "sizes", "strata")
"""Arrays that only evaluation rows have."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class TokenRow(NamedTuple):
    """One row as tokens."""

    ids: np.ndarray
    """(length,) int32."""
    labelled: np.ndarray
    """(length,) bool: the tokens that count in the loss; at least one, and never the first."""

    @property
    def labels(self) -> int:
        """Number of labelled tokens."""
        return int(self.labelled.sum())


@dataclass(frozen=True, eq=False)
class Split:
    """Rows end to end: row i is ids[starts[i] : starts[i + 1]], and the same for `labelled`."""

    ids: np.ndarray
    """(tokens of all rows,) int32."""
    starts: np.ndarray
    """(rows + 1,) int64."""
    labelled: np.ndarray
    """(tokens of all rows,) bool."""
    groups: tuple[int, ...] = ()
    """See `Evaluation.row_groups`."""
    sizes: tuple[int, ...] = ()
    """See `Evaluation.row_bytes`."""
    strata: tuple[int, ...] = ()
    """Number of each row's label; empty without data.stratify_by."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.starts) - 1

    def row(self, i: int) -> TokenRow:
        """Returns a view of row `i`."""
        place = slice(self.starts[i], self.starts[i + 1])
        return TokenRow(self.ids[place], self.labelled[place])


@dataclass(frozen=True, eq=False)
class Splits:
    """The rows that a sweep trains on and evaluates on."""

    train: Split
    eval: Split


def prepare(data: DataSpec, tokenizer: PreTrainedTokenizerBase, cache: Path) -> Prepared:
    """Prepares the rows as bytes with a summary, or reads both from `cache`/data if prepared before.

    The bytes are a safetensors file: the arrays of `Split` under train.* and eval.*, the summary in its metadata.
    Hub data sets are cached only when `data.revision` is a full commit, because a branch may move.

    Raises:
        DataError: there are no rows to train or evaluate on, or a row is unusable; names file, row and columns.
        TrainableError: the cache cannot be written.
    """
    key = _key(data, tokenizer)
    if key is None:
        return _prepare(data, tokenizer)
    path = cache / "data" / f"{key}.safetensors"
    with told_as_cache(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            prepared = _cached(path)
            if prepared is None:
                prepared = _prepare(data, tokenizer)
                write_whole(path, prepared.payload)
    return prepared


def load(payload: bytes) -> Splits:
    """Reads the rows from the bytes of `prepare`."""
    import numpy as np
    from safetensors.numpy import load as load_arrays

    # Copies the arrays: torch.from_numpy warns about read-only ones.
    arrays = {name: np.array(values) for name, values in load_arrays(payload).items()}

    def split(name: str) -> Split:
        ids, starts, labelled = (arrays[f"{name}.{part}"] for part in _ARRAYS)
        of_rows = (arrays.get(f"{name}.{part}") for part in _OF_ROWS)
        return Split(ids, starts, labelled, *(() if each is None else tuple(each.tolist()) for each in of_rows))

    return Splits(split("train"), split("eval"))


def whole(data: DataSpec, split: SplitName, tokenizer: PreTrainedTokenizerBase) -> Split:
    """Tokenises all rows of one split as `prepare` does, without a cache; they may be drawn from data.train.

    Raises:
        DataError: there are no rows, or a row is unusable.
    """
    rows = sources.part_of(data, split)
    return Split(*tokenise(Renderer(data, tokenizer), sources.split_of(data, split), rows).arrays())


def split_fingerprint(split: Split) -> str:
    """Returns 16 hex digits over every token and label of the rows."""
    return _digest(_content(split))


def shared_rows(split: Split, other: Split) -> set[int]:
    """Returns the places in `split` of the rows that are also in `other`, by tokens and labels."""
    seen = {_row_key(other, i) for i in range(len(other))}
    return {i for i in range(len(split)) if _row_key(split, i) in seen}


def part(split: Split, places: Sequence[int]) -> Split:
    """Returns the rows at these places alone, at least one."""
    import numpy as np

    rows = [split.row(i) for i in places]
    starts = np.cumsum([0, *(len(row.ids) for row in rows)], dtype="<i8")
    groups, sizes = (tuple(each[i] for i in places) if each else () for each in (split.groups, split.sizes))
    ids, labelled = (np.concatenate(arrays) for arrays in zip(*rows, strict=True))
    return Split(ids, starts, labelled, groups, sizes)


def nested_order(split: Split) -> list[int]:
    """Returns the places of the rows in one random order, whose beginnings are the parts of `evaluation.rows: nested`.

    Rows of a group follow each other. With labels, each beginning has about the same share of each label.
    """
    places: list[int] = order(0, len(split), 0).tolist()
    unit = split.groups or range(len(split))
    units = list(dict.fromkeys(unit[place] for place in places))
    if split.strata:
        units = sources.in_proportion(units, {unit[place]: split.strata[place] for place in places})
    turns = {each: turn for turn, each in enumerate(units)}
    return sorted(places, key=lambda place: turns[unit[place]])


def _row_key(split: Split, i: int) -> int:
    return hash(tuple(values.tobytes() for values in split.row(i)))


@lru_cache(maxsize=32)
def order(seed: int, rows: int, epoch: int) -> np.ndarray:
    """Returns the order of `rows` rows in one epoch: a read-only permutation (rows,), int32 if that is enough.

    PCG64 draws the order with a key of seed and epoch alone, so the row at any position can be computed again.
    """
    import numpy as np

    # A spawn key, because with [seed, epoch] the seed 2**32 in epoch 0 would equal the seed 0 in epoch 1.
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    permutation = np.random.Generator(np.random.PCG64(sequence)).permutation(rows)
    # A host keeps the orders of its trials: 32 orders of ten million rows take 1.3 GB, and twice as much in int64.
    permutation = permutation.astype(np.int32 if rows <= np.iinfo(np.int32).max else np.int64)
    permutation.setflags(write=False)
    return permutation


def batch_rows(seed: int, rows: int, first: int, count: int) -> list[int]:
    """Returns the rows at positions `first` to `first + count - 1` of all epochs' orders, joined end to end."""
    chosen: list[int] = []
    while len(chosen) < count:
        epoch, at = divmod(first + len(chosen), rows)
        chosen += order(seed, rows, epoch)[at : at + count - len(chosen)].tolist()
    return chosen


# Preparing


def _prepare(data: DataSpec, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    from safetensors.numpy import save

    renderer, findings = Renderer(data, tokenizer), Findings(data)
    given = sources.divided(data)
    train = tokenise(renderer, "train", given["train"], findings)
    evaluated: SplitName = "test" if data.all_rows else "eval"
    evaluation = tokenise(renderer, sources.split_of(data, "eval"), given["eval"], findings, evaluated)
    lines = _compare_test(data, findings, () if data.all_rows else given.get("test", ()))
    if problems := findings.problems():
        raise DataError("\n".join(problems))
    rows = Splits(Split(*train.arrays()[:3]), Split(*evaluation.arrays()))
    parts = findings.parts
    summary = Summary(
        fingerprint=_fingerprint(rows),
        eval_fingerprint=evaluation.content.hexdigest()[:16],
        eval_bytes=sum(evaluation.sizes),
        train_rows=len(rows.train),
        eval_rows=len(rows.eval),
        test_rows=parts["test"].rows,
        train_tokens=len(rows.train.ids),
        labelled_tokens=int(rows.train.labelled.sum()),
        longest_row=max(longest(rows.train), longest(rows.eval)),
        longest_train_row=longest(rows.train),
        train_row_deviation=float(_lengths(rows.train).std()),
        truncated_rows=train.truncated + evaluation.truncated,
        dropped_rows=train.dropped + evaluation.dropped,
        empty_rows=parts["train"].of("empty") + parts["eval"].of("empty"),
        missing_value_rows=parts["train"].of("missing") + parts["eval"].of("missing"),
        repeated_rows=parts["train"].of("repeated"),
        eval_rows_in_train=parts["eval"].of("trained_on"),
        test_rows_in_train=parts["test"].of("trained_on"),
        test_rows_in_eval=parts["test"].of("chosen_on"),
        warnings=(*findings.warnings(), *lines),
    )
    payload = save(_arrays(rows), metadata={"summary": summary.model_dump_json()})
    return Prepared(summary=summary, payload=payload)


def _lengths(split: Split) -> np.ndarray:
    """Returns the number of tokens of each row: (rows,)."""
    lengths: np.ndarray = split.starts[1:] - split.starts[:-1]
    return lengths


def longest(split: Split) -> int:
    """Returns the number of tokens of the split's longest row."""
    return int(_lengths(split).max())


def highest_token(split: Split) -> int:
    """Returns the highest token id in the split."""
    return int(split.ids.max())


def _compare_test(data: DataSpec, findings: Findings, rows: Iterable[Placed]) -> list[str]:
    """Adds the test rows to the findings; returns a warning with the reason if data.test makes this impossible."""
    try:
        for row in rows:
            findings.add("test", row)
    except DataError as error:
        if data.test is None:
            raise
        findings.parts["test"] = Tally()
        return [f"data.test was not compared with data.train: {error}"]
    return []


# Bytes and cache


def _arrays(rows: Splits) -> dict[str, np.ndarray]:
    import numpy as np

    splits = {"train": rows.train, "eval": rows.eval}
    of_rows = {f"eval.{name}": np.array(found, "<i8") for name in _OF_ROWS if (found := getattr(rows.eval, name))}
    return of_rows | {f"{split}.{name}": getattr(values, name) for split, values in splits.items() for name in _ARRAYS}


def _fingerprint(rows: Splits) -> str:
    return _digest([*_content(rows.train), *_content(rows.eval)])


def _content(split: Split) -> list[np.ndarray]:
    """Returns the arrays to hash. Tracked sweeps hold the hashes: promotion refuses a sweep whose rows have others."""
    import numpy as np

    positions = np.flatnonzero(split.labelled)
    first = positions[np.searchsorted(positions, split.starts[:-1])] - split.starts[:-1]
    arrays = [split.ids, split.starts, first.astype("<i4")]
    to_the_end = len(positions) == len(split.ids) - int(first.sum())
    arrays += [] if to_the_end else [split.labelled]
    return [*arrays, np.array(split.groups, "<i4")] if split.groups else arrays


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]


def _key(data: DataSpec, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Returns the name of the prepared rows in the cache; None if the revision of a hub data set is not a commit."""
    try:
        identity = sources.fingerprint(data)
    except DataError:
        if data.test is None or data.all_rows:
            raise
        # Only promotion needs data.test, perhaps on another machine. A warning says that no rows were compared.
        identity = sources.fingerprint(data.model_copy(update={"test": None})) | {"test": "not here"}
    pinned = data.revision is not None and _COMMIT.fullmatch(data.revision)
    if not pinned and any(source.startswith("hub:") for source in identity.values()):
        return None
    identity |= {"tokenizer": tokenizer_fingerprint(tokenizer), "layout": str(LAYOUT)}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _cached(path: Path) -> Prepared | None:
    """Reads the prepared rows from `path`; returns None if the file is missing, incomplete or altered."""
    from safetensors import SafetensorError

    try:
        payload = path.read_bytes()
        summary = Summary.model_validate_json(safetensors_header.metadata(payload)["summary"])
        rows = load(payload)
        if _fingerprint(rows) == summary.fingerprint and sum(rows.eval.sizes) == summary.eval_bytes:
            return Prepared(summary=summary, payload=payload)
    # Errors of pydantic, JSON and UTF-8 are ValueErrors. A file with any error is made again.
    except (FileNotFoundError, SafetensorError, ValueError, LookupError, TypeError):
        pass
    return None
