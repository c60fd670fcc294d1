"""What a trial makes of the broker's and its host's answers, and what it keeps; no Ray."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import packs
import pytest
from fake_actors import actor
from ray.exceptions import ActorDiedError, ObjectLostError
from sweep_events import history, reported

from cluster.broker import Broker
from cluster.broker_answers import Lease
from cluster.loop import Outcome, PackLoop
from sweeps.errors import BudgetUsedUp, StorageError
from sweeps.record import samples, snapshots
from sweeps.record.events import TrialReported, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.snapshots import SavedTrial
from sweeps.tune.active_trial import ActiveTrial, ResultRequest
from sweeps.tune.trial_files import FolderFiles
from sweeps.tune.trial_progress import LastReport
from trainables.contract import AnsweredRow, Evaluation, Failure, Opened
from trainables.packing.adapter_pack import AdapterPack
from trainables.specs import TrialSpec

SPEC = TrialSpec().model_dump_json()

T = TypeVar("T")
REPORTED_NOTHING = {"step": 0, "best_step": 0, "best_metrics": None}


class World:
    """A trial, its host, its broker and its stub. The host trains to each target at once."""

    def __init__(self, folder: Path, **told: Any) -> None:
        self.config: dict[str, Any] = {
            "trial_key": "a", "spec": SPEC, "points": [3, 9], "dir": str(folder), "disk_bytes": None, "parks": False,
            "objective": {"metric": "eval_loss", "mode": "min"}, "repeats": None, "is_anywhere": False, "run": 1,
            "reported": REPORTED_NOTHING, **told,
        }  # fmt: skip
        self.outcomes: list[Outcome | Exception] = []
        """What the host answers next."""
        self.opens: Callable[[bytes | None], Any] = lambda _snapshot: Opened(step=0, trainable_params=1)
        self.asked: list[str] = []
        """What the broker was asked, but for what is asked all the time."""
        self.targets: list[int] = []
        self.leases, self.is_going_on, self.lease = 0, True, ""
        self.lost_bytes: list[Exception] = []
        """What is raised in place of the bytes of the next answers."""
        self.host = actor(open=self._open, advance=self._advance, save=lambda *_words: self._outcome())
        self.take_up()

    def take_up(self) -> None:
        """Ray has made the broker anew, and Tune the stub."""
        self.reported, self.is_open = LastReport(**self.config["reported"]), False
        self.run = ActiveTrial(cast(Broker, self), ResultRequest(self.config, self.reported, False))

    def opened(self, *outcomes: Outcome | Exception) -> World:
        """The trial has said that it holds its slot; these are the host's next answers."""
        assert self.step()["opened"]
        self.outcomes = list(outcomes)
        return self

    def step(self) -> dict[str, Any]:
        """The result that follows. The stub asks twice, and keeps what its next question needs."""
        told, again = (asyncio.run(self.answered()) for _ in range(2))
        assert told == again, "the same question gets the same answer"
        if "report" in told:
            report = told["report"]
            self.reported = LastReport(report.step, report.best_step, report.best_metrics)
        self.is_open = self.is_open or "opened" in told
        return told

    async def answered(self) -> dict[str, Any]:
        told = await self.run.answer(ResultRequest(self.config, self.reported, self.is_open), 60.0)
        assert told is not None
        return told

    # The broker

    async def acquire(self, trial_key: str, wait_seconds: float, spec: TrialSpec) -> Lease:
        self.leases += 1
        self.lease = f"{trial_key}-{self.leases}"
        return Lease(self.lease, f"host-{self.leases}")

    async def vacate(self, trial_key: str) -> None:
        if self.lease:
            self.asked.append(f"vacate {self.lease}")
            self.lease = ""

    def goes_on(self, trial_key: str) -> bool:
        return self.is_going_on

    def reached(self, trial_key: str) -> None:
        pass

    async def call(self, host_id: str, ask: Callable[[Any], Awaitable[T]]) -> T:
        return await ask(self.host)

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        if any(isinstance(each, Exception) for each in arguments):
            raise next(each for each in arguments if isinstance(each, Exception))
        return work(*arguments)

    def put(self, large: Any) -> Any:
        return large

    # Its host

    async def _open(self, _lease: str, _spec: str, snapshot: bytes | None) -> Any:
        return self.opens(snapshot)

    def _advance(self, _lease: str, target: int, *_words: Any) -> tuple[Awaitable[Outcome], Any]:
        self.targets.append(target)
        return self._outcome()

    def _outcome(self) -> tuple[Awaitable[Outcome], Any]:
        found = self.outcomes.pop(0)
        small, large = (found, None) if isinstance(found, Exception) else found.split()

        async def answer() -> Outcome:
            if isinstance(small, Exception):
                raise small
            return small

        if self.lost_bytes:
            self.outcomes.insert(0, found)
            return answer(), self.lost_bytes.pop()
        return answer(), large


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
def test_an_exception_in_a_trial_ends_it_and_is_never_raised_into_tune(tmp_path, error, state, reason, ends):
    def broken(_snapshot: bytes | None) -> Any:
        raise error

    world = World(tmp_path)
    world.opens = broken
    told = world.step()
    assert told.pop("ends_sweep", None) == ends
    assert told == {"step": 0, "state": state.value, "reason": reason, "history": (), "done": True}


