"""What a trial's process makes of the broker's and its host's answers, and what it keeps; no Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_actors import FakeCalls, actor
from ray.exceptions import ActorDiedError, ActorUnavailableError
from sweep_events import history, reported

from cluster.errors import LeaseOver
from cluster.leases import Grant
from cluster.loop import Outcome
from sweeps.errors import BudgetUsedUp, StorageError
from sweeps.record import samples, snapshots
from sweeps.record.events import TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.snapshots import SavedTrial
from sweeps.tune.slot_trial import NodeLeaves, TrialRun, final, in_order
from sweeps.tune.trial_files import FolderFiles
from sweeps.tune.trial_progress import Assignment
from trainables.contract import AnsweredRow, Evaluation, Failure, Opened

REPORTED_NOTHING = {"step": 0, "best_step": 0, "best_metrics": None}


class World:
    """A trial in this process, its host and its broker. The host trains to each target at once."""

    def __init__(self, folder: Path, files: type[FolderFiles] = FolderFiles, **told: Any) -> None:
        self.config: dict[str, Any] = {
            "trial_key": "a", "spec": "", "points": [3, 9], "dir": str(folder), "disk_bytes": None, "parks": False,
            "objective": {"metric": "eval_loss", "mode": "min"}, "repeats": None, "is_anywhere": False,
            "reported": REPORTED_NOTHING, **told,
        }  # fmt: skip
        self.outcomes: list[Outcome | Exception] = []
        """What the host answers next."""
        self.opens: Callable[[bytes | None], Any] = lambda _snapshot: Opened(step=0, trainable_params=1)
        self.asked: list[tuple[Any, ...]] = []
        """What the broker was asked, but for what is asked all the time."""
        self.targets: list[int] = []
        self.leases, self.goes_on = 0, True
        self.host = actor(
            open=lambda _lease, _spec, snapshot: self.opens(snapshot), advance=self._advance, save=self._save
        )
        self.files = files(self.config, "a")
        self.run = self.take_up()

    def take_up(self) -> TrialRun:
        self.run = TrialRun(Assignment.of(self.config), self.files, self._ask, FakeCalls())
        return self.run

    def opened(self, *outcomes: Outcome | Exception) -> World:
        """The trial has said that it holds its slot; these are the host's next answers."""
        assert self.run.step()["opened"]
        self.outcomes = list(outcomes)
        return self

    def step(self) -> dict[str, Any]:
        return in_order(self.run.step, self.run.end)

    def _ask(self, method: str, *words: Any) -> Any:
        if method == "acquire":
            self.leases += 1
            return Grant(f"a-{self.leases}", f"host-{self.leases}", self.host)
        if method == "goes_on":
            return self.goes_on
        if method != "reached":
            self.asked.append((method, *words))
        return None

    def _advance(self, _lease: str, target: int, *_words: Any) -> Any:
        self.targets.append(target)
        return self.outcomes.pop(0)

    def _save(self, _lease: str, _known: int) -> Any:
        return self.outcomes.pop(0)


def loss(value: float) -> dict[str, float]:
    return {"eval_loss": value}


def reaches(step: int, value: float = 1.0, first: int | None = None, **more: Any) -> Outcome:
    """The host has trained to a report point."""
    more = {"adapter": {"a": b"b"}} | more
    evaluation = more.pop("evaluation", Evaluation(metrics=loss(value)))
    return Outcome(step=step, history=history(first or step, step), evaluation=evaluation, **more)


@pytest.mark.parametrize(
    ("error", "state", "reason", "ends"),
    [
        (ValueError("first\nlast"), TrialState.FAILED, "ValueError: last", None),
        (AssertionError(), TrialState.FAILED, "AssertionError", None),
        (MemoryError("  \n"), TrialState.FAILED, "MemoryError", None),
        (StorageError("no space"), TrialState.PAUSED, "no space", "failed"),
        (BudgetUsedUp("no room"), TrialState.PAUSED, "no room", "budget"),
    ],
)
def test_an_exception_in_a_trial_ends_it_and_is_never_raised_into_tune(error, state, reason, ends):
    def broken() -> dict[str, Any]:
        raise error

    told = in_order(broken, lambda state, reason: final(state, reason, 4))
    assert told.pop("ends_sweep", None) == ends
    assert told == {"step": 4, "state": state.value, "reason": reason, "history": [], "done": True}


def test_a_node_that_leaves_makes_tune_start_the_trial_elsewhere(tmp_path):
    world = World(tmp_path, type("Elsewhere", (FolderFiles,), {"node_id": "n1"})).opened()
    # Not on this node, but elsewhere.
    world.run = TrialRun(
        Assignment.of(world.config), world.files, lambda method, *words: method == "goes_on" and len(words) == 1
    )
    with pytest.raises(NodeLeaves, match="n1"):
        world.step()


