"""onprem.yaml on machines that are reached through SSH: `make cluster` runs this, from `ray up` to `ray down`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial

import chaos_runs as runs
import pytest
import ssh_clusters
from namespaces import Machine
from ssh_clusters import SSH

REASON = ssh_clusters.why_not()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]
TOY = (
    "toy cluster.profile=attached tracking.uri=sqlite:///mlflow.db budget.trials=4 scheduler.kind=fifo "
    "cluster.slots_per_host=2 training.step_seconds=0.3"
)


@pytest.fixture
def ssh() -> Iterator[SSH]:
    with ssh_clusters.ssh() as made:
        yield made


def test_machines_of_ones_own_become_a_cluster_that_trains_on_its_workers_and_ends_whole(ssh, tmp_path):
    done(ssh.documented("ray get-auth-token"))
    done(ssh.documented("ray up"))
    # The two workers' declared GPUs; the head has none.
    runs.wait_for(lambda: "/2.0 GPU" in done(ssh.documented("ray exec cluster/launch/onprem.yaml 'ray status'")))

    run = ssh.begun_on_head(tmp_path, f"cd qlora-sweeps && qsweep launch {TOY}")
    runs.wait_for(lambda: all(worker.processes("ray::Host") for worker in ssh.workers), run)
    assert ssh.head.processes("ray::Host") == []
    assert run.wait() == 0, run.out.read_text() + run.err.read_text()
    sweep = ssh.head.home / "qlora-sweeps" / "results" / "toy"
    runs.assert_whole(sweep, f"sqlite:///{ssh.head.home}/qlora-sweeps/mlflow.db", 4)
    runs.assert_every_step_once(sweep)
    assert "4/4 (4 COMPLETED)" in done(ssh.on_head("cd qlora-sweeps && qsweep status toy"))

    # `ray exec` ends with 1, whatever the command's own code is.
    mistaken = ssh.on_head(
        "cd qlora-sweeps && qsweep launch toy name=mistaken budget.trails=4 || (echo code $?; exit 2)"
    )
    assert (mistaken.returncode, "code 2" in mistaken.stdout) == (1, True), mistaken.stdout
    assert "1 problem; nothing was started" in mistaken.stdout
    stranger = ssh.on_head("RAY_AUTH_MODE=disabled ray status")
    assert stranger.returncode == 1 and "InvalidAuth" in stranger.stdout, stranger.stdout

    done(ssh.documented("ray down"))
    done(ssh.documented("for worker in"))
    for machine in ssh.machines:
        runs.wait_for(partial(is_free, machine))


def done(answer: subprocess.CompletedProcess[str]) -> str:
    """What a command has printed, which has ended well."""
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def is_free(machine: Machine) -> bool:
    """Whether no process of Ray's is on a machine."""
    running = [" ".join(each.info["cmdline"] or ()) for each in machine.processes("")]
    return not any(name in words for words in running for name in ("/ray/", "ray::"))
