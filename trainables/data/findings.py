"""Counts doubtful rows while they are read, and writes the problems and warnings about them.

Two rows are equal when the columns in their templates are equal, in whatever files they are.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import NamedTuple

from trainables.data import sources, templates
from trainables.data.templates import Placed, Row
from trainables.errors import DataError
from trainables.specs import DataSpec

Part = sources.SplitName
"""The use of a row. Rows held out of data.train are eval, and those drawn for promotion test."""
FEW_ROWS = 10
"""With fewer rows, differences between adapters are mostly chance, and promotion passes nothing."""
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


@dataclass
class Count:
    """The number of rows with some property, and the place of the first one."""

    rows: int = 0
    first: str = ""

    def add(self, place: str) -> None:
        """Counts one more row."""
        self.rows += 1
        self.first = self.first or place


@dataclass
class Tally:
    """The counts for one part."""

    rows: int = 0
    characters: int = 0
    """Characters of all rows, without those of a chat template."""
    empty: Count = field(default_factory=Count)
    """Rows with an empty answer."""
    missing: Count = field(default_factory=Count)
    """Rows whose answer is a word for a missing value."""
    word: str = ""
    """The first word for a missing value."""
    repeated: Count = field(default_factory=Count)
    """Rows that are equal to an earlier row of this part."""
    trained_on: Count = field(default_factory=Count)
    """Rows of eval or test that are also in train."""
    chosen_on: Count = field(default_factory=Count)
    """Rows of test that are also in eval and not in train."""
    unlearnt: Count = field(default_factory=Count)
    """Chats with answers that do not count in the loss."""
    unanswered: Count = field(default_factory=Count)
    """Chats with messages after the last answer, which are left out."""
    cut_away: Count = field(default_factory=Count)
    """Rows left out because data.max_length cuts off all their labels."""
    shortened: Count = field(default_factory=Count)
    """Rows with an answer that the chat template shortens."""
    unserved: Count = field(default_factory=Count)
    """Rows with an answer whose prompt in training differs from the prompt of the served model."""
    special: Count = field(default_factory=Count)
    """Rows whose text holds a special token of the model."""
    token: str = ""
    """The first special token found in a row."""
    groups: set[str] = field(default_factory=set)
    """Groups of the rows by data.group_by."""
    of_trained: Count = field(default_factory=Count)
    """Rows of eval or test whose group also has rows in train."""
    compared: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Property of rows, such as "completions" -> value -> number of different rows. Holds only the first values."""
    split_tokens: Count = field(default_factory=Count)
    """Rows whose completion begins inside a token, without a chat template."""
    left_out: dict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    """Part of a chat, such as "system messages" -> rows whose chat template leaves the part out."""
    beside: dict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    """Column beside a chat, such as "tools" -> rows with this column."""


