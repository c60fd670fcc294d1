"""Trials on parts of the evaluation rows: their best steps, their ranks at a rung, and the winner on all rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from played_sweeps import Driver, Killed, story, sweep
from sweep_events import base, begun, ended, history, record, reported, started

from cluster.loop import Outcome
from sweeps.config.model import Budget, SweepConfig
from sweeps.record import limits
from sweeps.record.events import (
    EvaluatedPart,
    Event,
    TrialEnded,
    TrialReported,
    TrialScored,
    TrialState,
    from_line,
    to_line,
)
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.journal import rule_event
from sweeps.record.selection import Selection, rank, without_all_rows
from sweeps.record.snapshots import SavedTrial
from sweeps.record.sweep_record import new_events
from sweeps.report import best_compared, trial_tables
from sweeps.schedulers import Reported
from sweeps.tracking.metric_points import metric_points, score_points
from sweeps.tune.trial_progress import LastReport, Progress
from trainables.contract import Evaluation, Failure, RowsDue
from trainables.objective import LOWEST_LOSS
from trainables.specs import EvaluationSpec

PART = EvaluatedPart(rows=16, metrics={"eval_loss": 1.5})
LOSS = LOWEST_LOSS.model_dump()


def progress(whole: bool = False, **more: Any) -> Progress:
    config = {"trial_key": "a", "points": [1, 3, 9], "rows": (16, 30, None), "has_all_rows": whole, "objective": LOSS}
    log = LastReport(**{"step": 0, "best_step": 0, "best_metrics": None, **more})
    return Progress.of(config, log, SavedTrial(step=log.step, history=history(log.step + 1, log.step + 2)))


def evaluated(loss: float, raw: float | None = None, by_rows: Mapping[int, float] | None = None) -> Evaluation:
    return Evaluation(
        metrics={"eval_loss": loss},
        raw={} if raw is None else {"eval_loss": raw},
        places=() if raw is None else tuple(range(0, 32, 2)),
        by_rows={rows: {"eval_loss": value} for rows, value in (by_rows or {}).items()},
    )


def told(of: Progress, step: int, found: Evaluation) -> TrialReported:
    outcome = Outcome(step=step, evaluation=found, has_adapter=True)
    return of.evaluated(outcome, found, 64, 1.0)[1]


def test_a_trial_is_evaluated_on_its_part_and_the_default_configuration_on_all_rows() -> None:
    first, later = progress(), progress(step=3, best_step=1, best_metrics={"eval_loss": 1.0})
    assert [first.judged(step).rows for step in (1, 3, 9)] == [RowsDue(16), RowsDue(30), RowsDue(None)]
    assert [later.judged(step).rows for step in (3, 9)] == [RowsDue(30, 16), RowsDue(None, 16)]
    default = progress(whole=True, step=3, best_step=1, best_metrics={"eval_loss": 1.0})
    assert [default.judged(step).rows for step in (3, 9)] == [RowsDue(None, None, 30), RowsDue()]


@pytest.mark.parametrize(("by_first_rows", "best"), [(0.9, 9), (1.1, 1)])
def test_the_best_step_is_chosen_on_the_rows_that_both_steps_have(by_first_rows: float, best: int) -> None:
    """On all rows the later step has the higher value, whichever is better on the first rows."""
    of = progress(step=3, best_step=1, best_metrics={"eval_loss": 1.0})
    assert told(of, 9, evaluated(1.05, by_rows={16: by_first_rows})).best_step == best


def test_a_report_keeps_the_value_on_its_rows_and_the_default_the_one_that_its_rung_ranks() -> None:
    part = told(progress(), 1, evaluated(1.2, raw=1.5))
    assert (part.metrics, part.part, part.at_rung) == ({"eval_loss": 1.2}, PART, None)
    default = told(progress(whole=True), 1, evaluated(1.2, by_rows={16: 1.3}))
    assert (default.part, default.at_rung) == (None, {"eval_loss": 1.3})
    ranked = [rule_event(each, LOWEST_LOSS, True) for each in (part, default)]
    assert ranked == [Reported("a", 1, 1.2), Reported("a", 1, 1.3)]
    assert [from_line(to_line(each)) for each in (part, default)] == [part, default]
    whole = to_line(told(progress(), 9, evaluated(1.2)))
    assert not any(name in json.loads(whole) for name in ("part", "at_rung")), "the events of all rows are as before"


class Parts(Driver):
    """A sweep of which each trial but the default has reports on a part, until the last step."""

    luck: Mapping[tuple[int, int], float]
    """(Number, step) -> what the part makes the loss lower."""

    def kept(self, report: TrialReported) -> TrialReported:
        number = self.journal.record.trials[report.trial_key].number
        known = self.journal.record.trials[report.trial_key]
        loss = report.metrics["eval_loss"] - self.luck.get((number, report.step), 0.0)
        part = None if number == 0 or report.step == 9 else EvaluatedPart(rows=16, metrics={"eval_loss": loss + 1})
        is_best = not known.best_metrics or loss < known.value("eval_loss")
        best = (report.step, {"eval_loss": loss}) if is_best else (known.best_step, dict(known.best_metrics))
        update = {"metrics": {"eval_loss": loss}, "best_step": best[0], "best_metrics": best[1], "part": part}
        told = report.model_copy(update=update)
        return super().kept(told) if is_best else told


def config(trials: int = 9) -> SweepConfig:
    return sweep(trials).model_copy(update={"evaluation": EvaluationSpec(rows="nested")})


def played(path: Path, luck: Mapping[tuple[int, int], float], events: int = 10**6) -> Parts:
    path.mkdir(exist_ok=True)
    made = Parts(SweepFolder(path), config())
    made.luck, made.keeps_adapters = luck, True
    if made.journal.record.started is None:
        made.journal.add(begun())
    try:
        made.run(events)
    except Killed:
        pass
    finally:
        made.journal.close()
    return made


def test_a_sweep_with_a_best_trial_on_all_rows_evaluates_none_again(tmp_path: Path) -> None:
    made = played(tmp_path, {})
    best = rank(made.journal.record.trials.values(), LOWEST_LOSS)[0]
    assert (best.best_part, without_all_rows(made.journal.record)) == (None, [])
    events = [event for event, _ in read_events(tmp_path / "events.jsonl")]
    assert not any(isinstance(event, TrialScored) for event in events)


def test_the_winner_is_evaluated_on_all_rows_before_it_is_the_best(tmp_path: Path) -> None:
    """A trial that its part makes look best ranks by all rows then, and another one wins."""
    fair = rank(played(tmp_path / "fair", {}).journal.record.trials.values(), LOWEST_LOSS)
    lucky = next(trial.number for trial in fair if trial.step == 1 and trial.number)
    made = played(tmp_path / "lucky", {(lucky, 1): 0.9})
    trials = made.journal.record.trials.values()
    best, of_luck = rank(trials, LOWEST_LOSS)[0], next(trial for trial in trials if trial.number == lucky)
    assert (best.best_part, of_luck.best_part) == (None, None)
    assert of_luck.has_all_rows
    assert of_luck.number != best.number
    rows = json.loads((tmp_path / "lucky" / str(of_luck.adapter) / "eval_rows.json").read_bytes())
    assert rows["eval_loss"] == of_luck.value("eval_loss")
    assert sum(rows["row_losses"]) / sum(rows["row_tokens"]) == pytest.approx(rows["eval_loss"])
    assert rows["adapter_sha256"] == of_luck.adapter_sha256


def test_a_trial_that_cannot_be_evaluated_again_stays_as_it_is_and_the_sweep_ends(tmp_path: Path) -> None:
    asked: list[int] = []

    def fails(finalists: Any) -> list[Any]:
        asked.append(len(finalists))
        return [Failure(kind="failed", message="broken") for _ in finalists]

    path = tmp_path / "a"
    path.mkdir()
    made = Parts(SweepFolder(path), config())
    made.luck, made.keeps_adapters, made.score = {(number, 1): 9.0 for number in range(1, 9)}, True, fails
    made.run()
    assert sum(asked) >= 1
    assert rank(made.journal.record.trials.values(), LOWEST_LOSS)[0].best_part is not None
    assert any("could not be evaluated on all rows" in str(call) for call in made.display.say.mock_calls)
    made.journal.close()


def test_a_sweep_that_is_killed_after_any_event_has_the_same_story(tmp_path: Path) -> None:
    luck = {(number, 1): number / 10 for number in range(1, 5)}
    whole = played(tmp_path / "whole", luck)
    known = [(event.trial_key, event.state) for event in ends(tmp_path / "whole")]
    for killed in range(1, whole.count, 7):
        path = tmp_path / str(killed)
        played(path, luck, killed)
        again = played(path, luck)
        assert story(path) == story(tmp_path / "whole")
        assert [(event.trial_key, event.state) for event in ends(path)] == known
        values = [trial.best_metrics for trial in again.journal.record.trials.values()]
        assert values == [trial.best_metrics for trial in whole.journal.record.trials.values()]


def ends(path: Path) -> list[TrialEnded]:
    return [event for event, _ in read_events(path / "events.jsonl") if isinstance(event, TrialEnded)]


def test_tables_and_lines_say_that_a_value_is_of_a_part() -> None:
    events: list[Event] = [
        begun(),
        base(2.0, 64),
        started("a"),
        reported("a", 3, 1.2, part=PART),
        ended("a", TrialState.STOPPED),
    ]
    known = record(events)
    (trial,) = known.trials.values()
    assert (trial.value("eval_loss"), trial.measured_at(3, "eval_loss")) == (1.2, 1.5)
    assert best_compared.in_words(known, trial) == "t00, eval_loss 1.2000 at step 3, by 16 of ? evaluation rows"
    best = best_compared.best_json(known, Selection(trial))
    assert best is not None
    assert (best["value"], best["eval_rows"]) == (1.2, 16)
    assert trial_tables.notes(known) == [
        "best values of a part of the evaluation rows: 1 trial (16 rows); the base brings them to all rows: value on "
        "the part + base on all rows - base on the part"
    ]
    points = {point.key: point.value for point in metric_points(reported("a", 3, 1.2, part=PART))}
    assert (points["eval_loss"], points["part_eval_loss"], points["eval_rows"]) == (1.2, 1.5, 16.0)
    whole = TrialScored(time=1.0, trial_key="a", step=3, metrics={"eval_loss": 1.4}, has_all_rows=True)
    (_, after), *more = new_events([whole, whole], known)
    assert (after.trials["a"].value("eval_loss"), after.trials["a"].best_part, more) == (1.4, None, [])
    assert [point.key for point in score_points(whole, after.trials["a"])] == ["best_eval_loss"]
    assert not trial_tables.notes(after)


def test_a_value_of_a_part_reaches_no_target() -> None:
    events: list[Event] = [begun(), started("a"), reported("a", 3, 1.2, part=PART)]
    assert limits.reached(Budget(target=1.3), record(events), 5.0) is None
    events.append(reported("a", 9, 1.25, best_step=9, best_loss=1.25))
    assert limits.reached(Budget(target=1.3), record(events), 5.0) is not None