@pytest.mark.parametrize(("report", "target"), [(None, 3), (reported("a", 3, 1.0), 9)])
def test_a_trial_is_evaluated_at_its_report_point_before_it_goes_on_to_the_next(tmp_path, report, target):
    saved = snapshots.files(SavedTrial(step=3, report=report, best_step=3, best_metrics=loss(1.0)), b"weights")
    SweepFolder(tmp_path).keep("a", "snapshot", 3, saved)
    known = REPORTED_NOTHING if report is None else {"step": 3, "best_step": 3, "best_metrics": loss(1.0)}
    world = World(tmp_path, reported=known).opened(reaches(target))
    world.step()
    assert world.targets == [target]


def test_a_report_that_may_not_have_arrived_is_told_again_first(tmp_path):
    report = reported("a", 3, 1.0)
    saved = SavedTrial(step=3, report=report, best_step=3, best_metrics=loss(1.0))
    SweepFolder(tmp_path).keep("a", "snapshot", 3, snapshots.files(saved, b"weights"))
    world = World(tmp_path)
    assert world.step()["report"] == report
    assert world.step()["opened"]


def test_a_snapshot_that_could_not_be_read_at_first_is_no_reason_to_lose_steps(tmp_path, monkeypatch):
    """The disk did not give the latest one for a moment, and the trial took itself to be at the one before."""
    for step in (2, 3):
        kept = snapshots.files(SavedTrial(step=step), b"%d" % step)
        SweepFolder(tmp_path).keep("a", "snapshot", step, kept)
    world = World(tmp_path)
    world.opens = lambda snapshot: Opened(step=int(snapshot or b"0"), trainable_params=1)
    with monkeypatch.context() as stale:
        stale.setattr(FolderFiles, "saved", lambda _self: SavedTrial(step=2))
        told = world.step()
    assert (told["state"], told["ends_sweep"], world.asked) == ("PAUSED", "failed", ["vacate a-1"])
    assert "step 3" in told["reason"]
    assert "qsweep resume" in told["reason"]
    world.take_up()
    assert world.step() == {"step": 3, "state": "RUNNING", "opened": True, "done": False}


@pytest.mark.parametrize("step", [0, 3])
def test_a_trial_that_goes_on_from_before_its_last_report_keeps_what_the_log_names(tmp_path, step):
    if step:
        saved = SavedTrial(step=3, best_step=3, best_metrics=loss(1.0), report=reported("a", 3, 1.0))
        SweepFolder(tmp_path).keep("a", "snapshot", 3, snapshots.files(saved, b""))
    known = {"step": 9, "best_step": 9, "best_metrics": loss(0.9)}
    world = World(tmp_path, points=[3, 9, 27], reported=known)
    world.opened(*([] if step else [reaches(3, 1.0)]), reaches(9, 0.8999, first=4), reaches(27, 0.8, first=10))
    told = world.step()
    report = told["report"]
    assert (report.step, report.best_step, report.best_metrics) == (27, 27, loss(0.8)), "the log has step 9"
    assert report.adapter == "trials/a/best-000027"
    for name in ("best-000003", "best-000009", "rows-000003", "rows-000009"):
        assert not (tmp_path / "trials/a" / name).exists()


