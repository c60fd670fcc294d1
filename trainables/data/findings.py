"""Counts doubtful rows while they are read, and writes the problems and warnings about them.

Two rows are equal when the columns in their templates are equal, in whatever files they are.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trainables.data import sources, templates
from trainables.data.templates import Placed, Row
from trainables.errors import DataError
from trainables.objective import FEW_ROWS, LEAST_ROWS
from trainables.specs import DataSpec

Part = sources.SplitName
"""The use of a row. Rows held out of data.train are eval, and those drawn for promotion test."""
_MISSING = frozenset({"nan", "NaN", "NAN", "null", "NULL", "None", "N/A", "#N/A", "<NA>", "NaT"})
"""Words that programs write for a missing value."""
_MARKUP = re.compile(r"<[|｜]|</?s>|<\w+_of_turn>|\[/?INST\]|<(bos|eos|pad|unk)>")  # noqa: RUF001
"""Forms of the special tokens of many models."""
_CHARACTERS = 4
"""Characters of a token, roughly."""
_TEMPLATE = 30
"""Tokens that many chat templates put around a prompt."""
_MOST_VALUES = 50
"""A property with more different values is not compared. Most answers have more."""
_LEAST_GAP = 0.25
"""The least share of rows that would need another value to make two parts alike; below it there is no warning."""
_CHANCE = 1e-6
"""The chance of a false warning: two parts drawn alike that look different."""
_LEAST_EXPECTED = 5
"""Values expected less often in the smaller part count together, or the chi-square distribution would not hold."""
_OWN_TEMPLATE = "change the template in a copy of the model, or write the whole text with data.text"
_MOSTLY = "(reasoning up to </think> or tool calls, mostly)"
Doubt = tuple[str, str]
"""A key of `FINDINGS` that holds for a row, and the value that stands for {value} in its words; "" without one."""


class Finding(NamedTuple):
    """How a doubtful property of rows is told, as "NAME: ROWS, 2 of 30, the first on line 4: MEANS"."""

    rows: str
    means: str
    all_rows: str = ""
    """In place of `rows` where all rows have the property, which makes every result worthless: then it is an error."""
    way_out: str = ""
    """In place of `means`, after `all_rows`."""
    is_of_train: bool = False
    """Whether it is told of data.train alone."""
    is_by_value: bool = False
    """Whether rows with different values are counted apart."""


FINDINGS: Mapping[str, Finding] = {
    "empty": Finding(
        "empty {answers}", "they teach to answer nothing", "all {answers} are empty", "check data.{field}"
    ),
    "missing": Finding(
        "{answers} that say {value!r} and no more",
        "they are learnt as words; where they stand for a missing value, leave the rows out",
        is_by_value=True,
    ),
    "repeated": Finding("repeated rows", "{repeated}"),
    "trained_on": Finding(
        "rows that are also in data.train", "their loss says nothing about new rows; {apart}",
        "all rows are also in data.train", "give other rows",
    ),
    "of_trained": Finding(
        "rows of which data.train has the group (data.group_by: {group_by})",
        "their loss says little about new groups; take each group out of one of the two",
    ),
    "chosen_on": Finding(
        "rows that are also in {chosen_on}",
        "they chose the best trial, so they are not a test of it; give other rows",
    ),
    "cut_away": Finding("rows left out", "data.max_length {max_length} leaves nothing of their {answers}"),
    "special": Finding(
        "rows that hold special tokens of the model as text, {value!r} first",
        "it takes them for the bounds of turns; leave them out, as each row gets its own (an end token behind an "
        "answer is not doubled)",
    ),
    "unlearnt": Finding(
        "chats with several answers", "the last one counts (data.train_on: all counts each)", is_of_train=True
    ),
    "beside": Finding(
        "a column {value!r} beside the chats",
        "it is not read, the model sees data.messages alone; write it into a system message of the chat",
        is_by_value=True,
    ),
    "shortened": Finding(
        f"{{answers}} of which the model's chat template leaves out part {_MOSTLY}",
        f"only the rest is learnt; {_OWN_TEMPLATE}",
        f"the model's chat template leaves out part of all {{answers}} {_MOSTLY}", _OWN_TEMPLATE,
    ),
    "left_out": Finding(
        "{value} that the model's chat template leaves out", f"the model never sees them; {_OWN_TEMPLATE}",
        is_by_value=True,
    ),
    "split_tokens": Finding(
        "{answers} that begin inside a token",
        "the prompt ends in other tokens when the model is served; where data.prompt ends in a blank, move it to the "
        "start of data.completion",
        is_of_train=True,
    ),
    "unserved": Finding(
        "{answers} before which the model's chat template writes another text than where it asks for an answer",
        f"the text that the served model gets is never trained; {_OWN_TEMPLATE}",
        is_of_train=True,
    ),
}  # fmt: skip
"""Findings about single rows, in the order in which they are told."""


@dataclass
class Count:
    """The number of rows with some property, and the place and the value of the first one."""

    rows: int = 0
    first: str = ""
    value: str = ""


@dataclass
class Tally:
    """The counts for one part."""

    rows: int = 0
    characters: int = 0
    """Characters of all rows, without those of a chat template."""
    counts: dict[Doubt, Count] = field(default_factory=lambda: defaultdict(Count))
    """Doubt, without its value unless `is_by_value` -> the rows for which it holds."""
    groups: set[str] = field(default_factory=set)
    """Groups of the rows by data.group_by."""
    compared: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Property of rows, such as "completions" -> value -> number of different rows. Holds only the first values."""

    def add(self, name: str, value: str, place: str) -> None:
        """Counts one more row for which a finding holds."""
        count = self.counts[name, value if FINDINGS[name].is_by_value else ""]
        if not count.rows:
            count.first, count.value = place, value
        count.rows += 1

    def of(self, name: str) -> int:
        """Returns the number of rows for which a finding holds, with whatever value."""
        return sum(count.rows for (found, _), count in self.counts.items() if found == name)


