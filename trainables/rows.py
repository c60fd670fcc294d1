"""Rows as their files or the hub hold them, what is wrong with them, and what identifies them.

Local files are read with the standard library (Parquet with pyarrow, imported where it is used), hub data sets with
`datasets`: so checking a sweep file starts in milliseconds. Nothing here knows about tokens.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Literal, cast

from trainables import templates
from trainables.errors import DataError
from trainables.specs import DataSpec
from trainables.templates import Row

SplitName = Literal["train", "eval", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "eval", "test")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
CHECKED_ROWS = 20
COUNTED_ROWS = 2000
"""Rows that `check` counts at most, to see whether enough are left beside those held out."""
OTHER_TASK = "leave it out with data.test=null if these rows are not of this task"
"""Ends a problem of `data.test` that `check` finds."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.+-]+)?", re.ASCII)
# Letters, so that a version in a hub id ("owner/name-v1.5") is not taken for a suffix.
_FILE_SUFFIX = re.compile(r"\.[a-z]{2,9}\d?$", re.IGNORECASE)
_CSV_FIELD_CHARACTERS = 2**31 - 1


def is_local(source: str) -> bool:
    """True for a file to read here, False for a hub data set id. Raises `DataError` for what is neither."""
    accepted = f"a file ends in {', '.join(SUFFIXES)}; a hub data set is owner/name or owner/name:config"
    if Path(source).suffix.lower() in SUFFIXES:
        return True
    if Path(source).is_dir():
        raise DataError(f"{source} is a folder: name a file in it ({accepted})")
    if source.startswith(("/", "./", "../", "~")) or _FILE_SUFFIX.search(source) or Path(source).exists():
        raise DataError(f"{source} is not a kind of file that is read here: {accepted}")
    if not _HUB_ID.fullmatch(source):
        raise DataError(f"{source} is neither a file nor a hub data set: {accepted}")
    return False


def check(data: DataSpec) -> list[str]:
    """Problems with the local files and the templates, each "data.FIELD: what is wrong". No network, no torch."""
    problems = templates.malformed(data)
    for split in SPLITS:
        source = getattr(data, split)
        if source is None:
            continue
        try:
            if _is_local(data, split):
                problems += _file_problems(data, split)
        except DataError as error:
            problems.append(str(error))
    # Once each: looking for the columns of a malformed template says again that it is malformed.
    return list(dict.fromkeys(problems + _shared_problems(data)))


def read(data: DataSpec, split: SplitName) -> Iterator[Row]:
    """The rows of one split, in order. Values of a CSV file are strings.

    Raises:
        DataError: the file or data set is not there or cannot be read; names the file and the line.
    """
    return _read_local(data, split) if _is_local(data, split) else _read_hub(data, split)