def test_the_rows_of_each_report_are_kept_and_those_of_a_report_in_the_log_stay(tmp_path):
    kept = SweepFolder(tmp_path).keep("a", "rows", 3, {"eval_rows.json": b"{}"})
    known = {"step": 3, "best_step": 3, "best_metrics": loss(1.0)}
    for value in (1.2, 1.25):  # killed before it told: it comes there again
        found = Evaluation(metrics=loss(value), row_losses=(value,), row_tokens=(1,))
        world = World(tmp_path, points=[3, 9, 27], reported=known)
        world.opened(reaches(3, 1.001), reaches(9, evaluation=found, first=4))
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
    assert [each["report"].best_step for each in told] == [3, 9]
    assert told[1]["report"].adapter == "trials/a/best-000009"
    assert samples.read_samples(tmp_path / told[1]["report"].adapter / "samples.jsonl") == (answered,)
    assert not (tmp_path / told[0]["report"].adapter / "samples.jsonl").exists()
    assert "answer" not in (tmp_path / told[1]["report"].adapter / "eval_rows.json").read_text()


@pytest.mark.parametrize("size", [5000, 50])
def test_a_trial_reports_whether_there_was_room_for_what_it_would_go_on_from(tmp_path, size):
    given: list[bytes | None] = []
    world = World(tmp_path, disk_bytes=3000, parks=True)
    world.opened(reaches(3, snapshot=b"x" * size), ActorDiedError(), reaches(9))
    told = world.step()
    assert (told["step"], told["report"].adapter, told["is_saved"]) == (3, "trials/a/best-000003", size == 50)
    world.opens = lambda snapshot: given.append(snapshot) or Opened(step=3, trainable_params=1)  # type: ignore[func-returns-value]
    world.step()
    assert given == [b"x" * size], "another host goes on from the same"


def test_the_adapter_of_a_repeat_is_kept_where_parked_trials_fill_the_disk(tmp_path):
    parked = SavedTrial(step=3, report=reported("b", 3, 1.0))
    SweepFolder(tmp_path).keep("b", "snapshot", 3, snapshots.files(parked, b"x" * 5000))
    world = World(tmp_path, disk_bytes=6000, parks=True, repeats="c")
    world.opened(reaches(3, adapter={"a": b"x" * 3000}, snapshot=b"x" * 5000))
    assert world.step()["report"].adapter == "trials/a/best-000003"


def test_a_trial_that_must_move_saves_itself_gives_its_slot_back_and_keeps_each_step_once(tmp_path):
    world = World(tmp_path).opened(
        Outcome(step=2, history=history(1, 2), snapshot=b"2", must_move=True),
        # Another host: it goes on from an older snapshot, and trains a step a second time.
        reaches(3, first=2),
    )
    given: list[bytes | None] = []
    world.opens = lambda snapshot: given.append(snapshot) or Opened(step=2, trainable_params=1)  # type: ignore[func-returns-value]
    told = world.step()
    assert (world.asked, given) == (["vacate a-1"], [b"2"])
    assert [step.step for step in told["report"].history] == [1, 2, 3]


def test_a_trial_whose_sweep_ends_saves_itself_where_it_stands(tmp_path):
    world = World(tmp_path).opened(Outcome(step=2, history=history(1, 2), snapshot=b"2"))
    world.is_going_on = False
    told = world.step()
    assert (told["state"], told["step"], len(told["history"])) == ("PAUSED", 2, 2)
    assert FolderFiles(world.config, "a").snapshot() == b"2"
    assert world.asked == ["vacate a-1"]


def test_what_a_host_says_of_a_trial_that_failed_is_how_the_trial_ends(tmp_path):
    failed = Outcome(step=1, history=history(1, 1), failure=Failure(kind="diverged", message="nan"))
    told = World(tmp_path).opened(failed).step()
    assert (told["state"], told["reason"], len(told["history"])) == ("DIVERGED", "nan", 1)


def test_bytes_that_were_lost_with_their_node_are_asked_for_again_and_no_step_is_lost(tmp_path):
    world = World(tmp_path).opened(reaches(3, first=1))
    world.lost_bytes = [ObjectLostError("1" * 56, "", "")]
    told = world.step()
    assert (world.targets, told["report"].adapter) == ([3, 3], "trials/a/best-000003")
    assert [step.step for step in told["report"].history] == [1, 2, 3]


