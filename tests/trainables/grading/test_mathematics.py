"""Answers that are mathematics are compared by math-verify, in a process that no answer can hold up."""

from __future__ import annotations

import sys
import threading

import pytest

from trainables.errors import GradingError
from trainables.grading import catalogue, mathematics
from trainables.grading.grader import Grader
from trainables.specs import EvaluationSpec

WITH_MATH_VERIFY = pytest.mark.skipif(
    mathematics.find_spec("math_verify") is None, reason='math-verify is not installed: pip install ".[math]"'
)


def made() -> Grader:
    (grader,) = catalogue.graders(EvaluationSpec(metrics=("math",)))
    return grader


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    for child in mathematics._children:
        child.kill()
        child.communicate()
    mathematics._children.clear()


def test_without_math_verify_the_command_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    monkeypatch.setattr(mathematics, "find_spec", lambda name: None)
    with pytest.raises(GradingError, match=r'^evaluation\.metrics\.0: math: needs math-verify: pip install "math-ver'):
        made()


@WITH_MATH_VERIFY
def test_answers_are_compared_as_mathematics():
    cases = [
        (r"so $x = \frac{1}{2}$", r"\boxed{0.5}", 1),
        (r"\frac{1}{2}", "1/2", 1),
        ("#### 1,234", "that makes 1234", 1),
        ("$x+1$", "$1+x$", 1),
        ("x+1", "1+x", 1),
        ("x+1", "y+1", 0),
        ("1+x", "1+y", 0),
        ("2x", "the answer is 3", 0),
        ("42", "6*7 = 42", 1),
        (r"$\sqrt{2}$", r"\sqrt{2}", 1),
        ("$9$", "10", 0),
        ("$9$", "", 0),
        ("$9$", "$", 0),
        (r"$\frac{1}{2}$", r"$\frac{1}{", 0),
        ("$9$", "9" * 10_000, 0),
        ("$9$", r"\boxed{" * 500, 0),
        ("$9$", "__import__('os').abort()", 0),
        ("$9$", "\ud800", 0),
    ]
    grader = made()
    assert [(case, grader.grade({}, *case[:2])["math"]) for case in cases] == [(case, case[2]) for case in cases]
    assert catalogue.wrong_row([grader], {}, "") == (
        "evaluation.metrics.0: math: the completion holds no mathematics that math-verify reads: write it in $...$"
    )


@WITH_MATH_VERIFY
def test_an_answer_that_takes_forever_is_wrong_and_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(
        mathematics,
        "_CHILD",
        mathematics._CHILD.replace(
            "; serve()", "; from trainables import timeouts; timeouts.EQUAL_ANSWERS = 1; serve()"
        ),
    )
    grader = made()
    scores: list[float] = []

    def grade() -> None:  # as a host grades: not in the main thread
        scores.extend(grader.grade({}, "$9$", answer)["math"] for answer in ("$9^{9^{9^9}}$", "9"))

    thread = threading.Thread(target=grade)
    thread.start()
    thread.join()
    assert scores == [0, 1]


@WITH_MATH_VERIFY
def test_a_process_that_cannot_work_is_an_error(monkeypatch):
    monkeypatch.setattr(mathematics, "_CHILD", "raise SystemExit(3)")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the process of math-verify ended with exit code 3"):
            made().grade({}, "9", "9")
