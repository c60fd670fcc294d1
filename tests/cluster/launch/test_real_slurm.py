"""slurm.sh on a real Slurm: `make cluster` runs this. What a job prints, its exit code, and what it leaves running."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import chaos_runs as runs
import pytest
import slurm_clusters
import tiny_sweeps
from namespaces import Machine
from slurm_clusters import Slurm

from sweeps.record.events import TrialReported

REASON = slurm_clusters.why_not()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]
JOINED = ["cluster.profile=attached", "tracking.uri=sqlite:///mlflow.db", "cluster.gpus_per_host=1"]
TOY = [
    "toy", *JOINED, "budget.trials=4", "scheduler.kind=fifo", "training.snapshot_every=2", "cluster.hosts=2",
    "cluster.slots_per_host=2",
]  # fmt: skip
SLOW = [*TOY, "training.step_seconds=0.5"]
# What Ray, or Slurm's own commands, would say among the sweep's lines.
NOT_THE_SWEEPS = ("raylet", "scripts.py", "srun:", "slurmstepd", "Traceback")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """Two nodes."""
    with slurm_clusters.slurm(2) as made:
        yield made


def assert_nothing_left(slurm: Slurm) -> None:
    """No process of the job's is on a node."""
    for node in slurm.nodes.values():
        runs.wait_for(partial(is_free, node))


def is_free(node: Machine) -> bool:
    """Whether neither Ray nor a sweep runs on a node."""
    running = [" ".join(each.info["cmdline"] or ()) for each in node.processes("")]
    return not any(name in words for words in running for name in ("ray/core/src", "ray::", "ray start", "qsweep "))


def reported(sweep: Path) -> set[str]:
    """Keys of the trials that have come to a report point."""
    return {event.trial_key for event in runs.events(sweep) if isinstance(event, TrialReported)}


def test_a_finished_sweep_ends_its_job_with_0_and_the_job_that_depends_on_it_begins(slurm):
    tiny_sweeps.write(slurm.project)
    job = slurm.job("launch", "sweep.yaml", *JOINED)
    after = slurm.job("resume", "results/tiny", options=(f"--dependency=afterok:{job.number}",))
    assert job.code() == ("COMPLETED", "0:0"), job.log
    assert "COMPLETED at step 9" in job.log
    assert job.log.rstrip().endswith("ui results/tiny"), "the sweep's last line is the job's"
    assert [line for line in job.log.splitlines() if any(word in line for word in NOT_THE_SWEEPS)] == []
    # The other node's Ray was ended; by itself it would wait for the head for a minute more.
    assert "GCS may have been killed" not in slurm.ray_log(job)
    assert after.code() == ("COMPLETED", "0:0"), after.log
    assert "tiny" in after.log
    assert_nothing_left(slurm)


def test_a_mistake_ends_the_job_with_2_and_the_job_that_depends_on_it_does_not_begin(slurm):
    job = slurm.job("launch", *TOY, "name=mistaken", "budget.trails=4")
    after = slurm.job("resume", "results/mistaken", options=(f"--dependency=afterok:{job.number}",))
    assert job.code() == ("FAILED", "2:0"), job.log
    assert job.log.splitlines()[-1] == "1 problem; nothing was started"
    runs.wait_for(lambda: after.told()["Reason"] == "DependencyNeverSatisfied")
    slurm.asked("scancel", after.number)
    assert_nothing_left(slurm)


def test_a_sweep_is_stopped_from_the_login_node_then_its_time_is_over_and_it_goes_on_in_the_next_jobs(slurm):
    sweep = slurm.project / "results" / "toy"
    first = slurm.job("launch", *SLOW)
    runs.wait_for(lambda: runs.reports(sweep) > 0)
    slurm.asked("qsweep", "stop", "toy")
    assert first.code() == ("FAILED", "130:0"), first.log
    assert "go on with:" in first.log

    second = slurm.job("resume", "results/toy")
    third = slurm.job("resume", "results/toy", options=(f"--dependency=afterany:{second.number}",))
    known = runs.reports(sweep)
    runs.wait_for(lambda: runs.reports(sweep) > known)
    slurm.asked("scancel", "--batch", "--signal=USR1", second.number)
    assert second.code() == ("FAILED", "143:0"), second.log
    assert "the job's time is nearly over" in second.log

    assert third.code() == ("COMPLETED", "0:0"), third.log
    runs.assert_whole(sweep, f"sqlite:///{slurm.project}/mlflow.db", 4)
    runs.assert_every_step_once(sweep)
    assert_nothing_left(slurm)


def test_a_sweep_whose_job_is_cancelled_closes_itself_and_goes_on_in_the_next_job(slurm):
    sweep = slurm.project / "results" / "cancelled"
    job = slurm.job("launch", *SLOW, "name=cancelled")
    after = slurm.job("resume", "results/cancelled", options=(f"--dependency=afterany:{job.number}",))
    runs.wait_for(lambda: len(reported(sweep)) == 4)
    slurm.asked("scancel", job.number)
    state, _ = job.code()
    assert state == "CANCELLED", job.log
    assert "stopping: trials are saved" in job.log and "go on with:" in job.log
    assert after.code() == ("COMPLETED", "0:0"), after.log
    runs.assert_whole(sweep, f"sqlite:///{slurm.project}/mlflow.db", 4)
    runs.assert_every_step_once(sweep)
    assert_nothing_left(slurm)


def test_a_job_that_loses_its_first_node_is_cancelled_and_the_sweep_goes_on_in_the_next_job():
    with slurm_clusters.slurm(2) as slurm:
        sweep = slurm.project / "results" / "toy"
        job = slurm.job("launch", *SLOW, "budget.steps_per_trial=60")
        options = ("--nodes=1", f"--dependency=afterany:{job.number}")
        after = slurm.job("resume", "results/toy", options=options)
        runs.wait_for(lambda: len(reported(sweep)) == 4)
        slurm.lose("n1")
        state, _ = job.code()
        assert state == "CANCELLED", job.log
        assert after.code() == ("COMPLETED", "0:0"), after.log
        runs.assert_whole(sweep, f"sqlite:///{slurm.project}/mlflow.db", 4)
        runs.assert_every_step_once(sweep)
        assert_nothing_left(slurm)


def test_a_sweep_goes_on_without_a_node_that_is_lost_and_its_job_ends_with_0():
    with slurm_clusters.slurm(2) as slurm:
        sweep = slurm.project / "results" / "toy"
        job = slurm.job("launch", *SLOW, "budget.steps_per_trial=60")
        other = slurm.nodes["n2"]
        runs.wait_for(lambda: bool(other.processes("ray::Host")) and len(reported(sweep)) == 4)
        slurm.lose("n2")
        assert job.code() == ("COMPLETED", "0:0"), job.log
        assert f"on {other.address}" in job.log
        assert job.log.rstrip().endswith("ui results/toy"), "the sweep's last line is the job's"
        runs.assert_whole(sweep, f"sqlite:///{slurm.project}/mlflow.db", 4)
        runs.assert_every_step_once(sweep)
        assert_nothing_left(slurm)
