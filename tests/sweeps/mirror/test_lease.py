"""Who may write a mirror, decided by what the driver that waits has seen on its own clock; and what a mirror names."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sweeps.mirror.lease import Lease, renewed, verdict
from sweeps.mirror.manifest import TrialFiles
from sweeps.mirror.store import Stored

OTHER = Lease(holder="other", token=3, seconds=60.0, machine="a", process=7)
THIRD = Lease(holder="third", token=4, seconds=60.0, machine="c", process=9)


@pytest.mark.parametrize(
    ("seen", "unchanged_seconds", "own", "decided"),
    [
        (OTHER, 0.0, None, "wait"),
        (OTHER, 59.9, None, "wait"),
        (OTHER, 60.0, None, "take"),
        (renewed(OTHER), 0.0, None, "refuse"),
        (renewed(OTHER), 59.9, None, "refuse"),
        (renewed(OTHER), 60.0, None, "take"),
        (THIRD, 0.0, None, "refuse"),
        (OTHER.model_copy(update={"seconds": 2.0}), 2.0, None, "take"),
        (OTHER.model_copy(update={"is_released": True}), 0.0, None, "take"),
        (OTHER, 0.0, "other", "take"),
        (OTHER, 0.0, "somebody", "wait"),
    ],
)
def test_a_lease_is_taken_once_it_was_seen_unchanged_for_as_long_as_it_lasts(seen, unchanged_seconds, own, decided):
    assert verdict(OTHER, seen, unchanged_seconds, own) == decided


@pytest.mark.parametrize("path", ["", "..", "/etc/passwd", "a/../../x", "a/./b", "a/"])
def test_a_manifest_names_only_files_below_the_folder(path):
    with pytest.raises(ValidationError, match="below the sweep's folder"):
        TrialFiles(files={path: Stored(object="objects/1/1/a", size=1, sha256="0")})
