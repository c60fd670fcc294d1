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
from contextlib import suppress
from itertools import chain, compress, islice, repeat
from pathlib import Path
from typing import Literal, TypeVar

from trainables.data import row_files, templates
from trainables.data.templates import Placed, Row
from trainables.errors import DataError
from trainables.specs import DataSpec

SplitName = Literal["train", "eval", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "eval", "test")
RowGroup = int | str
"""What marks the rows that are drawn together: their group, their content, or the place of a row that is alone."""
Unit = TypeVar("Unit", int, str, int | str)
CHECKED_ROWS = 20
COUNTED_ROWS = 2000
"""The most rows that `check_data` counts to see whether rows are left to train on."""
AUTO_TEST_ROWS = 200
LEAST_FOR_AUTO = 1200
"""data.test_examples: auto draws `AUTO_TEST_ROWS` if at least so many rows are not held out."""
_MOST_IN_LARGE = 0.1
"""The largest share of rows that may be in groups too large to be held out."""
OTHER_TASK = "; leave data.test out with data.test=null if its rows are not of this task"
"""Ends the last problem about the rows of `data.test`."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.+-]+)?", re.ASCII)
# Letters, so that a version in a hub id ("owner/name-v1.5") is not taken for a suffix.
_FILE_SUFFIX = re.compile(r"\.[a-z]{2,9}\d?$", re.IGNORECASE)


def is_local(source: row_files.Source) -> bool:
    """Returns True for a local file or folder, False for the id of a hub data set; raises `DataError` otherwise."""
    accepted = f"a file ends in {', '.join(row_files.SUFFIXES)}; a hub data set is owner/name or owner/name:config"
    if not isinstance(source, str):
        if hub := [part for part in source if not is_local(part)]:
            raise DataError(f"{hub[0]} is the id of a hub data set, and a list names files: {accepted}")
        return True
    if Path(source).suffix.lower() in row_files.SUFFIXES:
        return True
    try:
        if Path(source).is_dir():
            return True
        is_there = Path(source).exists()
    except OSError as error:  # a name that is too long, for example
        raise DataError(f"{source} cannot be looked up: {error.strerror}; {accepted}") from None
    if source.startswith(("/", "./", "../", "~")) or _FILE_SUFFIX.search(source) or is_there:
        raise DataError(f"{source} is not a kind of file that is read here: {accepted}")
    if not _HUB_ID.fullmatch(source):
        raise DataError(f"{source} is neither a file nor a hub data set: {accepted}")
    return False


def check_data(data: DataSpec) -> list[str]:
    """Lists the problems of local files and templates as "data.FIELD: what is wrong". Uses no network and no torch."""
    problems = templates.malformed(data)
    for split in SPLITS:
        source = getattr(data, split)
        if source is None:
            continue
        try:
            if _is_local(data, split) and not row_files.is_large_array(source):
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
    named = {split: source for split in SPLITS if isinstance(source := getattr(data, split), str)}
    hub = {
        f"data.{split}": source.partition(":")[0]
        for split, source in named.items()
        if _HUB_ID.fullmatch(source) and Path(source).suffix.lower() not in row_files.SUFFIXES
    }
    repositories = dict.fromkeys(hub.values())
    if len(repositories) < 2 or _COMMIT.fullmatch(data.revision or "") is None:
        return []
    return [
        f"data.revision: {data.revision} is a commit of one repository, and {' and '.join(hub)} name "
        f"{len(repositories)} ({' and '.join(repositories)}): take all from one, or save the others' rows as files"
    ]


def placed(data: DataSpec, split: SplitName, *, every_column: bool = False) -> Iterator[Placed]:
    """Reads the rows of one split, in order, with their places. Values of a CSV file are strings.

    Args:
        every_column: whether to read also the columns of Parquet files and hub data sets that no template names.

    Raises:
        DataError: the file or data set is missing or cannot be read; names the file and the line.
    """
    if _is_local(data, split):
        return row_files.read_rows(f"data.{split}", getattr(data, split), data, every_column=every_column)
    return _read_hub(data, split, every_column)


def split_of(data: DataSpec, part: SplitName) -> SplitName:
    """Returns the split that the rows of a part are read from: train where they are drawn from it."""
    part = _as_drawn(data, part)
    return part if getattr(data, part) is not None else "train"


def _as_drawn(data: DataSpec, part: SplitName) -> SplitName:
    return "test" if data.all_rows and part == "eval" else part


def divided(data: DataSpec, *, every_column: bool = False) -> dict[SplitName, Iterator[Placed]]:
    """Reads the rows of each part that may have rows, in one draw. Raises `DataError` like `part_of`."""
    uses = _uses(data)
    parts = SPLITS if data.test is not None or data.test_examples is not None else SPLITS[:2]
    return {part: part_of(data, part, every_column=every_column, uses=uses) for part in parts}


def part_of(
    data: DataSpec, part: SplitName, *, every_column: bool = False, uses: Iterable[SplitName] | None = None
) -> Iterator[Placed]:
    """Reads the rows of one part: of its own split, or drawn from data.train.

    Args:
        every_column: see `placed`; not for the rows to train on.
        uses: the part of each row of data.train, if known.

    Raises:
        DataError: as `placed` and `drawn`.
    """
    part, split = _as_drawn(data, part), split_of(data, part)
    rows = placed(data, split, every_column=every_column and part != "train")
    if split != "train":
        return islice(rows, data.eval_examples if part == "eval" else None)
    is_all = data.all_rows and part == "train"
    wanted = {part, "eval"} if is_all else {part}
    chosen = compress(rows, map(wanted.__contains__, _uses(data) if uses is None else uses))
    return chain(chosen, placed(data, "eval")) if is_all and data.eval is not None else chosen


def _uses(data: DataSpec) -> Iterable[SplitName]:
    """Returns the part of each row of data.train. Reads the rows for this alone, as memory may not hold them."""
    return drawn(data, (row for _, row, _ in placed(data, "train"))) if data.may_draw else repeat("train")


def fingerprint(data: DataSpec) -> dict[str, str]:
    """Identifies the rows and their templates: split -> content hash or hub revision, and "form" -> hash of the fields.

    Paths do not count, so equal files give equal fingerprints. A split that is not given has no entry. Raises
    `DataError` if a file cannot be read.
    """
    contents: dict[str, str] = {split: _content(data, split) for split in SPLITS if getattr(data, split) is not None}
    fields = ("prompt", "completion", "system", "messages", "text", "max_length", "eval_examples")
    form = {field: getattr(data, field) for field in fields}
    # Only fields that are set count, which keeps the fingerprints of sweeps from before these fields existed.
    unset = {"train_on": "last", "group_by": None, "stratify_by": None, "test_examples": None, "all_rows": False}
    unset |= {"hold_out": "last", "copies": "apart"} if data.may_draw else {}
    form |= {name: said for name, old in unset.items() if (said := getattr(data, name)) != old}
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
    source: row_files.Source | None = getattr(data, split)
    if source is None:
        raise DataError(f"data.{split}: is not given")
    try:
        return is_local(source)
    except DataError as error:
        raise DataError(f"data.{split}: {error}") from None


def _file_problems(data: DataSpec, split: SplitName) -> list[str]:
    source = row_files.in_words(getattr(data, split))
    stream = placed(data, split)
    rows = list(islice(stream, 1 if split == "test" else CHECKED_ROWS))
    if not rows:
        return [f"data.{split}: {source} has no rows"]
    cells = dict(chain.from_iterable(row.items() for _, row, _ in rows))
    problems = templates.absent(data, cells, source) or _first_bad_row(data, split, rows)
    held = sum(asked_of_train(data).values())
    if split == "train" and held:
        total = len(rows) + sum(1 for _ in islice(stream, max(0, min(held + 1, COUNTED_ROWS) - len(rows))))
        if total <= held and total < COUNTED_ROWS:
            problems.append(too_few_to_hold_out(data, total))
    return problems


def drawn(data: DataSpec, rows: Iterable[Row]) -> list[SplitName]:
    """Tells for each row of data.train whether it is trained on, held out (eval) or for promotion alone (test).

    Units are drawn until they have `eval_examples` rows, and then others until they have `test_examples`. A unit is a
    group of data.group_by; without groups a row, and with data.copies: together its equals. The order of the units, and
    with data.stratify_by their labels, alone decide the draw, so sweeps on the same rows have the same parts, whatever
    their tokenizers. A unit has the label of its first row.

    Raises:
        DataError: no row would be left to train on; or groups with more rows than are to be drawn hold more than a
            tenth of all rows, so that no evaluation would have rows like theirs; or no unit has so few rows.
    """
    units: list[RowGroup] = []
    labels: dict[RowGroup, str | None] = {}
    for place, row in enumerate(rows):
        units.append(_unit(data, row, place))
        labels.setdefault(units[-1], None if data.stratify_by is None else str(row.get(data.stratify_by)))
    sizes, drawing, asked = Counter(units), random.Random(0), asked_of_train(data)
    if 0 < len(units) <= sum(asked.values()):
        raise DataError(too_few_to_hold_out(data, len(units)))
    number = {unit: drawing.random() for unit in sizes}  # one for each unit: added rows change little of the draw
    in_turn = in_proportion(sorted(sizes, key=number.__getitem__), labels)
    in_turn = in_turn if data.hold_out == "drawn" else list(reversed(sizes))
    uses: dict[RowGroup, SplitName] = dict.fromkeys(_taken(data, "eval", asked.get("eval", 0), in_turn, sizes), "eval")
    left = [unit for unit in in_turn if unit not in uses]
    with suppress(*(DataError,) if data.test_examples == "auto" else ()):
        most = most_of(data, sum(map(sizes.__getitem__, left)))
        uses |= dict.fromkeys(_taken(data, "test", most, left, sizes), "test")
    if units and len(uses) == len(sizes):
        raise DataError(too_few_to_hold_out(data, len(units)))
    return [uses.get(unit, "train") for unit in units]


def most_of(data: DataSpec, left: int) -> int:
    """Returns how many rows of data.train are wanted for promotion alone, where `left` rows are not held out."""
    if data.test_examples == "auto":
        return AUTO_TEST_ROWS if left >= LEAST_FOR_AUTO else 0
    return data.test_examples or 0


def _unit(data: DataSpec, row: Row, place: int) -> RowGroup:
    """Returns what is equal for the rows of one unit; see `drawn`."""
    if data.group_by is not None:
        return str(row.get(data.group_by))
    if data.copies == "together":
        with suppress(DataError):  # a row that cannot be used is refused where it is read
            return str(templates.row_key(data, row))
    return place


def _taken(
    data: DataSpec, part: SplitName, most: int, in_turn: Sequence[RowGroup], sizes: Counter[RowGroup]
) -> list[RowGroup]:
    """Returns groups with at least `most` rows in all; without groups, rows and their equals with at most so many."""
    taken: list[RowGroup] = []
    rows = 0
    for unit in in_turn:
        if rows < most and sizes[unit] <= (most - rows if data.group_by is None else most):
            taken.append(unit)
            rows += sizes[unit]
    in_large = sum(size for size in sizes.values() if size > most)
    is_unlike = data.group_by is not None and in_large > _MOST_IN_LARGE * sizes.total()
    if most and in_turn and (is_unlike or not taken):
        units = "sets of equal rows" if data.group_by is None else f"groups of data.group_by {data.group_by}"
        raise DataError(
            f"data.{part}_examples: {units} with more than {most} rows have {in_large} of all {sizes.total()} rows, "
            f"and could not be held out: raise it, to {max(sizes.values())} for all of them, or give data.{part}"
            + ("; null draws none" if part == "test" else "")
        )
    return taken


def in_proportion(groups: Sequence[Unit], labels: Mapping[Unit, str | int | None]) -> list[Unit]:
    """Orders groups so that every beginning of the list has the labels in proportion. Equal labels stay in order."""
    totals, seen = Counter(labels[group] for group in groups), Counter[str | int | None]()
    places = {}
    for group in groups:
        seen[labels[group]] += 1
        places[group] = (seen[labels[group]] - 0.5) / totals[labels[group]]
    return sorted(groups, key=places.__getitem__)


def asked_of_train(data: DataSpec) -> dict[str, int]:
    """Returns eval and test -> the number of rows that data.train is asked for, the largest first."""
    parts = [name for name in ("eval", "test") if getattr(data, name) is None]
    counts = {name: many for name in parts if isinstance(many := getattr(data, f"{name}_examples"), int)}
    return dict(sorted(counts.items(), key=lambda each: -each[1]))


def too_few_to_hold_out(data: DataSpec, rows: int) -> str:
    """Returns the message about a data.train whose rows would all be held out, for evaluation or for promotion."""
    asked = asked_of_train(data)
    unwanted = {"test": " (null draws none)"}
    lower = " or ".join(f"data.{name}_examples={count}{unwanted.get(name, '')}" for name, count in asked.items())
    return (
        f"data.{next(iter(asked))}_examples: {sum(asked.values())} rows are held out of data.train, which has {rows}: "
        f"lower {lower}, or give {' or '.join(f'data.{name}' for name in asked)}"
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
            return [f"data.{split}: {row_files.in_words(getattr(data, split))}, {place}: {error}"]
    return []


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _in_both(data: DataSpec, split: SplitName) -> list[Path]:
    """Returns the first file that both data.train and another split read, where one is a folder."""
    both: list[SplitName] = ["train", split]
    with suppress(DataError, OSError):  # reported by the check of the split
        read = [
            {file.resolve() for file in row_files.files(f"data.{each}", getattr(data, each), data)} for each in both
        ]
        return sorted(read[0] & read[1])[:1]
    return []


def _shared_problems(data: DataSpec) -> list[str]:
    """Lists problems of splits with the same rows as data.train: trained rows must not be evaluated."""
    problems, way_out = [], "give rows that are not trained on, or leave it out"
    others: tuple[SplitName, ...] = ("eval", "test")
    for split in others:
        source: str | None = getattr(data, split)
        if source is None:
            continue
        train, other = Path(row_files.in_words(data.train)), Path(source)
        if not isinstance(data.train, str) or train.is_dir() or other.is_dir():
            problems += [
                f"data.{split}: {file} is also read for data.train: {way_out}" for file in _in_both(data, split)
            ]
        elif other.suffix.lower() in row_files.SUFFIXES:
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
    try:
        paths = row_files.files(f"data.{split}", source, data)
        if missing := [path for path in paths if not path.is_file()]:
            raise DataError(f"data.{split}: {row_files.not_found(missing[0], data)}")
        digests = [_digest(path) for path in paths]
        return (digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest())[:16]
    except OSError as error:
        raise DataError(f"data.{split}: {source} cannot be read: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
