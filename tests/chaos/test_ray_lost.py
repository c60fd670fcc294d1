"""Ray's daemons die under a sweep: with a signal to the whole process group, or alone."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import chaos_runs as runs
import psutil
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]
FIFO = [*runs.TOY, "scheduler.kind=fifo", "training.snapshot_every=2"]


def daemon(run: runs.Run, name: str) -> int:
    """The process id of a daemon of the sweep's Ray."""
    for child in psutil.Process(run.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if child.name().startswith(name):
                return child.pid
    raise AssertionError(f"no {name}")


def folders(place: Path) -> list[str]:
    """The kinds of temporary folders of sweeps."""
    return sorted(path.name.split("-")[1] for path in place.glob("qsweep-*"))


def closed(run: runs.Run, sweep: Path, code: int) -> str:
    """What the run told that ended in order with this exit code: nothing runs any more, in the log or in MLflow."""
    assert run.wait() == code, run.err.read_text()
    told = run.err.read_text()
    assert "qsweep resume" in told
    assert "Traceback" not in told
    runs.assert_none_running(sweep, f"sqlite:///{sweep.parents[1]}/mlflow.db")
    found = runs.record(sweep)
    assert "RUNNING" not in {trial.state.value for trial in found.trials.values()}
    return told


def terminated(run: runs.Run, sweep: Path) -> None:
    """A signal to every process, whatever its session is, as systemd sends it to all of a control group."""
    main = psutil.Process(run.process.pid)
    # The driver last, and within a moment: one whose Ray is gone for longer than that ends as failed.
    for pid in [*(child.pid for child in main.children(recursive=True)), main.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    closed(run, sweep, 143)


def raylet_killed(run: runs.Run, sweep: Path) -> None:
    runs.kill(daemon(run, "raylet"))
    # Far below the ten minutes after which Ray would have ended the process by itself.
    assert "daemons are gone" in closed(run, sweep, 1)
    assert run.answer()["dir"] == str(sweep)


@pytest.mark.usefixtures("hears_signals")
def test_a_sweep_that_loses_its_ray_in_every_way_goes_on_each_time(tmp_path):
    """While Ray starts, and later. At the end the driver is killed, and nothing is left of Ray."""
    with tempfile.TemporaryDirectory(prefix="qs") as name:  # short: Ray's sockets lie in it
        place, sweep = Path(name), tmp_path / "results" / "toy"
        run = runs.start(tmp_path, "launch", *FIFO, "budget.steps_per_trial=81", TMPDIR=name)
        runs.wait_for(lambda: "starting Ray" in run.err.read_text(), run)
        os.killpg(run.process.pid, signal.SIGINT)
        closed(run, sweep, 130)
        for lose in (raylet_killed, terminated):
            seen = runs.reports(sweep)
            run = runs.start(tmp_path, "resume", "results/toy", TMPDIR=name)
            runs.wait_for(lambda: runs.reports(sweep) > seen, run)  # noqa: B023
            assert folders(place) == ["ray", "tune"]
            lose(run, sweep)
            assert folders(place) == [], lose.__name__
        seen = runs.reports(sweep)
        run = runs.start(tmp_path, "resume", "results/toy")
        runs.wait_for(lambda: runs.reports(sweep) > seen, run)
        _killed_driver_leaves_nothing(run)
    runs.hurry(tmp_path)
    again = runs.start(tmp_path, "resume", "results/toy")
    runs.assert_finished(again, sweep, f"sqlite:///{tmp_path}/mlflow.db")


def _killed_driver_leaves_nothing(run: runs.Run) -> None:
    # Ray's own agents notice within a minute; they hold nothing. On a slow machine they may not have their titles yet.
    agent = re.compile(r"ray::\w*Agent|\S*/python[\d.]* .*/agent")
    others = {child: words for child, words in runs.processes(run) if not agent.match(words)}
    assert {"gcs_server", "qsweep-ray"} <= {Path(words.partition(" ")[0]).name for words in others.values()}
    assert len(others) > 4
    idle = re.compile(r"monitor\.py|/dashboard\.py")
    assert [words for words in others.values() if idle.search(words)] == [], "daemons that a sweep has no use for"
    runs.kill(run.process.pid)
    _, alive = psutil.wait_procs(list(others), timeout=60)
    assert alive == []


def test_ray_that_does_not_start_is_told_of_in_a_line(tmp_path):
    # No folder that Ray could use can be made there.
    run = runs.start(tmp_path, "launch", *FIFO, QSWEEP_RAY_DIR="/dev/null/ray")
    told = closed(run, tmp_path / "results" / "toy", 1)
    assert "error: Ray does not start on this machine, tried twice: " in told
