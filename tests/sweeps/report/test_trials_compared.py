"""Trials side by side: a row for each setting that differs and each report point, and a line for each difference."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from sweep_events import begun, ended, record, reported, started

from sweeps.record.events import Event, TrialState
from sweeps.record.sweep_record import SweepRecord
from sweeps.report.trials_compared import TrialsCompared, to_compare
from sweeps.statistics.comparison import Comparison, Separation
from trainables.objective import Objective

EVENTS: list[Event] = [
    begun(),
    started("aaa", 0, r=8, lora_alpha=16, target_modules="[mlp]", learning_rate=1e-4, alpha_over_r=2),
    reported("aaa", 3, 1.75),
    started("bbb", 1, r=8, lora_alpha=32, target_modules="[mlp]", learning_rate=1.00001e-4, alpha_over_r=4),
    reported("bbb", 3, 1.5),
    started("ccc", 2, r=8, lora_alpha=16, target_modules="[mlp]", learning_rate=2e-4, alpha_over_r=2),
    reported("aaa", 9, 1.25, since=3),
    ended("aaa", TrialState.COMPLETED),
    ended("bbb", TrialState.STOPPED, "stopped by the scheduler: rank 2 of 2 at step 3"),
]
WHOLE = record(EVENTS)


def compared(*keys: str, whole: SweepRecord = WHOLE, by: tuple[Comparison, ...] = (), rows: int = 32) -> TrialsCompared:
    separation = Separation(rows=rows, confidence=0.975, trials=by, base=None, not_compared=0)
    return TrialsCompared(whole, tuple(whole.trials[key] for key in keys), separation)


def shown(found: TrialsCompared, width: int = 100) -> list[list[list[str]]]:
    """Table -> row -> words."""
    out = Console(file=io.StringIO(), width=width)
    texts = []
    for table in found.tables(width):
        with out.capture() as capture:
            out.print(table)
        texts.append([line.split() for line in capture.get().splitlines()])
    return texts


def test_a_row_says_what_differs_and_the_rest_is_one_line() -> None:
    found = compared("aaa", "bbb", "ccc")
    (table,) = shown(found)
    assert table == [
        ["t00", "t01", "t02"],
        ["alpha", "16", "32", "16"],
        ["lr", "0.0001", "0.0001", "0.0002"],
        ["eval_loss", "at", "step", "3", "1.7500", "1.5000", "-"],
        ["eval_loss", "at", "step", "9", "1.2500", "-", "-"],
        ["best", "eval_loss", "1.2500", "1.5000", "-"],
        ["at", "step", "9", "3", "-"],
        ["steps", "9", "3", "0"],
        ["tokens", "900", "300", "0"],
        ["seconds", "4", "2", "0"],
        ["trainable", "parameters", "64", "64", "-"],
        ["state", "COMPLETED", "STOPPED", "RUNNING"],
    ]
    assert found.lines()[:2] == [
        "the same in all: r 8, modules [mlp]",
        "t01 STOPPED at step 3, 2 s, best 1.5000: stopped by the scheduler: rank 2 of 2 at step 3",
    ]
    # Values that differ in the fourth digit alone are told apart.
    assert ["lr", "0.0001", "0.000100001"] in shown(compared("aaa", "bbb"))[0]
    narrow = shown(found, width=34)
    assert [table[0] for table in narrow] == [["t00"], ["t01"], ["t02"]] and {len(table) for table in narrow} == {12}


def test_a_value_of_a_space_does_not_move_the_cursor() -> None:
    red, green = (f"\x1b[{colour}mRED" for colour in (31, 32))
    whole = record([begun(), started("a", 0, target_modules=red), started("b", 1, target_modules=green)])
    assert ["modules", "\\x1b[31mRED", "\\x1b[32mRED"] in shown(compared("a", "b", whole=whole))[0]
    assert "\x1b" not in "".join(compared("a", whole=whole).lines())


INTERVAL = ", 97.5% confidence interval 0.1250 to 0.5000 on 32 rows"


MISSING = "the rows of t01 are missing"
HIGHER, LOWER = "eval_loss 0.2500 higher", "eval_loss 0.2500 lower"


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (Comparison("bbb", 0.25, 0.125, 0.5), f"t00 (step 9) is better than t01 (step 3): {LOWER}{INTERVAL}"),
        (
            Comparison("bbb", 0.25, -0.125, 0.5),
            f"t00 (step 9) cannot be told apart from t01 (step 3): {LOWER}, "
            "97.5% confidence interval -0.1250 to 0.5000 on 32 rows (below 0: t01 would be better)",
        ),
        (
            Comparison("bbb", 0.25, unknown=MISSING),
            f"whether t00 (step 9) is better than t01 (step 3) cannot be told: {LOWER}, {MISSING}",
        ),
        (
            Comparison("bbb", -0.25, -0.5, -0.125, steps=(3, 3), point=3),
            f"t00 (step 3) is worse than t01 (step 3): {HIGHER}{INTERVAL}",
        ),
        (
            Comparison("bbb", 0.25, 0.125, 0.5, steps=(3, 1), point=24),
            f"t00 (step 1) is better than t01 (step 3): {LOWER} after 24 examples{INTERVAL}",
        ),
    ],
    ids=["worse", "not apart", "unknown", "better", "after examples"],
)
def test_a_difference_is_told_with_its_interval(other: Comparison, line: str) -> None:
    assert line in compared("aaa", "bbb", by=(other,)).lines()


def test_a_metric_to_maximise_is_better_where_it_is_higher() -> None:
    whole = replace(WHOLE, objectives=(Objective(metric="eval_loss", mode="max"),))
    found = compared("aaa", "bbb", whole=whole, by=(Comparison("bbb", -0.25, -0.5, -0.125),))
    assert f"t00 (step 9) is worse than t01 (step 3): {LOWER}{INTERVAL}" in found.lines()


def test_few_rows_one_seed_and_what_cannot_be_compared_are_told_below() -> None:
    lines = compared("bbb", "aaa", by=(Comparison("aaa", -0.25, -0.5, -0.125),), rows=16).lines()
    assert lines[-2].startswith("each point was trained with one seed: ") and lines[-1].startswith("16 rows are few: ")
    found = compared("aaa", "ccc")
    assert found.lines()[-1] == "t00 (step 9) cannot be compared with t02: not both have eval_loss yet"
    (difference,) = found.as_json(Path("x"))["differences"]
    assert (difference["difference"], difference["low"]) == (None, None)


def test_the_json_of_a_comparison_has_everything_and_is_json() -> None:
    found = compared("aaa", "bbb", by=(Comparison("bbb", 0.25, 0.125, 0.5),))
    document = json.loads(json.dumps(found.as_json(Path("x")), allow_nan=False))
    first, second = document["trials"]
    best = {"step": 9, "eval_loss": 1.25}
    assert (first["name"], first["values"], first["best"]) == ("t00", {"3": 1.75, "9": 1.25}, best)
    assert (second["trial_key"], second["params"]["lora_alpha"], second["state"]) == ("bbb", 32, "STOPPED")
    assert document["differences"] == [
        {"trial_key": "bbb", "against": "aaa", "difference": 0.25, "low": 0.125, "high": 0.5, "apart": True,
         "unknown": "", "carried_by": None, "steps": None, "point": None, "confidence": 0.975, "rows": 32}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("named", "beside"),
    [
        (["ccc"], ["aaa", "ccc"]),  # against the best
        (["bbb", "bbb"], ["aaa", "bbb"]),
        (["aaa"], ["aaa", "bbb"]),  # the best itself: against the next
        (["ccc", "bbb", "ccc"], ["ccc", "bbb"]),
    ],
)
def test_one_trial_is_compared_with_the_best(named: list[str], beside: list[str]) -> None:
    trials = to_compare(WHOLE, [WHOLE.trials[key] for key in named])
    assert [trial.trial_key for trial in trials] == beside
    running, alone = record(EVENTS[:6]), record(EVENTS[:2])
    assert [t.number for t in to_compare(running, [running.trials["ccc"]])] == [1, 2], "the best so far stands in"
    assert [t.number for t in to_compare(alone, [alone.trials["aaa"]])] == [0]
