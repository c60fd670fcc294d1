"""Answers that are right, wrong, empty, cut off and hostile get the score that they deserve, and never an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.grading import catalogue
from trainables.grading.grader import Grader
from trainables.specs import EvaluationSpec

GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k_test.jsonl"
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "step": {"multipleOf": 0.1}},
    "additionalProperties": False,
}
ROW = {"final": " 42 ", "count": 7}


def grader(name: str, **options: Any) -> Grader:
    (made,) = catalogue.graders(EvaluationSpec(metrics=({name: options},)))
    return made


def score(name: str, expected: str, answer: str, row: dict[str, Any] = ROW, **options: Any) -> float:
    scores = grader(name, **options).grade(row, expected, answer)
    assert next(iter(scores)) == name
    return scores[name]


REGEX = {"pattern": r": (?P<answer>\d+)\.|none\.", "column": "final"}
TEXTS: dict[str, list[tuple[str, str, dict[str, Any], int]]] = {
    "exact_match": [
        ("Paris", "Paris", {}, 1),
        (" Paris\n", "\u00a0Paris \u2003", {}, 1),  # no-break and em space
        ("Paris", "paris", {}, 0),
        ("Paris", "PARIS", {"lower": True}, 1),
        ("Paris", " Paris", {"strip": False}, 0),
        ("Paris", "Paris<|im_end|>", {}, 0),  # the end token itself is not part of an answer; its text is
        ("Paris", "Paris, the capital", {}, 0),
        ("Paris", "", {}, 0),
        ("Paris", "\ud800\x00Paris", {}, 0),
    ],
    "contains": [
        ("Paris", "It is Paris, of course", {}, 1),
        ("Paris", "it is paris", {}, 0),
        ("Paris", "it is paris", {"lower": True}, 1),
        (" Paris", "in:Paris", {}, 1),
        (" Paris", "in:Paris", {"strip": False}, 0),
        ("Paris", "It is Par", {}, 0),
        ("Paris", "", {}, 0),
    ],
    "number": [
        ("so 6 * 7 = 42\n#### 42", "6 times 7, that is 42.", {}, 1),
        ("#### 42", "#### 42<|im_end|>", {}, 1),
        ("#### 42", "#### 4", {}, 0),
        ("#### 42", "42 is my answer, not 41", {}, 0),
        ("#### 42", "", {}, 0),
        ("#### 42", "none", {}, 0),
        ("1,234.5", "1234.50", {}, 1),
        ("#### 1,000,000", "$1000000 in all", {}, 1),
        ("1000", "1,000,0", {}, 0),
        ("2345", "1,2345", {}, 1),
        ("3", "3.", {}, 1),
        ("0.5", ".5", {}, 1),
        ("3.50", "it costs $3.50!", {}, 1),
        ("-5", "\u22125", {}, 1),  # the minus sign of typesetters
        ("-5", "-$5", {}, 1),
        ("-5", "$-5", {}, 1),
        ("-5", "5", {}, 0),
        ("+5", "5", {}, 1),
        ("5", "10-5", {}, 1),
        ("5", "x = (3)-5", {}, 1),
        ("2", "1/2", {}, 1),  # a fraction is two numbers: the grader math reads fractions
        ("3", "\u0663", {}, 1),  # Arabic 3
        ("3", "x\u00b3", {}, 0),  # a superscript is no digit
        ("2000", "2e3", {}, 1),
        ("5", "1e" + "9" * 50, {}, 0),
        ("1e999", "1e999", {}, 1),
        ("5", "9" * 100_000, {}, 0),
        ("9" * 40, "9" * 39 + "8", {}, 0),
        ("5", "1,111" * 50_000, {}, 0),
        ("5", "NaN Infinity -inf", {}, 0),
        ("1", "1.1", {"tolerance": 0.1}, 1),
        ("1", "0.9", {"tolerance": 0.1}, 1),
        ("1", "1.11", {"tolerance": 0.1}, 0),
        ("1", "2", {"relative_tolerance": 0.01, "tolerance": 1}, 1),
        ("1", "1.0000000000000000000000000001", {}, 0),
        # A relative tolerance is a share of the completion.
        ("-200", "-198", {"relative_tolerance": 0.01}, 1),
        ("-200", "-203", {"relative_tolerance": 0.01}, 0),
    ],
    "regex": [
        ("", "so: 42.", REGEX, 1),
        ("", "so: 42. no: 43.", REGEX, 1),  # the first match counts
        ("", "so: 7.", {**REGEX, "column": "count"}, 1),
        ("", "so: 43.", REGEX, 0),
        ("", "so: 42", REGEX, 0),
        ("", "", REGEX, 0),
        ("", "none.", REGEX, 0),  # the pattern matches without its group
    ],
}


@pytest.mark.parametrize("name", TEXTS)
def test_answers_get_the_score_that_they_deserve(name):
    assert [case for case in TEXTS[name] if score(name, *case[:2], **case[2]) != case[3]] == []


def test_only_the_grader_regex_reads_a_column():
    assert grader("regex", **REGEX).columns == {"final"}
    assert grader("exact_match").columns == frozenset()


HOSTILE_JSON = [
    "", "{'age': 5}", '{"age": 5', '{"age": 5}<|im_end|>', '```json\n{"age": 5}\n```', '{"age": NaN}',
    '{"age": -Infinity}', '{"age": 5, "age": 5}', '{"age": ' + "9" * 5000 + "}", "[" * 100_000,
    '{"age":' * 101 + "5" + "}" * 101, "\ud800",
]  # fmt: skip


def test_what_is_no_json_is_neither_valid_nor_right():
    for answer in HOSTILE_JSON:
        assert score("json_valid", "", answer) == 0, answer[:40]
        assert set(grader("json_fields", schema=SCHEMA).grade(ROW, '{"age": 5}', answer).values()) == {0}, answer[:40]


def test_json_is_valid():
    for answer in ("{}", "null", "0", ' \u00a0{"age": 1e999}\n', '["\\ud800"]', '{"a":' * 99 + "{}" + "}" * 99):
        assert score("json_valid", "", answer) == 1, answer[:40]


def test_json_fields():
    cases: list[tuple[object, object, int, int, int]] = [
        ({"name": "Ada", "age": 36}, {"age": 36.0, "name": "Ada"}, 2, 2, 2),
        ({"name": "Ada", "age": 36}, {"name": "Ada"}, 1, 1, 2),
        ({"name": "Ada"}, {"name": "Ada", "age": 36, "more": 1}, 1, 3, 1),
        ({"name": "Ada"}, {"name": "ada"}, 0, 1, 1),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, 1, 2, 2),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}, 4]}, 1, 3, 2),
        ({"a": True}, {"a": 1}, 0, 1, 1),
        ({"a": 0}, {"a": False}, 0, 1, 1),
        ({"a": "1"}, {"a": 1}, 0, 1, 1),
        ({"a": "true"}, {"a": True}, 0, 1, 1),
        ({"a": None}, {"a": "None"}, 0, 1, 1),
        ({"a": {"0": 1}}, {"a": [1]}, 0, 1, 1),
        ({"a": []}, {"a": {}}, 0, 1, 1),
        ({"a": 10**30}, {"a": 10**30 + 1}, 0, 1, 1),
        ({}, {}, 1, 1, 1),
        ({}, {"a": 1}, 0, 1, 1),
    ]
    for expected, answer, right, found, wanted in cases:
        assert grader("json_fields").grade(ROW, json.dumps(expected), json.dumps(answer)) == {
            "json_fields": 2 * right / (found + wanted),
            "json_fields_precision": right / found,
            "json_fields_recall": right / wanted,
            "json_fields_exact": float(right == found == wanted),
        }
    for answer in ('["age"]', "5", "null"):
        assert set(grader("json_fields").grade(ROW, '{"age": 5}', answer).values()) == {0}, "no object"


def test_form_is_a_number_of_its_own():
    made = grader("json_fields", schema=SCHEMA)
    for answer, valid in (
        ('{"age": 5}', 1), ('{"age": "5"}', 0), ('{"age": 5, "more": 1}', 0), ('{"step": 1e999}', 0),
        (f'{{"step": {10**400}}}', 0),
    ):  # fmt: skip
        scores = made.grade(ROW, '{"age": 5}', answer)
        assert scores["json_fields_valid"] == valid
        assert scores.keys() == made.metrics.keys()


@pytest.mark.parametrize("ref", ["http://127.0.0.1:9/a.json", "file:///dev/null", "#/$defs/gone"])
def test_a_schema_fetches_no_other_schema(ref, monkeypatch):
    fetched: list[object] = []
    monkeypatch.setattr("urllib.request.urlopen", fetched.append)
    told = catalogue.wrong_row([grader("json_fields", schema={"$ref": ref})], ROW, "{}")
    assert fetched == []
    why = f"the schema refers to {ref.removeprefix('#')!r}, which is not in it: write it under $defs"
    assert told == f"evaluation.metrics.0: json_fields: {why}"


FAULTLESS = [
    ("exact_match", {}),
    ("contains", {}),
    ("number", {"tolerance": 0.1}),
    ("json_valid", {}),
    ("json_fields", {"schema": SCHEMA}),
    ("choice", {"labels": ["a", "b"]}),
    ("regex", {"pattern": "(?P<answer>.)", "column": "final"}),
]


@pytest.mark.parametrize(("name", "options"), FAULTLESS)
@given(answer=st.text(st.characters()) | st.text(st.sampled_from('{}[]":,019.eE-+tn $')))
def test_no_answer_is_an_error(name, options, answer):
    made = grader(name, **options)
    scores = made.grade(ROW, '{"age": 5}', answer)
    assert scores.keys() <= made.metrics.keys()
    assert all(0 <= value <= 1 for value in scores.values())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=25)
@given(st.dictionaries(st.text(), VALUES, max_size=3))
def test_a_json_object_equals_itself(value):
    scores = grader("json_fields").grade(ROW, json.dumps(value), json.dumps(value, indent=1, sort_keys=True))
    assert set(scores.values()) == {1}


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_a_number_equals_itself_however_it_is_written(value):
    assert score("number", str(value), f"= {value:,.3f} apples") == 1


def test_a_row_without_a_right_answer_is_told():
    for name, options, expected, why in (
        ("number", {}, "none", "number: the completion holds no number"),
        ("number", {}, "1e" + "9" * 30, "number: the completion holds no number"),
        ("contains", {}, " \n", "contains: the completion is blank, and every answer contains it"),
        ("json_fields", {}, "[1]", "json_fields: the completion is no JSON object"),
        ("regex", {"pattern": "(?P<answer>.)", "column": "gone"}, "", "regex: the column 'gone' is missing or null"),
        ("exact_match", {}, "", None),
    ):
        told = catalogue.wrong_row([grader(name, **options)], ROW, expected)
        assert told == (None if why is None else f"evaluation.metrics.0: {why}")


@pytest.mark.skipif(not GSM8K.is_file(), reason=f"{GSM8K} is not there")
def test_the_rows_of_gsm8k_answer_themselves():
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 1319
    made = grader("number")
    wrong = [row for row in rows if made.grade(row, row["answer"], row["answer"]) != {"number": 1.0}]
    # The final number alone, as it stands behind ####, is what the grader finds in the whole completion.
    finals = [row for row in rows if made.grade(row, row["answer"], row["answer"].split("####")[1]) != {"number": 1.0}]
    others = sum(made.grade(row, row["answer"], row["question"])["number"] for row in rows)
    assert (wrong, finals) == ([], [])
    assert others < len(rows) / 5
