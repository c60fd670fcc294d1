"""Reads rows from local files or the hub, checks them, and identifies them.

`row_files` reads local files; the library `datasets` reads the hub. Nothing here knows about tokens.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress, islice
from operator import not_
from pathlib import Path
from typing import Literal

from trainables.data import row_files, templates
from trainables.data.templates import Placed, Row
from trainables.errors import DataError
from trainables.specs import DataSpec

SplitName = Literal["train", "eval", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "eval", "test")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
CHECKED_ROWS = 20
COUNTED_ROWS = 2000
"""The most rows that `check` counts to see whether rows are left to train on."""
Group = int | str
"""The value of data.group_by; the number of the row without data.group_by."""
_MOST_IN_LARGE = 0.1
"""The largest share of rows that may be in groups too large to be held out."""
OTHER_TASK = "; leave data.test out with data.test=null if its rows are not of this task"
"""Ends the last problem about the rows of `data.test`."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.+-]+)?", re.ASCII)
# Letters, so that a version in a hub id ("owner/name-v1.5") is not taken for a suffix.
_FILE_SUFFIX = re.compile(r"\.[a-z]{2,9}\d?$", re.IGNORECASE)


def is_local(source: str) -> bool:
    """Returns True for a local file, False for the id of a hub data set. Raises `DataError` for anything else."""
    accepted = f"a file ends in {', '.join(SUFFIXES)}; a hub data set is owner/name or owner/name:config"
    if Path(source).suffix.lower() in SUFFIXES:
        return True
    try:
        is_folder, is_there = Path(source).is_dir(), Path(source).exists()
    except OSError as error:  # a name that is too long, for example
        raise DataError(f"{source} cannot be looked up: {error.strerror}; {accepted}") from None
    if is_folder:
        raise DataError(f"{source} is a folder: name a file in it ({accepted})")
    if source.startswith(("/", "./", "../", "~")) or _FILE_SUFFIX.search(source) or is_there:
        raise DataError(f"{source} is not a kind of file that is read here: {accepted}")
    if not _HUB_ID.fullmatch(source):
        raise DataError(f"{source} is neither a file nor a hub data set: {accepted}")
    return False


def check(data: DataSpec) -> list[str]:
    """Lists the problems of local files and templates as "data.FIELD: what is wrong". Uses no network and no torch."""
    problems = templates.malformed(data)
    for split in SPLITS:
        source = getattr(data, split)
        if source is None:
            continue
        try:
            if _is_local(data, split) and not row_files.is_large_array(Path(source)):
                found = [problem for problem in _file_problems(data, split) if problem not in problems]
                if found and split == "test" and not found[-1].endswith("has no rows"):
                    found[-1] += OTHER_TASK
                problems += found
        except DataError as error:
            problems.append(str(error))
    # Removes repetitions: a malformed template is reported again when its columns are checked.
    return list(dict.fromkeys(problems + _shared_problems(data) + _revision_problems(data)))


def _revision_problems(data: DataSpec) -> list[str]:
    """Refuses one commit for two repositories; a branch or a tag may be in both."""
    named = {split: getattr(data, split) or "" for split in SPLITS}
    hub = {
        f"data.{split}": source.partition(":")[0]
        for split, source in named.items()
        if _HUB_ID.fullmatch(source) and Path(source).suffix.lower() not in SUFFIXES
    }
    repositories = dict.fromkeys(hub.values())
    if len(repositories) < 2 or _COMMIT.fullmatch(data.revision or "") is None:
        return []
    return [
        f"data.revision: {data.revision} is a commit of one repository, and {' and '.join(hub)} name "
        f"{len(repositories)} ({' and '.join(repositories)}): take all from one, or save the others' rows as files"
    ]


def read(data: DataSpec, split: SplitName, *, every_column: bool = False) -> Iterator[Row]:
    """Reads the rows of one split, in order; see `placed`."""
    return (row for _, row, _ in placed(data, split, every_column=every_column))


def placed(data: DataSpec, split: SplitName, *, every_column: bool = False) -> Iterator[Placed]:
    """Reads the rows of one split, in order, with their places. Values of a CSV file are strings.

    Args:
        every_column: whether to read also the columns of Parquet files and hub data sets that no template names.

    Raises:
        DataError: the file or data set is missing or cannot be read; names the file and the line.
    """
    if _is_local(data, split):
        return row_files.read(f"data.{split}", getattr(data, split), data, every_column=every_column)
    return _read_hub(data, split, every_column)


