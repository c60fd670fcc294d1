"""Functions of a notebook travel as their source, and what cannot is refused in a line."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qsweep import _travel
from sweeps.errors import ConfigError

SCRIPT = '''
from __future__ import annotations
import dataclasses, math, sys
import wsgiref.util
import collections.abc as abc
from pathlib import Path
from json import loads as parse
from qsweep import _travel
from trainables import catalogue

UNIT = {"points": [1.0, 2]}
MODEL = object()

def clean(text):
    return text.strip() if text else again(text)

def again(text):
    return clean(text or "none")

norm = clean

def right(row: dict, answer: str) -> float:
    """Whether it is right."""
    shift = [MODEL for MODEL in (0.0,)][0]
    assert wsgiref.util.guess_scheme({}) == "http"
    return math.floor(float(norm(answer) == parse(row["queue"])) * UNIT["points"][0] + shift)

def lengths(row, answer):
    return {"words": len(answer.split())}

lengths.metrics = {"words": "min"}

def needs(row, answer):
    return MODEL.score(answer)

Toy = type(catalogue.find("toy"))

@dataclasses.dataclass
class Curves(Toy):
    """The toy by another name."""

    shift: float = 0.5

    def fingerprint(self, base):
        return {"mine": norm(" 1 ")}

class Slow(Curves):
    def fingerprint(self, base):
        return {"slow": super().fingerprint(base)["mine"]}

for STEP in (1, 2):
    class Loop(Toy):
        step = STEP
        def fingerprint(self, base):
            return {"loop": str(self.step)}
    if STEP == 1:
        First = Loop

class Needs:
    def check(self, base):
        return MODEL.check(base)

folder = Path(sys.argv[1])
print(_travel.metric(right, folder))
print(_travel.metric(lengths, folder))
for travels, code in (
    (_travel.metric, needs), (_travel.trainable, Needs), (_travel.trainable, First), (_travel.trainable, Needs())
):
    try:
        travels(code, folder)
    except ValueError as error:
        print(error)
print(_travel.trainable(Slow, folder))
'''
FIND = """
import sys
from trainables import catalogue
from trainables.specs import TrialSpec
print(catalogue.find(sys.argv[1]).fingerprint(TrialSpec()))
"""
GRADE = """
import sys
from trainables.grading import catalogue
from trainables.specs import EvaluationSpec
right, lengths = catalogue.graders(EvaluationSpec(metrics=tuple(sys.argv[1:])))
print(dict(right.grade({"queue": '"bills"'}, "", " bills ")), dict(lengths.grade({}, "", "a b")), dict(lengths.metrics))
"""


def told(given: object, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        _travel.metric(given, folder)
    (problem,) = caught.value.problems
    assert not list(folder.iterdir())
    return problem


def run(program: str, *arguments: str, folder: Path) -> list[str]:
    script = folder / f"script-{len(list(folder.iterdir()))}.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_functions_of_a_script_reach_a_process_that_has_not_run_the_script(tmp_path):
    (tmp_path / "scripts").mkdir()
    right, lengths, refused, refused_class, refused_loop, refused_object, slow = run(
        SCRIPT, str(tmp_path / "kept"), folder=tmp_path / "scripts"
    )
    assert refused.startswith(
        "evaluation.metrics: needs uses MODEL, of type object, which cannot be copied to the sweep: make it inside"
    )
    assert refused_class.startswith("trainable: Needs uses MODEL, of type object, which cannot be copied to the sweep")
    assert refused_loop.startswith("trainable: Loop: step changed after the source was run: write their")
    assert refused_object == "trainable: is of type Needs: give a class, and no object of it"
    assert Path(right.rpartition(":")[0]).parent == tmp_path / "kept"
    again, *_ = run(SCRIPT, str(tmp_path / "kept"), folder=tmp_path / "scripts")
    assert again == right
    (graded,) = run(GRADE, right, lengths, folder=tmp_path / "scripts")
    (fingerprint,) = run(FIND, slow, folder=tmp_path / "scripts")
    assert fingerprint == "{'slow': '1'}"
    assert graded == "{'right': 1.0} {'lengths_words': 2.0} {'lengths_words': 'min'}"


def test_a_function_of_a_module_goes_by_its_name(tmp_path):
    assert _travel.metric(_travel.plain, tmp_path) == "qsweep._travel:plain"
    assert _travel.metric("choice", tmp_path) == "choice"


def around(found: Any) -> Callable[..., float]:
    def inner(row: Any, answer: str) -> float:
        return float(found)

    return inner


def test_what_cannot_travel_is_refused_with_the_way_out(tmp_path):
    file = "or put all into a .py file and give FILE.py:NAME"
    assert told(lambda row, answer: 1.0, tmp_path) == (
        f"evaluation.metrics: <lambda>: a lambda cannot be copied to the sweep: write it with def, {file}"
    )
    assert told(around(1), tmp_path) == (
        f"evaluation.metrics: inner: uses variables of the function around it, found: make these inside inner, {file}"
    )
    assert "is no function: write one with def" in told(functools.partial(around, 1), tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def unseen(row, answer):\n    return 1.0", names)
    assert told(names["unseen"], tmp_path) == (
        f"evaluation.metrics: unseen: its source is not known here: define it in a cell of its own, {file}"
    )
