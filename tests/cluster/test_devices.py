"""What this machine trains on is told as Ray counts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import devices


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 3), ("0", 1), ("2,0", 2), ("0,1,2,3", 3), ("", 0), ("NoDevFiles", 0)]
)
def test_gpus_that_a_process_may_not_use_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int
) -> None:
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: A'\necho 'GPU 2: A'\n")
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpus() == count
