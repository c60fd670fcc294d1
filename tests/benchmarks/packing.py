"""Packed training against one trial after the other, with each engine, on the quickstart's model and data."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.devices import cache
from sweeps.config import load
from trainables import qlora
from trainables.base import base_model, residency
from trainables.base.base_model import Base
from trainables.contract import StepRecord
from trainables.data import dataset
from trainables.packing.adapter_pack import AdapterPack
from trainables.packing.engine import Engine
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.peft_engine import PeftEngine
from trainables.specs import TrialSpec

SLOTS = (1, 2, 4)
PACKS: dict[str, tuple[Callable[[Base], Engine], bool]] = {
    "flat": (FlatEngine, True),
    "flat, 4 bit": (FlatEngine, False),
    "peft": (PeftEngine, True),
    "peft, 4 bit": (PeftEngine, False),
}
"""Name -> engine, and whether the base is dequantised once."""


def main(steps: int) -> None:
    """Prints, per engine and number of slots, adapter-steps and tokens per second and useful arithmetic."""
    with tempfile.TemporaryDirectory() as folder:
        config = load.load("quickstart", [], Path(folder)).config
    base = config.base
    adapter = base.adapter.model_copy(update={"target_modules": "all-linear", "r": 16})
    base = base.model_copy(update={"adapter": adapter})
    rows = dataset.load(qlora.prepare(base, cache()).payload)
    print(
        f"{base.base_model.source}, batch {base.training.batch_size}, all-linear, r 16, {steps} steps, load {load_1()}"
    )
    packs = {name: pack_of(base, rows, *made) for name, made in PACKS.items()}
    frozen = sum(
        layer.in_features * layer.out_features
        for name, layer in base_model.skeleton(base, cache()).named_modules()
        if hasattr(layer, "in_features")
    )
    print(f"{'engine':>12} {'slots':>5} {'adapter-steps/s':>15} {'tokens/s':>9} {'GFLOP/s':>8} {'last losses':>12}")
    for count in SLOTS:
        for name, pack in packs.items():
            seconds, tokens, loss = measured(pack, base, count, steps)
            speed = tokens / seconds
            print(
                f"{name:>12} {count:>5} {count * steps / seconds:>15.3f} {speed:>9.0f} "
                f"{4 * frozen * speed / 1e9:>8.0f} {loss:>12.5f}",
                flush=True,
            )
    print(f"peak memory of all {packs['flat'].peak_memory_bytes() / 1e9:.1f} GB, load {load_1()}")


def pack_of(base: TrialSpec, rows: dataset.Splits, engine: Callable[[Base], Engine], dequantised: bool) -> AdapterPack:
    """Returns a pack on a base of its own."""
    loaded = base_model.load(base, cache())
    if dequantised:
        residency.dequantise(loaded.model)
    return AdapterPack(engine(loaded), rows)


def measured(pack: AdapterPack, base: TrialSpec, slots: int, steps: int) -> tuple[float, int, float]:
    """Returns seconds, tokens of all slots, and the sum of the last losses."""
    for slot in range(slots):
        pack.open(slot, base.model_copy(update={"seed": slot}))
    before = [record_of(record).tokens for record in pack.step(range(slots)).values()]
    started = time.perf_counter()
    records: Mapping[int, object] = {}
    for _ in range(steps):
        records = pack.step(range(slots))
    seconds = time.perf_counter() - started
    after = [record_of(record).tokens for record in records.values()]
    losses = sum(record_of(record).train_loss for record in records.values())
    for slot in range(slots):
        pack.close(slot)
    return seconds, sum(after) - sum(before), losses


def record_of(record: object) -> StepRecord:
    """Returns the record of a step that did not fail."""
    assert isinstance(record, StepRecord), record
    return record


def load_1() -> float:
    """Returns the number of processes that wanted a processor in the last minute, on average."""
    return round(os.getloadavg()[0], 1)
