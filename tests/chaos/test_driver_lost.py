"""The driver dies, or is asked to stop, and files are damaged or copied meanwhile; `resume` goes on."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import chaos_runs as runs
import pytest
import tiny_sweeps

from sweeps.record import snapshots
from sweeps.record.folder import SweepFolder

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]
FIFO = [*runs.TOY, "scheduler.kind=fifo"]


def test_driver_killed_while_trials_are_parked_and_once_more_is_resumed_without_loss(tmp_path):
    run = runs.start(tmp_path, "launch", *runs.TOY)
    sweep = tmp_path / "results" / "toy"

    def parked() -> list[str]:
        return [key for key, trial in runs.record(sweep).trials.items() if trial.state == "PARKED"]

    runs.wait_for(lambda: len(parked()) >= 2, run)
    runs.kill(run.process.pid)
    waiting = parked()
    kept = {key: snapshots.read(SweepFolder(sweep), key)[0].step for key in waiting}
    assert kept == {key: runs.record(sweep).trials[key].step for key in waiting}
    seen = runs.reports(sweep)
    again = runs.start(tmp_path, "resume", "results/toy")
    runs.wait_for(lambda: runs.reports(sweep) >= seen + 2, again)
    runs.kill(again.process.pid)
    runs.hurry(tmp_path)
    last = runs.start(tmp_path, "resume", "results/toy")
    assert last.wait() == 0, last.err.read_text()
    found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)
    runs.assert_every_rung_in_turn(sweep)
    assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED", "STOPPED"}
    assert last.answer()["best"]["trial_key"] == runs.undisturbed_best(sweep)
    # Two of six go on from the first rung, the default configuration besides, and on two slots one more may.
    assert 2 <= sum(trial.step > 3 for trial in found.trials.values()) <= 4
    assert list(sweep.glob("trials/*/snapshot-*")) == []


HELD = '''
"""The toy, whose evaluations wait as long as a file is there."""
import threading
from pathlib import Path
from trainables import toy
from trainables.toy import REQUIRES, check, fingerprint, need, prepare

FOLDER = Path(__file__).parent

class Pack(toy.ToyPack):
    def evaluate(self, slots):
        (FOLDER / "evaluating").touch()
        while (FOLDER / "hold").exists():
            threading.Event().wait(0.05)
        return super().evaluate(slots)

def open_pack(base, data, cache):
    return Pack()
'''


@pytest.mark.chaos_long
def test_driver_killed_while_trials_are_evaluated(tmp_path):
    words = ["launch", *FIFO, *runs.variant(tmp_path, "held", HELD), "training.snapshot_every=2"]
    (tmp_path / "held" / "hold").touch()
    run = runs.start(tmp_path, *words)
    runs.wait_for((tmp_path / "held" / "evaluating").exists, run)
    runs.kill(run.process.pid)
    (tmp_path / "held" / "hold").unlink()
    runs.hurry(tmp_path)
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    sweep = tmp_path / "results" / "toy"
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)


@pytest.mark.parametrize(
    ("number", "scheduler"),
    [(signal.SIGINT, "asha"), pytest.param(signal.SIGTERM, "fifo", marks=pytest.mark.chaos_long)],
)
def test_a_stop_while_trials_are_evaluated_skips_no_rung(tmp_path, number, scheduler):
    # Longer than a trial's call to its host: it asks to be saved while it is evaluated.
    lasting = [*runs.variant(tmp_path, "held", HELD), "training.eval_seconds=6"]
    run = runs.start(tmp_path, "launch", *runs.TOY, f"scheduler.kind={scheduler}", *lasting, "budget.trials=2")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for((tmp_path / "held" / "evaluating").exists, run)
    os.kill(run.process.pid, number)
    assert run.wait() == 128 + number, run.err.read_text()
    assert runs.reports(sweep) >= 1, "the evaluation that was going on is lost"
    runs.hurry(tmp_path)
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 2)
    runs.assert_every_step_once(sweep)
    runs.assert_every_rung_in_turn(sweep)


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


SLOW = '''
"""QLoRA, whose steps last as long as a file is there."""
import threading
from pathlib import Path
from trainables import qlora
from trainables.qlora import *

LAST = Path(__file__).with_name("last")

def open_pack(base, data, cache):
    pack = qlora.open_pack(base, data, cache)
    step = pack.step
    def slowly(slots):
        threading.Event().wait(0.5 if LAST.exists() else 0.0)
        return step(slots)
    pack.step = slowly
    return pack
'''


def test_a_resumed_trial_computes_what_an_uninterrupted_one_computes(tmp_path):
    tiny_sweeps.write(tmp_path)
    words = [
        "sweep.yaml",
        *runs.variant(tmp_path, "slow", SLOW, of="qlora"),
        "scheduler.kind=fifo",
        "budget={trials: 2, steps_per_trial: 18}",
        "training.snapshot_every=4",
    ]
    cache = {"QSWEEP_CACHE": str(tmp_path / "cache")}
    (tmp_path / "slow" / "last").touch()
    run = runs.start(tmp_path, "launch", *words, "name=disturbed", **cache)
    disturbed, calm = tmp_path / "results" / "disturbed", tmp_path / "results" / "calm"
    # Between report points (3, 9, 18): nothing but a snapshot knows of this step.
    runs.wait_for(lambda: list(disturbed.glob("trials/*/snapshot-000013")) != [], run)
    runs.kill(run.process.pid)
    (tmp_path / "slow" / "last").unlink()
    again = runs.start(tmp_path, "resume", "results/disturbed", **cache)
    assert again.wait() == 0, again.err.read_text()
    undisturbed = runs.start(tmp_path, "launch", *words, "name=calm", **cache)
    assert undisturbed.wait() == 0, undisturbed.err.read_text()
    runs.assert_whole(disturbed, f"sqlite:///{tmp_path}/mlflow.db", 2)
    found, expected = runs.expected_points(disturbed), runs.expected_points(calm)
    assert found.keys() == expected.keys()
    for key in found:
        for metric in ("train_loss", "eval_loss"):
            assert [step for step, _ in found[key][metric]] == [step for step, _ in expected[key][metric]]
            losses = [loss for _, loss in expected[key][metric]]
            # Single precision; the disturbed trials had other neighbours for a while.
            assert [loss for _, loss in found[key][metric]] == pytest.approx(losses, abs=1e-5)
