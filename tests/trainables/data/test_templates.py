from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.data import templates
from trainables.errors import DataError
from trainables.specs import DataSpec


def spec(**fields: Any) -> DataSpec:
    return DataSpec(**{"train": "train.jsonl", "eval": "eval.jsonl", **fields})


@pytest.mark.parametrize(
    ("template", "row", "text"),
    [
        ("{question}", {"question": "Why?"}, "Why?"),
        ("Q: {q}\nA: {q}", {"q": "x"}, "Q: x\nA: x"),
        ('{{"answer": {n}}}', {"n": 3}, '{"answer": 3}'),
        ("{n} {x} {b}", {"n": 1, "x": 0.5, "b": True}, "1 0.5 True"),
        ("{a column}", {"a column": "spaces"}, "spaces"),
        ("{a}", {"a": "{b}"}, "{b}"),
    ],
)
def test_template_fills_columns(template: str, row: dict[str, object], text: str) -> None:
    assert templates.parse("text", template).fill(row) == text


@given(st.text(), st.text())
def test_literal_text_and_values_pass_through_unchanged(literal: str, value: str) -> None:
    template = literal.replace("{", "{{").replace("}", "}}") + "{column}"
    assert templates.parse("text", template).fill({"column": value}) == literal + value


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{question", "unbalanced"),
        ("question}", "unbalanced"),
        ("{}", "positional"),
        ("{0}", "positional"),
        ("{a.b}", "reaches into"),
        ("{a[0]}", "reaches into"),
        ("{a!r}", "conversion or format"),
        ("{a:>10}", "conversion or format"),
        ('{"answer": {a}}', "{{ and }}"),
        ("question", 'for example "{question}"'),
    ],
)
def test_malformed_template_is_named_with_its_field(template: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        templates.parse("text", template)
    assert str(error.value).startswith(f"data.text: {template!r} ")
    assert says in str(error.value)


def test_prompt_may_be_constant() -> None:
    assert templates.parse("prompt", "Write a poem.").fill({}) == "Write a poem."


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "Why?", "id": 1}, "has no column 'answer'; columns: question, id"),
        ({"answer": None}, "column 'answer' is null"),
        ({"answer": float("nan")}, "column 'answer' is nan, not a number"),
        ({"answer": ["a"]}, "column 'answer' is a list: a template takes text, numbers and booleans$"),
        ({"answer": [{"role": "user"}]}, "booleans; for a chat set data.messages=answer, and no other form of a row$"),
        ({"answer": "\ud800"}, "half of a character"),
    ],
)
def test_value_that_cannot_be_text_is_an_error(row: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        templates.parse("completion", "{answer}").fill(row)


def test_a_chat_in_place_of_the_columns_is_told_of() -> None:
    row = {"message": "x", "messages": [{"role": "user", "content": "Hi"}]}
    problem = templates.absent(spec(prompt="{massages}", completion="{message}"), row, "d.jsonl")
    assert problem == [
        "data.prompt: {massages} is not a column of d.jsonl; columns: message, messages; for a chat set "
        "data.messages=messages data.prompt=null data.completion=null"
    ]


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"prompt": "{question}", "completion": "{answer}"}, []),
        (
            {"prompt": "{qestion}", "completion": "{answer}"},
            ["data.prompt: {qestion} is not a column of d.jsonl; columns: question, answer; did you mean {question}?"],
        ),
        (
            {"prompt": "{question}", "completion": "{ANSWER} {zzz}"},
            [
                "data.completion: {ANSWER} is not a column of d.jsonl; columns: question, answer; "
                "did you mean {answer}?",
                "data.completion: {zzz} is not a column of d.jsonl; columns: question, answer",
            ],
        ),
        (
            {"prompt": "question", "completion": "{answer}"},
            ["data.prompt: 'question' is a column, not a template: write \"{question}\""],
        ),
        (
            {"messages": "{answer}"},
            [
                "data.messages: {answer} is not a column of d.jsonl (the name of the column alone, without braces); "
                "columns: question, answer; did you mean answer?"
            ],
        ),
    ],
)
def test_absent_columns_are_named_with_the_nearest_one(fields: dict[str, str], problems: list[str]) -> None:
    assert templates.absent(spec(**fields), {"question": "", "answer": ""}, "d.jsonl") == problems


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def test_chat_ends_with_the_last_assistant_message_and_drops_nulls() -> None:
    row = {"chat": [USER, {**ANSWER, "tool_calls": None}, USER, ANSWER, USER]}
    assert templates.chat(row, "chat") == [USER, ANSWER, USER, ANSWER]


def test_null_beside_a_call_is_an_empty_text() -> None:
    """OpenAI's form of an answer that calls a tool."""
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "find"}}]}
    for answer in (call, {**call, "content": None}):
        assert templates.chat({"chat": [USER, answer]}, "chat") == [USER, {**call, "content": ""}]


def test_a_chat_in_sharegpts_words_reads_like_any_other() -> None:
    said = [("system", "Be brief."), ("human", "Hi"), ("gpt", "Hello"), ("tool", "3"), ("gpt", "Bye")]
    said += [("user", "Hi"), ("assistant", "Bye")]
    row = {"conversations": [{"from": who, "value": text, "weight": None} for who, text in said]}
    roles = {"human": "user", "gpt": "assistant"}
    assert templates.chat(row, "conversations") == [
        {"role": roles.get(who, who), "content": text} for who, text in said
    ]
    row["conversations"][1]["from"] = "bot"
    with pytest.raises(DataError, match="is from 'bot': human or user, gpt or assistant, system and tool are read"):
        templates.chat(row, "conversations")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            "[]",
            "not a list of {role, content} but str: a text that holds JSON is not read, so CSV cannot hold chats: "
            "write the list itself, with no quotes around it, into a .jsonl file",
        ),
        ({"role": ["user"], "content": ["Hi"]}, "but dict with the keys role, content: write one {role, content} for"),
        (None, "but NoneType"),
        ([], "no assistant message"),
        ([USER], "no assistant message to learn from (roles: user)"),
        ([{"from": "human", "value": 4}], "message 1 has no text in 'value': it is of type int; keys: from, value"),
        (
            [{"from": "human", "text": "Hi"}],
            "message 1 has no text in 'role'; keys: from, text; name them role and content, or from and value",
        ),
        ([ANSWER], "no message before"),
        (["Hi"], "message 1 is not {role, content} but str"),
        ([USER, {"role": "assistant", "text": "Hello"}], "message 2 has no text in 'content'; keys: role, text; name"),
        ([USER, {"role": "assistant", "content": None}], "message 2 has no text in 'content': it is null ("),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "no text in 'content': it is a list (of parts",
        ),
    ],
)
def test_malformed_chat_is_an_error(value: object, says: str) -> None:
    with pytest.raises(DataError) as error:
        templates.chat({"chat": value}, "chat")
    assert says in str(error.value)


def test_what_is_wrong_with_a_chat_that_is_no_list_is_not_put_down_to_csv() -> None:
    for value in (None, {"role": ["user"]}, 4):
        with pytest.raises(DataError) as error:
            templates.chat({"chat": value}, "chat")
        assert "CSV" not in str(error.value)