def test_a_broker_and_a_stub_that_are_made_anew_go_on_from_the_folder(tmp_path):
    world = World(tmp_path, points=[3, 9, 27]).opened(reaches(3, 0.5, snapshot=b"3"), reaches(9, 0.4, snapshot=b"9"))
    world.step()
    reported = world.reported._asdict()
    told = world.step()
    world.config["reported"] = reported  # The driver never heard of step 9.
    world.take_up()
    assert world.step() == told
    assert world.step()["opened"]
    assert world.targets == [3, 9], "nothing is trained again"


def test_a_run_that_ends_leaves_the_slot_to_the_trials_next_run(tmp_path):
    world = World(tmp_path).opened()
    before, world.run = (
        world.run,
        ActiveTrial(cast(Broker, world), ResultRequest(world.config, world.reported, False), world.run),
    )
    world.is_open = False
    assert world.step()["opened"]
    assert (world.asked, world.lease) == (["vacate a-1"], "a-2")
    told = asyncio.run(before.answer(ResultRequest(world.config, world.reported, True), 60.0))
    assert told is not None
    assert told["state"] == "PAUSED"


class Hosted(World):
    """A trial on a real host's loop, whose trials are evaluated on parts of 20 rows."""

    def __init__(self, folder: Path, loop: PackLoop, spec: TrialSpec, **told: Any) -> None:
        self.loop = loop
        rows = {"points": [1, 3, 9], "rows": (7, 13, None)}
        folder.mkdir()
        super().__init__(folder, spec=spec.model_dump_json(), **rows, **told)

    async def _open(self, lease: str, spec: str, snapshot: bytes | None) -> Any:
        return self.loop.open(lease, TrialSpec.model_validate_json(spec), snapshot).result(60)

    def _advance(self, lease: str, *words: Any) -> tuple[Awaitable[Outcome], Any]:
        outcome = self.loop.advance(lease, *pickle.loads(pickle.dumps(words)))
        assert outcome is not None
        self.outcomes = [pickle.loads(pickle.dumps(outcome))]
        return self._outcome()


@pytest.mark.parametrize("is_default", [False, True])
def test_a_trial_on_parts_of_the_rows_has_the_same_reports_wherever_it_is_taken_up(tmp_path, is_default):
    spec = packs.spec(seed=3, steps=9, learning_rate=0.02)
    loop = PackLoop(AdapterPack(packs.ENGINE(packs.base()), packs.rows(24, 20)), 4)
    told: dict[str, list[TrialReported]] = {}
    for name in ("whole", "again"):
        world = Hosted(tmp_path / name, loop, spec, trial_key=name, has_all_rows=is_default)
        assert world.step()["opened"]
        reports = [world.step()["report"]]
        while reports[-1].step < 9:
            if name == "again":
                last = reports[-1]
                world.config["reported"] = LastReport(last.step, last.best_step, last.best_metrics)._asdict()
                world.leases += 10
                world.take_up()
                assert world.step()["opened"]
            reports.append(world.step()["report"])
        told[name] = reports
    loop.stop()
    for one, other in zip(told["whole"], told["again"], strict=True):
        assert (one.step, one.best_step) == (other.step, other.best_step)
        assert one.metrics["eval_loss"] == pytest.approx(other.metrics["eval_loss"], abs=packs.FP32)
        assert one.best_metrics["eval_loss"] == pytest.approx(other.best_metrics["eval_loss"], abs=packs.FP32)
    parts = [report.part and report.part.rows for report in told["whole"]]
    assert parts == ([None] * 3 if is_default else [7, 13, None])
    assert [report.at_rung is not None for report in told["whole"]] == [is_default, is_default, False]
    for report in told["whole"]:
        rows = json.loads(
            (SweepFolder(tmp_path / "whole").kept("whole", "rows", report.step) / "eval_rows.json").read_bytes()
        )
        found = Evaluation.of_document(rows)
        shown = report.metrics if report.part is None else report.part.metrics
        assert sum(found.row_losses) / sum(found.row_tokens) == pytest.approx(shown["eval_loss"])
