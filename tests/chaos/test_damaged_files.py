"""Files of a sweep that are torn, cut short or missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
# No trial ends, and drops its snapshots, before the machine is lost: until `hurry`, its steps take 36 s.
WORDS = [*runs.TOY, "scheduler.kind=fifo", "training.snapshot_every=2", "budget.steps_per_trial=243"]


def cut_short(snapshot) -> None:
    content = (snapshot / "snapshot.bin").read_bytes()
    (snapshot / "snapshot.bin").write_bytes(content[: len(content) // 2])


def without_data(snapshot) -> None:
    (snapshot / "snapshot.bin").unlink()


def damaged_manifest(snapshot) -> None:
    (snapshot / "progress.json").write_text("{")


DAMAGES = (cut_short, without_data, damaged_manifest, shutil.rmtree)


def test_damaged_snapshots_are_not_trusted_and_cost_no_point(tmp_path):
    run = runs.start(tmp_path, "launch", *WORDS)
    sweep = tmp_path / "results" / "toy"

    def snapshots() -> list[Path]:
        return sorted(sweep.glob("trials/*/snapshot-*"))

    def two_of_each_trial() -> bool:
        whole = [each.parent.name for each in snapshots() if (each / "progress.json").exists()]
        return sorted(map(whole.count, set(whole))) == [2, 2]

    runs.wait_for(two_of_each_trial, run)
    runs.kill_all(run)
    runs.hurry(tmp_path)
    assert len(snapshots()) >= len(DAMAGES)
    for place, snapshot in enumerate(snapshots()):
        DAMAGES[place % len(DAMAGES)](snapshot)
    with (sweep / "events.jsonl").open("ab") as events:
        events.write(b'{"type":"trial_repor')
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)
