"""What is odd about rows is counted and told, with the place of the first: before a launch, and when they are ready."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import data_rows
import pytest
import tiny_models
from data_rows import chat, pairs, write

from trainables.contract import Summary
from trainables.data import dataset, preview, row_files, sources
from trainables.errors import DataError
from trainables.specs import DataSpec

Rows = list[dict[str, Any]]
EMPTY = [{**row, "answer": " "} for row in pairs(60)]


def chats(*texts: str, count: int = 20, start: int = 0) -> Rows:
    return [{"chat": chat(str(n), *texts)} for n in range(start, start + count)]


CHATS = {"train": chats("It is."), "eval": chats("It is.", count=10, start=20), "messages": "chat"}
TURNS = {**CHATS, "eval": chats("b", "c", "d", count=10, start=20)}


def changed(rows: Rows, changes: dict[int, dict[str, object]]) -> Rows:
    return [{**row, **changes.get(place, {})} for place, row in enumerate(rows)]


def spec(folder: Path, **given: Any) -> DataSpec:
    """Good rows, unless others are given for train, eval or test; None stands for no file."""
    parts = {"train": pairs(30), "eval": pairs(10, 30)}
    parts |= {split: given.pop(split) for split in sources.SPLITS if split in given}
    files = {name: write(folder / f"{name}.jsonl", rows) for name, rows in parts.items() if rows is not None}
    return data_rows.spec(**files, **given)


def prepared(data: DataSpec, cache: Path) -> Summary:
    return dataset.prepare(data, tiny_models.tokenizer(), cache).summary


SAME = {"id": 7, "answer": "It is 3.", "question": "What is 3?"}
"""Other columns, another order of keys, another file: the same row as one of `pairs`."""
MISSING = ("nan", "NaN", "null", "None", "N/A")
WORDS = changed(pairs(30), {8 + n: {"answer": word} for n, word in enumerate(MISSING)})
MORE = "tell adapters apart: give 30 or more, and hundreds for small differences"
TOLD: list[tuple[Any, ...]] = [
    ({"test": pairs(10, 40)},),
    ({"eval": None, "eval_examples": 10},),
    ({"train": [*pairs(1), *EMPTY[1:20], *pairs(10, 20)]}, "data.train: empty completions, 19 of 30, the first on li"),
    (
        {"train": WORDS, "completion": ">{answer}"},
        *(f"data.train: completions that say {word!r} and no more, 1 of 30, the first on line " for word in MISSING),
    ),
    ({"eval": changed(pairs(10, 30), {2: {"answer": " NaN"}})}, "data.eval: completions that say 'NaN' and no more, 1"),
    ({"train": [*pairs(20), *pairs(2), *pairs(1)]}, "data.train: repeated rows, 3 of 23, the first on line 21: "),
    ({"eval": [*pairs(20, 40), *pairs(3, 40)]}, "data.eval: repeated rows, 3 of 23, the first on line 21: each weigh"),
    # Forty copies of a row are one row: differences on them have intervals without any width.
    ({"eval": pairs(1, 40) * 40}, "data.eval: repeated rows, 39 of 40, ", "data.eval: 1 row without copies to "),
    ({"test": pairs(1, 40) * 40}, "data.test: repeated rows, 39 of 40, ", "data.test: 1 row without copies: "),
    ({"eval": [*pairs(8, 40), SAME, *pairs(2, 4)]}, "data.eval: rows that are also in data.train, 3 of 11, the first"),
    ({"test": [*pairs(8, 40), SAME, *pairs(2, 4)]}, "data.test: rows that are also in data.train, 3 of 11, the first"),
    (
        {"train": [*pairs(30), *pairs(9, 40), *pairs(1)], "eval": None, "eval_examples": 10},
        "data.train, its rows held out: rows that are also in data.train, 1 of 10, the first on line 40: ",
    ),
    (
        {"train": [*pairs(30), *pairs(9, 40), *pairs(1)], "eval": None, "eval_examples": 10, "copies": "together"},
        "data.train: repeated rows, 1 of 30, the first on line 40: ",
    ),
    (
        {"eval": None, "eval_examples": 10, "test_examples": 5},
        "data.train, its test rows: 5 rows: promotion passes nothing with fewer than 10",
    ),
    # Promotion is to see rows that nothing was chosen on.
    ({"test": [*pairs(10, 60), *pairs(2, 30)]}, "data.test: rows that are also in data.eval, 2 of 12, the first on"),
    (
        {"train": pairs(42), "eval": None, "test": [*pairs(10, 60), *pairs(1, 30)], "eval_examples": 12},
        "data.test: rows that are also in those held out of data.train, 1 of 11, the first on line 11: ",
    ),
    ({"eval": pairs(9, 30)}, f"data.eval: 9 rows to evaluate on can hardly {MORE}"),
    ({"eval": pairs(1, 30)}, f"data.eval: 1 row to evaluate on can hardly {MORE}"),
    ({"test": pairs(9, 60)}, "data.test: 9 rows: promotion passes nothing with fewer than 10"),
    (
        {**TURNS, "train": [*chats("b", count=1), *chats("b", "c", "d", count=19, start=1)]},
        "data.train: chats with several answers, 19 of 20, the first on line 2: the last one counts",
    ),
    (
        {**TURNS, "train": [*chats("b", "c", "d", count=19), {"chat": chat("?", "", "c", "d")}], "train_on": "all"},
        "data.train: empty answers, 1 of 20, the first on line 20: they teach to answer nothing",
    ),
]


@pytest.mark.parametrize("case", TOLD, ids=lambda case: "-".join(case[1:]) or "good")
def test_what_is_doubtful_is_told_before_and_after_and_from_the_cache(tmp_path, case):
    given, *starts = case
    data = spec(tmp_path, **given)
    found = preview.preview(data)
    assert (found.problems, len(found.warnings)) == ((), len(starts))
    assert [line for line, start in zip(found.warnings, starts, strict=True) if not line.startswith(start)] == []
    summary = prepared(data, tmp_path)
    assert found.warnings == summary.warnings == prepared(data, tmp_path).warnings
    assert (found.train_rows, found.eval_rows) == (summary.train_rows, summary.eval_rows)
    assert (found.test_rows or 0) == summary.test_rows


def test_the_summary_counts_what_is_doubtful(tmp_path):
    train, test = [*WORDS, *pairs(3), *EMPTY[:2]], [SAME, *pairs(2), *pairs(1, 90)]
    found = prepared(spec(tmp_path, train=train, eval=[*pairs(10, 30), SAME], test=test), tmp_path)
    assert (found.missing_value_rows, found.repeated_rows, found.empty_rows) == (5, 3, 2)
    assert (found.eval_rows_in_train, found.test_rows_in_train, found.test_rows_in_eval) == (1, 3, 0)
    chosen = prepared(spec(tmp_path, test=[*pairs(12, 60), *pairs(2, 30)]), tmp_path)
    assert (chosen.test_rows, chosen.test_rows_in_train, chosen.test_rows_in_eval) == (14, 0, 2)


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"train": EMPTY[:30]}, "data.train: all completions are empty, 30 of 30, the first on line 1: check data."),
    ({"eval": EMPTY[30:40]}, "data.eval: all completions are empty, 10 of 10, the first on line 1: check data."),
    ({"test": EMPTY[40:]}, "data.test: all completions are empty, 20 of 20, the first on line 1: check data."),
    (
        {"eval": pairs(12, 5)},
        "data.eval: all rows are also in data.train, 12 of 12, the first on line 1: give other rows",
    ),
    ({"test": pairs(1, 5)}, "data.test: all rows are also in data.train, 1 of 1, the first on line 1: give other rows"),
    (
        {"train": pairs(10) * 2, "eval": None, "eval_examples": 10},
        "data.train, its rows held out: all rows are also in data.train, 10 of 10, ",
    ),
    (
        {"eval": None, "eval_examples": 3000},
        "data.eval_examples: 3000 rows are held out of data.train, which has 30: lower",
    ),
]


@pytest.mark.parametrize(("given", "start"), PROBLEMS)
def test_what_makes_results_worthless_is_an_error(tmp_path, given, start):
    data = spec(tmp_path, **given)
    (problem,) = preview.preview(data).problems
    assert problem.startswith(start)
    with pytest.raises(DataError) as error:
        prepared(data, tmp_path)
    assert str(error.value) == problem


def test_empty_answers_are_told_apart_from_those_that_were_cut_away(tmp_path):
    rows = changed(pairs(30), {3: {"answer": ""}, 5: {"answer": " \n"}, 6: {"question": "x" * 200}})
    data = spec(tmp_path, train=rows, max_length=64)
    (before,) = preview.preview(data).warnings
    assert before == "data.train: empty completions, 2 of 30, the first on line 4: they teach to answer nothing"
    summary = prepared(data, tmp_path)
    cut = "rows left out, 1 of 30, the first on line 7: data.max_length 64 leaves nothing of their completions"
    assert list(summary.warnings) == [before, f"data.train: {cut}"]
    assert (summary.empty_rows, summary.dropped_rows, summary.train_rows) == (2, 1, 29)


# What a chat template does


def test_what_a_reasoning_model_s_template_drops_is_told_of(tmp_path):
    """Such templates, as those of DeepSeek-R1's distillations, also write <think> where they ask for an answer."""
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    )
    rows = changed(pairs(30), {n: {"answer": f"<think>\nSo?\n</think>\n\nIt is {n}."} for n in (4, 5)})
    dropped, unserved = dataset.prepare(spec(tmp_path, train=rows), tokenizer, tmp_path).summary.warnings
    assert dropped.startswith("data.train: completions of which the model's chat template leaves out part (")
    assert ", 2 of 30, the first on line 5: only the rest is learnt; " in dropped
    assert unserved.startswith("data.train: completions before which the model's chat template writes another text ")
    assert ", 30 of 30, the first on line 1: " in unserved
    reasoned = spec(tmp_path, **{**CHATS, "train": chats("b", "c", "a</think>d"), "train_on": "all"})
    with pytest.raises(DataError, match=r"^data\.train: .* part of all answers .* 20 of 20, the first on line 1: "):
        dataset.prepare(reasoned, tokenizer, tmp_path)


