"""Makes the questions of evaluation rows: prompts as tokens, expected answers, and labels to choose from.

A prompt is exactly the tokens before the answer in training. The expected answer is the text of the learnt tokens after
the prompt, so that generated tokens are compared like with like.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainables.contract import Prepared
from trainables.data import dataset, first_call, row_files, sources, templates
from trainables.data.rendering import Encoded, Renderer, after_reasoning, decoded, end_tokens
from trainables.data.templates import Placed, Row
from trainables.data.tokenising import BATCH_ROWS
from trainables.errors import DataError, GradingError
from trainables.grading import catalogue
from trainables.grading.choice import Choice
from trainables.grading.function import Function
from trainables.grading.grader import Grader
from trainables.inputs.legible import legible
from trainables.inputs.similar import did_you_mean
from trainables.specs import DataSpec, EvaluationSpec, Spec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_ROWS = 20_000
"""The most rows of data.train whose answers `check_questions` looks at for labels."""
LOOKED_ANSWERS = 200
"""The most rows of a file for which `check_questions` tests whether any answer could be right."""
_NAME = "questions"
_LEAST_TOKENS = 8
_NO_ANSWERS = "evaluation.metrics: rows of data.text have no answers to score: give prompt and completion, or messages"


class Question(Spec):
    """An evaluation row to answer."""

    row: int
    """Place of the row among the evaluation rows."""
    place: str
    """See `Placed.place`."""
    ids: tuple[int, ...]
    """The prompt: the tokens before the answer, as in training."""
    prompt: str
    """The question for people, without a chat template."""
    expected: str
    label: str | None = None
    """The row's own label as written in the data; None if no labels are ranked."""
    columns: dict[str, Any]
    """The columns of the row that JSON can hold."""
    shared: int
    """Number of first tokens of `ids` that stay the same with every label. A label can change the last tokens of a
    prompt."""
    labels: tuple[tuple[int, ...], ...] = ()
    """For each label, the tokens after the first `shared` ones, with the end token; empty if no labels are ranked."""


class Questions(Spec):
    """The questions of a sweep, and the settings that they share."""

    rows: tuple[Question, ...]
    """In the order of the evaluation rows."""
    labels: tuple[str, ...]
    """The labels to rank; empty if none are ranked."""
    ends: tuple[int, ...]
    """The tokens that end an answer: the special tokens at the end of whole rows, and the tokenizer's end token."""
    most: int
    """The most tokens of an answer."""

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(each.ids) for each in self.rows)

    @property
    def longest_answer(self) -> int:
        """The most tokens of a generated answer or a label."""
        return max([self.most, *(len(label) for each in self.rows for label in each.labels)])


def check_questions(data: DataSpec, graders: Sequence[Grader]) -> list[str]:
    """Lists reasons why answers to the rows of local files cannot be scored. Uses no network and no torch."""
    if data.text is not None:
        return [_NO_ANSWERS]
    problems: list[str] = []
    for split in ("eval", "test", "train"):  # rows to train on answer only where test rows are drawn from them
        named: row_files.Source | None = getattr(data, split)
        if named is None or not sources.is_local(named) or row_files.is_large_array(named):
            continue
        source = row_files.in_words(named)
        try:
            placed = list(islice(sources.placed(data, split, every_column=True), LOOKED_ROWS))
            rows = [each.row for each in placed]
            split_is_asked = split != "train" or data.eval is None
            if split_is_asked or sources.most_of(data, len(rows)):
                absent = _absent(graders, dict(chain.from_iterable(row.items() for row in rows)), source)
                looked = () if absent else rows[:LOOKED_ANSWERS]
                wrong = (catalogue.wrong_row(graders, row, templates.answer(data, row)) for row in looked)
                found = absent + [f"{line} ({source})" for line in islice(filter(None, wrong), 1)]
                if split != "test" and rows and not (problems or found):
                    found = _broken_functions(data, graders, placed[0], source)
                drawn = "" if split_is_asked else "; test rows are drawn from it: data.test_examples=null draws none"
                problems += [line + drawn for line in found]
            if split == "train":
                seen = set(_counted_labels(data, graders, placed, source))
                # A longer file that begins with a single label may have others further down.
                if len(rows) < LOOKED_ROWS or len({text.strip() for text in seen}) > 1:
                    catalogue.ranked_labels(graders, seen)
        except (DataError, GradingError) as error:
            problems += str(error).splitlines()
    return problems


