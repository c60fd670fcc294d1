"""The toy, whose trials of rank 8 and more have snapshots of 256 MB: `trainable: own.large_snapshots`."""

from __future__ import annotations

from pathlib import Path

from trainables import toy
from trainables.specs import TrialSpec
from trainables.toy import METRICS, REQUIRES, check, fingerprint, need, prepare, resolve_targets

__all__ = ["METRICS", "REQUIRES", "check", "fingerprint", "need", "prepare", "resolve_targets"]
SNAPSHOT_BYTES = 256 * 2**20
FROM_RANK = 8


def open_pack(base: TrialSpec, data: bytes, cache: Path) -> Pack:
    """A pack of curves."""
    return Pack()


class Pack(toy.ToyPack):
    """A `ToyPack` whose snapshots end with blanks, which JSON allows."""

    def snapshot(self, slot: int) -> bytes:
        """See `Pack.snapshot`."""
        size = SNAPSHOT_BYTES if self._slots[slot].spec.adapter.r >= FROM_RANK else 0
        return super().snapshot(slot).ljust(size)