class Findings:
    """Counts rows as they are read. Add the rows of train first: eval and test are compared with them."""

    def __init__(self, data: DataSpec) -> None:
        self._data = data
        self._content = _reader(data)
        self._seen: dict[Part, set[int]] = {"train": set(), "eval": set(), "test": set()}
        self.parts: dict[Part, Tally] = {"train": Tally(), "eval": Tally(), "test": Tally()}
        self._may_be_marked = False
        self._shortest_prompt: int | None = None

    def add(self, part: Part, placed: Placed) -> None:
        """Counts a row. Raises `DataError` for an unusable row; names file and line."""
        try:
            content = self._content(placed.row)
        except DataError as error:
            split = sources.split_of(self._data, part)
            raise DataError(f"data.{split}: {getattr(self._data, split)}, {placed.place}: {error}") from error
        tally, place = self.parts[part], placed.place
        tally.rows += 1
        tally.characters += content.characters
        self._may_be_marked = self._may_be_marked or content.may_be_marked
        self._shortest_prompt = min(self._shortest_prompt or content.prompt, content.prompt)
        if content.empty:
            tally.empty.add(place)
        if content.missing is not None:
            tally.word = tally.word or content.missing
            tally.missing.add(place)
        if self._data.messages is not None:
            self._add_chat(tally, content, placed)
        self._compare(part, content, place)

    def _compare(self, part: Part, content: _Content, place: str) -> None:
        """Compares a row with earlier rows of its part, of train and of eval."""
        tally = self.parts[part]
        if content.group:
            tally.groups.add(content.group)
        if part != "train" and content.group in self.parts["train"].groups:
            tally.of_trained.add(place)
        if content.key in self._seen[part]:
            tally.repeated.add(place)
        else:  # copies do not count as independent
            for what, value in content.compared.items():
                if len(tally.compared[what]) <= _MOST_VALUES:
                    tally.compared[what][value] += 1
        self._seen[part].add(content.key)
        if part != "train" and content.key in self._seen["train"]:
            tally.trained_on.add(place)
        elif part == "test" and content.key in self._seen["eval"]:
            tally.chosen_on.add(place)

    def _add_chat(self, tally: Tally, content: _Content, placed: Placed) -> None:
        for column in templates.UNREAD_COLUMNS:
            if column != self._data.messages and placed.row.get(column):
                tally.beside[column].add(placed.place)
        if content.is_partly_learnt:
            tally.unlearnt.add(placed.place)
        if content.is_unanswered:
            tally.unanswered.add(placed.place)

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
        """Lists the faults that make every result worthless.

        All answers are empty, or the chat template shortens all of them, or all eval or test rows are trained on.
        """
        problems = []
        field, answers = _answers(self._data)
        for part, tally in self.parts.items():
            if tally.rows and tally.empty.rows == tally.rows:
                problems.append(
                    f"{self._name(part)}: all {answers} are empty, {_of(tally, tally.empty)}: check data.{field}"
                )
            if tally.rows and tally.shortened.rows == tally.rows:
                problems.append(
                    f"{self._name(part)}: the model's chat template leaves out part of all {answers} (reasoning up to "
                    f"</think> or tool calls, mostly), {_of(tally, tally.shortened)}: {_OWN_TEMPLATE}"
                )
        for part in ("eval", "test"):
            tally = self.parts[part]
            if tally.rows and tally.trained_on.rows == tally.rows:
                name = self._name(part)
                rows = f"all {tally.rows} rows are" if tally.rows > 1 else "the only row is"
                problems.append(f"{name}: {rows} also in data.train, so all is trained on: give other rows")
        return problems

    def warnings(self) -> list[str]:
        """Lists doubtful findings that may be intended, one line each."""
        return [line for part in self.parts for line in self._warnings(part)]

    def _warnings(self, part: Part) -> list[str]:
        tally, name = self.parts[part], self._name(part)
        field, answers = _answers(self._data)
        warnings = []
        if tally.empty.rows * 2 > tally.rows:
            warnings.append(f"{name}: most {answers} are empty, {_of(tally, tally.empty)}: check data.{field}")
        elif tally.empty.rows:
            warnings.append(f"{name}: empty {answers}, {_of(tally, tally.empty)}: they teach to answer nothing")
        if tally.missing.rows:
            warnings.append(
                f"{name}: {answers} that say {tally.word!r} and no more, {_of(tally, tally.missing)}: they are learnt "
                "as words; where they stand for a missing value, leave the rows out"
            )
        if tally.repeated.rows:
            warnings.append(f"{name}: repeated rows, {_of(tally, tally.repeated)}: {self._of_repeated(part)}")
        if tally.trained_on.rows:
            warnings.append(
                f"{name}: rows that are also in data.train, {_of(tally, tally.trained_on)}: their loss says nothing "
                f"about new rows; {self._way_out(part)}"
            )
        if tally.of_trained.rows:
            warnings.append(
                f"{name}: rows of which data.train has the group (data.group_by: {self._data.group_by}), "
                f"{_of(tally, tally.of_trained)}: their loss says little about new groups; take each group out of one "
                "of the two"
            )
        if tally.chosen_on.rows:
            where = "those held out of data.train" if self._data.eval is None else "data.eval"
            warnings.append(
                f"{name}: rows that are also in {where}, {_of(tally, tally.chosen_on)}: they chose the best trial, so "
                "they are not a test of it; give other rows"
            )
        if tally.cut_away.rows:
            warnings.append(
                f"{name}: rows left out, {_of(tally, tally.cut_away)}: data.max_length {self._data.max_length} leaves "
                f"nothing of their {answers}"
            )
        if tally.special.rows:
            warnings.append(
                f"{name}: rows that hold special tokens of the model as text, {tally.token!r} first, "
                f"{_of(tally, tally.special)}: it takes them for the bounds of turns; leave them out, as each row "
                "gets its own (an end token behind an answer is not doubled)"
            )
        other = [] if part == "train" else [*self._unlike(part), *self._few(part)]
        return [*warnings, *self._of_chats(part), *self._of_template(part), *other]

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

    def _of_chats(self, part: Part) -> list[str]:
        """Lists the parts of chats that are not learnt, or not read."""
        tally, name = self.parts[part], self._name(part)
        warnings = []
        if part == "train" and tally.unlearnt.rows:
            warnings.append(
                f"data.messages: chats with several answers, {_of(tally, tally.unlearnt)}: the last one counts "
                "(data.train_on: all counts each)"
            )
        if tally.unanswered.rows:
            warnings.append(
                f"{name}: chats with messages after the last answer, {_of(tally, tally.unanswered)}: these are left "
                "out, as nothing answers them"
            )
        for column, rows in tally.beside.items():
            warnings.append(
                f"{name}: a column {column!r} beside the chats, {_of(tally, rows)}: it is not read, the model sees "
                "data.messages alone; write it into a system message of the chat"
            )
        return warnings

    def _of_template(self, part: Part) -> list[str]:
        """Lists the changes that the chat template, or the tokenizer, makes to the rows."""
        tally, name = self.parts[part], self._name(part)
        _, answers = _answers(self._data)
        warnings = []
        if tally.shortened.rows:
            warnings.append(
                f"{name}: {answers} of which the model's chat template leaves out part (reasoning up to </think> "
                f"or tool calls, mostly), {_of(tally, tally.shortened)}: only the rest is learnt; {_OWN_TEMPLATE}"
            )
        for what, rows in tally.left_out.items():
            warnings.append(
                f"{name}: {what} that the model's chat template leaves out, {_of(tally, rows)}: the model never sees "
                f"them; {_OWN_TEMPLATE}"
            )
        if part == "train" and tally.split_tokens.rows:
            warnings.append(
                f"{name}: {answers} that begin inside a token, {_of(tally, tally.split_tokens)}: the prompt ends in "
                "other tokens when the model is served; where data.prompt ends in a blank, move it to the start of "
                "data.completion"
            )
        if part == "train" and tally.unserved.rows:
            warnings.append(
                f"{name}: {answers} before which the model's chat template writes another text than where it asks for "
                f"an answer, {_of(tally, tally.unserved)}: the text that the served model gets is never trained; "
                f"{_OWN_TEMPLATE}"
            )
        return warnings

    def _few(self, part: Part) -> list[str]:
        tally = self.parts[part]
        rows = tally.rows - tally.repeated.rows
        more = "give 30 or more, and hundreds for small differences"
        if 0 < len(tally.groups) < FEW_ROWS <= rows:
            return [f"{self._name(part)}: {len(tally.groups)} groups can hardly tell adapters apart: {more}"]
        if not 0 < rows < FEW_ROWS:
            return []
        counted = "1 row" if rows == 1 else f"{rows} rows"
        if tally.repeated.rows:
            counted += " without its copies" if rows == 1 else " without copies"
        if part == "test":
            return [f"{self._name(part)}: {counted}: promotion passes nothing with fewer than {FEW_ROWS}"]
        how = "cannot" if rows == 1 else "can hardly"
        return [f"{self._name(part)}: {counted} to evaluate on {how} tell adapters apart: {more}"]

    def _name(self, part: Part) -> str:
        if not self._is_drawn(part):
            return f"data.{part}"
        return f"data.train, its {'rows held out' if part == 'eval' else 'test rows'}"

    def _is_drawn(self, part: Part) -> bool:
        return sources.split_of(self._data, part) != part

    def _of_repeated(self, part: Part) -> str:
        if part == "train":
            return "each is trained on that often"
        if self._data.group_by is None:
            return "each counts as several; take them out"
        return "each weighs in the mean; intervals count a group once"

    def _way_out(self, part: Part) -> str:
        if self._is_drawn(part):
            if self._data.group_by is not None:
                return "give equal rows one group, or take them out"
            return "data.copies: together keeps equal rows on one side"
        return "take them out of one of the two"