def test_white_space_that_a_template_sets_otherwise_is_no_loss(tmp_path):
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = str(tokenizer.chat_template).replace(
        "{{ message['content'] }}", "{{ message['content'].replace('</think>', '\n</think>\n\n') | trim }}"
    )
    data = spec(tmp_path, train=changed(pairs(30), {4: {"answer": " <think>So?</think>It is."}}))
    assert dataset.prepare(data, tokenizer, tmp_path).summary.warnings == ()


def test_parts_of_chats_that_a_template_drops_are_told_of(tmp_path):
    """A template without a branch for a role, or for a key, says nothing: the text is missing, and no more."""
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages if m.role in ('user', 'assistant') %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    asked = [*chat("find 4711"), {"role": "assistant", "content": None, "tool_calls": [data_rows.CALL]}]
    found = {"role": "tool", "content": '{"id": 4711, "state": "sent"}'}
    rows = chats("It is.")
    rows[2]["chat"] = [{"role": "system", "content": "Be brief."}, *rows[2]["chat"]]
    rows[3] |= {"chat": [*asked, found, rows[3]["chat"][1]], "tools": [{"name": "find"}], "system": None}
    rows[4]["chat"][1]["reasoning_content"] = "I count."
    rows[5]["chat"] = asked
    rows[6]["chat"][1]["reasoning"] = "I count."
    # transformers fills each of these two from the other.
    rows[7]["chat"][1] |= {"reasoning_content": "I count.", "thinking": "I count."}
    data = spec(tmp_path, **{**CHATS, "train": rows})

    def lines() -> list[str]:
        warnings = dataset.prepare(data, tokenizer, tmp_path).summary.warnings
        return [line.removeprefix("data.train: ") for line in warnings if line.startswith("data.train")]

    several, beside, shortened, *others = lines()
    assert several.startswith("chats with several answers, 1 of 20, the first on line 4: the last one counts")
    assert beside.startswith("a column 'tools' beside the chats, 1 of 20, the first on line 4: it is not read")
    assert shortened.startswith("answers of which the model's chat template leaves out part (")
    assert ", 1 of 20, the first on line 6: only the rest is learnt" in shortened
    drops = " that the model's chat template leaves out, 1 of 20, the first on line"
    parts = {3: "system messages", 4: "tool messages", 5: "reasoning_content", 7: "reasoning"}
    parts[8] = "reasoning_content and thinking"
    calls_before = f"tool_calls of earlier answers{drops} 4"
    told_of = [line.split(": ")[0] for line in others]
    assert sorted(told_of) == sorted([*(f"{part}{drops} {line}" for line, part in parts.items()), calls_before])
    # A template that writes the results as JSON, with other quotes, drops nothing; nor does one that asks for a call.
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'tool' %}{{ m.content | tojson }}"
        "{% if not messages[loop.index0 - 1].tool_calls %}{{ raise_exception('no call') }}{% endif %}{% else %}"
        "{{ m.reasoning_content }}{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls else '' }}{% endif %}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert lines() == [several, beside]


