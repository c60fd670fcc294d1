"""A sweep is asked to stop, by a person, twice by an impatient one, or by a budget."""

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
from sweeps.record.events import HostsStarted
from sweeps.record.folder import SweepFolder
from sweeps.steering import mailbox
from sweeps.steering.mailbox import ExtendSweep
from trainables import toy

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]
FIFO = [*runs.TOY, "scheduler.kind=fifo"]
OFTEN = ["training.snapshot_every=2", "training.step_seconds=0.05"]


def trains(folder: Path, run: runs.Run | None = None) -> None:
    """Waits until a trial takes a step from now on."""
    for step in (folder / "paced").glob("step-*"):
        step.unlink()
    runs.wait_for(lambda: list((folder / "paced").glob("step-*")) != [], run)


def test_a_sweep_is_stopped_in_order_at_once_and_by_the_loss_of_its_terminal_and_goes_on_each_time(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    # The five steps from here to the next report, at 9, take longer than a trial's call to its host, after which it
    # hears of the stop.
    run = runs.start(tmp_path, "launch", *FIFO, "training.step_seconds=2")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: runs.has_taken(tmp_path, 4), run)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.wait() == 130, run.err.read_text()
    found = runs.record(sweep)
    paused = {key: trial.step for key, trial in found.trials.items() if trial.state == "PAUSED"}
    saved = {key: snapshots.read(SweepFolder(sweep), key)[0] for key in paused}
    # Nobody saved them on their way: budget and pace leave no other snapshot than the one of the stop.
    assert any(saved[key].step > step for key, step in paused.items()), (paused, saved)
    for key, progress in saved.items():
        assert [record.step for record in progress.history] == list(range(paused[key] + 1, progress.step + 1))

    again = runs.start(tmp_path, "resume", "results/toy")
    trains(tmp_path, again)
    os.kill(again.process.pid, signal.SIGINT)
    runs.wait_for(lambda: "once more to end at once" in again.err.read_text(), again)
    os.kill(again.process.pid, signal.SIGINT)
    assert again.wait() == 130

    assert in_a_terminal_that_is_lost(tmp_path, sweep) == 128 + signal.SIGHUP
    runs.assert_none_running(sweep, uri)
    runs.hurry(tmp_path)
    last = runs.start(tmp_path, "resume", "results/toy")
    assert last.wait() == 0, last.err.read_text()
    runs.assert_whole(sweep, uri, 6)
    runs.assert_every_step_once(sweep)


def hosts_started(sweep: Path) -> int:
    return sum(isinstance(event, HostsStarted) for event in runs.events(sweep))


def in_a_terminal_that_is_lost(folder: Path, sweep: Path) -> int:
    """The exit code of `qsweep resume`, whose terminal is closed while it trains."""
    before = hosts_started(sweep)
    pid, terminal = pty.fork()
    if pid == 0:
        # Tests that run under nohup would hand it down: such a sweep goes on without its terminal.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", "sweeps", "resume", str(sweep)])
    threading.Thread(target=_read_all, args=(terminal,), daemon=True).start()
    # Hosts of a driver that ended at once may take a step after it: that step says nothing of this driver.
    runs.wait_for(lambda: hosts_started(sweep) > before)
    trains(folder)
    # What closing its window does.
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _read_all(terminal: int) -> None:
    """Takes what is written to a terminal, until it is closed: a full one would hold the writer up."""
    with suppress(OSError):
        while os.read(terminal, 65536):
            pass