class _Content(NamedTuple):
    """The properties of a row that are counted."""

    key: int
    """Equal for equal rows."""
    empty: bool
    missing: str | None
    group: str
    prompt: int
    """Characters before the first learnt answer."""
    characters: int
    """Characters of the whole row."""
    compared: dict[str, str]
    """Property -> value; see `Tally.compared`."""
    may_be_marked: bool
    is_partly_learnt: bool = False
    is_unanswered: bool = False
    """Whether the row is a chat with messages after the last answer."""


def _reader(data: DataSpec) -> Callable[[Row], _Content]:
    column = data.messages
    if column is not None:
        return lambda row: _of_chat(data, row, column)
    parsed = templates.parse_all(data)
    learnt = [name for field, template in parsed.items() if field != "prompt" for name in template.columns]

    def content(row: Row) -> _Content:
        filled = {field: template.fill(row) for field, template in parsed.items()}
        values = [templates.value(row, name).strip() for name in learnt]
        missing = next((each for each in values if each in _MISSING), None)
        texts = list(filled.values())
        before = f"{data.system or ''}{filled.get('prompt', '')}"
        return _Content(templates.key(texts), not any(values), missing, *_compared(data, row, texts, len(before)))

    return content


def _of_chat(data: DataSpec, row: Row, column: str) -> _Content:
    messages, whole = templates.chat(row, column), row[column]
    answers = templates.answers(messages)
    counted = answers if data.train_on == "all" else answers[-1:]
    learnt = [messages[number - 1] for number in counted]
    values = [message["content"].strip() for message in learnt]
    texts = [message["content"] for message in messages]
    return _Content(
        templates.key([templates.chat_text(messages)]),
        not all(value or message.get("tool_calls") for value, message in zip(values, learnt, strict=True)),
        next((each for each in values if each in _MISSING), None),
        *_compared(data, row, texts, sum(map(len, texts[: counted[0] - 1]))),
        len(counted) < len(answers),
        isinstance(whole, Sized) and len(whole) > len(messages),
    )


def _compared(data: DataSpec, row: Row, texts: list[str], prompt: int) -> tuple[str, int, int, dict[str, str], bool]:
    """Returns the fields of `_Content` from `group` to `may_be_marked`."""
    characters = sum(map(len, texts)) + len(data.system or "")
    longest = 2 ** sum(map(len, texts)).bit_length()
    values = {"lengths": f"{longest // 2} to {longest - 1} characters"}
    if data.text is None:
        values[_answers(data)[1]] = texts[-1].strip()
    if isinstance(source := row.get(templates.SOURCE_COLUMN), str):
        values["sources"] = source
    is_marked = data.text is None and any(map(_MARKUP.search, texts))
    return templates.group(data, row), prompt, characters, values, is_marked


def _of(tally: Tally, count: Count) -> str:
    return f"{count.rows} of {tally.rows}, the first on {count.first}"


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