def prepare(
    data: DataSpec, how: EvaluationSpec, graders: Sequence[Grader], tokenizer: PreTrainedTokenizerBase, cache: Path
) -> Prepared:
    """Prepares the rows as `dataset.prepare` does, and adds the questions if there are graders.

    Raises:
        DataError: as `dataset.prepare`, or the answers to the rows cannot be scored.
        GradingError: the answers of the rows are no labels.
    """
    import numpy as np
    from safetensors.numpy import load, save

    prepared = dataset.prepare(data, tokenizer, cache)
    if not graders:
        return prepared
    if data.text is not None:
        raise DataError(_NO_ANSWERS)
    given, renderer = sources.divided(data, every_column=True), Renderer(data, tokenizer)
    rows, drawn = list(given["eval"]), list(given.get("test", ()) if data.test is None else ())
    completions = _completions(data, graders, (placed.row for placed in chain(given["train"], rows, drawn)))
    labels = catalogue.ranked_labels(graders, completions)
    asked = ask(renderer, rows, graders, labels, how.max_new_tokens, how.examples)
    if drawn:  # promotion alone asks these, after all trials; a fault in them is told here
        ask(renderer, drawn, graders, labels, how.max_new_tokens)
    arrays = load(prepared.payload) | {_NAME: np.frombuffer(asked.model_dump_json().encode(), np.uint8)}
    payload = save(arrays, metadata={"summary": prepared.summary.model_dump_json()})
    return prepared.model_copy(update={"payload": payload})


def read_questions(payload: bytes) -> Questions | None:
    """Reads the questions from the bytes of `prepare`; None if there are none."""
    from safetensors.numpy import load

    arrays = load(payload)
    return Questions.model_validate_json(arrays[_NAME].tobytes()) if _NAME in arrays else None


