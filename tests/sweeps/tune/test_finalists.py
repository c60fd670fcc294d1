"""The finalists of a sweep are scored when it ends: who they are, what is kept, and what becomes of failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_actors import NEVER, NONE
from own import scored_toy
from played_sweeps import Driver, driver, score, scored, sweep
from ray.exceptions import ActorDiedError
from sweep_events import begun

from sweeps.config.model import SweepConfig
from sweeps.mirror.contents import TrialFolders
from sweeps.record import digests, samples
from sweeps.record.events import SweepEnded, TrialScored, TrialState
from sweeps.record.folder import read_events
from sweeps.record.selection import FINALISTS, choose, rank, unscored
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from trainables.contract import Failure
from trainables.objective import LOWEST_LOSS
from trainables.specs import TrialSpec


def at_its_end(played: Driver, of: SweepConfig) -> SweepRecord:
    """The record as a launch leaves it: what is parked has stopped."""
    trials = {
        key: each if each.state.is_final else replace(each, state=TrialState.STOPPED)
        for key, each in played.journal.record.trials.items()
    }
    ended = SweepEnded(time=9.0, reason="finished")
    return replace(played.journal.record, trials=trials, objectives=of.objectives, ended=ended)


def config(trials: int) -> SweepConfig:
    """A sweep whose default configuration learns so slowly that others are better after a step."""
    made = scored(sweep(trials), "best")
    return made.model_copy(update={"training": made.training.model_copy(update={"learning_rate": 1e-6})})


def test_reports_without_the_score_that_stops_trials_stop_none(tmp_path: Path) -> None:
    with driver(tmp_path, scored(sweep(6, {"kind": "tpe"}), "every")) as made:
        made.unscored = {"exact_match": "row 3: ValueError: no number"}
        made.run()
        trials = made.journal.record.trials.values()
        assert {trial.state for trial in trials} == {TrialState.COMPLETED} and len(trials) == 6


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Driver]:
    with driver(tmp_path, config(12)) as made:
        yield made


def with_scores(played: Driver) -> list[TrialRecord]:
    return [trial for trial in played.journal.record.trials.values() if "exact_match" in trial.best_metrics]


def test_the_best_by_loss_and_the_default_are_scored_at_their_best_steps_in_one_batch(played: Driver) -> None:
    asked: list[Any] = []

    def counted(finalists: Any) -> Any:
        asked.append(finalists)
        return score(finalists)

    played.score = counted
    played.run()
    trials = played.journal.record.trials
    by_loss = rank(trials.values(), LOWEST_LOSS)
    keys = {trial.trial_key for trial in by_loss[:FINALISTS]} | {t.trial_key for t in by_loss if t.number == 0}
    assert len(keys) == FINALISTS + 1, "the default is none of the best, else this tests less"
    assert {trial.trial_key for trial in with_scores(played)} == keys
    assert [len(finalists) for finalists in asked] == [len(keys)]
    for trial in with_scores(played):
        spec = TrialSpec.model_validate_json(trial.spec)
        assert trial.value("exact_match") == scored_toy.right_answers(spec, trial.best_step or 0) / 10
    assert played.stop.reason is None and not played.stop.is_scoring
    best = rank(trials.values(), played.config.objectives[0])[0]
    assert best.value("exact_match") == max(trial.value("exact_match") for trial in with_scores(played))


def test_the_scores_lie_beside_the_adapter_and_what_was_there_stays(played: Driver, tmp_path: Path) -> None:
    played.run()
    for trial in with_scores(played):
        folder = tmp_path / str(trial.adapter)
        rows = json.loads((folder / "eval_rows.json").read_bytes())
        assert (rows["row_losses"], rows["eval_loss"]) == ([7.0], trial.value("eval_loss"))
        assert sum(rows["row_values"]["exact_match"]) == 10 * trial.value("exact_match") == 10 * rows["exact_match"]
        assert rows["adapter_sha256"] == digests.of_folder(folder / "adapter") == trial.adapter_sha256
        answers = samples.read_samples(folder / samples.OF_TRIAL)
        assert sum(each.scores["exact_match"] for each in answers) == 10 * trial.value("exact_match")


def test_who_is_a_finalist_does_not_depend_on_earlier_scores(played: Driver, tmp_path: Path) -> None:
    """A sweep that gets more trials after its end scores those of them that are among the best by loss."""
    played.run()
    assert unscored(played.config, played.journal.record) == []
    with driver(tmp_path, config(40)) as more:
        more.run()
        assert len(with_scores(more)) > len(with_scores(played)), "none of the new ones is better, and this tests less"
        first = {t.trial_key for t in rank(more.journal.record.trials.values(), LOWEST_LOSS)[:FINALISTS]}
        assert first <= {trial.trial_key for trial in with_scores(more)}
    events = [event for event, _ in read_events(tmp_path / "events.jsonl") if isinstance(event, TrialScored)]
    assert len(events) == len({event.trial_key for event in events})


def test_a_finalist_that_cannot_be_scored_lacks_the_score_and_the_next_driver_tries_again(played, tmp_path):
    def fails_first(finalists: Any) -> list[Any]:
        return [Failure(kind="out_of_memory", message="no memory"), *score(finalists)[1:]]

    played.score = fails_first
    played.run()
    (lacking,) = [t for t in played.journal.record.trials.values() if t.lacking]
    assert (lacking.lacking, lacking.state.is_ranked) == ({"exact_match": "no memory"}, True)
    assert len(with_scores(played)) == FINALISTS and played.stop.reason is None
    assert lacking not in rank(played.journal.record.trials.values(), played.config.objectives[0])
    assert unscored(played.config, played.journal.record) == [lacking]
    with driver(tmp_path, played.config) as again:
        again.score_finalists()
        assert (len(with_scores(again)), unscored(again.config, again.journal.record)) == (FINALISTS + 1, [])


def test_the_next_driver_scores_what_had_no_score_at_a_trials_last_step(tmp_path: Path) -> None:
    config = scored(sweep(3), "last")
    with driver(tmp_path, config) as first:
        first.keeps_adapters, first.unscored = True, {"exact_match": "row 3: ValueError: no number"}
        first.journal.add(begun())
        first.run()
        trials = first.journal.record.trials.values()
        lacking = [trial.trial_key for trial in trials if trial.lacking]
        assert lacking and TrialState.FAILED not in {trial.state for trial in trials}
        selection = choose(at_its_end(first, config))
        assert selection.winner is None and selection.why.endswith("could not be scored")
        assert with_scores(first) == [], "the driver that could not score them does not try again"
    with driver(tmp_path, config) as again:
        again.journal.add(begun())
        again.score_finalists()
        assert {trial.trial_key for trial in with_scores(again)} == set(lacking)
        assert choose(at_its_end(again, config)).winner is not None
        assert unscored(config, again.journal.record) == []


def test_an_evaluation_without_scores_and_a_damaged_adapter_give_no_score(played, monkeypatch):
    def bare(finalists: Any) -> list[Any]:
        found = score(finalists)
        return [found[0].model_copy(update={"metrics": {"eval_loss": 1.0}}), *found[1:]]

    played.score = bare
    keep = played.folder.keep

    def damaged(key: str, kind: Any, step: int, files: Any) -> Path:
        is_first = played.trials.record(key).number == 0
        return keep(key, kind, step, files | ({"adapter/toy_adapter.json": b"?"} if is_first else {}))

    monkeypatch.setattr(played.folder, "keep", damaged)
    played.run()
    reasons = {why for t in played.journal.record.trials.values() for why in t.lacking.values()}
    assert reasons == {
        "the evaluation gives eval_loss only",
        "the files of its adapter are not those that it wrote",
    }


def test_a_lost_host_is_asked_again_and_two_that_died_fail_the_sweep_which_goes_on_with_resume(played, tmp_path):
    answers = [None, ActorDiedError(), Failure(kind="failed", message="its host died, twice")]
    played.score = lambda _finalists: answers.pop(0)
    played.run()
    assert (played.stop.reason, with_scores(played)) == ("failed", [])
    assert played.stop.message == ("the finalists could not be scored: its host died, twice; go on with qsweep resume")
    with driver(tmp_path, played.config) as again:
        again.run()
        assert len(with_scores(again)) == FINALISTS + 1


def test_finalists_that_no_host_scores_fail_the_sweep_after_ten_minutes_and_resume_goes_on(played: Driver) -> None:
    left = iter(range(1000))
    played.score = lambda _finalists: NONE if next(left, None) is not None else stopped(played)
    played.run()
    said = [call.args[0] for call in played.display.say.call_args_list]
    assert f"still scoring the answers of {FINALISTS + 1} trials, 30 s so far" in said
    assert played.stop.message == (
        "the finalists could not be scored: no host was there for 10 minutes; go on with qsweep resume"
    )


def test_a_budget_that_is_used_up_does_not_end_the_scoring_and_a_person_does(played: Driver, tmp_path: Path) -> None:
    played.score = lambda finalists: stopped(played)
    played.run()
    assert (played.stop.reason, with_scores(played)) == ("interrupted", [])
    with driver(tmp_path, played.config) as again:
        again.stop.ask("budget", "budget.wall_clock 1h is used up", can_be_raised=True)
        folders = TrialFolders(tmp_path / "trials")
        for key, at in folders.changed().items():
            folders.settled(key, at, at / 1e9 + 1000.0)
        again.score_finalists()
        assert folders.changed().keys() == {trial.trial_key for trial in with_scores(again)}, "else no mirror has them"
        assert len(with_scores(again)) == FINALISTS + 1 and again.stop.reason == "budget"


def stopped(played: Driver) -> Any:
    played.stop.ask("interrupted", "interrupted")
    return NEVER