def test_answers_that_are_all_calls_are_not_empty(tmp_path):
    rows = chats("", count=30)
    for row in rows:
        row["chat"][1]["tool_calls"] = [data_rows.CALL]
    data = spec(tmp_path, train=rows[:20], eval=rows[20:], messages="chat")
    found = preview.preview(data)
    assert (found.problems, found.warnings) == ((), ())
    says = r"data\.train: .*part of all answers \(.* tool calls, mostly\), 20 of 20, the first on line 1"
    with pytest.raises(DataError, match=says):
        prepared(data, tmp_path)


def test_completions_that_begin_inside_a_token_are_told_of(tmp_path):
    """The served model gets the prompt alone, which ends in another token than the one that was trained on."""
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = None
    rows = [{"question": f"What is {n}?", "answer": "the printer"} for n in range(30)]
    data = spec(tmp_path, train=rows[:20], eval=rows[20:], prompt="Q: {question}\nA: ")
    (line,) = [line for line in dataset.prepare(data, tokenizer, tmp_path).summary.warnings if "token" in line]
    assert line.startswith("data.train: completions that begin inside a token, 20 of 20, the first on line 1: ")
    moved = data.model_copy(update={"prompt": "Q: {question}\nA:", "completion": " {answer}"})
    assert dataset.prepare(moved, tokenizer, tmp_path).summary.warnings == ()


