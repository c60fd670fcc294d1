"""What ranks the candidates: the sweep's objective, unless the command or the file names a metric."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sweeps.config.model import SweepConfig
from sweeps.errors import NotStored, SweepError
from sweeps.promotion.candidates import Candidate, not_worse, on_one_base, ranked, ranked_together
from sweeps.promotion.request import Context, ranking
from sweeps.tracking.lookup import TrackedSweep, TrialRun
from trainables import evaluation_metrics
from trainables.errors import GradingError
from trainables.objective import LOWEST_LOSS, Objective

ACCURACY = Objective(metric="eval_accuracy", mode="max")
SIZE = Objective(metric="trainable_params")
SEVERAL = [{"metric": "eval_loss"}, {"metric": "trainable_params"}]


def config(objective: Any) -> SweepConfig:
    return SweepConfig.model_validate({"name": "s", "trainable": "toy", "objective": objective})


def trial(number: int, repeats: str | None = None, **metrics: float) -> TrialRun:
    return TrialRun("run", f"k{number}", number, "COMPLETED", None, None, None, metrics, {}, repeats)


def sweep(*trials: TrialRun) -> TrackedSweep:
    return TrackedSweep("s-1", "parent", "FINISHED", config({"metric": "eval_loss"}), {}, None, trials)


@pytest.mark.parametrize(
    ("objective", "metric", "trial", "expected"),
    [
        ({"metric": "eval_loss"}, None, None, LOWEST_LOSS),
        ({"metric": "eval_accuracy", "mode": "max"}, None, None, ACCURACY),
        ({"metric": "eval_loss"}, "eval_accuracy", None, ACCURACY),
        (SEVERAL, "trainable_params", None, SIZE),
        (SEVERAL, None, "t01", LOWEST_LOSS),
    ],
)
def test_the_metric_that_is_named_ranks_else_the_objective(objective, metric, trial, expected):
    assert ranking(config(objective), metric, trial) == expected


def test_with_several_objectives_somebody_must_choose():
    with pytest.raises(SweepError, match=r"eval_loss and trainable_params.*--trial KEY.*--metric NAME"):
        ranking(config(SEVERAL), None, None)


def test_a_function_that_cannot_be_imported_is_no_metric_whose_lower_value_is_better():
    """Its direction is not known: an adapter that is worse would be promoted."""
    raw = {"name": "s", "objective": {"metric": "other"}, "evaluation": {"metrics": ["not_there:score"]}}
    sweep = SweepConfig.model_validate({**raw, "trainable": "qlora"})
    with pytest.raises(GradingError, match=r"^evaluation\.metrics\.0: .*not_there"):
        ranking(sweep, "score", None)
    assert ranking(sweep, "eval_loss", None) == LOWEST_LOSS


def test_a_repeat_is_a_candidate_only_when_it_is_named():
    trials = (trial(0, best_eval_loss=0.7), trial(1, best_eval_loss=0.8), trial(2, "k0", best_eval_loss=0.5))
    assert [each.trial_key for each in ranked(sweep(*trials), LOWEST_LOSS, None, False)] == ["k0", "k1"]
    assert [each.trial_key for each in ranked(sweep(*trials), LOWEST_LOSS, "t02", False)] == ["k2"]
    with pytest.raises(SweepError, match=r"no trial may be promoted: .*it has none"):
        ranked(sweep(trials[2]), LOWEST_LOSS, None, False)


def test_all_trials_that_the_rows_ranked_are_counted_and_a_repeat_only_where_one_is_named():
    """Also trials without a score: the loss chose those that have one. A failed trial counts where it is named."""
    scored = [trial(0, best_eval_loss=0.7, best_eval_accuracy=0.5), trial(1, best_eval_loss=0.8)]
    failed = dataclasses.replace(trial(3, best_eval_loss=0.1), state="FAILED")
    found = sweep(*scored, trial(2, "k0", best_eval_loss=0.5), failed, trial(4))
    counted = {None: 2, "t00": 2, "k1": 2, "t02": 3, "t03": 3}
    assert {named: ranked_together(found, named) for named in counted} == counted
    open_ones = [
        dataclasses.replace(trial(n, best_eval_loss=0.9), state=state) for n, state in ((5, "PAUSED"), (6, "PARKED"))
    ]
    interrupted = sweep(*found.trials, *open_ones)
    assert ranked_together(interrupted, "k5") == 4, "the best so far is chosen among trials that have not ended, too"


def test_among_trials_of_one_score_the_loss_decides_as_in_the_sweep():
    losses = enumerate((0.8, 0.7, 0.7))
    trials = [trial(number, best_eval_loss=loss, best_eval_accuracy=0.75) for number, loss in losses]
    assert [each.number for each in ranked(sweep(*trials), ACCURACY, None, False)] == [1, 2, 0]


def test_what_is_logged_under_a_name_that_begins_with_best_is_not_taken_for_a_metric():
    losses = {"eval_loss": 0.5, "best_eval_loss": 0.5}
    found = sweep(trial(0, None, **losses, best_of_4=0.1, best_best_of_4=0.1, best_step=3.0))
    assert ranked(found, Objective(metric="best_of_4"), None, False) == [*found.trials]
    for metric in ("of_4", "step"):
        with pytest.raises(SweepError, match=rf"^--metric: no trial has {metric}.*\(there are: best_of_4, eval_loss\)"):
            ranked(found, Objective(metric=metric), None, False)


def test_where_the_adapters_of_the_best_base_are_not_in_mlflow_the_next_base_is_taken():
    settings = {"quantization": "nf4", "compute_dtype": "auto", "double_quant": "True"}
    trials = [
        dataclasses.replace(trial(number, best_eval_loss=float(number)), params=settings | {"quantization": scheme})
        for number, scheme in enumerate(["nf4", "none", "nf4"])
    ]
    space = {"quantization.scheme": {"choice": ["nf4", "none"]}}
    mixed = SweepConfig.model_validate({"name": "s", "trainable": "toy", "search_space": space})

    def lost(run_id: str, path: str) -> Any:
        raise NotStored(f"run {run_id}: has no {path} in MLflow")

    lookup: Any = SimpleNamespace(files=lost)
    policy: Any = SimpleNamespace(top=3)
    asked: Any = SimpleNamespace(trial=None, force=False)
    unused: Any = None
    said: list[str] = []
    found = dataclasses.replace(sweep(*trials), config=mixed)
    context = Context(asked, policy, LOWEST_LOSS, "m", found, lookup, unused, said.append)
    with pytest.raises(NotStored, match="MLflow has the adapter of none"):
        on_one_base(context, trials)
    left_out = [line.split(" is left out")[0] for line in said if "is left out" in line]
    assert left_out == ["warning: t00", "warning: t02", "warning: t01"]
    (told,) = [line for line in said if "next base" in line]
    assert told.startswith("warning: nf4, auto, True: s-1: no trial may be promoted: MLflow has the adapter of none")


def candidate(number: int, loss: float, rows: int = 60, **more: Any) -> Candidate:
    """Its rows have about this loss per token, each of its own difficulty, with noise."""
    hard, own = np.random.default_rng(7).normal(0, 0.5, rows), np.random.default_rng(number).normal(0, 0.1, rows)
    found = evaluation_metrics.evaluation((10 * (3 + loss + hard + own)).tolist(), [10] * rows, hardware="cpu float32")
    reported = found.model_copy(update=more)
    return Candidate(trial(number, best_eval_loss=reported.loss, best_score=-loss), {}, "", reported, "")


FIRST, NEAR, WORSE = candidate(0, 0.0), candidate(1, 0.01), candidate(2, 1.0)


@pytest.mark.parametrize(
    ("metric", "eval_data", "found", "left"),
    [
        ("eval_loss", None, (FIRST, NEAR, WORSE), (FIRST, NEAR)),
        ("eval_loss", None, (FIRST,), (FIRST,)),
        # They may be of another kind than those of the sweep.
        ("eval_loss", "other.jsonl", (FIRST, WORSE), (FIRST, WORSE)),
        # Too few rows, other rows, no rows.
        ("eval_loss", None, (candidate(0, 0.0, 9), candidate(2, 1.0, 9)), None),
        ("eval_loss", None, (FIRST, candidate(2, 1.0, places=tuple(range(60)))), None),
        ("score", None, (FIRST, WORSE), None),
        ("score", None, tuple(
            candidate(number, 1.0, row_values={"score": (right,) * 30 + (0.0,) * 30})
            for number, right in ((0, 1.0), (1, 0.0))
        ), 1),
    ],
)  # fmt: skip
def test_a_candidate_that_the_sweeps_own_rows_show_to_be_worse_is_not_evaluated_again(metric, eval_data, found, left):
    unused: Any = None
    asked: Any = SimpleNamespace(trial=None, eval_data=eval_data)
    objective = Objective(metric=metric, mode="min" if metric == "eval_loss" else "max")
    said: list[str] = []
    there = sweep(*(each.trial for each in found))
    told, kept = not_worse(Context(asked, unused, objective, "m", there, unused, unused, said.append), found)
    expected = found if left is None else found[:left] if isinstance(left, int) else left
    assert (kept, told.left_out) == (expected, len(found) - len(expected))
    names = ", ".join(each.label for each in found[len(expected) :])
    assert said == ([f"left out: {names} is worse than t00 on the sweep's own rows, beyond chance"] if names else [])
