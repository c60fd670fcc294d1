"""What a sweep file says in one section and means for others: its budget, scores, and a space's portfolio."""

from __future__ import annotations

from pathlib import Path

import pytest
from mistakes import run
from sweep_files import QLORA, TOY, loaded, refused, write_rows

import search_spaces
from sweeps.config.model import SweepConfig
from trainables.objective import LOWEST_LOSS, Objective


def test_a_trial_is_as_long_as_one_field_says(tmp_path: Path) -> None:
    text = "budget: {steps_per_trial: 9, examples_per_trial: 90, epochs_per_trial: 1.0}\n"
    assert refused(tmp_path, TOY + text) == [
        "budget: steps_per_trial and examples_per_trial and epochs_per_trial say how long a trial is: give one of them"
    ]


@pytest.mark.parametrize(
    ("given", "change", "lengths"),
    [
        ("steps_per_trial: 27", "budget.examples_per_trial=40", (10, 40, None)),
        ("epochs_per_trial: 2.0", "budget.examples_per_trial=40", (10, 40, None)),
        ("epochs_per_trial: 2.0", "budget.steps_per_trial=9", (9, None, None)),
        ("steps_per_trial: 27", "budget.examples_per_trial=null", (27, None, None)),
    ],
)
def test_an_override_of_a_trial_s_length_takes_the_place_of_the_file_s(tmp_path, given, change, lengths) -> None:
    budget = loaded(tmp_path, f"{TOY}budget: {{trials: 4, {given}}}\n", change).config.budget
    assert budget.trials == 4
    assert (budget.steps_per_trial, budget.examples_per_trial, budget.epochs_per_trial) == lengths


def test_auto_needs_a_budget_of_time(tmp_path: Path) -> None:
    assert refused(tmp_path, TOY, "budget.trials=auto") == [
        "budget.trials: auto fills a budget of time: give budget.wall_clock or budget.gpu_hours with it"
    ]
    for clock in ("budget.wall_clock=1h", "budget.gpu_hours=2.0"):
        assert loaded(tmp_path, TOY, "budget.trials=auto", clock).config.budget.trials == "auto"


def test_a_type_of_gpu_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, TOY, "cluster.gpu=H1000")
    assert problem.startswith("cluster.gpu: 'H1000'") and "H100, H200" in problem
    assert loaded(tmp_path, TOY, "cluster.gpu=h100").config.cluster.gpu == "H100"


def test_parts_of_the_rows_are_refused_where_all_rows_are_needed(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, TOY, "evaluation.rows=nested")
    toy = "the trainable toy evaluates all rows at each report point"
    assert problem == f"evaluation.rows: nested: {toy}: take evaluation.rows=all"
    write_rows(tmp_path)
    every = ["evaluation.rows=nested", "evaluation.metrics=[exact_match]", "evaluation.when=every"]
    problems = refused(tmp_path, QLORA, *every)
    assert (
        "evaluation.rows: nested: evaluation.when: every scores the answers of all rows: take evaluation.rows=all, or "
        "evaluation.when=last"
    ) in problems
    assert not any(line.startswith("evaluation.rows:") for line in refused(tmp_path, QLORA, every[0], "name=-"))


