"""Labels come from the rows or the file, are few enough, and what was taken for what is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.errors import GradingError
from trainables.grading import catalogue
from trainables.grading.choice import Choice, confusion
from trainables.specs import EvaluationSpec


def many(count: int) -> list[str]:
    return [f"label {number:04}" for number in range(count)]


def ranked(completions: list[str], **options: object) -> tuple[str, ...]:
    made = catalogue.graders(EvaluationSpec(metrics=("exact_match", {"choice": options})))
    return catalogue.ranked_labels(made, completions)


def test_labels_are_those_of_the_data_written_as_they_are_there_or_of_a_list_in_its_order():
    assert ranked([" ham", " spam", " spam", " ham"]) == (" ham", " spam")
    assert ranked(["spam", "ham", " ham"]) == ranked([" ham", "ham", "spam"])
    assert ranked([" ham", " spam"], labels=["spam", "eggs", "ham"]) == (" spam", "eggs", " ham")
    # As many labels as can be.
    assert len(ranked(many(100))) == 100
    assert ranked(many(1000), by="answer") == ()


def test_the_answer_is_the_label():
    for answer, right in (("ham", 1), (" ham\n", 1), ("spam", 0), ("", 0), ("Ham", 0), ("ham<|im_end|>", 0)):
        assert Choice().grade({}, " ham", answer) == {"choice": right}


@pytest.mark.parametrize(
    ("completions", "options", "why"),
    [
        (many(1001), {}, "has 1,001 labels, and takes at most 1,000: take exact_match instead"),
        (many(101), {}, "has 101 labels, and ranks at most 100: write by: answer, or list fewer"),
        (["ham", "ham "], {}, "has fewer than two labels, so there is nothing to choose"),
        (["ham", " "], {}, "a label is blank: write one in its place, or leave it out"),
        (
            ["ham", "spamm"], {"labels": ["ham", "spam"]},
            "the completion 'spamm' is none of its labels; did you mean spam?: add it, or leave labels out to take "
            "those in the data",
        ),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_are_told(completions, options, why):
    with pytest.raises(GradingError) as error:
        ranked(completions, **options)
    assert error.value.problems == (f"evaluation.metrics.1: choice: {why}",)


def test_ranking_generates_nothing():
    ranked, answered = EvaluationSpec(metrics=("choice",)), EvaluationSpec(metrics=({"choice": {"by": "answer"}},))
    assert (catalogue.needs_answers(ranked), catalogue.needs_answers(answered)) == (False, True)
    assert [catalogue.verdicts(of)["choice"] for of in (ranked, answered)] == ["right by ranking", "right"]
    assert catalogue.directions(ranked) == {"choice": "max", "choice_macro_f1": "max"}
    assert catalogue.directions(answered) == {"choice": "max", "choice_macro_f1": "max", "answers_ended": "max"}


EXPECTED = ["bug", "bug", "bug", "praise", "praise", " question"]
ANSWERS = ["bug", " bug", "praise", "praise", "", "none of it"]


def test_a_confusion_table_counts_what_was_taken_for_what_and_macro_f1_is_the_mean_over_the_labels():
    table = confusion(EXPECTED, ANSWERS)
    assert table.labels == ("bug", "praise", "question")
    assert table.counts == ((2, 1, 0, 0), (0, 1, 0, 1), (0, 0, 0, 1))
    assert table.text() == (
        "          bug  praise  question  (other)\n"
        "     bug    2       1         0        0\n"
        "  praise    0       1         0        1\n"
        "question    0       0         0        1"
    )
    # bug: 2 right of 3 expected and 2 answered; praise: 1 of 2 and 2; question: none of 1 and 0.
    expected = (4 / 5 + 2 / 4 + 0) / 3
    assert Choice().overall(EXPECTED, ANSWERS) == {"choice_macro_f1": pytest.approx(expected, abs=1e-12)}
    assert "\x1b" not in confusion(["\x1b[2J", "ok"], ["ok", "ok"]).text(), "labels of strangers"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1))
def test_every_row_is_counted_once(pairs):
    expected, answers = zip(*pairs, strict=True)
    table = confusion(expected, answers)
    assert sum(map(sum, table.counts)) == len(pairs)
    right = sum(row[place] for place, row in enumerate(table.counts))
    assert right == sum(one == other for one, other in pairs)
    assert 0 <= table.macro_f1 <= 1 and (table.macro_f1 == 1) == (right == len(pairs))