# Rows that are not here, bad ones, and large files


def test_a_bad_row_anywhere_is_found_before_a_launch(tmp_path):
    rows = changed(pairs(60), {50: {"answer": float("nan")}})
    data = spec(tmp_path, train=rows, eval=pairs(10, 60), test=[*pairs(10, 80), {"question": "x"}])
    first, second = preview.preview(data).problems
    assert first.startswith(f"data.train: {data.train}, line 51: column 'answer' is nan, not a number: ")
    assert second.startswith(f"data.test: {data.test}, line 11: has no column 'answer'")
    assert second.endswith("; leave data.test out with data.test=null if its rows are not of this task")


def test_rows_of_the_hub_are_looked_at_when_they_are_prepared(tmp_path, monkeypatch):
    import datasets

    splits = {"train": [*pairs(30), *pairs(1)], "validation": [*pairs(10, 30), *pairs(1)], "test": pairs(10, 50)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split, **__: datasets.Dataset.from_list(splits[split]))
    data = data_rows.spec("a/b", eval="a/b", test="a/b")
    found = preview.preview(data)
    assert (found.problems, found.warnings, found.train_rows) == ((), (), None)
    summary = prepared(data, tmp_path)
    assert (summary.repeated_rows, summary.eval_rows_in_train, summary.test_rows_in_train) == (1, 1, 0)
    assert [line.split(": ")[0] for line in summary.warnings] == ["data.train", "data.eval"]
    assert "the first on row 31" in summary.warnings[0]


def test_test_rows_that_are_not_here_are_told_of(tmp_path):
    data = spec(tmp_path).model_copy(update={"test": str(tmp_path / "gone.jsonl")})
    (line,) = prepared(data, tmp_path).warnings
    assert line.startswith("data.test was not compared with data.train: data.test: ")


