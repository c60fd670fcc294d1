"""Makes graded evaluations of answers: gives prompts and labels for a model, and grades the model's answers.

The caller runs the model: `AdapterPack` many adapters together, `AdapterScorer` one adapter with plain PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trainables.contract import AnsweredRow, Evaluation
from trainables.data.dataset import TokenRow
from trainables.data.questions import Question, Questions
from trainables.data.rendering import after_reasoning, decoded
from trainables.grading import catalogue
from trainables.grading.grader import Grader
from trainables.inputs.legible import legible
from trainables.packing.engine import Answer, Answering, Prompt
from trainables.packing.passes import PlacedRows, evaluation_passes
from trainables.slot_failures import SlotOrBase
from trainables.specs import EvaluationSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Grading:
    """The questions of an evaluation, and how answers to them are graded."""

    def __init__(self, questions: Questions, how: EvaluationSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        self.answering = Answering(frozenset(questions.ends), questions.most, how.temperature)
        self._questions = questions.rows
        self._labels = questions.labels
        self._needs_answers = catalogue.needs_answers(how)
        self.metrics = catalogue.directions(how)
        self._graders = catalogue.graders(how)
        self._tokenizer = tokenizer

    def prompts(self, slot: SlotOrBase) -> list[Prompt]:
        """Returns the prompts for a slot, or for the base: one per question, or none if only labels count."""
        asked = self._questions if self._needs_answers else ()
        return [Prompt(slot, np.asarray(each.ids, np.int32), seed=each.row) for each in asked]

    def label_passes(self) -> list[PlacedRows]:
        """Returns passes of the rows whose losses rank the labels: for each question one row per label, in order.

        A pass has rows of only one question, which share their start.
        """
        passes = []
        for number, own in enumerate(self.label_rows()):
            for places, rows in evaluation_passes(own):
                passes.append(([number * len(self._labels) + place for place in places], rows))
        return passes

    def label_rows(self) -> list[list[TokenRow]]:
        """Returns, for each question, the rows whose losses rank the labels; empty if no labels are ranked."""
        return [[_label_row(each, label) for label in each.labels] for each in self._questions if each.labels]

    def grade(self, evaluation: Evaluation, answers: Sequence[Answer], label_losses: Sequence[float]) -> Evaluation:
        """Returns the evaluation with the scores of answers. Scores of a grader that raises are missing.

        Args:
            evaluation: the same model's evaluation by its losses.
            answers: the model's answer to each of `prompts`.
            label_losses: the negative log-probability of each row of `label_rows`, one question after the other.
        """
        ranked = np.reshape(label_losses, (-1, len(self._labels))).argmin(axis=1) if self._labels else ()
        likeliest = [self._labels[place] for place in ranked]
        said = [decoded(self._tokenizer, answer.ids) for answer in answers]
        heard = [after_reasoning(text) for text in said]
        values: dict[str, tuple[float, ...]] = {}
        overall: dict[str, float] = {}
        unscored: dict[str, str] = {}
        for grader in self._graders:
            found = self._scores(grader, likeliest if grader.ranks_labels else heard)
            if isinstance(found, str):
                unscored |= dict.fromkeys(grader.metrics, found)
                continue
            values |= {metric: tuple(of_row[metric] for of_row in found.rows) for metric in found.rows[0]}
            overall |= found.overall
        rows = tuple(
            AnsweredRow(
                row=question.row,
                place=question.place,
                prompt=question.prompt,
                expected=question.label or question.expected,
                answer=text,
                ranked=likeliest[place] if likeliest else None,
                is_ended=answers[place].is_ended if answers else True,
                scores={name: each[place] for name, each in values.items()},
            )
            for place, (question, text) in enumerate(zip(self._questions, said or likeliest, strict=True))
        )
        if answers:
            values[catalogue.ANSWERS_ENDED] = tuple(float(answer.is_ended) for answer in answers)
        means = {name: sum(each) / len(each) for name, each in values.items()}
        update = {
            "metrics": {**evaluation.metrics, **means, **overall},
            "row_values": {**evaluation.row_values, **values},
            "row_places": tuple(row.row for row in rows) if len(rows) < len(evaluation.row_tokens) else (),
            "answers": rows,
            "unscored": unscored,
        }
        return evaluation.model_copy(update=update)

    def _scores(self, grader: Grader, answers: Sequence[str]) -> _Scores | str:
        """Returns the scores of a grader. If the grader raises, returns the row and the error."""
        # A ranked label is text of the data. Decoded tokens can differ from the data, as in their Unicode form.
        own = [each.label if grader.ranks_labels else None for each in self._questions]
        expected = [label or each.expected for label, each in zip(own, self._questions, strict=True)]
        name = where = " and ".join(grader.metrics)
        rows = []
        try:
            for question, right, answer in zip(self._questions, expected, answers, strict=True):
                where = f"{name}, evaluation row, {question.place}"
                rows.append(grader.grade(question.columns, right, answer))
                if rows[-1].keys() != rows[0].keys():
                    raise TypeError(f"{', '.join(rows[-1])} here, and {', '.join(rows[0])} for the first row")
            where = name
            return _Scores(rows, grader.overall(expected, answers))
        except Exception as error:
            return legible(f"{where}: {type(error).__name__}: {error}")


class _Scores(NamedTuple):
    rows: list[Mapping[str, float]]
    overall: Mapping[str, float]


def _label_row(question: Question, label: Sequence[int]) -> TokenRow:
    ids = np.asarray((*question.ids[: question.shared], *label), np.int32)
    return TokenRow(ids, np.arange(len(ids)) >= question.shared)