FILE = "name: x\ntrainable: own.scored_toy\n"
MATCHES = Objective(metric="exact_match", mode="max")
CHOOSES = "objective={metric: exact_match, mode: max}"
SCORED = "evaluation.metrics=[exact_match]"
ASK = "scores answers: ask for it with evaluation: {metrics:"


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ([CHOOSES], LOWEST_LOSS),
        ([CHOOSES, "evaluation.when=best"], LOWEST_LOSS),
        ([CHOOSES, "evaluation.when=every"], MATCHES),
        ([CHOOSES, "evaluation.when=every", "scheduler.metric=eval_loss"], LOWEST_LOSS),
        (["objective={metric: eval_accuracy, mode: max}"], Objective(metric="eval_accuracy", mode="max")),
        ([], LOWEST_LOSS),
    ],
)
def test_the_loss_stops_trials_where_it_is_asked_to_and_where_the_score_comes_last(tmp_path, changes, stops):
    config = loaded(tmp_path, FILE, SCORED, *changes).config
    again = SweepConfig.model_validate_json(config.model_dump_json())
    assert config.stops == again.stops == stops, "whoever resumes it reads the same in config.json"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ([CHOOSES], f"objective.metric: exact_match {ASK} [exact_match]}}"),
        (["promotion.metric=choice"], f"promotion.metric: choice {ASK} [choice]}}"),
        ([SCORED, "objective.metric=exact_match"], "objective.mode: min: a higher exact_match is better: write mode: "),
        ([SCORED, "trainable=toy"], "evaluation.metrics: the toy answers nothing that could be scored"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_starts(tmp_path, changes, line):
    assert [problem[: len(line)] for problem in refused(tmp_path, FILE, *changes)] == [line]


def test_a_number_that_a_function_returns_by_name_is_an_objective_once_it_is_declared(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def a(row, answer): return {'words': 1}")
    changes = ["evaluation.metrics=[mine.py:a]", "objective={metric: a_words, mode: max}"]
    line = 'objective.metric: a_words: a number that a returns by name must be declared, as in a.metrics = {"words": '
    assert [line] == [
        problem[: len(line)] for problem in refused(tmp_path, "name: x\n", *changes) if "words" in problem
    ]
    (tmp_path / "mine.py").write_text("def a(row, answer): return {'words': 1}\na.metrics = {'words': 'max'}")
    assert not [problem for problem in refused(tmp_path, "name: x\n", *changes) if "words" in problem]


SPACE = """
search_space:
  adapter.r: {choice: [4, 8, 16]}
  training.learning_rate: {loguniform: [1.0e-5, 1.0e-2]}
  portfolio: [{adapter.r: 4}, {training.learning_rate: 1.0e-3}]
searcher: {kind: prior}
"""
CORE = ["search_space=lora_core", "searcher.kind=prior"]
NARROWED = [*CORE, "search_space.adapter.r={choice: [16, 64]}"]
LEFT_OUT = "search_space.portfolio: 3 of its 4 points do not fit the changed fields and are left out"


def test_a_field_that_a_point_leaves_out_gets_the_files_own_value(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, TOY + SPACE, "adapter.r=16", "training.learning_rate=3.0e-4")
    points = [{"adapter.r": 4, "training.learning_rate": 3e-4}, {"adapter.r": 16, "training.learning_rate": 1e-3}]
    assert list(sweep.space.portfolio) == points
    searcher = sweep.config.searcher.build(sweep.space, 0)
    assert [searcher.suggest(), searcher.suggest()] == points
    assert sweep.config.search_space == sweep.space.to_raw()
    assert sweep.notices == ()


@pytest.mark.parametrize("name", ["lora_core", "lora_wide"])
def test_a_named_space_keeps_its_portfolio(tmp_path: Path, name: str) -> None:
    sweep = loaded(tmp_path, TOY, f"search_space={name}", "searcher.kind=prior")
    assert (sweep.space.portfolio, sweep.notices) == (search_spaces.load(name).portfolio, ())


def test_points_of_a_named_space_that_no_longer_fit_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, TOY, *NARROWED)
    assert [point["adapter.r"] for point in sweep.space.portfolio] == [16]
    assert sweep.notices == (LEFT_OUT,)
    code, lines, _ = run("validate", str(tmp_path / "s.yaml"), *NARROWED)
    assert code == 0 and f"warning: {LEFT_OUT}" in lines
    assert loaded(tmp_path, TOY, *NARROWED, "searcher.kind=random").notices == (), "it does not use the portfolio"


def test_a_named_spaces_points_get_the_files_value_of_a_field_that_the_user_added(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, TOY, *CORE, "search_space.training.batch_size={choice: [4, 8]}")
    assert [point["training.batch_size"] for point in sweep.space.portfolio] == [4] * 4
    assert sweep.notices == ()
