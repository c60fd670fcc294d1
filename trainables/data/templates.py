"""Fills templates from the columns of a row, and reads chats from one column, as a `DataSpec` says.

A template is text with {column} in it. Attributes, indices, conversions and formats are refused, so that a sweep file
cannot reach into objects and every mistake gets a clear message. {{ and }} stand for literal braces.
"""

from __future__ import annotations

import hashlib
import json
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple

from trainables.errors import DataError
from trainables.inputs.similar import did_you_mean
from trainables.specs import DataSpec

Row = Mapping[str, object]


class Placed(NamedTuple):
    """A row and its place in the file."""

    place: str
    """For example "line 7", or "row 7" if the rows of the file are not lines."""
    row: Row
    size: int
    """Approximate bytes of the row in its file; 0 for a hub data set."""


Message = dict[str, Any]

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"} | {
    role: role for role in ("user", "assistant", "system", "tool")
}
"""The value of "from" in a {from, value} message -> the role in a {role, content} message."""
TEMPLATES = ("prompt", "completion", "text")
UNREAD_COLUMNS = ("system", "tools")
"""Columns beside a chat that other trainers read and this project does not."""
_NO_PAIR = "data.prompt=null data.completion=null"
_BRACES = "write {{ and }} for braces of the text itself"


@dataclass(frozen=True)
class Template:
    """A parsed template: pieces of literal text, each followed by a column or by None."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in the template, each once, in order of appearance."""
        return tuple(dict.fromkeys(column for _, column in self.parts if column is not None))

    def fill(self, row: Row) -> str:
        """Returns the text for one row. Raises `DataError` like `value`."""
        return "".join(text + ("" if column is None else value(row, column)) for text, column in self.parts)


@lru_cache
def parse(field: str, template: str) -> Template:
    """Parses the template of `data.field`. Raises `DataError`, which says what is malformed and how to write it."""
    where = f"data.{field}: {template!r}"
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"{where} has unbalanced braces ({error}): {_BRACES}") from None
    parts: list[tuple[str, str | None]] = []
    for text, column, form, conversion in pieces:
        if column is not None and (problem := _malformed(column, form or "", conversion)):
            raise DataError(f"{where} {problem}; {_BRACES}")
        parts.append((text, column))
    parsed = Template(tuple(parts))
    # A constant prompt can be useful (every row answers the same request); a constant answer or text is not.
    if field != "prompt" and not parsed.columns:
        raise DataError(f'{where} names no column: put the column in braces, for example "{{{template.strip()}}}"')
    return parsed


def parse_all(data: DataSpec) -> dict[str, Template]:
    """Returns field -> parsed template, for prompt, completion and text if set. Raises `DataError`."""
    return {field: parse(field, template) for field, template in _given(data).items()}


def malformed(data: DataSpec) -> list[str]:
    """Lists the malformed templates, without looking at rows."""
    problems = []
    for field, template in _given(data).items():
        try:
            parse(field, template)
        except DataError as error:
            problems.append(str(error))
    return problems


def columns(data: DataSpec) -> tuple[str, ...]:
    """Returns the columns that `data` needs, each once. Raises `DataError` for a malformed template."""
    named = [name for name in (data.messages, data.group_by, data.stratify_by) if name is not None]
    filled = [column for template in parse_all(data).values() for column in template.columns]
    return tuple(dict.fromkeys(named + filled))


