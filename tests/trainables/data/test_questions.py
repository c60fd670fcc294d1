"""What is asked of a model is what it was trained on, up to the answer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import data_rows
import pytest
import tiny_models
from data_rows import chat, write
from transformers import PreTrainedTokenizerFast

from trainables import timeouts
from trainables.data import dataset, questions
from trainables.data.questions import Questions
from trainables.errors import DataError, GradingError
from trainables.grading import catalogue
from trainables.specs import DataSpec, EvaluationSpec

ROWS = [
    {"question": f"Is {n} even?", "answer": ("no", "yes", "  maybe")[n % 3], "level": n, "odd": {"list": [1, None]}}
    for n in range(12)
]
CHATS = [
    {"chat": [{"role": "system", "content": "Be short."}, *chat(f"Say {n}.", f"It is {n}.", "Again.", f"{n}!")]}
    for n in range(12)
]
spec = partial(data_rows.spec, eval_examples=4)


def tokenizer(is_chat: bool = True) -> PreTrainedTokenizerFast:
    made = tiny_models.tokenizer()
    if not is_chat:
        made.chat_template = None
    return made


def data(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> DataSpec:
    return spec(write(folder / "rows.jsonl", rows), **fields)


def answering(folder: Path, answers: Iterable[str]) -> DataSpec:
    """Rows with these answers."""
    return data(folder, [{"question": f"{n}?", "answer": answer} for n, answer in enumerate(answers)])


def asked(
    of: DataSpec, *metrics: Any, made: PreTrainedTokenizerFast | None = None, **how: Any
) -> tuple[Questions, dataset.Splits]:
    """The questions of a sweep's rows, and these rows."""
    spec = EvaluationSpec(metrics=metrics or ("exact_match",), **how)
    prepared = questions.prepare(
        of, spec, catalogue.graders(spec), made or tokenizer(), Path(str(of.train)).parent / "cache"
    )
    found = questions.read_questions(prepared.payload)
    assert found is not None
    return found, dataset.load(prepared.payload)


def check(of: DataSpec, *metrics: Any) -> list[str]:
    return questions.check_questions(of, catalogue.graders(EvaluationSpec(metrics=metrics)))


def test_a_function_that_reads_a_column_of_the_evaluation_rows_alone_is_told_what_draws_its_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reads_hint.py").write_text("def same(row, answer):\n    return float(row['hint'] == answer)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"question": f"Is {n}?", "answer": "1"} for n in range(30)]
    hinted = [{"question": f"And {n}?", "answer": "1", "hint": "1"} for n in range(4)]
    files = {"eval": write(tmp_path / "eval.jsonl", hinted)}
    assert check(data(tmp_path, rows, **files), "reads_hint:same") == []
    drawn = data(tmp_path, rows, **files, test_examples=12, hold_out="last")
    (problem,) = check(drawn, "reads_hint:same")
    assert "KeyError: 'hint'; test rows are drawn from it: data.test_examples=null draws none" in problem


def test_test_rows_that_are_drawn_must_be_rows_to_answer(tmp_path: Path) -> None:
    """Promotion alone asks them, after all trials: what is wrong with them is told before."""
    rows = [{"question": f"Is {n}?", "answer": "1" if n < 25 else "yes"} for n in range(30)]
    files = {"eval": write(tmp_path / "eval.jsonl", [{"question": f"And {n}?", "answer": "1"} for n in range(4)])}
    alone, drawn = data(tmp_path, rows, **files), data(tmp_path, rows, **files, test_examples=12, hold_out="last")
    assert check(alone, "number") == []
    (problem,) = check(drawn, "number")
    assert "no number" in problem and problem.endswith(
        "; test rows are drawn from it: data.test_examples=null draws none"
    )
    assert len(asked(alone, "number")[0].rows) == 4
    with pytest.raises(DataError, match="line 26"):
        asked(drawn, "number")


@pytest.mark.parametrize("made", [tokenizer(), tokenizer(is_chat=False)], ids=["template", "plain"])
def test_a_prompt_is_the_beginning_of_its_row_in_training_up_to_what_is_learnt(tmp_path, made):
    found, splits = asked(data(tmp_path, ROWS), made=made)
    assert [each.row for each in found.rows] == [0, 1, 2, 3]
    for each in found.rows:
        row = splits.eval.row(each.row)
        assert each.ids == tuple(row.ids[~row.labelled])
        assert made.decode(row.ids[row.labelled]) == f"{each.expected}{tiny_models.EOS}"
        assert each.columns == ROWS[8 + each.row]
        assert (each.prompt, each.expected) == (each.columns["question"], each.columns["answer"])
    assert found.ends == (made.eos_token_id,)


def test_of_a_chat_whose_answers_are_all_learnt_the_last_one_is_asked_for(tmp_path: Path) -> None:
    found, splits = asked(data(tmp_path, CHATS, messages="chat", train_on="all"))
    decode = tokenizer().decode
    for n, each in enumerate(found.rows, 8):
        assert decode(splits.eval.row(each.row).ids) == decode(each.ids) + f"{n}!{tiny_models.EOS}"
        assert each.prompt == f"system: Be short.\nuser: Say {n}.\nassistant: It is {n}.\nuser: Again."
        assert each.expected == f"{n}!"