class Findings:
    """Counts rows as they are read. Add the rows of train first: eval and test are compared with them."""

    def __init__(self, data: DataSpec) -> None:
        self._data = data
        self._content = _reader(data)
        self._seen: dict[Part, set[int]] = {"train": set(), "eval": set(), "test": set()}
        self.parts: dict[Part, Tally] = {"train": Tally(), "eval": Tally(), "test": Tally()}
        self._may_be_marked = False
        self._shortest_prompt: int | None = None

    def add(self, part: Part, placed: Placed, doubts: Iterable[Doubt] = ()) -> None:
        """Counts a row, with further doubts about it. Raises `DataError` for an unusable row; names file and line."""
        try:
            content = self._content(placed.row)
        except DataError as error:
            split = sources.split_of(self._data, part)
            raise DataError(f"data.{split}: {getattr(self._data, split)}, {placed.place}: {error}") from error
        tally = self.parts[part]
        tally.rows += 1
        tally.characters += content.characters
        self._may_be_marked = self._may_be_marked or content.may_be_marked
        self._shortest_prompt = min(self._shortest_prompt or content.prompt, content.prompt)
        for name, value in (*content.doubts, *self._of_others(part, content), *doubts):
            tally.add(name, value, placed.place)

    def _of_others(self, part: Part, content: _Content) -> list[Doubt]:
        """Compares a row with earlier rows of its part, of train and of eval."""
        tally, train, is_train = self.parts[part], self.parts["train"], part == "train"
        if content.group:
            tally.groups.add(content.group)
        is_repeated = content.key in self._seen[part]
        if not is_repeated:  # copies do not count as independent
            self._seen[part].add(content.key)
            for what, value in content.compared.items():
                if len(tally.compared[what]) <= _MOST_VALUES:
                    tally.compared[what][value] += 1
        is_trained_on = not is_train and content.key in self._seen["train"]
        holds = {
            "repeated": is_repeated,
            "of_trained": not is_train and content.group in train.groups,
            "trained_on": is_trained_on,
            "chosen_on": part == "test" and not is_trained_on and content.key in self._seen["eval"],
        }
        return [(name, "") for name, is_so in holds.items() if is_so]

    @property
    def row_tokens(self) -> float | None:
        """Mean tokens of a row to train on, estimated from characters; None if no row was added."""
        train = self.parts["train"]
        if not train.rows:
            return None
        return train.characters / train.rows / _CHARACTERS + (0 if self._data.text is not None else _TEMPLATE)

    @property
    def are_doubtful(self) -> bool:
        """Whether a row may hold a special token, or max_length may cut off every answer. Only tokens tell."""
        shortest = (self._shortest_prompt or 0) / _CHARACTERS + _TEMPLATE
        cuts_all = shortest >= self._data.max_length
        return self._may_be_marked or cuts_all

    def problems(self) -> list[str]:
        """Lists the faults that make every result worthless; see `Finding.all_rows`."""
        return [
            self._told(part, finding.all_rows, count, finding.way_out)
            for part, tally in self.parts.items()
            for finding, count in self._found(part)
            if finding.all_rows and count.rows == tally.rows
        ]

    def warnings(self) -> list[str]:
        """Lists doubtful findings that may be intended, one line each."""
        return [line for part in self.parts for line in self._warnings(part)]

    def _warnings(self, part: Part) -> list[str]:
        lines = [self._told(part, finding.rows, count, finding.means) for finding, count in self._found(part)]
        return lines if part == "train" else [*lines, *self._unlike(part), *self._few(part)]

    def _found(self, part: Part) -> Iterator[tuple[Finding, Count]]:
        counts = self.parts[part].counts
        for name, finding in FINDINGS.items():
            if part == "train" or not finding.is_of_train:
                yield from ((finding, count) for (found, _), count in counts.items() if found == name)

    def _told(self, part: Part, rows: str, count: Count, means: str) -> str:
        data, (of_answers, answers) = self._data, _answers(self._data)
        words = {
            "answers": answers,
            "field": of_answers,
            "value": count.value,
            "group_by": data.group_by,
            "max_length": data.max_length,
            "chosen_on": "those held out of data.train" if data.eval is None else "data.eval",
            "repeated": f"each {'is trained on' if part == 'train' else 'weighs in the mean'} that often",
            "apart": self._apart(part),
        }
        counted = f"{count.rows} of {self.parts[part].rows}, the first on {count.first}"
        return f"{self._name(part)}: {rows.format_map(words)}, {counted}: {means.format_map(words)}"

    def _unlike(self, part: Part) -> list[str]:
        tally, train = self.parts[part], self.parts["train"]
        independent = min((len(each.groups) / each.rows for each in (tally, train) if each.groups), default=1.0)
        compared = tally.compared.items()
        lines = [difference(what, values, train.compared[what], independent) for what, values in compared]
        if not any(lines):
            return []
        way_out = "shuffle the rows before they are divided"
        if part == "eval":
            way_out += f", or {'take data.hold_out: drawn' if self._data.eval is None else 'leave data.eval out'}"
        return [
            f"{self._name(part)}: rows unlike those of data.train, far beyond chance: {'; '.join(filter(None, lines))}"
            f": their loss says little about rows like those trained on; {way_out}"
        ]

    def _few(self, part: Part) -> list[str]:
        copies = self.parts[part].of("repeated")
        rows = self.parts[part].rows - copies
        if not 0 < rows < LEAST_ROWS:
            return []
        counted = f"{rows} {'row' if rows == 1 else 'rows'}{' without copies' if copies else ''}"
        if part == "test":
            return [f"{self._name(part)}: {counted}: promotion passes nothing with fewer than {LEAST_ROWS}"]
        more = f"give {FEW_ROWS} or more, and hundreds for small differences"
        return [f"{self._name(part)}: {counted} to evaluate on can hardly tell adapters apart: {more}"]

    def _name(self, part: Part) -> str:
        if not self._is_drawn(part):
            return f"data.{part}"
        return f"data.train, its {'rows held out' if part == 'eval' else 'test rows'}"

    def _is_drawn(self, part: Part) -> bool:
        return sources.split_of(self._data, part) != part

    def _apart(self, part: Part) -> str:
        """Says how equal rows come to stand on one side."""
        if not self._is_drawn(part):
            return "take them out of one of the two"
        if self._data.group_by is not None:
            return "give equal rows one group, or take them out"
        return "data.copies: together keeps equal rows on one side"