def absent(data: DataSpec, present: Row, source: str) -> list[str]:
    """Lists a problem for each column that `data` names but the row `present` lacks, with the most similar one."""
    has = f"columns: {', '.join(present)}"
    header = "; its first line is read as the header" if Path(source).suffix.lower() == ".csv" else ""
    problems = []
    chats = [f"; for a chat set data.messages={name} {_NO_PAIR}" for name, cell in present.items() if _is_chat(cell)]
    for field, template in _given(data).items():
        for column in parse(field, template).columns:
            if column not in present:
                meant = did_you_mean(column, present, shown=lambda name: f"{{{name}}}")
                hint = chats[0] if chats else meant or header
                problems.append(f"data.{field}: {{{column}}} is not a column of {source}; {has}{hint}")
        if field == "prompt" and template.strip() in present:
            problems.append(f'data.prompt: {template!r} is a column, not a template: write "{{{template.strip()}}}"')
    for field in ("messages", "group_by", "stratify_by"):
        name = getattr(data, field)
        if name is not None and name not in present:
            hint = did_you_mean(name.strip(" {}"), present)
            bare = " (the name of the column alone, without braces)" if "{" in name else ""
            problems.append(f"data.{field}: {name} is not a column of {source}{bare}; {has}{hint}")
    return problems


def group(data: DataSpec, row: Row) -> str:
    """Returns the group of a row, "" without data.group_by. Raises `DataError`."""
    if data.group_by is None:
        return ""
    found = value(row, data.group_by)
    if not found.strip():
        raise DataError(f"column {data.group_by!r} is empty: name the row's group; one that stands alone has its own")
    return found


def chat(row: Row, column: str) -> list[Message]:
    """Reads the chat in `column` up to its last assistant message; leaves out keys without a value.

    Null in place of a content beside tool_calls is read as an empty text.

    Raises:
        DataError: it is not a list of {role, content} or {from, value}, or no assistant message answers another.
    """
    if column not in row:
        raise DataError(_missing(row, column))
    value = row[column]
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DataError(f"column {column!r} is not a list of {{role, content}} but {_not_a_list(value)}")
    messages = [_message(column, number, message) for number, message in enumerate(value, 1)]
    last = max((index for index, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    if last is None:
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages)) or "none"
        raise DataError(f"column {column!r} has no assistant message to learn from (roles: {roles})")
    if last == 0:
        raise DataError(f"column {column!r} has no message before its assistant message")
    return messages[: last + 1]


def question(data: DataSpec, row: Row) -> str:
    """Returns the question of a row's last answer, for people: the prompt, or the chat before, one message a line.

    Raises `DataError` like `Template.fill` and `chat`.
    """
    if data.messages is None:
        return parse("prompt", data.prompt or "").fill(row)
    before = chat(row, data.messages)[:-1]
    return str(before[0]["content"]) if len(before) == 1 else "\n".join(f"{m['role']}: {m['content']}" for m in before)


def answer(data: DataSpec, row: Row) -> str:
    """Returns the completion of a row, or the last answer of its chat. Raises `DataError` like `question`."""
    if data.messages is None:
        return parse("completion", data.completion or "").fill(row)
    return str(chat(row, data.messages)[-1]["content"])


def row_key(data: DataSpec, row: Row) -> int:
    """Returns 64 bits, equal for rows with equal columns in their templates. Raises `DataError` like `question`."""
    if data.messages is not None:
        return key([chat_text(chat(row, data.messages))])
    return key([template.fill(row) for template in parse_all(data).values()])


def key(texts: Sequence[str]) -> int:
    """Returns 64 bits. Among a million different rows, two collide in about one of 40 million data sets."""
    said = "\0".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest())


def chat_text(messages: Sequence[Message]) -> str:
    """Returns a chat as text, equal for equal messages."""
    return json.dumps(messages, sort_keys=True, default=str)


def content(data: DataSpec, row: Row) -> str:
    """Returns the whole content of a row, independent of any model. Raises `DataError` like `question`."""
    if data.messages is not None:
        said: list[object] = [data.train_on, data.system, chat(row, data.messages)]
    else:
        said = [data.system, *(template.fill(row) for template in parse_all(data).values())]
    return json.dumps(said, default=str)


def answers(messages: Sequence[Message]) -> list[int]:
    """Returns the numbers, from 1, of the assistant messages that follow another message."""
    return [number for number, message in enumerate(messages, 1) if number > 1 and message["role"] == "assistant"]