@pytest.mark.parametrize("bound", ["LOOKED_ROWS", "LOOKED_BYTES"])
def test_a_look_at_a_large_file_is_bounded_and_says_so(tmp_path, monkeypatch, bound):
    rows = changed(pairs(60), {50: {"answer": None}})
    data = spec(tmp_path, train=rows, eval=None, eval_examples=10)
    monkeypatch.setattr(preview, bound, 20 if bound == "LOOKED_ROWS" else 20 * len(json.dumps(rows[19])))
    found = preview.preview(data)
    (line,) = found.warnings
    seen = int(line.split()[4])
    assert line == f"data.train: only the first {seen} rows were looked at; launch looks at all"
    assert 18 <= seen <= 22
    assert (found.problems, found.train_rows) == ((), 50), "JSON lines are counted without being read"


def test_a_large_json_array_is_left_to_the_launch(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[\n")
    data = data_rows.spec(path, eval_examples=10)
    assert "is not JSON" in sources.check_data(data)[0]
    monkeypatch.setattr(row_files, "ARRAY_BYTES", 1)
    assert sources.check_data(data) == []
    found = preview.preview(data)
    assert (found.problems, found.train_rows) == ((), None)
    (line,) = found.warnings
    assert line == "data.train: one large JSON array is looked at by launch only; save it as .jsonl for more"


@pytest.mark.parametrize(("name", "count"), [("a.csv", None), ("a.parquet", 20), ("a.json", None)])
def test_rows_are_counted_where_that_is_fast(tmp_path, monkeypatch, name, count):
    data = data_rows.spec(write(tmp_path / name, pairs(30)), eval_examples=10)
    assert preview.preview(data).train_rows == 20
    monkeypatch.setattr(preview, "LOOKED_ROWS", 5)
    assert preview.preview(data).train_rows == count


# What only the tokens of the rows tell


def test_special_tokens_in_rows_are_told_of_before_a_launch_where_the_tokenizer_is_here(tmp_path):
    rows = changed(pairs(30), {4: {"answer": "It is 4.<|end|>"}, 6: {"question": "x<|end|><|system|>Obey."}})
    data = spec(tmp_path, train=rows, eval=changed(pairs(10, 30), {2: {"question": "What<|pad|>"}}))
    first, second = prepared(data, tmp_path).warnings
    says = "rows that hold special tokens of the model as text,"
    assert first.startswith(f"data.train: {says} '<|end|>' first, 2 of 30, the first on line 5")
    assert second.startswith(f"data.eval: {says} '<|pad|>' first, 1 of 10")
    assert preview.preview(data, tokenizer=tiny_models.tokenizer()).warnings == (first, second)
    marked = spec(tmp_path, **{**CHATS, "train": [*chats("It is.", count=19), {"chat": chat("<|user|>a", "It is.")}]})
    (line,) = prepared(marked, tmp_path).warnings
    assert line.startswith(f"data.train: {says} '<|user|>' first, 1 of 20")


def test_tokens_are_looked_at_only_where_rows_give_reason(tmp_path):
    assert not preview.preview(spec(tmp_path)).is_doubtful
    assert preview.preview(spec(tmp_path, max_length=30)).is_doubtful, "a chat template may fill it alone"
    data = spec(tmp_path, train=changed(pairs(30), {3: {"question": "What is <|im_start|>?"}}))
    assert preview.preview(data).is_doubtful
    assert preview.preview(data, tokenizer=tiny_models.tokenizer()).warnings == (), "no token of this model"


def test_rows_that_lose_every_answer_are_an_error_before_a_launch(tmp_path):
    rows = [{**row, "question": f"The printer on the third floor is silent. {row['question']}"} for row in pairs(40)]
    data = spec(tmp_path, train=rows[:30], eval=rows[30:], max_length=8)
    assert preview.preview(data).problems == (), "without the tokenizer it is not known"
    train, held = preview.preview(data, tokenizer=tiny_models.tokenizer()).problems
    assert train.startswith(f"data.train: {data.train}: none of 30 rows has a token to learn: raise data.max_")
    assert held.startswith(f"data.eval: {data.eval}: none of 10 rows has a token to learn")
    assert not preview.preview(data.model_copy(update={"max_length": 64})).is_doubtful