@pytest.mark.parametrize(
    ("words", "seen", "states"),
    [
        # Two trials take 16 s to their end, and the next two are on their way then.
        pytest.param(
            [*FIFO, "training.step_seconds=0.6"], 7, {"COMPLETED", "STOPPED"}, marks=pytest.mark.chaos_long, id="fifo"
        ),
        pytest.param([*runs.TOY, "training.step_seconds=1"], 2, {"STOPPED"}, id="asha"),
    ],
)
def test_a_used_up_wall_clock_ranks_what_was_trained_and_more_of_it_loses_no_step(tmp_path, words, seen, states):
    run = runs.start(tmp_path, "launch", *words, "budget.wall_clock=1h")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: runs.reports(sweep) >= seen, run)
    # From here on, not from the launch: before the first report a busy machine may take any time.
    left = f"{runs.record(sweep).seconds_spent(time.time()) + 10:.0f}s"
    mailbox.send(SweepFolder(sweep), ExtendSweep(sender="a test", changes={"budget.wall_clock": left}), time.time_ns())
    assert run.wait() == 0, run.err.read_text()
    found = runs.record(sweep)
    assert found.ended is not None
    assert (found.ended.reason, found.ended.message) == ("budget", "budget.wall_clock is used up")
    assert states <= {trial.state.value for trial in found.trials.values()} <= {"STOPPED", "COMPLETED"}
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", len(found.trials))
    runs.assert_every_step_once(sweep)
    tracked = {run.info.run_id: run for run in runs.assert_none_running(sweep, f"sqlite:///{tmp_path}/mlflow.db")}
    parent = tracked[run.answer()["parent_run"]]
    assert (parent.info.status, parent.data.tags["sweep.state"]) == ("FINISHED", "budget")
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    assert again.answer()["states"] == run.answer()["states"]
    saved = {key: snapshots.read(SweepFolder(sweep), key)[0].step for key in found.trials}
    assert saved == {key: 0 if trial.state == "COMPLETED" else trial.step for key, trial in found.trials.items()}
    assert runs.start(tmp_path, "extend", "results/toy", "budget.wall_clock=null").wait() == 0
    runs.hurry(tmp_path)
    more = runs.start(tmp_path, "resume", "results/toy")
    assert more.wait() == 0, more.err.read_text()
    whole = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)
    assert whole.ended is not None
    assert whole.ended.reason == "finished"
    went_on = [key for key, trial in found.trials.items() if trial.state == "STOPPED"]
    assert "COMPLETED" in [whole.trials[key].state for key in went_on]
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


def test_snapshots_make_room_for_adapters_within_the_disk_budget(tmp_path):
    run = runs.start(tmp_path, "launch", *FIFO, *runs.heavy(tmp_path), *OFTEN, "budget.disk=9MB")
    sweep = tmp_path / "results" / "toy"
    most = 0

    def ended() -> bool:
        nonlocal most
        most = max(most, used(sweep))
        return run.process.poll() is not None

    runs.wait_for(ended)
    assert run.wait() == 0, run.err.read_text()
    # Two slots with two snapshots each, and six adapters, would take 14 MB.
    assert 6_000_000 < most <= 9_000_000
    found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED"}
    runs.assert_every_step_once(sweep)
    assert len(list(sweep.glob("trials/*/best-*/adapter/weights"))) == 6


def test_a_disk_budget_without_room_for_another_adapter_ends_the_sweep_in_order(tmp_path):
    run = runs.start(tmp_path, "launch", *FIFO, *runs.heavy(tmp_path), *OFTEN, "budget.disk=4.5MB")
    sweep = tmp_path / "results" / "toy"
    assert run.wait() == 0, run.err.read_text()
    found = runs.record(sweep)
    assert found.ended is not None
    assert found.ended.reason == "budget"
    assert "budget.disk is used up" in found.ended.message
    assert used(sweep) <= 4_500_000
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", len(found.trials))
    runs.assert_every_step_once(sweep)
    best = run.answer()["best"]
    kept = next((sweep / "trials" / best["trial_key"]).glob("best-*/adapter/toy_adapter.json"))
    assert str(toy.START_LOSS) not in kept.read_text()


@pytest.mark.chaos_long
def test_parked_trials_keep_their_snapshots_within_the_disk_budget(tmp_path):
    run = runs.start(tmp_path, "launch", *runs.TOY, *runs.heavy(tmp_path), *OFTEN, "budget.disk=10MB")
    sweep = tmp_path / "results" / "toy"
    assert run.wait() == 0, run.err.read_text()
    found = runs.record(sweep)
    assert found.ended is not None
    # Six adapters and six snapshots take 18 MB.
    assert (found.ended.reason, found.ended.message.split(":")[0]) == ("budget", "budget.disk is used up")
    assert used(sweep) <= 10_000_000
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", len(found.trials))
    runs.assert_every_step_once(sweep)
    stopped = {trial.reason for trial in found.trials.values() if trial.stopped_by_scheduler}
    assert any(reason.startswith("stopped by the scheduler: ") for reason in stopped)
