"""Packed training against one trial after the other, on the quickstart's model and data, in one process."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from cluster.devices import cache
from sweeps.config import load
from trainables import qlora

SLOTS = (1, 2, 4)


def main(steps: int) -> None:
    """Prints adapter-steps per second for each number of slots, and the ratio to one slot."""
    with tempfile.TemporaryDirectory() as folder:
        config = load.load("quickstart", [], Path(folder)).config
    base = config.base
    pack = qlora.open_pack(base, qlora.prepare(base, cache()).payload, cache())
    print(f"packed against alone: {base.base_model.source}, batch {base.training.batch_size}, {steps} steps")
    alone = 0.0
    for count in SLOTS:
        slots = list(range(count))
        for slot in slots:
            pack.open(slot, base.model_copy(update={"seed": slot}))
        pack.step(slots)
        started = time.perf_counter()
        for _ in range(steps):
            pack.step(slots)
        rate = count * steps / (time.perf_counter() - started)
        alone = alone or rate
        print(f"  {count} slots: {rate:.2f} adapter-steps/s, {rate / alone:.2f} x one slot")
        for slot in slots:
            pack.close(slot)
    print(f"  peak memory {pack.peak_memory_bytes() / 1e9:.1f} GB")
