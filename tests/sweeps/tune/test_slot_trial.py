"""What a trial's process makes of an exception, and which step it trains to."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from sweep_events import reported

from cluster.leases import Grant
from cluster.loop import Outcome
from sweeps.record import snapshots
from sweeps.record.events import TrialState
from sweeps.record.folder import SweepFolder
from sweeps.tune.slot_trial import SlotTrial
from trainables.contract import Evaluation, Opened, Report, StepRecord

SETTINGS = {
    "trial_key": "a",
    "spec": "",
    "disk_bytes": None,
    "objective": {"metric": "eval_loss", "mode": "min"},
    "parks": False,
    "repeats": None,
    "is_anywhere": False,
    "reported": {"step": 0, "best_step": 0, "best_metrics": None},
}
"""What a trial is told, but for its folder and its points."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("first\nlast"), "ValueError: last"),
        (AssertionError(), "AssertionError"),
        (MemoryError("  \n"), "MemoryError"),
    ],
)
def test_exception_in_a_trial_ends_it_and_is_never_raised_into_tune(monkeypatch, error, reason):
    def broken(self):
        raise error

    monkeypatch.setattr(SlotTrial, "_train", broken)
    trial = object.__new__(SlotTrial)
    trial._grant, trial._step, trial._history = None, 4, []
    assert trial.step() == {"step": 4, "state": TrialState.FAILED.value, "reason": reason, "history": [], "done": True}


def taken_up(folder, monkeypatch, report: Report | None) -> tuple[SlotTrial, list[int]]:
    """A trial that goes on from a snapshot at its report point 3, and the targets that it names."""
    sweep, targets = SweepFolder(folder), []
    progress = snapshots.SavedTrial(step=3, report=report)
    sweep.keep("a", "snapshot", 3, snapshots.files(progress, b"weights"))
    monkeypatch.setattr(SlotTrial, "_reach", lambda self, target: targets.append(target))
    trial = object.__new__(SlotTrial)
    reported = {"step": report.step if report else 0, "best_step": 0, "best_metrics": None}
    trial._take_up(SETTINGS | {"points": [3, 9], "dir": str(folder), "reported": reported})
    trial._is_open = True
    return trial, targets


def test_a_trial_that_was_not_evaluated_at_its_report_point_is_evaluated_there_first(tmp_path, monkeypatch):
    trial, targets = taken_up(tmp_path, monkeypatch, None)
    trial._train()
    assert targets == [3]


def test_a_trial_that_reported_goes_on_to_its_next_report_point(tmp_path, monkeypatch):
    report = Report(
        step=3, metrics={"eval_loss": 1.0}, best_step=3, best_metrics={"eval_loss": 1.0}, history=(),
        tokens=1, seconds=1.0, peak_memory_bytes=0, trainable_params=1, time=0.0,
    )  # fmt: skip
    trial, targets = taken_up(tmp_path, monkeypatch, report)
    trial._train()
    assert targets == [9]


def test_a_snapshot_that_could_not_be_read_at_first_is_no_reason_to_lose_steps(tmp_path, monkeypatch):
    """The disk did not give the latest one for a moment, and the trial took itself to be at the one before."""
    sweep, released = SweepFolder(tmp_path), []
    kept = [
        sweep.keep("a", "snapshot", step, snapshots.files(snapshots.SavedTrial(step=step), b"%d" % step))
        for step in (2, 3)
    ]
    unread, read_bytes = [kept[1] / "snapshot.bin"], Path.read_bytes

    def refuse_once(path):
        if path in unread:
            unread.remove(path)
            raise OSError(errno.ESTALE, "Stale file handle")
        return read_bytes(path)

    def ask(method, *words):
        if method == "release":
            released.append(words)
        return Grant("a-1", "host-1", None) if method == "acquire" else True

    monkeypatch.setattr(Path, "read_bytes", refuse_once)
    monkeypatch.setattr(
        "sweeps.tune.slot_trial.open_lease",
        lambda granted, spec, snapshot, goes_on: Opened(step=int(snapshot), trainable_params=1),
    )
    trial = object.__new__(SlotTrial)
    trial._ask = ask  # type: ignore[assignment]
    trial._take_up(SETTINGS | {"points": [3, 9], "dir": str(tmp_path)})
    told = trial.step()
    assert (told["state"], told["ends_sweep"], released) == ("PAUSED", "failed", [("a", "a-1")])
    assert "step 3" in told["reason"]
    assert "qsweep resume" in told["reason"]
    trial._take_up(SETTINGS | {"points": [3, 9], "dir": str(tmp_path)})
    assert (trial.step()["opened"], trial._step) == (True, 3)


def test_a_report_says_which_rung_it_is_where_rungs_count_examples(tmp_path):
    trial = object.__new__(SlotTrial)
    trial._take_up(SETTINGS | {"points": [2, 6], "examples": [16, 48], "dir": str(tmp_path)})
    trial._history = list(steps(2))
    report, _ = trial._keep(Outcome(step=2, adapter={"a": b"b"}), Evaluation(metrics={"eval_loss": 1.0}))
    assert (report.step, report.resource) == (2, 16)