def _given(data: DataSpec) -> dict[str, str]:
    values = {field: getattr(data, field) for field in TEMPLATES}
    return {field: value for field, value in values.items() if value is not None}


def _malformed(column: str, form: str, conversion: str | None) -> str | None:
    """Returns what is wrong with one field in braces, or None."""
    if column == "" or column.isdigit():
        return f"has a positional {{{column}}}: name a column"
    if "[" in column or "." in column:
        return f"reaches into a value with {{{column}}}: name a column and nothing more"
    if conversion is not None or form:
        return f"gives {{{column}}} a conversion or format: name a column and nothing more"
    return None


def value(row: Row, column: str) -> str:
    """Returns a column as text. Raises `DataError` when it is missing, null, not finite, or neither text nor number."""
    if column not in row:
        raise DataError(_missing(row, column))
    cell = row[column]
    if isinstance(cell, str):
        return _encodable(cell, column)
    if isinstance(cell, float) and not math.isfinite(cell):
        raise DataError(f"column {column!r} is {cell}, not a number: give it a value, or leave the row out")
    if isinstance(cell, Number):
        return str(cell)
    if cell is None:
        raise DataError(f"column {column!r} is null: give it a value, or leave the row out")
    way_out = f"; for a chat set data.messages={column}, and no other form of a row" if _is_chat(cell) else ""
    raise DataError(
        f"column {column!r} is a {type(cell).__name__}: a template takes text, numbers and booleans{way_out}"
    )


def _is_chat(cell: object) -> bool:
    return isinstance(cell, list) and {isinstance(message, Mapping) for message in cell} == {True}


def _encodable(text: str, column: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start : error.end]
        raise DataError(f"column {column!r} holds {half!a}, half of a character: no tokenizer accepts it") from None
    return text


def _missing(row: Row, column: str) -> str:
    return f"has no column {column!r}; columns: {', '.join(row)}"


def _not_a_list(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, str):
        return (
            f"{kind}: a text that holds JSON is not read, so CSV cannot hold chats: write the list itself, with no "
            "quotes around it, into a .jsonl file"
        )
    if isinstance(value, Mapping):
        return f"{kind} with the keys {', '.join(map(str, value))}: write one {{role, content}} for each message"
    return kind


def _not_text(value: object) -> str:
    if value is None:
        return ": it is null (give it a text, or leave the row out)"
    if isinstance(value, Sequence):
        return f": it is a {type(value).__name__} (of parts such as texts and pictures: write their text as one)"
    return f": it is of type {type(value).__name__}"


def _message(column: str, number: int, message: object) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f"column {column!r}, message {number} is not {{role, content}} but {type(message).__name__}")
    sharegpt = message.get("role") is None and {"from", "value"} <= message.keys()
    names = {"from": "role", "value": "content"} if sharegpt else {}
    for key in names or ("role", "content"):
        text = message.get(key)
        # OpenAI's form of an answer that is a tool call without text.
        if text is None and key == "content" and message.get("tool_calls"):
            continue
        if not isinstance(text, str):
            found = _not_text(text) if key in message else ""
            keys = ", ".join(map(str, message))
            way_out = "" if found else "; name them role and content, or from and value"
            raise DataError(f"column {column!r}, message {number} has no text in {key!r}{found}; keys: {keys}{way_out}")
        _encodable(text, column)
    # Parquet gives every message the keys of all others, with null for those that it lacks.
    said = {names.get(str(key), str(key)): value for key, value in message.items() if value is not None}
    said.setdefault("content", "")
    if names and said["role"] not in SHAREGPT_ROLES:
        raise DataError(
            f"column {column!r}, message {number} is from {said['role']!r}: human or user, gpt or assistant, system "
            "and tool are read"
        )
    return said | {"role": SHAREGPT_ROLES[said["role"]]} if names else said