@pytest.mark.parametrize(("report", "target"), [(None, 3), (reported("a", 3, 1.0).report, 9)])
def test_a_trial_is_evaluated_at_its_report_point_before_it_goes_on_to_the_next(tmp_path, report, target):
    saved = snapshots.files(SavedTrial(step=3, report=report, best_step=3, best_metrics=loss(1.0)), b"weights")
    SweepFolder(tmp_path).keep("a", "snapshot", 3, saved)
    known = REPORTED_NOTHING if report is None else {"step": 3, "best_step": 3, "best_metrics": loss(1.0)}
    world = World(tmp_path, reported=known).opened(reaches(target))
    world.step()
    assert world.targets == [target]


def test_a_report_that_may_not_have_arrived_is_told_again_first(tmp_path):
    report = reported("a", 3, 1.0).report
    saved = SavedTrial(step=3, report=report, best_step=3, best_metrics=loss(1.0))
    SweepFolder(tmp_path).keep("a", "snapshot", 3, snapshots.files(saved, b"weights"))
    world = World(tmp_path)
    assert json.loads(world.step()["report"]) == json.loads(report.model_dump_json())
    assert world.step()["opened"]


def test_a_snapshot_that_could_not_be_read_at_first_is_no_reason_to_lose_steps(tmp_path):
    """The disk did not give the latest one for a moment, and the trial took itself to be at the one before."""

    class Stale(FolderFiles):
        def saved(self) -> SavedTrial:
            return SavedTrial(step=2)

    for step in (2, 3):
        kept = snapshots.files(SavedTrial(step=step), b"%d" % step)
        SweepFolder(tmp_path).keep("a", "snapshot", step, kept)
    world = World(tmp_path, Stale)
    world.opens = lambda snapshot: Opened(step=int(snapshot or b"0"), trainable_params=1)
    told = world.step()
    assert (told["state"], told["ends_sweep"], world.asked) == ("PAUSED", "failed", [("release", "a", "a-1")])
    assert "step 3" in told["reason"]
    assert "qsweep resume" in told["reason"]
    world.files = FolderFiles(world.config, "a")
    world.take_up()
    assert world.step() == {"step": 3, "state": "RUNNING", "opened": True, "done": False}


def test_a_trial_that_goes_on_from_before_its_last_report_keeps_the_adapter_that_the_log_names(tmp_path):
    saved = SavedTrial(step=3, best_step=3, best_metrics=loss(1.0), report=reported("a", 3, 1.0).report)
    SweepFolder(tmp_path).keep("a", "snapshot", 3, snapshots.files(saved, b""))
    known = {"step": 9, "best_step": 9, "best_metrics": loss(0.9)}
    world = World(tmp_path, points=[3, 9, 27], reported=known).opened(reaches(9, 0.8999), reaches(27, 0.8))
    told = [world.step() for _ in range(2)]
    reports = [json.loads(each["report"]) for each in told]
    assert [(each["best_step"], each["best_metrics"]) for each in reports] == [(9, loss(0.9)), (27, loss(0.8))]
    assert [each["adapter"] for each in told] == [None, "trials/a/best-000027"]


def test_the_rows_of_each_report_are_kept_and_those_of_a_report_in_the_log_stay(tmp_path):
    kept = SweepFolder(tmp_path).keep("a", "rows", 3, {"eval_rows.json": b"{}"})
    known = {"step": 3, "best_step": 3, "best_metrics": loss(1.0)}
    for value in (1.2, 1.25):  # killed before it told: it comes there again
        found = Evaluation(metrics=loss(value), row_losses=(value,), row_tokens=(1,))
        world = World(tmp_path, points=[3, 9, 27], reported=known)
        world.opened(reaches(3, 1.001), reaches(9, evaluation=found, first=4))
        world.step()
        world.step()
    assert (kept / "eval_rows.json").read_bytes() == b"{}"
    document = {"step": 9, "eval_loss": 1.25, "row_losses": [1.25], "row_tokens": [1], "hardware": ""}
    assert json.loads((tmp_path / "trials/a/rows-000009/eval_rows.json").read_bytes()) == document


SCORED = {"metric": "exact_match", "mode": "max"}


