"""The scripts, with stand-ins for `srun`, `ray` and `qsweep`: the real ones would end every Ray of this user."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from launch_files import LAUNCH, SCRIPTS
from ray.scripts.scripts import start

from sweeps.launch import DRAIN_SECONDS
from sweeps.timeouts import STOP_SECONDS

SCRIPT = LAUNCH / "slurm.sh"
STAND_INS = {
    "srun": 'while [ "${1#--}" != "$1" ]; do echo "$1" >> srun.txt; shift; done; exec "$@"',
    "ray": """case "$1 ${2:-}" in
get-auth-token*) mkdir -p ~/.ray; echo secret > ~/.ray/auth_token;;
"start --head")
    printf '%s\\n' "$@" > head.txt; env > environment.txt
    test -z "${RAY_FAILS:-}" || { echo no port; exit 1; };;
start*) printf '%s\\n' "$@" > worker.txt; echo joined > joined;;
stop*) echo stopped > stopped;;
esac""",
    # The job has its first node, then it has not.
    "squeue": 'echo "$@" >> squeue.txt; test -e slept || echo 1234',
    "sleep": "touch slept",
    "scancel": 'echo "$@" > cancelled.txt; echo cancelled > cancelled',
    "qsweep": "printf '%s\\n' \"$@\" > qsweep.txt; cat joined cancelled > /dev/null; exit 7",
    "hostname": "echo 10.1.2.3 172.17.0.1",
}

SWEEP_THAT_WAITS = """import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
open("begun", "w").write("begun")
signal.sigwait({signal.SIGTERM})
open("saved").read()
sys.exit(1 if signal.SIGTERM in signal.sigpending() else 143)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkout whose `.venv` has the stand-ins."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    for name in ("joined", "cancelled"):
        os.mkfifo(tmp_path / name)
    return tmp_path


def surroundings(folder: Path, **more: str) -> dict[str, str]:
    job = {"SLURM_NNODES": "3", "SLURM_CPUS_PER_TASK": "6", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "1234"}
    return {"PATH": os.environ["PATH"], "HOME": str(folder), **job, "SLURMD_NODENAME": "n1", **more}


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *words], cwd=folder, env=surroundings(folder, **more), capture_output=True, text=True
    )


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_shell_and_shellcheck_take_the_script(script):
    shell = "bash" if script == SCRIPT else "sh"
    subprocess.run([shell, "-n", script], check=True)
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_sweep_gets_its_words_on_a_ray_of_all_nodes_and_its_exit_code_is_the_jobs(folder):
    words = ["launch", "toy", "search_space={adapter.r: {choice: [4, 8]}}"]
    done = run(folder, *words)
    assert done.returncode == 7, done.stderr
    assert lines(folder / "qsweep.txt") == words
    assert lines(folder / "srun.txt") == ["--nodes=2", "--ntasks=2", "--exclude=n1", "--no-kill", "--wait=0"]
    head, worker = (
        start.make_context("start", lines(folder / f"{name}.txt")[1:]).params for name in ("head", "worker")
    )
    assert (head["head"], head["node_ip_address"], head["port"]) == (True, "10.1.2.3", 6379)
    assert (worker["address"], worker["block"]) == ("10.1.2.3:6379", True)
    assert all((each["num_cpus"], each["num_gpus"]) == (6, 2) for each in (head, worker))
    # The other nodes cancel the job once it has its first node no more.
    assert lines(folder / "squeue.txt")[0] == "--noheader --jobs=1234 --nodelist=n1"
    assert (folder / "slept").exists() and lines(folder / "cancelled.txt")[-1] == "1234"
    # All nodes use one token that others cannot read.
    assert "RAY_AUTH_MODE=token" in lines(folder / "environment.txt")
    assert (folder / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    assert (folder / "stopped").exists()


def test_a_ray_that_does_not_start_ends_the_job_with_1_and_what_ray_said(folder):
    done = run(folder, "launch", "toy", RAY_FAILS="1")
    assert (done.returncode, done.stderr) == (1, "no port\n")
    assert not (folder / "qsweep.txt").exists()


def test_the_heads_address_can_be_given(folder):
    run(folder, "launch", "toy", HEAD_IP="10.9.9.9")
    assert "--node-ip-address=10.9.9.9" in lines(folder / "head.txt")


@pytest.fixture
def waiting(folder) -> Iterator[subprocess.Popen[str]]:
    """The script, with a sweep that runs until it is interrupted and then needs a moment to save its trials."""
    (folder / ".venv" / "bin" / "qsweep").write_text(f"#!{sys.executable}\n{SWEEP_THAT_WAITS}")
    for name in ("begun", "saved"):
        os.mkfifo(folder / name)
    script = subprocess.Popen(
        ["bash", SCRIPT, "launch", "toy"],
        cwd=folder, env=surroundings(folder, SLURM_NNODES="1"),
        text=True, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    yield script
    with suppress(ProcessLookupError):
        os.killpg(script.pid, signal.SIGKILL)
    script.communicate()


def test_a_job_whose_time_is_nearly_over_interrupts_the_sweep_alone_and_waits_for_it(folder, waiting):
    (folder / "begun").read_text()
    os.kill(waiting.pid, signal.SIGUSR1)
    with (folder / "saved").open("w") as saved:  # opens once the sweep has heard of it
        assert waiting.poll() is None, "the job must not end before the sweep"
        os.kill(waiting.pid, signal.SIGUSR1)  # a second one would end the sweep at once
        assert waiting.poll() is None
        saved.write("done\n")
    output, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 128 + signal.SIGTERM, "one signal alone"
    assert "go on with it with qsweep resume" in output
    assert not (folder / "srun.txt").exists(), "a job of one node has no others"


def test_slurm_signals_the_script_alone_and_early_enough():
    """Slurm's manual of sbatch: `--signal=[{R|B}:]<sig_num>[@sig_time]`, and B: means the batch shell only."""
    text = SCRIPT.read_text()
    (asked,) = re.findall(r"^#SBATCH --signal=(\S+)$", text, re.MULTILINE)
    to, name, seconds = re.fullmatch(r"(\w):(\w+)@(\d+)", asked).groups()
    assert (to, name) == ("B", "USR1")
    assert re.search(rf"^trap \S*tell_sweep\S* {name}$", text, re.MULTILINE)
    # The sweep ends in order; then MLflow and the mirror may be behind; and all of Ray's nodes end.
    assert int(seconds) >= STOP_SECONDS + 2 * DRAIN_SECONDS + 120


def test_without_words_the_script_says_how_it_is_used(folder):
    done = run(folder)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr
    assert not (folder / "head.txt").exists()
