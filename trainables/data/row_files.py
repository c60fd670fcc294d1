"""Reads rows of local files with their places: JSON lines, JSON arrays, CSV, Parquet.

Uses the standard library (for Parquet pyarrow, imported on use), so that a check starts in milliseconds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from trainables.data import templates
from trainables.data.templates import Placed, Row
from trainables.errors import DataError
from trainables.inputs import json_text
from trainables.inputs.similar import did_you_mean
from trainables.specs import DataSpec

Source = str | tuple[str, ...]
"""A file, a folder, the id of a hub data set, or a list of files or folders."""
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_CSV_FIELD_CHARACTERS = 2**31 - 1
COUNTED_BYTES = 1_000_000_000
"""Bytes of the largest file of JSON lines whose rows are counted. Counting takes about a second."""
ARRAY_BYTES = 100_000_000
"""JSON arrays of more bytes are read only when the data is prepared, not when a sweep file is checked."""
_BOM = b"\xef\xbb\xbf"


def read_rows(field: str, source: Source, data: DataSpec, *, every_column: bool = False) -> Iterator[Placed]:
    """Reads the rows of a file, in order; of Parquet only the needed columns. Values of a CSV file are strings.

    Args:
        field: data.train, data.eval or data.test, for errors.
        data: names the needed columns.
        every_column: whether to read all columns of Parquet.

    Raises:
        DataError: the file is missing or cannot be read; names the line.
    """
    for path in files(field, source, data):
        where = f"{field}: {path}"
        try:
            if not path.is_file():
                raise DataError(f"{field}: {not_found(path, data)}")
            match path.suffix.lower():
                case ".csv":
                    rows = _csv(path, where, data)
                case ".parquet" | ".arrow":
                    rows = _columns(path, where, None if every_column else data)
                case _:
                    rows = _json(path, where)
            for placed in rows:
                yield placed if source == str(path) else placed._replace(place=f"{path.name}, {placed.place}")
        except OSError as error:
            raise DataError(f"{where} cannot be read: {error}") from error


def in_words(source: Source) -> str:
    """Returns a source as people read it."""
    return source if isinstance(source, str) else ", ".join(source)


def files(field: str, source: Source, data: DataSpec) -> list[Path]:
    """Returns the files that hold the rows of a source: the file itself, or those of a folder in the order of names.

    A list is the files of each of its parts, in order.

    A folder holds files of one kind, or is what `save_to_disk` of `datasets` 5 writes: Arrow files named by
    `state.json`, or a folder of them for each split, which `data.train_split` and its like name.

    Raises:
        DataError: the folder holds no rows, files of several kinds, or no such split.
    """
    if not isinstance(source, str):
        found = [file for part in source for file in files(field, part, data)]
        if missing := [file for file in found if not file.is_file()]:
            raise DataError(f"{field}: {not_found(missing[0], data)}")
        return found
    folder = Path(source)
    if not folder.is_dir():
        return [folder]
    if (folder / "dataset_dict.json").is_file():
        split = str(getattr(data, f"{field.removeprefix('data.')}_split"))
        there = sorted(each.parent.name for each in folder.glob("*/state.json"))
        if split not in there:
            raise DataError(f"{field}: {source} has no split {split!r}: set {field}_split (there: {', '.join(there)})")
        folder /= split
    if (folder / "state.json").is_file():
        state: Any = _parsed((folder / "state.json").read_bytes(), f"{field}: {folder}/state.json")
        return [folder / str(each["filename"]) for each in state["_data_files"]]
    found = sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.name[0] not in "._")
    kinds = sorted({each.suffix.lower() for each in found})
    if len(kinds) != 1:
        held = f"files of several kinds ({', '.join(kinds)})" if kinds else f"no file in {', '.join(SUFFIXES)}"
        raise DataError(f"{field}: {source} is a folder with {held}: name a file in it, or a folder of one kind")
    return found


def count(source: Source) -> int | None:
    """Counts the rows of a file without parsing them; returns None if that is impossible or would take long."""
    if not isinstance(source, str) or (path := Path(source)).is_dir():
        return None
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        return int(parquet.read_metadata(path).num_rows)
    if path.suffix.lower() == ".csv" or path.stat().st_size > COUNTED_BYTES or _is_array(path):
        return None
    with path.open("rb") as file:
        return sum(1 for line in file if not line.isspace())


def needed(data: DataSpec, present: list[str]) -> list[str]:
    """Returns the columns to read. Other columns may be large, or hold sounds and pictures that reading would decode.

    Returns all columns if a needed one is missing, so that the error can list them.
    """
    wanted = set(templates.columns(data))
    if not wanted <= set(present):
        return present
    # A prompt that is only the name of a column is an error, which is noticed only if that column is read. A column
    # beside a chat gives a warning that nothing of it is learnt.
    wanted |= {(data.prompt or "").strip()} if data.messages is None else set(templates.UNREAD_COLUMNS)
    return [column for column in present if column in wanted]


def not_found(path: Path, data: DataSpec) -> str:
    """Returns the message for a missing file, with similar names that exist and that no other split names."""
    place = path.absolute()
    if not place.parent.is_dir():
        return f"{place} does not exist (nor does the folder {place.parent})"
    train = (data.train,) if isinstance(data.train, str) else data.train
    named = {Path(source).name for source in (*train, data.eval, data.test) if source is not None}
    free = sorted({entry.name for entry in place.parent.iterdir()} - named)
    hint = did_you_mean(place.name, free, most=3)
    return f"{place} {'is not a file' if place.exists() else 'does not exist'}{hint}"


def is_large_array(source: Source) -> bool:
    """Tells whether a file is one large JSON array. Reading one takes seconds, since any row needs the whole file."""
    if not isinstance(source, str):
        return False
    path = Path(source)
    try:
        return path.suffix.lower() == ".json" and path.stat().st_size > ARRAY_BYTES and _is_array(path)
    except OSError:
        return False


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(_BOM).lstrip().startswith(b"[")


def _json(path: Path, where: str) -> Iterator[Placed]:
    if _is_array(path):
        array = cast("list[object]", _parsed(path.read_bytes(), where))
        size = path.stat().st_size // max(1, len(array))
        for number, row in enumerate(array, 1):
            yield Placed(f"row {number}", _object(row, f"{where}, row {number}"), size)
        return
    with path.open("rb") as file:
        # Lines end at \n alone: str.splitlines would also break at U+2028, which JSON strings may hold.
        for number, line in enumerate(file, 1):
            if line.strip(b" \t\r\n" + _BOM):
                place = f"line {number}"
                yield Placed(
                    place, _object(_parsed(line.rstrip(), f"{where}, {place}"), f"{where}, {place}"), len(line)
                )


def _parsed(raw: bytes, where: str) -> object:
    try:
        return json_text.parse(raw, unique_keys=True)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 text ({error.reason}): save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        spot = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        rule = error.msg.removesuffix(" at")
        raise DataError(f"{where}: is not JSON: {rule} at {spot}") from None
    except ValueError as error:
        raise DataError(f"{where}: cannot be used: {error}") from None


def _object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f'{where}: is a {type(value).__name__}, not an object such as {{"question": "..."}}')
    return value


def _csv(path: Path, where: str, data: DataSpec) -> Iterator[Placed]:
    # This setting holds for the whole process. Its default refuses texts of more than 131,072 characters.
    csv.field_size_limit(_CSV_FIELD_CHARACTERS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = 0
        try:
            delimiter = _delimiter(file, where, data)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, [])
            if len(set(header)) != len(header):
                raise DataError(f"{where}, line 1: names a column twice: {', '.join(header)}")
            line = reader.line_num
            for values in reader:
                if len(values) == len(header):
                    row = dict(zip(header, values, strict=True))
                    yield Placed(f"line {line + 1}", row, sum(map(len, values)))
                elif values:
                    counts = f"{len(values)} values for {len(header)} columns"
                    raise DataError(f"{where}, line {reader.line_num}: has {counts} ({', '.join(header)})")
                line = reader.line_num
        except csv.Error as error:
            raise DataError(f"{where}, line {line + 1}: is not CSV: {error}") from None
        except UnicodeDecodeError as error:
            place = f"{where}, after line {line}"
            raise DataError(f"{place}: is not UTF-8 text ({error.reason}): save the file as UTF-8") from None


def _delimiter(file: TextIO, where: str, data: DataSpec) -> str:
    """Returns the column separator: a comma, unless only semicolons or tabs give the needed columns.

    If no separator gives the needed columns, returns the likeliest one; an error that lists the columns follows.
    """
    headers = {delimiter: _header(file, delimiter) for delimiter in ",;\t"}
    file.seek(0)
    wanted = set(templates.columns(data))
    fits = [delimiter for delimiter, header in headers.items() if wanted <= set(header)]
    if len(fits) > 1 and "," not in fits:
        raise DataError(f"{where}, line 1: reads with semicolons and with tabs between columns: save it with commas")
    if fits:
        return fits[0]
    return max(headers, key=lambda delimiter: len(headers[delimiter])) if len(headers[","]) < 2 else ","


def _header(file: TextIO, delimiter: str) -> list[str]:
    file.seek(0)
    try:
        return next(csv.reader(file, delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _columns(path: Path, where: str, data: DataSpec | None) -> Iterator[Placed]:
    """Reads the columns that `data` needs of a Parquet or Arrow file; all without `data`."""
    from pyarrow import ArrowException

    number = 0
    kind, batches = ("Arrow", _arrow_batches) if path.suffix.lower() == ".arrow" else ("Parquet", _parquet_batches)
    try:
        for batch in batches(path, data):
            for row in batch.to_pylist():
                number += 1
                yield Placed(f"row {number}", row, batch.nbytes // len(batch))
    except ArrowException as error:
        raise DataError(f"{where}: is not a {kind} file that can be read: {error}") from error


def _parquet_batches(path: Path, data: DataSpec | None) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = None if data is None else needed(data, file.schema_arrow.names)
        yield from file.iter_batches(batch_size=1024, columns=columns)


def _arrow_batches(path: Path, data: DataSpec | None) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
        columns = stream.schema.names if data is None else needed(data, stream.schema.names)
        yield from (batch.select(columns) for batch in stream)