def ask(
    renderer: Renderer,
    rows: Iterable[Placed],
    graders: Sequence[Grader],
    labels: Sequence[str],
    most: int | None,
    examples: int | None = None,
) -> Questions:
    """Makes the questions of evaluation rows.

    A row gives no question if its last answer begins beyond data.max_length. With data.train_on: all, `dataset` may
    keep such a row for an earlier answer.

    Args:
        rows: all rows of the split, including rows that `dataset` leaves out.
        labels: the labels to rank.
        most: see `Questions.most`; None for a quarter more than the longest answer of the rows has, and at least 8.
        examples: number of rows to choose, the first ones of one random order; None takes all.

    Raises:
        DataError: there is no row to answer, or one lacks a column, or no answer to it could be scored.
    """
    answered = [each for each in _kept(renderer, rows) if each.start < renderer.data.max_length]
    if not answered:
        raise DataError("evaluation.metrics: no evaluation row has an answer within data.max_length: raise it")
    ends = end_tokens(renderer.tokenizer, (each.ids[-1] for each in answered))
    if renderer.tokenizer.eos_token_id is not None:
        ends.add(renderer.tokenizer.eos_token_id)
    chosen = sorted(dataset.order(0, len(answered), 0)[:examples].tolist())
    made = tuple(_question(renderer, answered[place], graders, labels, ends) for place in chosen)
    longest = max(len(each.ids) - each.start for each in answered)
    most = most or max(_LEAST_TOKENS, longest * 5 // 4)
    return Questions(rows=made, labels=tuple(labels), ends=tuple(sorted(ends)), most=most)


def part(asked: Questions, places: Sequence[int]) -> Questions:
    """Returns the questions of the rows at these places, numbered anew. Raises `DataError` if there are none."""
    numbers = {place: number for number, place in enumerate(places)}
    rows = tuple(each.model_copy(update={"row": numbers[each.row]}) for each in asked.rows if each.row in numbers)
    if not rows:
        raise DataError("evaluation.metrics: no row that is left has an answer within data.max_length: raise it")
    return asked.model_copy(update={"rows": rows})


class _Kept(NamedTuple):
    """A row that `dataset` keeps."""

    place: int
    """Place among the kept rows of the split."""
    found: Placed
    ids: list[int]
    """All tokens of the row, not cut at data.max_length."""
    start: int
    """Place of the first token of the last answer."""


def _kept(renderer: Renderer, rows: Iterable[Placed]) -> Iterator[_Kept]:
    place, stream = 0, iter(rows)
    while batch := list(islice(stream, BATCH_ROWS)):
        for found, encoded in zip(batch, renderer.encode([renderer.text(each.row) for each in batch]), strict=True):
            if any(encoded.labelled[: renderer.data.max_length]):
                yield _Kept(place, found, encoded.ids, _start(encoded))
                place += 1


def _start(encoded: Encoded) -> int:
    """Returns the place of the first token of the last answer."""
    return encoded.labelled.rfind(0) + 1


def _question(
    renderer: Renderer, kept: _Kept, graders: Sequence[Grader], labels: Sequence[str], ends: Collection[int]
) -> Question:
    place, row, _ = kept.found
    columns = _columns(row)
    answer = kept.ids[kept.start :]
    expected = after_reasoning(decoded(renderer.tokenizer, answer[:-1] if answer[-1] in ends else answer))
    if problems := _absent(graders, columns, place):
        raise DataError("\n".join(problems))
    if wrong := catalogue.wrong_row(graders, columns, expected):
        raise DataError(f"{wrong} (evaluation row, {place})")
    chosen = renderer.encode([renderer.text(row, label) for label in labels]) if labels else []
    shared = min([kept.start, *map(_start, chosen)])
    return Question(
        row=kept.place,
        place=place,
        ids=tuple(kept.ids[: kept.start]),
        prompt=templates.question(renderer.data, row),
        expected=expected,
        label=templates.answer(renderer.data, row) if labels else None,
        columns=columns,
        shared=shared,
        labels=tuple(tuple(each.ids[shared:]) for each in chosen),
    )


def _columns(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if _is_json(value)}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _broken_functions(data: DataSpec, graders: Sequence[Grader], first: Placed, source: str) -> list[str]:
    """Returns a line for each function that gives no score of the first row's own completion."""
    columns, completion = _columns(first.row), after_reasoning(templates.answer(data, first.row))
    called = f"called on {source}, {first.place} (columns: {', '.join(columns)}) with its completion as the answer"
    return [
        f"evaluation.metrics.{number}: {grader.path}: {called}: {why}"
        for number, grader in enumerate(graders)
        if isinstance(grader, Function) and (why := first_call.problem(grader, columns, completion))
    ]


def _absent(graders: Sequence[Grader], present: Mapping[str, object], source: str) -> list[str]:
    return [
        f"evaluation.metrics.{number}: {next(iter(grader.metrics))}: {column} is no column of {source}, or one that "
        f"JSON cannot hold; columns: {', '.join(present)}{did_you_mean(column, present)}"
        for number, grader in enumerate(graders)
        for column in sorted(grader.columns - present.keys())
    ]


def _counted_labels(data: DataSpec, graders: Sequence[Grader], rows: Iterable[Placed], source: str) -> Counter[str]:
    """Counts the rows of each label; empty if no grader takes labels. Raises `DataError` for a blank label."""
    counts: Counter[str] = Counter()
    if any(isinstance(grader, Choice) for grader in graders):
        for place, row, _ in rows:
            label = templates.answer(data, row)
            if not label.strip():
                field = "completion" if data.messages is None else "messages"
                way_out = "give it one, or leave the row out"
                raise DataError(f"data.{field}: {source}, {place} has a blank label, and choice needs one: {way_out}")
            counts[label] += 1
    return counts


def rare_labels(data: DataSpec, graders: Sequence[Grader]) -> list[str]:
    """Returns a line with the labels of a local data.train that stand in only one row, or differ only in case."""
    if not sources.is_local(data.train) or row_files.is_large_array(data.train):
        return []
    try:
        looked = islice(sources.placed(data, "train"), LOOKED_ROWS)
        written = _counted_labels(data, graders, looked, row_files.in_words(data.train))
    except DataError:
        return []  # the check says why
    counts, alike = Counter[str](), Counter[str]()
    for label, count in written.items():
        counts[label.strip()] += count
    alike.update(map(str.casefold, counts))
    odd = [label for label, count in counts.items() if count == 1 or alike[label.casefold()] > 1]
    if not odd:
        return []
    named = ", ".join(f"{legible(repr(label), 60)} ({counts[label]})" for label in odd[:5])
    return [
        f"data.train: choice ranks {len(counts)} labels; these stand in one row, or differ in case alone: {named}"
        + (", ..." if len(odd) > 5 else "")
    ]


def _completions(data: DataSpec, graders: Sequence[Grader], rows: Iterable[Row]) -> set[str]:
    """Returns the different answers of the rows, which are labels; empty if no grader takes labels."""
    has_labels = any(isinstance(grader, Choice) for grader in graders)
    return {templates.answer(data, row) for row in rows} if has_labels else set()
