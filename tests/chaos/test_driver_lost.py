"""The driver dies, and files are damaged or copied meanwhile; `resume` goes on."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import chaos_runs as runs
import pytest

from sweeps.record import snapshots
from sweeps.record.folder import SweepFolder

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]
FIFO = [*runs.TOY, "scheduler.kind=fifo"]


def test_a_driver_that_is_killed_while_trials_are_parked_is_resumed_without_loss(tmp_path):
    run = runs.start(tmp_path, "launch", *runs.TOY)
    sweep = tmp_path / "results" / "toy"

    def parked() -> list[str]:
        return [key for key, trial in runs.record(sweep).trials.items() if trial.state == "PARKED"]

    runs.wait_for(lambda: len(parked()) >= 2, run)
    runs.kill(run.process.pid)
    waiting = parked()
    kept = {key: snapshots.read(SweepFolder(sweep), key)[0].step for key in waiting}
    assert kept == {key: runs.record(sweep).trials[key].step for key in waiting}
    runs.hurry(tmp_path)
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)
    runs.assert_every_rung_in_turn(sweep)
    assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED", "STOPPED"}
    assert again.answer()["best"]["trial_key"] == runs.undisturbed_best(sweep)
    # Two of six go on from the first rung, the default configuration besides, and on two slots one more may.
    assert 2 <= sum(trial.step > 3 for trial in found.trials.values()) <= 4
    assert list(sweep.glob("trials/*/snapshot-*")) == []


def cut_short(snapshot: Path) -> None:
    content = (snapshot / "snapshot.bin").read_bytes()
    (snapshot / "snapshot.bin").write_bytes(content[: len(content) // 2])


def without_data(snapshot: Path) -> None:
    (snapshot / "snapshot.bin").unlink()


def damaged_manifest(snapshot: Path) -> None:
    (snapshot / "progress.json").write_text("{")


DAMAGES = (cut_short, without_data, damaged_manifest, shutil.rmtree)


def test_a_driver_is_killed_before_a_report_then_its_machine_is_lost_and_a_copy_with_damaged_snapshots_goes_on(
    tmp_path,
):
    # No trial ends, and drops its snapshots, before the machine is lost: until `hurry`, its steps take 73 s.
    lasting = ["training.snapshot_every=2", "training.step_seconds=0.3", "budget.steps_per_trial=243"]
    run = runs.start(tmp_path, "launch", *FIFO, *lasting)
    sweep, copy = tmp_path / "results" / "toy", tmp_path / "copy"
    runs.wait_for(lambda: runs.reports(sweep) >= 1 and len(runs.record(sweep).trials) == 2, run)
    # Trials go on to their next report point by themselves; a driver that stands still takes no report in. It may have
    # written what one of them has said and not yet have answered it: the other one goes on.
    run.process.send_signal(signal.SIGSTOP)
    seen = runs.record(sweep).trials

    def unreported() -> bool:
        kept = [snapshots.read(SweepFolder(sweep), key)[0].report for key in seen]
        return any(report is not None and report.step > seen[key].step for key, report in zip(seen, kept, strict=True))

    runs.wait_for(unreported)
    runs.kill(run.process.pid)
    reported = runs.reports(sweep)
    again = runs.start(tmp_path, "resume", "results/toy")
    runs.wait_for(lambda: runs.reports(sweep) > reported, again)
    runs.assert_every_step_once(sweep)

    def two_of_each_trial() -> bool:
        whole = [each.parent.parent.name for each in sweep.glob("trials/*/snapshot-*/progress.json")]
        return sorted(map(whole.count, set(whole))) == [2, 2]

    runs.wait_for(two_of_each_trial, again)
    runs.kill_all(again)
    shutil.copytree(sweep, copy)
    before = (copy / "events.jsonl").read_bytes()
    refused = runs.start(tmp_path, "resume", "copy")
    assert refused.wait() == 2
    assert f"is a copy of the sweep in {sweep}" in refused.err.read_text()
    assert (copy / "events.jsonl").read_bytes() == before

    shutil.rmtree(sweep)
    damaged = sorted(copy.glob("trials/*/snapshot-*"))
    assert len(damaged) >= len(DAMAGES)
    for place, snapshot in enumerate(damaged):
        DAMAGES[place % len(DAMAGES)](snapshot)
    with (copy / "events.jsonl").open("ab") as events:
        events.write(b'{"type":"trial_repor')
    runs.hurry(tmp_path)
    last = runs.start(tmp_path, "resume", "copy")
    assert last.wait() == 0, last.err.read_text()
    assert f"the sweep's folder was {sweep} and is {copy} from now on" in last.err.read_text()
    runs.assert_whole(copy, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(copy)