def test_a_score_makes_a_step_the_best_although_its_loss_is_higher_and_its_answers_lie_beside_its_rows(tmp_path):
    answered = AnsweredRow(
        row=2, prompt="1 + 1 =", expected="2", answer="2é", is_ended=True, scores={"exact_match": 0.0}
    )
    scored = Evaluation(metrics={"eval_loss": 1.5, "exact_match": 0.0}, answers=(answered,))
    world = World(tmp_path, objective=SCORED).opened(reaches(3, 1.0), reaches(9, evaluation=scored, first=4))
    told = [world.step() for _ in range(2)]
    assert [json.loads(each["report"])["best_step"] for each in told] == [3, 9]
    assert told[1]["adapter"] == "trials/a/best-000009"
    assert samples.read(tmp_path / told[1]["adapter"] / "samples.jsonl") == (answered,)
    assert not (tmp_path / told[0]["adapter"] / "samples.jsonl").exists()
    assert "answer" not in (tmp_path / told[1]["adapter"] / "eval_rows.json").read_text()


@pytest.mark.parametrize("size", [5000, 50])
def test_a_trial_reports_whether_there_was_room_for_what_it_would_go_on_from(tmp_path, size):
    given: list[bytes | None] = []
    world = World(tmp_path, disk_bytes=3000, parks=True)
    world.opened(reaches(3, snapshot=b"x" * size), LeaseOver("over"), reaches(9))
    told = world.step()
    assert (told["step"], told["adapter"], told["is_saved"]) == (3, "trials/a/best-000003", size == 50)
    world.opens = lambda snapshot: given.append(snapshot) or Opened(step=3, trainable_params=1)  # type: ignore[func-returns-value]
    world.step()
    assert given == [b"x" * size], "another host goes on from the same"


def test_the_adapter_of_a_repeat_is_kept_where_parked_trials_fill_the_disk(tmp_path):
    parked = SavedTrial(step=3, report=reported("b", 3, 1.0).report)
    SweepFolder(tmp_path).keep("b", "snapshot", 3, snapshots.files(parked, b"x" * 5000))
    world = World(tmp_path, disk_bytes=6000, parks=True, repeats="c")
    world.opened(reaches(3, adapter={"a": b"x" * 3000}, snapshot=b"x" * 5000))
    assert world.step()["adapter"] == "trials/a/best-000003"


def test_a_trial_that_must_move_saves_itself_gives_its_slot_back_and_keeps_each_step_once(tmp_path):
    world = World(tmp_path).opened(
        Outcome(step=2, history=history(1, 2), snapshot=b"2", must_move=True),
        # Another host: it goes on from an older snapshot, and trains a step a second time.
        reaches(3, first=2),
    )
    given: list[bytes | None] = []
    world.opens = lambda snapshot: given.append(snapshot) or Opened(step=2, trainable_params=1)  # type: ignore[func-returns-value]
    told = world.step()
    assert (world.asked, given) == ([("release", "a", "a-1")], [b"2"])
    assert [step["step"] for step in json.loads(told["report"])["history"]] == [1, 2, 3]


def test_a_trial_whose_sweep_ends_saves_itself_where_it_stands(tmp_path):
    world = World(tmp_path).opened(Outcome(step=2, history=history(1, 2), snapshot=b"2"))
    world.goes_on = False
    told = world.step()
    assert (told["state"], told["step"], len(told["history"])) == ("PAUSED", 2, 2)
    assert FolderFiles(world.config, "a").snapshot() == b"2"
    assert world.asked == [("release", "a", "a-1")]


def test_what_a_host_says_of_a_trial_that_failed_is_how_the_trial_ends(tmp_path):
    failed = Outcome(step=1, history=history(1, 1), failure=Failure(kind="diverged", message="nan"))
    told = World(tmp_path).opened(failed).step()
    assert (told["state"], told["reason"], len(told["history"])) == ("DIVERGED", "nan", 1)


def test_a_lease_that_was_over_before_it_was_opened_is_no_failure_of_the_trial(tmp_path):
    answers: list[Any] = [LeaseOver("the lease a-1 was over"), Opened(step=0, trainable_params=1)]
    world = World(tmp_path)
    world.opens = lambda _snapshot: answers.pop(0)
    assert world.step()["opened"]
    assert world.asked == [("release", "a", "a-1")]


@pytest.mark.parametrize(
    ("error", "node_id", "told", "leases"),
    [
        (ActorDiedError(), "", "lost", 2),
        (ActorUnavailableError("the connection broke", None), "", "not_reached", 1),
        (ActorUnavailableError("the connection broke", None), "n1", "not_reached", 2),
        (ActorDiedError(), "n1", "not_reached", 2),
    ],
)
def test_a_host_that_cannot_be_reached_is_not_called_lost_as_long_as_it_may_be_there(
    tmp_path, error, node_id, told, leases
):
    at = type("At", (FolderFiles,), {"node_id": node_id})
    world = World(tmp_path, at).opened(error, reaches(3))
    world.step()
    assert (world.asked, world.leases) == ([(told, "host-1")], leases)
