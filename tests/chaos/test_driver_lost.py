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
    kept = {key: snapshots.read_snapshot(SweepFolder(sweep), key)[0].step for key in waiting}
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


def damage(snapshot: Path, place: int) -> None:
    """Cut short, without its data, with a damaged manifest, or gone."""
    data = snapshot / "snapshot.bin"
    match place % 4:
        case 0:
            data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
        case 1:
            data.unlink()
        case 2:
            (snapshot / "progress.json").write_text("{")
        case 3:
            shutil.rmtree(snapshot)


def test_a_driver_is_killed_before_a_report_then_its_machine_is_lost_and_a_copy_with_damaged_snapshots_goes_on(
    tmp_path,
):
    # No trial ends, and drops its snapshots, before the machine is lost: until `hurry`, its steps take 73 s.
    lasting = ["training.snapshot_every=2", "training.step_seconds=0.3", "budget.steps_per_trial=243"]
    (run, sweep), copy = runs.launched(tmp_path, *FIFO, *lasting), tmp_path / "copy"
    runs.wait_for(lambda: len(runs.record(sweep).trials) == 2, run)
    # Trials go on to their next report point by themselves; a driver that stands still takes no report in. It may have
    # written what one of them has said and not yet have answered it: the other one goes on.
    run.process.send_signal(signal.SIGSTOP)
    seen = runs.record(sweep).trials

    def unreported() -> bool:
        kept = [snapshots.read_snapshot(SweepFolder(sweep), key)[0].report for key in seen]
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
    assert len(damaged) >= 4
    for place, snapshot in enumerate(damaged):
        damage(snapshot, place)
    with (copy / "events.jsonl").open("ab") as events:
        events.write(b'{"type":"trial_repor')
    runs.hurry(tmp_path)
    last = runs.start(tmp_path, "resume", "copy")
    runs.assert_finished(last, copy, f"sqlite:///{tmp_path}/mlflow.db")
    assert f"the sweep's folder was {sweep} and is {copy} from now on" in last.err.read_text()