class _Content(NamedTuple):
    """The properties of a row that are counted."""

    key: int
    """Equal for equal rows."""
    group: str
    prompt: int
    """Characters before the first learnt answer."""
    characters: int
    """Characters of the whole row."""
    compared: dict[str, str]
    """Property -> value; see `Tally.compared`."""
    may_be_marked: bool
    doubts: list[Doubt]


def _reader(data: DataSpec) -> Callable[[Row], _Content]:
    column = data.messages
    if column is not None:
        return lambda row: _of_chat(data, row, column)
    parsed = templates.parse_all(data)
    learnt = [name for field, template in parsed.items() if field != "prompt" for name in template.columns]

    def content(row: Row) -> _Content:
        filled = {field: template.fill(row) for field, template in parsed.items()}
        texts = list(filled.values())
        values = [templates.value(row, name).strip() for name in learnt]
        before = f"{data.system or ''}{filled.get('prompt', '')}"
        doubts = _of_answers(not any(values), values)
        return _of_texts(data, row, templates.key(texts), texts, len(before), doubts)

    return content


def _of_chat(data: DataSpec, row: Row, column: str) -> _Content:
    messages = templates.chat(row, column)
    answers = templates.answers(messages)
    counted = answers if data.train_on == "all" else answers[-1:]
    learnt = [messages[number - 1] for number in counted]
    values = [message["content"].strip() for message in learnt]
    texts = [message["content"] for message in messages]
    are_there = all(value or message.get("tool_calls") for value, message in zip(values, learnt, strict=True))
    doubts = _of_answers(not are_there, values)
    if len(counted) < len(answers):
        doubts.append(("unlearnt", ""))
    doubts += [("beside", name) for name in templates.UNREAD_COLUMNS if name != column and row.get(name)]
    before = sum(map(len, texts[: counted[0] - 1]))
    return _of_texts(data, row, templates.key([templates.chat_text(messages)]), texts, before, doubts)