def test_an_answer_that_is_cut_is_expected_whole_and_one_that_is_cut_off_is_not_asked_for(tmp_path: Path) -> None:
    long = [{"question": "q", "answer": "ab " * 30}] * 4
    found, splits = asked(data(tmp_path, ROWS[:8] + long, max_length=16))
    assert {len(splits.eval.row(each.row).ids) for each in found.rows} == {16}
    assert {each.expected for each in found.rows} == {"ab " * 30}
    rows = [*CHATS[:8], *({"chat": chat("a", "b", "c" * size, "d")} for size in (60, 2, 60, 2))]
    found, splits = asked(data(tmp_path, rows, messages="chat", train_on="all", max_length=48))
    assert ([each.row for each in found.rows], len(splits.eval)) == ([1, 3], 4)


def test_the_rows_are_the_first_of_one_random_order_and_more_examples_only_add_rows(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"{n}"} for n in range(40)]
    of = data(tmp_path, rows, eval_examples=30)
    few, more, all_of_them = ({each.row for each in asked(of, examples=n)[0].rows} for n in (5, 12, 99))
    assert few < more < all_of_them == set(range(30))
    assert few == set(dataset.order(0, 30, 0)[:5].tolist())
    assert few != set(range(5))


def test_answers_may_be_a_quarter_longer_than_the_longest_of_training(tmp_path: Path) -> None:
    of = answering(tmp_path, ("!" * n for n in range(1, 21)))
    assert asked(of)[0].most == 21 * 5 // 4, "the end token counts"
    assert asked(of, max_new_tokens=3)[0].most == 3
    assert asked(answering(tmp_path, "!" * 12))[0].most == 8


@pytest.mark.parametrize("made", [tokenizer(), tokenizer(is_chat=False)], ids=["template", "plain"])
def test_a_label_is_written_as_the_row_would_be_with_this_answer(tmp_path: Path, made: PreTrainedTokenizerFast) -> None:
    found, splits = asked(data(tmp_path, ROWS), "choice", made=made)
    assert found.labels == ("  maybe", "no", "yes")
    for each in found.rows:
        row = splits.eval.row(each.row)
        (own,) = [ids for label, ids in zip(found.labels, each.labels, strict=True) if label == each.columns["answer"]]
        assert (*each.ids[: each.shared], *own) == tuple(row.ids)
        written = [made.decode([*each.ids[: each.shared], *ids]) for ids in each.labels]
        prompt = made.decode(row.ids[~row.labelled])
        assert written == [f"{prompt}{label}{tiny_models.EOS}" for label in found.labels]


def test_labels_that_change_the_end_of_a_prompt_are_compared_behind_what_all_share(tmp_path: Path) -> None:
    """Without a template, the space at the end of this prompt makes one token with what follows."""
    rows = [{"question": f"{n} ", "answer": ("the", "!")[n % 2]} for n in range(12)]
    made = tokenizer(is_chat=False)
    found, _ = asked(data(tmp_path, rows), "choice", made=made)
    assert [made.decode(each.ids) for each in found.rows] == ["8", "9 ", "10", "11 "]
    for each in found.rows:
        assert made.decode(each.ids[: each.shared]) == str(8 + each.row)
        assert [made.decode(ids) for ids in each.labels] == [f" {label}{tiny_models.EOS}" for label in found.labels]


def test_nothing_changes_where_nothing_is_scored(tmp_path: Path) -> None:
    of, made = data(tmp_path, ROWS), tokenizer()
    plain = dataset.prepare(of, made, tmp_path / "cache")
    assert questions.prepare(of, EvaluationSpec(), (), made, tmp_path / "cache") == plain
    assert questions.read_questions(plain.payload) is None
    spec = EvaluationSpec(metrics=("exact_match",))
    scored = questions.prepare(of, spec, catalogue.graders(spec), made, tmp_path / "cache")
    assert scored.summary == plain.summary
    assert len(list((tmp_path / "cache" / "data").glob("*.safetensors"))) == 1, "the rows are prepared once for both"


def test_columns_beside_the_template_are_read_from_parquet_and_what_json_cannot_hold_is_left_out(tmp_path):
    rows = [{"question": f"{n}?", "answer": "a", "level": n} for n in range(12)]
    file = write(tmp_path / "rows.parquet", [{**row, "raw": b"\0"} for row in rows])
    assert [each.columns for each in asked(spec(file))[0].rows] == rows[8:]


def test_reasoning_that_a_template_writes_before_an_answer_is_not_expected(tmp_path: Path) -> None:
    made, thought = tokenizer(), "<think>\n\n</think>\n\n"
    written = f"{{{{ '{thought}' if message['role'] == 'assistant' else '' }}}}{{{{ message['content'] }}}}"
    made.chat_template = made.chat_template.replace("{{ message['content'] }}", written)
    found, splits = asked(data(tmp_path, ROWS), made=made)
    for each in found.rows:
        row = splits.eval.row(each.row)
        assert made.decode(row.ids[row.labelled]) == f"{thought}{each.columns['answer']}{tiny_models.EOS}"
        assert each.expected == each.columns["answer"].lstrip()


