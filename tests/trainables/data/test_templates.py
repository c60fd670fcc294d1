from __future__ import annotations

import pytest
from data_rows import CALL, chat, spec
from hypothesis import given
from hypothesis import strategies as st

from trainables.data import templates
from trainables.errors import DataError


@pytest.mark.parametrize(
    ("template", "row", "text"),
    [
        ("{question}", {"question": "Why?"}, "Why?"),
        ("Q: {q}\nA: {q}", {"q": "x"}, "Q: x\nA: x"),
        ('{{"answer": {n}}}', {"n": 3}, '{"answer": 3}'),
        ("{n} {x} {b}", {"n": 1, "x": 0.5, "b": True}, "1 0.5 True"),
        ("{a column}", {"a column": "spaces"}, "spaces"),
        ("{a}", {"a": "{b}"}, "{b}"),
        ("Write a poem.", {}, "Write a poem."),
    ],
)
def test_template_fills_columns(template: str, row: dict[str, object], text: str) -> None:
    assert templates.parse("prompt", template).fill(row) == text


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
    data, row = spec("d.jsonl", prompt="{massages}", completion="{message}"), {"message": "x", "messages": [USER]}
    (problem,) = templates.absent(data, row, "d.jsonl")
    way_out = "for a chat set data.messages=messages data.prompt=null data.completion=null"
    assert problem == f"data.prompt: {{massages}} is not a column of d.jsonl; columns: message, messages; {way_out}"


HAS = "is not a column of d.jsonl; columns: question, answer"
BARE = HAS.replace(";", " (the name of the column alone, without braces);")


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({}, []),
        (
            {"completion": "{ANSWER} {zzz}"},
            [f"data.completion: {{ANSWER}} {HAS}; did you mean {{answer}}?", f"data.completion: {{zzz}} {HAS}"],
        ),
        ({"messages": "{answer}"}, [f"data.messages: {{answer}} {BARE}; did you mean answer?"]),
    ],
)
def test_absent_columns_are_named_with_the_nearest_one(fields: dict[str, str], problems: list[str]) -> None:
    assert templates.absent(spec("d.jsonl", **fields), {"question": "", "answer": ""}, "d.jsonl") == problems


USER, ANSWER = chat("Hi", "Hello")


def test_chat_ends_with_the_last_assistant_message_and_drops_nulls() -> None:
    row = {"chat": [USER, {**ANSWER, "tool_calls": None}, USER, ANSWER, USER]}
    assert templates.chat(row, "chat") == [USER, ANSWER, USER, ANSWER]
    # OpenAI's form of an answer that calls a tool: null beside a call is an empty text.
    call = {"role": "assistant", "tool_calls": [CALL]}
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
        ("[]", "not a list of {role, content} but str: a text that holds JSON is not read, so CSV cannot hold chats: "),
        ({"role": ["user"], "content": ["Hi"]}, "but dict with the keys role, content: write one {role, content} for"),
        (None, "but NoneType"),
        ([USER], "no assistant message to learn from (roles: user)"),
        ([], "no assistant message to learn from (roles: none)"),
        ([{"from": "human", "value": 4}], "message 1 has no text in 'value': it is of type int; keys: from, value"),
        ([{"from": "human", "text": "Hi"}], "message 1 has no text in 'role'; keys: from, text; name them role "),
        ([ANSWER], "no message before"),
        (["Hi"], "message 1 is not {role, content} but str"),
        ([USER, {"role": "assistant", "text": "Hello"}], "message 2 has no text in 'content'; keys: role, text; name"),
        ([USER, {"role": "assistant", "content": None}], "message 2 has no text in 'content': it is null ("),
        ([{"role": "user", "content": [{"text": "Hi"}]}], "no text in 'content': it is a list (of parts"),
    ],
)
def test_malformed_chat_is_an_error(value: object, says: str) -> None:
    with pytest.raises(DataError) as error:
        templates.chat({"chat": value}, "chat")
    assert says in str(error.value)
    assert ("CSV" in str(error.value)) is isinstance(value, str)
