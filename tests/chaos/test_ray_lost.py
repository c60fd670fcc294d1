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

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
FIFO = [*runs.TOY, "scheduler.kind=fifo", "training.snapshot_every=2"]


def reported(sweep) -> bool:
    return runs.reports(sweep) >= 1


def daemon(run: runs.Run, name: str) -> int:
    """The process id of a daemon of the sweep's Ray."""
    for child in psutil.Process(run.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if child.name().startswith(name):
                return child.pid
    raise AssertionError(f"no {name}")


def goes_on(folder, sweep, trials: int = 6) -> None:
    """What is interrupted is closed in MLflow, and `resume` loses and doubles nothing."""
    runs.assert_none_running(sweep, f"sqlite:///{folder}/mlflow.db")
    found = runs.record(sweep)
    assert found.ended is not None
    assert "RUNNING" not in {trial.state.value for trial in found.trials.values()}
    runs.hurry(folder)
    again = runs.start(folder, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{folder}/mlflow.db", trials)
    runs.assert_every_step_once(sweep)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_process_group_ends_in_order_and_leaves_no_temporary_folder(tmp_path, number):
    with tempfile.TemporaryDirectory(prefix="qs") as place:  # short: Ray's sockets lie in it
        run = runs.start(tmp_path, "launch", *FIFO, TMPDIR=place)
        sweep = tmp_path / "results" / "toy"
        runs.wait_for(lambda: reported(sweep), run)
        assert sorted(path.name.split("-")[1] for path in Path(place).glob("qsweep-*")) == ["ray", "tune"]
        os.killpg(run.process.pid, number)
        assert run.wait() == 128 + number, run.err.read_text()
        assert list(Path(place).glob("qsweep-*")) == []
    told = run.err.read_text()
    assert "qsweep resume" in told
    assert "Traceback" not in told
    assert "PAUSED" in {trial.state.value for trial in runs.record(sweep).trials.values()}
    assert "GCS" not in told
    # Hosts and trials lived on, so that the trials could save themselves.
    assert not any(loss in told for loss in ("lost", "gone", "does not answer"))
    goes_on(tmp_path, sweep)


INFEASIBLE = [
    "search_space={adapter.r: {choice: [257, 258, 259, 260, 261, 262, 263, 264, 8, 16, 32]}}",
    "searcher.start_with_default=false",
]


def test_a_signal_to_the_process_group_while_trials_are_replaced_ends_in_order(tmp_path):
    run = runs.start(tmp_path, "launch", *FIFO, *INFEASIBLE, "budget.trials=3")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: "INFEASIBLE" in run.err.read_text(), run)
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.wait() == 143, run.err.read_text()
    assert "Traceback" not in run.err.read_text()
    goes_on(tmp_path, sweep, 3)


@pytest.mark.parametrize(
    ("said", "number"),
    [("starting Ray", signal.SIGINT), ("starting Ray", signal.SIGTERM), ("starting hosts", signal.SIGTERM)],
)
def test_a_signal_to_the_process_group_while_a_sweep_starts_ends_in_order(tmp_path, said, number):
    run = runs.start(tmp_path, "launch", *FIFO)
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: said in run.err.read_text(), run)
    os.killpg(run.process.pid, number)
    assert run.wait() == 128 + number, run.err.read_text()
    assert "qsweep resume" in run.err.read_text()
    assert "Traceback" not in run.err.read_text()
    goes_on(tmp_path, sweep)


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_daemon_that_is_killed_ends_the_sweep_at_once_and_in_order(tmp_path, name):
    with tempfile.TemporaryDirectory(prefix="qs") as place:  # short: Ray's sockets lie in it
        run = runs.start(tmp_path, "launch", *FIFO, TMPDIR=place)
        sweep = tmp_path / "results" / "toy"
        runs.wait_for(lambda: reported(sweep), run)
        runs.kill(daemon(run, name))
        runs.wait_for(lambda: "daemons are gone" in run.err.read_text(), run)
        # Far below the ten minutes after which Ray would have ended the process by itself.
        assert run.wait() == 1, run.err.read_text()
        assert list(Path(place).glob("qsweep-*")) == []
    told = run.err.read_text()
    assert "qsweep resume" in told
    assert "Traceback" not in told
    assert run.answer()["dir"] == str(sweep)
    goes_on(tmp_path, sweep)


def test_sigterm_to_every_process_at_once_ends_with_143(tmp_path):
    """As systemd sends it: to all of a control group, whatever their sessions are."""
    run = runs.start(tmp_path, "launch", *FIFO)
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: reported(sweep), run)
    main = psutil.Process(run.process.pid)
    # The driver last, and within a moment: one whose Ray is gone for longer than that ends as failed.
    for pid in [*(child.pid for child in main.children(recursive=True)), main.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    assert run.wait() == 143, run.err.read_text()
    assert "Traceback" not in run.err.read_text()
    goes_on(tmp_path, sweep)


def test_nothing_is_left_of_ray_when_the_driver_is_killed(tmp_path):
    run = runs.start(tmp_path, "launch", *FIFO)
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: reported(sweep), run)
    # Ray's own agents notice within a minute; they hold nothing. On a slow machine they may not have their titles yet.
    agent = re.compile(r"ray::\w*Agent|\S*/python[\d.]* .*/agent")
    others = {child: words for child, words in runs.processes(run) if not agent.match(words)}
    assert {"gcs_server", "qsweep-ray"} <= {Path(words.partition(" ")[0]).name for words in others.values()}
    assert len(others) > 4
    runs.kill(run.process.pid)
    _, alive = psutil.wait_procs(list(others), timeout=60)
    assert alive == []


def test_the_private_ray_of_a_sweep_is_found_by_nobody_and_no_sweep_joins_it(tmp_path):
    run = runs.start(tmp_path, "launch", *FIFO, "training.step_seconds=5")  # until `hurry`
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: reported(sweep), run)
    words = psutil.Process(daemon(run, "raylet")).cmdline()
    address = next(word.partition("=")[2] for word in words if word.startswith("--gcs-address="))
    services.find_gcs_addresses.cache_clear()
    assert address not in services.find_gcs_addresses(), "what `auto` and `ray start` go by"
    (tmp_path / "other").mkdir()
    joins = runs.start(tmp_path / "other", "launch", *FIFO, "cluster.profile=attached", RAY_ADDRESS=address)
    assert joins.wait() == 2, joins.err.read_text()
    assert f"the Ray at {address} is the private one of another sweep" in joins.err.read_text()
    runs.hurry(tmp_path)
    assert run.wait() == 0, run.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)


def test_ray_that_does_not_start_is_told_of_in_a_line(tmp_path):
    # No folder that Ray could use can be made there.
    run = runs.start(tmp_path, "launch", *FIFO, QSWEEP_RAY_DIR="/dev/null/ray")
    assert run.wait() == 1, run.err.read_text()
    told = run.err.read_text()
    assert "error: Ray does not start on this machine, tried twice: " in told
    assert "Traceback" not in told
    goes_on(tmp_path, tmp_path / "results" / "toy")
