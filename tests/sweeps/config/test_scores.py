"""What a sweep file may say of scores: which metric chooses, which one stops trials, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.config import load
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError
from trainables.objective import LOWEST_LOSS, Objective

MATCHES = Objective(metric="exact_match", mode="max")
CHOOSES = "objective={metric: exact_match, mode: max}"
SCORED = "evaluation.metrics=[exact_match]"


def loaded(folder: Path, *changes: str) -> SweepConfig:
    (folder / "s.yaml").write_text("name: x\ntrainable: own.scored_toy\n")
    return load.load("s.yaml", changes, folder).config


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
    config = loaded(tmp_path, SCORED, *changes)
    assert config.stops == stops
    again = SweepConfig.model_validate_json(config.model_dump_json())
    assert again.stops == stops, "whoever resumes it reads the same in config.json"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            [CHOOSES],
            "objective.metric: exact_match scores answers: ask for it with evaluation: {metrics: [exact_match]}",
        ),
        (
            ["promotion.metric=choice"],
            "promotion.metric: choice scores answers: ask for it with evaluation: {metrics: [choice]}",
        ),
        (
            [SCORED, "objective.metric=exact_match"],
            "objective.mode: min: a higher exact_match is better: write mode: max",
        ),
        (
            [SCORED, "trainable=toy"],
            "evaluation.metrics: the toy answers nothing that could be scored",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_starts(tmp_path, changes, line):
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, *changes)
    assert [problem[: len(line)] for problem in caught.value.problems] == [line]