def divided(data: DataSpec, *, every_column: bool = False) -> tuple[Iterator[Placed], Iterator[Placed]]:
    """Reads the rows to train on and the rows to evaluate on.

    Args:
        every_column: see `placed`; for the rows to evaluate on alone.

    Raises:
        DataError: as `placed` and `held_out`.
    """
    train = placed(data, "train")
    if data.eval is not None:
        return train, islice(placed(data, "eval", every_column=every_column), data.eval_examples)
    are_held = held_out(data, read(data, "train"))
    # Reads the file twice, so that the rows of neither part need to be in memory.
    held = compress(placed(data, "train", every_column=every_column), are_held)
    return compress(train, map(not_, are_held)), held


def fingerprint(data: DataSpec) -> dict[str, str]:
    """Identifies the rows and their templates: split -> content hash or hub revision, and "form" -> hash of the fields.

    Paths do not count, so equal files give equal fingerprints. A split that is not given has no entry. Raises
    `DataError` if a file cannot be read.
    """
    contents: dict[str, str] = {split: _content(data, split) for split in SPLITS if getattr(data, split) is not None}
    fields = ("prompt", "completion", "system", "messages", "text", "max_length", "eval_examples")
    form = {field: getattr(data, field) for field in fields}
    # Only fields that are set count, which keeps the fingerprints of sweeps from before these fields existed.
    if data.train_on != "last":
        form["train_on"] = data.train_on
    if data.eval is None and data.hold_out != "last":
        form["hold_out"] = data.hold_out
    form |= {name: column for name in ("group_by", "stratify_by") if (column := getattr(data, name)) is not None}
    return {**contents, "form": hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:16]}


def same_content(one: Path, other: Path) -> bool:
    """Tells whether two files hold the same bytes; False for unreadable files. Compares the sizes first."""
    try:
        if one.stat().st_size != other.stat().st_size:
            return False
        return one.samefile(other) or _digest(one) == _digest(other)
    except OSError:
        return False


def _is_local(data: DataSpec, split: SplitName) -> bool:
    source: str | None = getattr(data, split)
    if source is None:
        raise DataError(f"data.{split}: is not given")
    try:
        return is_local(source)
    except DataError as error:
        raise DataError(f"data.{split}: {error}") from None


def _file_problems(data: DataSpec, split: SplitName) -> list[str]:
    source = getattr(data, split)
    stream = placed(data, split)
    rows = list(islice(stream, 1 if split == "test" else CHECKED_ROWS))
    if not rows:
        return [f"data.{split}: {source} has no rows"]
    cells = dict(chain.from_iterable(row.items() for _, row, _ in rows))
    problems = templates.absent(data, cells, source) or _first_bad_row(data, split, rows)
    if split == "train" and data.eval is None and data.eval_examples is not None:
        beyond = islice(stream, max(0, min(data.eval_examples + 1, COUNTED_ROWS) - len(rows)))
        total = len(rows) + sum(1 for _ in beyond)
        if total <= data.eval_examples and total < COUNTED_ROWS:
            problems.append(too_few_to_hold_out(data, total))
    return problems