def test_a_trial_that_goes_on_from_before_its_last_report_keeps_the_adapter_that_the_log_names(tmp_path):
    sweep = SweepFolder(tmp_path)
    sweep.keep(
        "a", "snapshot", 3, snapshots.files(snapshots.SavedTrial(step=3, best_step=3, best_metrics=loss(1.0)), b"")
    )
    trial = object.__new__(SlotTrial)
    reported = {"step": 9, "best_step": 9, "best_metrics": loss(0.9)}
    trial._take_up(SETTINGS | {"points": [3, 9, 27], "dir": str(tmp_path), "reported": reported})
    written = []
    for step, value in ((9, 0.8999), (27, 0.8)):
        trial._history = list(steps(step))
        report, adapter = trial._keep(Outcome(step=step, adapter={"a": b"b"}), Evaluation(metrics=loss(value)))
        written.append((report.best_step, report.best_metrics, adapter is not None))
    assert written == [(9, loss(0.9), False), (27, loss(0.8), True)]
    trial._told(report, adapter)
    # Its host is lost after that report, and the snapshot too.
    trial._history = list(steps(27))
    assert trial._keep(Outcome(step=27, adapter={"a": b"c"}), Evaluation(metrics=loss(0.7999)))[1] is None


def test_the_rows_of_each_report_are_kept_and_those_of_a_report_in_the_log_stay(tmp_path):
    trial = object.__new__(SlotTrial)
    reported = {"step": 3, "best_step": 3, "best_metrics": loss(1.0)}
    trial._take_up(SETTINGS | {"points": [3, 9, 27], "dir": str(tmp_path), "reported": reported})
    kept = SweepFolder(tmp_path).keep("a", "rows", 3, {"eval_rows.json": b"{}"})
    for step, value in ((3, 1.001), (9, 1.2), (9, 1.25)):
        trial._history = list(steps(step))
        found = Evaluation(metrics=loss(value), row_losses=(value,), row_tokens=(1,))
        trial._keep(Outcome(step=step, snapshot=b"x"), found)  # killed before it told: it comes there again
    assert (kept / "eval_rows.json").read_bytes() == b"{}"
    document = {"step": 9, "eval_loss": 1.25, "row_losses": [1.25], "row_tokens": [1], "hardware": ""}
    assert json.loads((tmp_path / "trials/a/rows-000009/eval_rows.json").read_bytes()) == document


def test_rows_take_no_room_of_snapshots_that_are_needed(tmp_path):
    """Nothing but a comparison lacks them; a snapshot is training."""
    trial = object.__new__(SlotTrial)
    trial._take_up(SETTINGS | {"points": [3, 9], "dir": str(tmp_path), "disk_bytes": 1500})
    worse = SweepFolder(tmp_path).keep("b", "snapshot", 3, snapshots.files(snapshots.SavedTrial(step=3), b"x" * 1000))
    trial._files.keep_rows(3, {"row_losses": [1.0] * 500})
    assert worse.exists()
    assert not (tmp_path / "trials" / "a").exists()


@pytest.mark.parametrize("size", [5000, 50])
def test_a_trial_reports_whether_there_was_room_for_what_it_would_go_on_from(tmp_path, size):
    trial = object.__new__(SlotTrial)
    trial._take_up(SETTINGS | {"points": [3, 9], "dir": str(tmp_path), "disk_bytes": 3000, "parks": True})
    trial._history = list(steps(3))
    outcome = Outcome(step=3, adapter={"a": b"b"}, snapshot=b"x" * size)
    told = trial._told(*trial._keep(outcome, Evaluation(metrics=loss(1.0))))
    assert (told["step"], told["adapter"], told["is_saved"]) == (3, "trials/a/best-000003", size == 50)
    assert trial._latest() == outcome.snapshot


def test_the_adapter_of_a_repeat_is_kept_where_parked_trials_fill_the_disk(tmp_path):
    parked = snapshots.SavedTrial(step=3, report=reported("b", 3, 1.0).report)
    SweepFolder(tmp_path).keep("b", "snapshot", 3, snapshots.files(parked, b"x" * 5000))
    trial = object.__new__(SlotTrial)
    told = {"points": [3, 9], "dir": str(tmp_path), "disk_bytes": 6000, "parks": True}
    trial._take_up(SETTINGS | told | {"repeats": "c"})
    trial._history = list(steps(3))
    outcome = Outcome(step=3, adapter={"a": b"x" * 3000}, snapshot=b"x" * 5000)
    assert trial._keep(outcome, Evaluation(metrics=loss(1.0)))[1] == "trials/a/best-000003"


def loss(value: float) -> dict[str, float]:
    return {"eval_loss": value}


def steps(*numbers: int) -> tuple[StepRecord, ...]:
    return tuple(
        StepRecord(step=each, train_loss=1.0, learning_rate=0.1, grad_norm=1.0, tokens=1, seconds=1.0, time=0.0)
        for each in numbers
    )


def test_a_trial_that_must_move_saves_itself_gives_its_slot_back_and_keeps_each_step_once(monkeypatch):
    trial = object.__new__(SlotTrial)
    trial._key, trial._step, trial._history = "a", 0, []
    trial._grant = Grant("a-1", "host-1", None)
    evaluated = Evaluation(metrics={"eval_loss": 1.0})
    outcomes = iter(
        [
            Outcome(step=2, history=steps(1, 2), snapshot=b"2", moves=True),
            # Another host: it goes on from an older snapshot, and trains a step a second time.
            Outcome(step=3, history=steps(2, 3), evaluation=evaluated),
        ]
    )
    done: list[tuple[object, ...]] = []

    def ask(method: str, *words: object) -> bool:
        done.append((method, *words))
        return True

    monkeypatch.setattr(SlotTrial, "_advance", lambda self, target: next(outcomes))
    monkeypatch.setattr(SlotTrial, "_save", lambda self, outcome: done.append(("save", outcome.step)))
    trial._ask = ask  # type: ignore[assignment]
    reached = trial._reach(3)
    assert reached is not None
    assert reached.evaluation == evaluated
    assert [each for each in done if each[0] in ("save", "release")] == [("save", 2), ("release", "a", "a-1")]
    assert [each.step for each in trial._history] == [1, 2, 3]