def test_mistakes_are_told_with_the_column_the_row_and_the_way_out(tmp_path: Path) -> None:
    of = data(tmp_path, ROWS)
    column = {"regex": {"pattern": "(?P<answer>.*)", "column": "levle"}}
    problem = (
        f"evaluation.metrics.0: regex: levle is no column of {of.train}, or one that JSON cannot hold; "
        "columns: question, answer, level, odd; did you mean level?"
    )
    assert check(of, column) == [problem]
    with pytest.raises(DataError, match=r"regex: levle is no column of line 9"):
        asked(of, column)
    (problem,) = check(of, "number")
    assert problem == f"evaluation.metrics.0: number: the completion holds no number ({of.train})"
    with pytest.raises(DataError, match=r"0: number: the completion holds no number \(evaluation row, line 9"):
        asked(of, "number")
    text = data(tmp_path, ROWS, text="{question}")
    (problem,) = check(text, "exact_match")
    assert problem.startswith("evaluation.metrics: rows of data.text have no answers to score: give prompt and comple")
    with pytest.raises(DataError, match=r"rows of data\.text have no answers"):
        asked(text, "exact_match")


def test_labels_that_cannot_be_ranked_are_told_before_anything_starts(tmp_path: Path, monkeypatch: Any) -> None:
    of = answering(tmp_path, ("cat", " ", "dog"))
    told = f"data.completion: {of.train}, line 2 has a blank label, and choice needs one: give it one, or leave the row"
    assert check(of, "choice") == [f"{told} out"]
    (problem,) = check(data(tmp_path, [*data_rows.pairs(40), {"question": "last?"}]), "choice")
    assert "has no column 'answer'" in problem
    of = answering(tmp_path, map(str, range(200)))
    (problem,) = check(of, "choice")
    assert problem.startswith("evaluation.metrics.0: ") and "ranks at most 100" in problem
    with pytest.raises(GradingError, match="ranks at most 100"):
        asked(of, "choice")
    assert check(of, {"choice": {"by": "answer"}}) == []
    assert asked(of, {"choice": {"by": "answer"}})[0].labels == ()
    # Of a file that is not looked at to its end.
    monkeypatch.setattr(questions, "LOOKED_ROWS", 150)
    (problem,) = check(of, "choice")
    assert "has 150 labels, and ranks at most 100" in problem
    assert check(answering(tmp_path, [*[" same", "same"] * 75, "other"]), "choice") == []


def test_a_label_of_one_row_or_of_another_case_is_a_warning(tmp_path: Path) -> None:
    graders = catalogue.graders(EvaluationSpec(metrics=("choice",)))
    (line,) = questions.rare_labels(answering(tmp_path, ("cat", "cat", "dog", " dog", "Cat", "Cat", "ox")), graders)
    assert line.startswith("data.train: choice ranks 4 labels; ")
    assert line.endswith(": 'cat' (2), 'Cat' (2), 'ox' (1)")
    assert questions.rare_labels(answering(tmp_path, "aabb"), graders) == []


def test_a_function_of_the_users_grades_nothing_before_there_are_answers(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "raising_graders.py").write_text("def breaks(row, answer):\n    raise ValueError('b')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(asked(data(tmp_path, ROWS), "raising_graders:breaks")[0].rows) == 4


FUNCTIONS = """
import os, time
def column(row, answer): return float(row["queue"] in answer)
def own(row, answer): print("hello"); return float(answer == row["answer"])
def text(row, answer): return answer
def by_name(row, answer): return {"words": len(answer.split()), "odd": row["odd"] == {"list": [1, None]}}
def leaves(row, answer): os._exit(3)
def hangs(row, answer): time.sleep(1000)
"""


def test_a_function_is_called_on_one_row_with_its_own_completion_before_anything_starts(tmp_path, monkeypatch):
    (tmp_path / "broken_scores.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    of = data(tmp_path, ROWS)

    def told(*names: str) -> list[str]:
        how = EvaluationSpec(metrics=tuple(f"broken_scores:{name}" for name in names))
        return questions.check_questions(of, catalogue.graders(how))

    assert told("own", "by_name") == []
    called = f"called on {of.train}, line 1 (columns: question, answer, level, odd) with its completion as the answer"
    column, text = told("column", "own", "text")
    assert column == f"evaluation.metrics.0: broken_scores:column: {called}: KeyError: 'queue'"
    assert text.startswith(f"evaluation.metrics.2: broken_scores:text: {called}: TypeError: broken_scores:text returns")
    assert "'no': a score is a finite number" in text
    (leaves,) = told("leaves")
    assert leaves.endswith(": exit code 3 of its process")
    monkeypatch.setattr(timeouts, "FIRST_CALL", 1.0)
    (hangs,) = told("hangs")
    assert hangs.endswith(": it has not returned after 1 s")
