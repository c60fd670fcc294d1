"""A sweep is asked to stop: by a person, by the loss of its terminal, or by a budget."""

from __future__ import annotations

import os
import pty
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import chaos_runs as runs
import pytest

from sweeps.record import snapshots
from sweeps.record.folder import SweepFolder
from sweeps.steering import mailbox
from sweeps.steering.mailbox import ExtendSweep
from trainables import toy

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]
FIFO = [*runs.TOY, "scheduler.kind=fifo"]


@pytest.mark.usefixtures("hears_signals")
def test_a_sweep_is_stopped_by_ctrl_c_and_by_the_loss_of_its_terminal_and_goes_on_each_time(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    # The five steps from here to the next report, at 9, take longer than a trial's call to its host, after which it
    # hears of the stop.
    run = runs.start(tmp_path, "launch", *FIFO, "training.step_seconds=2")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: runs.has_taken(tmp_path, 4), run)
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal sends it: hosts and trials live on, and save themselves
    assert run.wait() == 130, run.err.read_text()
    told = run.err.read_text()
    assert not any(loss in told for loss in ("Traceback", "GCS", "lost", "gone", "does not answer"))
    found = runs.record(sweep)
    paused = {key: trial.step for key, trial in found.trials.items() if trial.state == "PAUSED"}
    saved = {key: snapshots.read_snapshot(SweepFolder(sweep), key)[0] for key in paused}
    # Nobody saved them on their way: budget and pace leave no other snapshot than the one of the stop.
    assert any(saved[key].step > step for key, step in paused.items()), (paused, saved)
    for key, progress in saved.items():
        assert [record.step for record in progress.history] == list(range(paused[key] + 1, progress.step + 1))

    assert in_a_terminal_that_is_lost(tmp_path, sweep) == 128 + signal.SIGHUP
    runs.assert_none_running(sweep, uri)
    runs.hurry(tmp_path)
    runs.assert_finished(runs.start(tmp_path, "resume", "results/toy"), sweep, uri)


def in_a_terminal_that_is_lost(folder: Path, sweep: Path) -> int:
    """The exit code of `qsweep resume`, whose terminal is closed while it trains."""
    for step in (folder / "paced").glob("step-*"):
        step.unlink()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", "sweeps", "resume", str(sweep)])
    threading.Thread(target=_read_all, args=(terminal,), daemon=True).start()
    runs.wait_for(lambda: list((folder / "paced").glob("step-*")) != [])
    # What closing its window does.
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _read_all(terminal: int) -> None:
    """Takes what is written to a terminal, until it is closed: a full one would hold the writer up."""
    with suppress(OSError):
        while os.read(terminal, 65536):
            pass


def test_a_used_up_wall_clock_ranks_what_was_trained_and_more_of_it_loses_no_step(tmp_path):
    words, uri = [*runs.TOY, "training.step_seconds=1", "budget.wall_clock=1h"], f"sqlite:///{tmp_path}/mlflow.db"
    run, sweep = runs.launched(tmp_path, *words, reports_first=2)
    # From here on, not from the launch: before the first report a busy machine may take any time.
    left = f"{runs.record(sweep).seconds_spent(time.time()) + 10:.0f}s"
    mailbox.send(SweepFolder(sweep), ExtendSweep(sender="a test", changes={"budget.wall_clock": left}), time.time_ns())
    assert run.wait() == 0, run.err.read_text()
    found = runs.record(sweep)
    assert (found.ended.reason, found.ended.message) == ("budget", "budget.wall_clock is used up")
    assert {trial.state.value for trial in found.trials.values()} == {"STOPPED"}
    runs.assert_whole(sweep, uri, len(found.trials))
    runs.assert_every_step_once(sweep)
    tracked = {run.info.run_id: run for run in runs.assert_none_running(sweep, uri)}
    parent = tracked[run.answer()["parent_run"]]
    assert (parent.info.status, parent.data.tags["sweep.state"]) == ("FINISHED", "budget")
    saved = {key: snapshots.read_snapshot(SweepFolder(sweep), key)[0].step for key in found.trials}
    assert saved == {key: trial.step for key, trial in found.trials.items()}
    assert runs.start(tmp_path, "extend", "results/toy", "budget.wall_clock=null").wait() == 0
    runs.hurry(tmp_path)
    more = runs.start(tmp_path, "resume", "results/toy")
    assert more.wait() == 0, more.err.read_text()
    whole = runs.assert_whole(sweep, uri, 6)
    runs.assert_every_step_once(sweep)
    assert whole.ended.reason == "finished"
    assert "COMPLETED" in [whole.trials[key].state for key in found.trials]
    assert list(sweep.glob("trials/*/snapshot-*")) == []


def used(sweep) -> int:
    """Bytes of the trials' files at one moment: a walk alone may count a file that has gone and the one that came."""
    seen, now = None, files(sweep / "trials")
    while now != seen:
        seen, now = now, files(sweep / "trials")
    return sum(now.values())


def files(folder) -> dict[str, int]:
    """Path -> bytes of each file, as far as it is still there when its turn comes."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found[f"{place}/{name}"] = (Path(place) / name).stat().st_size
    return found


def test_snapshots_make_room_for_adapters_within_the_disk_budget_until_there_is_none_for_another(tmp_path):
    words = [*FIFO, *runs.heavy(tmp_path), "training.snapshot_every=2", "training.step_seconds=0.05"]
    run = runs.start(tmp_path, "launch", *words, "budget.disk=4.5MB")
    sweep = tmp_path / "results" / "toy"
    most = 0

    def ended() -> bool:
        nonlocal most
        most = max(most, used(sweep))
        return run.process.poll() is not None

    runs.wait_for(ended)
    assert run.wait() == 0, run.err.read_text()
    # Two slots with a snapshot each, and an adapter beside them, would take 5 MB.
    assert 3_000_000 < most <= 4_500_000
    found = runs.record(sweep)
    assert found.ended.reason == "budget"
    assert "budget.disk is used up" in found.ended.message
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", len(found.trials))
    runs.assert_every_step_once(sweep)
    best = run.answer()["best"]
    kept = next((sweep / "trials" / best["trial_key"]).glob("best-*/adapter/toy_adapter.json"))
    assert str(toy.START_LOSS) not in kept.read_text()