def fingerprint(data: DataSpec) -> dict[str, str]:
    """What identifies the rows and how they read: split -> content hash or hub revision, and "form".

    Paths are not in it: equal files give equal fingerprints wherever they lie. A split that is not given has no
    entry. Raises `DataError` when a file cannot be read.
    """
    found: dict[str, str] = {split: _content(data, split) for split in SPLITS if getattr(data, split) is not None}
    fields = ("prompt", "completion", "system", "messages", "text", "max_length", "eval_examples")
    form = {field: getattr(data, field) for field in fields}
    if data.train_on != "last":  # sweeps that were launched when there was nothing else keep their fingerprint
        form["train_on"] = data.train_on
    return {**found, "form": hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:16]}


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes; False for what cannot be read. Files of different sizes are not read."""
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
    stream = _read_local(data, split)
    rows = list(islice(stream, 1 if split == "test" else CHECKED_ROWS))
    if not rows:
        return [f"data.{split}: {source} has no rows"]
    found = tuple(dict.fromkeys(chain.from_iterable(rows)))
    problems = templates.absent(data, found, source) or _first_bad_row(data, split, rows)
    if split == "test" and problems:
        problems.append(f"data.test: {source}: {OTHER_TASK}")
    if split == "train" and data.eval is None and data.eval_examples is not None:
        beyond = islice(stream, max(0, min(data.eval_examples + 1, COUNTED_ROWS) - len(rows)))
        total = len(rows) + sum(1 for _ in beyond)
        if total <= data.eval_examples and total < COUNTED_ROWS:
            problems.append(too_few_to_hold_out(data, total))
    return problems


def too_few_to_hold_out(data: DataSpec, rows: int) -> str:
    """The problem of a `train` with no more rows than are held out of it for evaluation."""
    return (
        f"data.eval_examples: {data.eval_examples} rows are held out of data.train, which has {rows}: "
        "lower data.eval_examples, or give data.eval"
    )


def _first_bad_row(data: DataSpec, split: SplitName, rows: list[Row]) -> list[str]:
    parsed = templates.parse_all(data)
    for number, row in enumerate(rows, 1):
        try:
            for template in parsed.values():
                template.fill(row)
            if data.messages is not None:
                templates.chat(row, data.messages)
        except DataError as error:
            return [f"data.{split}: {getattr(data, split)}, row {number}: {error}"]
    return []


def _shared_problems(data: DataSpec) -> list[str]:
    """Rows that are trained on must not be evaluated on."""
    problems = []
    others: tuple[SplitName, ...] = ("eval", "test")
    for split in others:
        source: str | None = getattr(data, split)
        if source is None:
            continue
        train, other = Path(data.train), Path(source)
        if other.suffix.lower() in SUFFIXES:
            if source == data.train or (train.is_file() and other.is_file() and train.samefile(other)):
                problems.append(f"data.{split}: is the same file as data.train")
            elif same_content(train, other):
                problems.append(f"data.{split}: {source} is a copy of data.train: give rows that are not trained on")
        elif source == data.train and getattr(data, f"{split}_split") == data.train_split:
            problems.append(f"data.{split}: is the same split ({data.train_split}) as data.train")
    return problems


def _read_local(data: DataSpec, split: SplitName) -> Iterator[Row]:
    source = getattr(data, split)
    path, where = Path(source), f"data.{split}: {source}"
    try:
        if not path.is_file():
            raise DataError(f"data.{split}: {_not_found(path)}")
        match path.suffix.lower():
            case ".csv":
                yield from _csv(path, where)
            case ".parquet":
                yield from _parquet(path, where, data)
            case _:
                yield from _json(path, where)
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error}") from error


def _not_found(path: Path) -> str:
    place = path.absolute()
    if not place.parent.is_dir():
        return f"{place} does not exist (nor does the folder {place.parent})"
    near = difflib.get_close_matches(place.name, [entry.name for entry in place.parent.iterdir()], n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{place} {'is not a file' if place.exists() else 'does not exist'}{hint}"


def _json(path: Path, where: str) -> Iterator[Row]:
    """Rows of JSON lines, or of one JSON array of objects, which is read as a whole."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if start.startswith(b"["):
            array = cast("list[object]", _parsed(file.read(), where))
            for number, row in enumerate(array, 1):
                yield _object(row, f"{where}, row {number}")
            return
        # Lines end at \n alone: str.splitlines would also break at U+2028, which JSON strings may hold.
        for number, line in enumerate(file, 1):
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                place = f"{where}, line {number}"
                yield _object(_parsed(line, place), place)


def _parsed(raw: bytes, where: str) -> object:
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 text ({error.reason}): save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        spot = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise DataError(f"{where}: is not JSON: {error.msg} at {spot}") from None


def _object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f'{where}: is a {type(value).__name__}, not an object such as {{"question": "..."}}')
    return value


def _csv(path: Path, where: str) -> Iterator[Row]:
    # A process-wide setting, without which a text of more than 131,072 characters is an error.
    csv.field_size_limit(_CSV_FIELD_CHARACTERS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) != len(header):
                raise DataError(f"{where}, line 1: names a column twice: {', '.join(header)}")
            for values in reader:
                if len(values) == len(header):
                    yield dict(zip(header, values, strict=True))
                elif values:
                    counts = f"{len(values)} values for {len(header)} columns"
                    raise DataError(f"{where}, line {reader.line_num}: has {counts} ({', '.join(header)})")
        except csv.Error as error:
            raise DataError(f"{where}, line {reader.line_num}: is not CSV: {error}") from None
        except UnicodeDecodeError as error:
            place = f"{where}, after line {reader.line_num}"
            raise DataError(f"{place}: is not UTF-8 text ({error.reason}): save the file as UTF-8") from None


def _parquet(path: Path, where: str, data: DataSpec) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, columns=_needed(data, file.schema_arrow.names)):
                yield from batch.to_pylist()
    except ArrowException as error:
        raise DataError(f"{where}: is not a Parquet file that can be read: {error}") from error


def _needed(data: DataSpec, found: list[str]) -> list[str]:
    """The columns to read: others may be large, or hold sounds and pictures that are decoded as they are read.

    All of them when one is missing, so that the error can show what there is.
    """
    wanted = set(templates.columns(data))
    if not wanted <= set(found):
        return found
    # A prompt that is a column's bare name is an error that shows only when the column is there.
    return [column for column in found if column in wanted or column == (data.prompt or "").strip()]


def _read_hub(data: DataSpec, split: SplitName) -> Iterator[Row]:
    import datasets

    source, part = getattr(data, split), getattr(data, f"{split}_split")
    name, _, config = source.partition(":")
    try:
        found = datasets.load_dataset(name, config or None, split=part, revision=data.revision)
    # What datasets 5 raises for an unknown id, configuration or split, no network, and files that do not parse.
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"data.{split}: cannot load split {part!r} of the hub data set {source}: {error}") from error
    yield from found.select_columns(_needed(data, found.column_names))


def _content(data: DataSpec, split: SplitName) -> str:
    source = getattr(data, split)
    if not _is_local(data, split):
        return f"hub:{source}@{data.revision or 'main'}/{getattr(data, f'{split}_split')}"
    path = Path(source)
    try:
        if not path.is_file():
            raise DataError(f"data.{split}: {_not_found(path)}")
        return _digest(path)[:16]
    except OSError as error:
        raise DataError(f"data.{split}: {source} cannot be read: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
