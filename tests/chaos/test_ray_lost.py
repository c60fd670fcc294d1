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
from ray._private import services

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
    assert found.ended is not None
    assert "RUNNING" not in {trial.state.value for trial in found.trials.values()}
    return told


def goes_on(folder: Path, sweep: Path, trials: int = 6) -> None:
    """`resume` loses and doubles nothing."""
    runs.hurry(folder)
    again = runs.start(folder, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{folder}/mlflow.db", trials)
    runs.assert_every_step_once(sweep)


def ctrl_c(run: runs.Run, sweep: Path) -> None:
    """A signal to the whole process group, as a terminal sends it."""
    os.killpg(run.process.pid, signal.SIGINT)
    told = closed(run, sweep, 130)
    assert "PAUSED" in {trial.state.value for trial in runs.record(sweep).trials.values()}
    # Hosts and trials lived on, so that the trials could save themselves.
    assert not any(loss in told for loss in ("GCS", "lost", "gone", "does not answer"))


def terminated(run: runs.Run, sweep: Path) -> None:
    """A signal to every process, whatever its session is, as systemd sends it to all of a control group."""
    main = psutil.Process(run.process.pid)
    # The driver last, and within a moment: one whose Ray is gone for longer than that ends as failed.
    for pid in [*(child.pid for child in main.children(recursive=True)), main.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    closed(run, sweep, 143)


def gcs_killed(run: runs.Run, sweep: Path) -> None:
    _daemon_killed(run, sweep, "gcs_server")


def raylet_killed(run: runs.Run, sweep: Path) -> None:
    _daemon_killed(run, sweep, "raylet")


def _daemon_killed(run: runs.Run, sweep: Path, name: str) -> None:
    runs.kill(daemon(run, name))
    # Far below the ten minutes after which Ray would have ended the process by itself.
    assert "daemons are gone" in closed(run, sweep, 1)
    assert run.answer()["dir"] == str(sweep)


def test_a_sweep_that_loses_its_ray_in_every_way_goes_on_each_time(tmp_path):
    """At the end the driver is killed: nothing is left of Ray, and `resume` loses and doubles nothing."""
    with tempfile.TemporaryDirectory(prefix="qs") as name:  # short: Ray's sockets lie in it
        place, sweep = Path(name), tmp_path / "results" / "toy"
        words = ["launch", *FIFO, "budget.steps_per_trial=81"]
        for lose in (ctrl_c, raylet_killed, gcs_killed, terminated):
            seen = runs.reports(sweep)
            run = runs.start(tmp_path, *words, TMPDIR=name)
            runs.wait_for(lambda: runs.reports(sweep) > seen, run)  # noqa: B023
            assert folders(place) == ["ray", "tune"]
            lose(run, sweep)
            assert folders(place) == [], lose.__name__
            words = ["resume", "results/toy"]
        seen = runs.reports(sweep)
        run = runs.start(tmp_path, *words)
        runs.wait_for(lambda: runs.reports(sweep) > seen, run)
        _killed_driver_leaves_nothing(run)
    goes_on(tmp_path, sweep)


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


INFEASIBLE = [
    "search_space={adapter.r: {choice: [257, 258, 259, 260, 261, 262, 263, 264, 8, 16, 32]}}",
    "searcher.start_with_default=false",
]


@pytest.mark.chaos_long
def test_a_signal_to_the_process_group_while_trials_are_replaced_ends_in_order(tmp_path):
    run = runs.start(tmp_path, "launch", *FIFO, *INFEASIBLE, "budget.trials=3")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: "INFEASIBLE" in run.err.read_text(), run)
    os.killpg(run.process.pid, signal.SIGTERM)
    closed(run, sweep, 143)
    goes_on(tmp_path, sweep, 3)


@pytest.mark.chaos_long
@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("starting Ray", signal.SIGTERM),
        ("starting hosts", signal.SIGTERM),
    ],
)
def test_a_signal_to_the_process_group_while_a_sweep_starts_ends_in_order(tmp_path, said, number):
    run = runs.start(tmp_path, "launch", *FIFO)
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: said in run.err.read_text(), run)
    os.killpg(run.process.pid, number)
    closed(run, sweep, 128 + number)
    goes_on(tmp_path, sweep)


def test_a_sweep_that_is_stopped_while_ray_starts_goes_on_driven_and_joined_by_nobody_else(tmp_path):
    first = runs.start(tmp_path, "launch", *FIFO, "training.step_seconds=5")  # until `hurry`
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: "starting Ray" in first.err.read_text(), first)
    os.killpg(first.process.pid, signal.SIGINT)
    closed(first, sweep, 130)
    run = runs.start(tmp_path, "resume", "results/toy")
    runs.wait_for(lambda: (sweep / "events.jsonl").exists() and len(runs.record(sweep).trials) == 2, run)
    second = runs.start(tmp_path, "resume", "results/toy")
    words = psutil.Process(daemon(run, "raylet")).cmdline()
    address = next(word.partition("=")[2] for word in words if word.startswith("--gcs-address="))
    services.find_gcs_addresses.cache_clear()
    assert address not in services.find_gcs_addresses(), "what `auto` and `ray start` go by"
    (tmp_path / "other").mkdir()
    joins = runs.start(tmp_path / "other", "launch", *FIFO, "cluster.profile=attached", RAY_ADDRESS=address)
    assert joins.wait() == 2, joins.err.read_text()
    assert f"the Ray at {address} is the private one of another sweep" in joins.err.read_text()
    assert second.wait() == 2
    assert "another process drives this sweep" in second.err.read_text()
    runs.hurry(tmp_path)
    assert run.wait() == 0, run.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)


def test_ray_that_does_not_start_is_told_of_in_a_line(tmp_path):
    # No folder that Ray could use can be made there.
    run = runs.start(tmp_path, "launch", *FIFO, QSWEEP_RAY_DIR="/dev/null/ray")
    told = closed(run, tmp_path / "results" / "toy", 1)
    assert "error: Ray does not start on this machine, tried twice: " in told