def _of_answers(is_empty: bool, values: Sequence[str]) -> list[Doubt]:
    missing = next((each for each in values if each in _MISSING), "")
    return [*([("empty", "")] if is_empty else []), *([("missing", missing)] if missing else [])]


def _of_texts(data: DataSpec, row: Row, key: int, texts: list[str], prompt: int, doubts: list[Doubt]) -> _Content:
    characters = sum(map(len, texts))
    longest = 2 ** characters.bit_length()
    compared = {"lengths": f"{longest // 2} to {longest - 1} characters"}
    if data.text is None:
        compared[_answers(data)[1]] = texts[-1].strip()
    is_marked = data.text is None and any(map(_MARKUP.search, texts))
    whole = characters + len(data.system or "")
    return _Content(key, templates.group(data, row), prompt, whole, compared, is_marked, doubts)


def _answers(data: DataSpec) -> tuple[str, str]:
    """Returns the field of `data` that gives the answers, and the word for them in messages."""
    if data.completion is not None:
        return "completion", "completions"
    return ("messages", "answers") if data.messages is not None else ("text", "texts")


def difference(what: str, rows: Counter[str], train: Counter[str], independent: float) -> str:
    """Describes how a property differs from that of the rows to train on; "" if the difference is small or chance.

    Uses Pearson's chi-square test of homogeneity.

    Args:
        what: the property, such as "completions".
        rows: value -> number of rows.
        train: the same for the rows to train on.
        independent: independent units per row; below 1 where rows belong together.
    """
    both, own, others = rows + train, rows.total(), train.total()
    if len(both) > _MOST_VALUES or not own or not others:
        return ""
    least = _LEAST_EXPECTED * (own + others) / min(own, others)
    shares = {value: (rows[value] / own, train[value] / others) for value in both}
    cells = [shares[value] for value, count in both.items() if count >= least]
    if len(cells) < len(both):
        cells.append((1 - sum(mine for mine, _ in cells), 1 - sum(theirs for _, theirs in cells)))
    if sum(abs(mine - theirs) for mine, theirs in cells) / 2 < _LEAST_GAP:
        return ""
    from scipy.special import chdtrc  # here, as its import takes longer than most checks of a sweep file

    statistic = sum(
        (mine - theirs) ** 2 / (mine / others + theirs / own) for mine, theirs in cells if mine + theirs > 0
    )
    if chdtrc(len(cells) - 1, independent * statistic) > _CHANCE:
        return ""
    value, (mine, theirs) = max(shares.items(), key=lambda each: abs(each[1][0] - each[1][1]))
    return f"other {what} ({value[:40]!r}: {mine:.0%} of them, {theirs:.0%} in data.train)"
