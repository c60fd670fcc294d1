"""What `evaluation.metrics` names is built, and every mistake in it is a line with the way out."""

from __future__ import annotations

import json
import os
import pickle
from typing import Any

import pytest
import python_imports

from trainables.errors import GradingError
from trainables.grading import catalogue
from trainables.specs import EvaluationSpec

FUNCTIONS = """
import numpy
def polite(row, answer): return "please" in answer
def both(row, answer): return {"long": len(answer) / row["size"], "short": 1}
def undeclared(row, answer): return {"long": True}
def another(row, answer): return {"long": 1.0}
def of_numpy(row, answer): return {"bool": numpy.bool_(True), "float": numpy.float32(0.5), "array": numpy.array(2)}
def nothing(row, answer): return None
def empty(row, answer): return {}
def unnamed(row, answer): return {"a,b": 1}
def mixed(row, answer): return {"long": 1, "words": "two"}
def not_a_number(row, answer): return float("nan")
def text(row, answer): return "1"
def steps(row, answer): return 1
def misdeclared(row, answer): return 1
def of_a_row(row): return 1
def with_an_option(row, answer, *, weight=1.0): return weight

both.metrics = {"long": "min", "short": "max"}
another.metrics = {"short": "max"}
misdeclared.metrics = {"long": ["most"]}
number = 5
"""
DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Score:
    value: float = 1.0

def right(row, answer): return Score().value
"""


@pytest.fixture(autouse=True)
def functions(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text(FUNCTIONS)
    (tmp_path / "my_broken.py").write_text("import nothing_of_the_kind")
    (tmp_path / "my_exit.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)


def spec(*entries: Any) -> EvaluationSpec:
    return EvaluationSpec(metrics=entries)


def problems(*entries: Any) -> tuple[str, ...]:
    with pytest.raises(GradingError) as error:
        catalogue.graders(spec(*entries))
    assert pickle.loads(pickle.dumps(error.value)).problems == error.value.problems
    return error.value.problems


def test_graders_stand_in_the_order_of_the_file_and_no_metric_asks_for_no_answer():
    made = catalogue.graders(spec("number", {"exact_match": {"lower": True}}, "my_scores:both"))
    assert [next(iter(grader.metrics)) for grader in made] == ["number", "exact_match", "both_long"]
    assert catalogue.directions(spec("number", "my_scores:both")) == {
        "number": "max", "both_long": "min", "both_short": "max", "answers_ended": "max",
    }  # fmt: skip
    assert (catalogue.graders(spec()), catalogue.needs_answers(spec()), catalogue.directions(spec())) == ((), False, {})


def test_nothing_heavy_is_imported_for_the_check():
    program = """
import sys
from trainables.grading import catalogue
from trainables.specs import EvaluationSpec
catalogue.directions(EvaluationSpec(metrics=("number", "choice", "json_fields", {"exact_match": {"lower": True}})))
assert not {"jsonschema", "sympy", "math_verify", "numpy"} & sys.modules.keys()
"""
    assert python_imports.heavy(program) == set()


NAMES = "exact_match, contains, choice, number, regex, json_valid, math, json_fields"
IMPORTED = "cannot be imported (the current folder is searched, too)"
MISTAKES: list[tuple[Any, str]] = [
    (
        "exactmatch",
        f"exactmatch: no such grader; did you mean exact_match? (there are: {NAMES}; a function of your own is named "
        "MODULE:FUNCTION; an entry names one, with options as {NAME: {...}})",
    ),
    ({}, ": no such grader (there are: "),
    ({"number": {}, "regex": {}}, "number and regex: no such grader; did you mean "),
    ("\x1b[2J", r"\x1b[2J: no such grader (there"),
    (
        {"number": {"tolerence": 1}},
        "number.tolerence: unknown option; did you mean tolerance? (options here: tolerance, relative_tolerance)",
    ),
    ({"json_valid": {"schema": {}}}, "json_valid.schema: unknown option (options here: none)"),
    ({"number": {"tolerance": -1}}, "number.tolerance: must be greater than or equal to 0, not -1"),
    ({"regex": {"column": "a"}}, "regex.pattern: is required"),
    ({"regex": {"pattern": "(", "column": "a"}}, "regex.pattern: '(' is no regular expression: missing )"),
    ({"regex": {"pattern": "(.*)", "column": "a"}}, "regex.pattern: '(.*)' lacks a group of the name answer: (?P<ans"),
    ({"choice": {"by": "rank"}}, "choice.by: must be 'ranking' or 'answer', not 'rank'"),
    ({"choice": {"labels": "a"}}, "choice.labels: must be a list, not 'a'"),
    ({"choice": {"labels": ["a", "a "]}}, "choice: a label stands twice: leave it out once"),
    (
        {"json_fields": {"schema": {"type": "dict"}}},
        "json_fields.schema: {'type': 'dict'} is no JSON schema: 'dict' is not valid under any of the given",
    ),
    ({"json_fields": {"schema": 5}}, "json_fields.schema: 5 is no JSON schema: it must be an object, or the path of a"),
    ({"json_fields": {"schema": "/no/a.json"}}, "json_fields.schema: '/no/a.json' cannot be read: No such file or dir"),
    ({"json_fields": {"schema": "\x00"}}, r"json_fields.schema: '\x00' is no JSON schema: embedded null byte"),
    ("my_broken:polite", f"my_broken:polite: 'my_broken' {IMPORTED}: ModuleNotFoundError: No module named"),
    ("my_exit:polite", f"my_exit:polite: 'my_exit' {IMPORTED}: SystemExit"),
    (":polite", f":polite: '' {IMPORTED}: ValueError: Empty module name"),
    ("my_scores:politeness", "my_scores:politeness: my_scores has no function 'politeness'; did you mean polite?"),
    ("my_scores:number", "my_scores:number: my_scores has no function 'number'"),
    ({"my_scores:polite": {"weight": 1}}, "my_scores:polite.weight: unknown option (options here: none)"),
    (
        "my_scores:misdeclared",
        """my_scores:misdeclared: its attribute metrics is {'long': ['most']}: write {"name": "max"} or "min\"""",
    ),
    ("my_scores:of_a_row", "my_scores:of_a_row: has the arguments (row): a function that scores answers takes (row, a"),
    ("my_scores:steps", "my_scores:steps: has 'steps': a sweep writes something else under this name: choose another"),
]