def held_out(data: DataSpec, rows: Iterable[Row]) -> list[bool]:
    """Tells for each row of data.train whether it is held out: whole groups, until these have `eval_examples` rows.

    The order of the groups, and with data.stratify_by their labels, alone decide the draw, so sweeps on the same rows
    have the same split. A group has the label of its first row. Groups of more than `eval_examples` rows are not held
    out.

    Raises:
        DataError: no row would be left to train on; or such large groups hold more than a tenth of the rows, so that no
            evaluation would have rows like theirs.
    """
    column, most = data.group_by, data.eval_examples or 0
    groups: list[Group] = []
    labels: dict[Group, str | None] = {}
    for number, row in enumerate(rows):
        groups.append(number if column is None else str(row.get(column)))
        labels.setdefault(groups[-1], None if data.stratify_by is None else str(row.get(data.stratify_by)))
    if 0 < len(groups) <= most:
        raise DataError(too_few_to_hold_out(data, len(groups)))
    sizes, drawing = Counter(groups), random.Random(0)
    drawn = {group: drawing.random() for group in sizes}  # a number per group, so added rows change little of the draw
    held, rows_held = set(), 0
    in_large = sum(size for size in sizes.values() if size > most)
    if in_large > _MOST_IN_LARGE * len(groups):
        raise DataError(
            f"data.eval_examples: groups of data.group_by {column} with more than {most} rows have {in_large} of all "
            f"{len(groups)} rows, and could not be held out: raise it, to {max(sizes.values())} for all groups, or "
            "give data.eval"
        )
    in_turn = _in_proportion(sorted(sizes, key=drawn.__getitem__), labels)
    for group in in_turn if data.hold_out == "drawn" else reversed(sizes):
        if rows_held < most and sizes[group] <= most:
            held.add(group)
            rows_held += sizes[group]
    if groups and rows_held == len(groups):
        raise DataError(too_few_to_hold_out(data, len(groups)))
    return [group in held for group in groups]


def _in_proportion(groups: Sequence[Group], labels: Mapping[Group, str | None]) -> list[Group]:
    """Orders groups so that every beginning of the list has the labels in proportion. Equal labels stay in order."""
    totals, seen = Counter(labels[group] for group in groups), Counter[str | None]()
    places = {}
    for group in groups:
        seen[labels[group]] += 1
        places[group] = (seen[labels[group]] - 0.5) / totals[labels[group]]
    return sorted(groups, key=places.__getitem__)


def too_few_to_hold_out(data: DataSpec, rows: int) -> str:
    """Returns the message about a data.train whose rows would all be held out for evaluation."""
    return (
        f"data.eval_examples: {data.eval_examples} rows are held out of data.train, which has {rows}: "
        "lower data.eval_examples, or give data.eval"
    )


def _first_bad_row(data: DataSpec, split: SplitName, rows: list[Placed]) -> list[str]:
    parsed = templates.parse_all(data)
    for place, row, _ in rows:
        try:
            for template in parsed.values():
                template.fill(row)
            if data.messages is not None:
                templates.chat(row, data.messages)
            templates.group(data, row)
        except DataError as error:
            return [f"data.{split}: {getattr(data, split)}, {place}: {error}"]
    return []


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _shared_problems(data: DataSpec) -> list[str]:
    """Lists problems of splits with the same rows as data.train: trained rows must not be evaluated."""
    problems, way_out = [], "give rows that are not trained on, or leave it out"
    others: tuple[SplitName, ...] = ("eval", "test")
    for split in others:
        source: str | None = getattr(data, split)
        if source is None:
            continue
        train, other = Path(data.train), Path(source)
        if other.suffix.lower() in SUFFIXES:
            if source == data.train or _same_file(train, other):
                problems.append(f"data.{split}: is the same file as data.train: {way_out}")
            elif same_content(train, other):
                problems.append(f"data.{split}: {source} is a copy of data.train: {way_out}")
        elif source == data.train and getattr(data, f"{split}_split") == data.train_split:
            same = f"is the same split ({data.train_split}) as data.train"
            problems.append(f"data.{split}: {same}: set data.{split}_split, or leave it out")
    return problems


def _read_hub(data: DataSpec, split: SplitName, every_column: bool) -> Iterator[Placed]:
    import datasets

    source, part = getattr(data, split), getattr(data, f"{split}_split")
    name, _, config = source.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=part, revision=data.revision)
    # datasets 5 raises these for an unknown id, configuration or split, without a network, and for malformed files.
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"data.{split}: cannot load split {part!r} of the hub data set {source}: {error}") from error
    columns = rows.column_names if every_column else row_files.needed(data, rows.column_names)
    for number, row in enumerate(rows.select_columns(columns), 1):
        yield Placed(f"row {number}", row, 0)


def _content(data: DataSpec, split: SplitName) -> str:
    source = getattr(data, split)
    if not _is_local(data, split):
        return f"hub:{source}@{data.revision or 'main'}/{getattr(data, f'{split}_split')}"
    path = Path(source)
    try:
        if not path.is_file():
            raise DataError(f"data.{split}: {row_files.not_found(path)}")
        return _digest(path)[:16]
    except OSError as error:
        raise DataError(f"data.{split}: {source} cannot be read: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
