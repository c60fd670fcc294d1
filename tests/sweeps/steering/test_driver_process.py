"""What is known of a driver that another process has started."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.record.folder import SweepFolder
from sweeps.steering import driver_process


@pytest.mark.timeout(60)
def test_a_driver_is_followed_until_its_last_line_although_it_no_longer_drives(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    process = driver_process.start(folder, [])  # no sweep is there: the process prints an error, and never drives
    assert not driver_process.is_over(folder)
    driver_process.follow(folder, None, lambda: None)
    assert process.wait() == 2
    assert "no sweep" in folder.driver_log.read_text()