def test_a_mistake_is_one_line():
    for entry, line in MISTAKES:
        (problem,) = problems("contains", entry)
        assert problem.startswith(f"evaluation.metrics.1: {line}") and problem.isprintable()


def test_all_mistakes_are_told_at_once():
    places = [line.split(":")[0][-1] for line in problems("nothing", "number", {"number": {}}, "regex")]
    assert places == ["0", "2", "3", "3"]
    assert problems("number", "number") == ("evaluation.metrics.1: number: its name is taken: write each metric once",)


def test_a_function_takes_no_name_of_another_metric(tmp_path):
    for name in ("eval_loss", "answers_ended", "number"):
        (tmp_path / f"my_{name}.py").write_text(f"def {name}(row, answer): return 1")
        told = f"evaluation.metrics.1: my_{name}:{name}: its name is taken: write each metric once"
        assert problems("number", f"my_{name}:{name}") == (told,)


def test_a_function_scores_answers():
    polite, both, free = catalogue.graders(spec("my_scores:polite", "my_scores:both", "my_scores:with_an_option"))
    assert free.grade({}, "", "") == {"with_an_option": 1.0}
    assert [polite.grade({}, "", answer) for answer in ("please", "")] == [{"polite": 1.0}, {"polite": 0.0}]
    assert both.grade({"size": 4}, "", "ab") == {"both_long": 0.5, "both_short": 1.0}
    undeclared, of_numpy = catalogue.graders(spec("my_scores:undeclared", "my_scores:of_numpy"))
    assert undeclared.grade({}, "", "") == {"undeclared_long": 1.0}
    assert of_numpy.grade({}, "", "") == {"of_numpy_bool": 1.0, "of_numpy_float": 0.5, "of_numpy_array": 2.0}


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("both", {}, "size"),
        ("another", {}, r"returns \{'long': 1.0\}, which has another_long, and its .* declares another_short"),
        ("not_a_number", {}, "returns nan: a score is a finite number"),
        ("text", {}, "returns '1': a score is a finite number"),
        ("nothing", {}, "returns None: a score is a finite number"),
        ("empty", {}, r"returns \{\}: a score is a finite number"),
        ("mixed", {}, "returns .*'two'.*: a score is a finite number"),
        ("unnamed", {}, "which has 'unnamed_a,b': a name begins with"),
    ],
)
def test_a_function_that_is_broken_raises(name, row, why):
    (made,) = catalogue.graders(spec(f"my_scores:{name}"))
    with pytest.raises((KeyError, TypeError), match=why):
        made.grade(row, "", "answer")


def test_a_schema_is_read_from_its_file_once_and_a_file_that_is_none_is_told(tmp_path):
    file, gone = tmp_path / "schema.json", str(tmp_path / "gone.json")
    named, read = {"json_fields": {"schema": str(file)}}, {"json_fields": {"schema": {"type": "object"}}}
    file.write_text(json.dumps({"type": "object"}))
    entries = ["number", {"json_fields": {"schema": "schema.json"}}, {"json_fields": {"schema": "gone.json"}}, 5]
    assert catalogue.with_files(entries, tmp_path) == ["number", read, {"json_fields": {"schema": gone}}, 5]
    assert catalogue.graders(spec(named)) == catalogue.graders(spec(read))
    for text in ("{", "[1]", '{"type": 1}'):
        file.write_text(text)
        (problem,) = problems(named)
        assert "schema.json' is no JSON schema: " in problem


def test_a_function_of_a_file_is_read_by_its_path_and_again_once_the_file_is_written_anew(tmp_path):
    file = tmp_path / "scores.py"
    file.write_text(DATACLASS)
    (named,) = catalogue.with_files(["scores.py:right"], tmp_path)
    (grader,) = catalogue.graders(EvaluationSpec(metrics=(named,)))
    assert (named, grader.grade({}, "", "x")) == (f"{file}:right", {"right": 1.0})
    file.write_text("def right(row, answer): return 0.25\n")
    os.utime(file, ns=(1, 1))
    assert grader.grade({}, "", "x") == {"right": 0.25}
    with pytest.raises(GradingError, match=r"has no function 'rihgt'; did you mean right\?"):
        catalogue.graders(EvaluationSpec(metrics=(f"{file}:rihgt",)))
    with pytest.raises(GradingError, match=r"gone\.py: there is no such file; a relative path"):
        catalogue.graders(EvaluationSpec(metrics=(f"{tmp_path / 'gone.py'}:right",)))
