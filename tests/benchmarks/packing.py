"""Training K adapters in shared passes against one alone through HF, PEFT and bitsandbytes. No Ray and no MLflow.

    python -m tests.benchmarks.packing --results DIR                         SmolLM2-135M, the quickstart's rows: a CPU
    python -m tests.benchmarks.packing --results DIR --models 135M 1B 3B 8B  random weights, 512 tokens a row: a GPU
    python -m tests.benchmarks.packing --results DIR --models tiny           a try-out in a minute, anywhere

Each cell of the tables is written to DIR/MODEL.json as soon as it is measured, and is not measured again. What does not
fit into --minutes is left out and named. Useful arithmetic is 4 FLOP per token and frozen parameter (2 forward, 2
backward), the head for labelled tokens only; its share is that of the fastest product measured in the model's shapes.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from trainables.base import base_model
from trainables.base.base_model import Base
from trainables.contract import Failure, StepRecord
from trainables.data import dataset
from trainables.packing.adapter_pack import AdapterPack
from trainables.packing.engine import Engine
from trainables.packing.flat_engine import FlatEngine
from trainables.specs import TrialSpec

from . import alone, bases, gpu_kernels, machines, operators

SLOTS = (1, 2, 4, 8, 16)
BATCHES = (1, 2, 4)
PACKS: dict[str, Callable[[Base], Engine]] = {"flat": FlatEngine, "flat, grouped": partial(FlatEngine, grouped=True)}
"""Name -> engine, on a base that is dequantised once."""
ALONE = {"HF alone": False, "HF alone, checkpointing": True}
"""Name -> whether activations are computed again in the backward pass, as HF does by default for a 4-bit base."""


class CellFailedError(Exception):
    """A slot failed: most often there was no memory for it."""


class Bench:
    """The measurements of one base."""

    def __init__(self, name: str, arguments: argparse.Namespace, deadline: float) -> None:
        self.name, self.arguments, self.deadline = name, arguments, deadline
        self.path: Path = arguments.results / f"{name}.json"
        kept = machines.read(self.path) or {}
        self.cells: dict[str, dict[str, Any]] = kept.get("cells", {})
        self.peak: float | None = kept.get("peak_gflops")
        self.skipped: list[str] = []
        self.rows = bases.rows_for(name, arguments.tokens)

    def run(self) -> None:
        """Measures what is asked for and not kept yet."""
        for way in self.arguments.ways:
            wanted = [(way, slots, batch) for batch in self.arguments.batches for slots in self.slots(way)]
            missing = [each for each in wanted if key(*each) not in self.cells]
            if not missing:
                continue
            if time.monotonic() > self.deadline:
                self.skipped += [key(*each) for each in missing]
                continue
            base = bases.made(self.name)
            self.frozen = bases.linear_sizes(base)
            if self.peak is None:
                self.peak = fastest_product(base)
            if way in ALONE:
                trained = alone.Alone(base, self.rows, ALONE[way])
                self.measure(missing, trained.step)
            else:
                self.measure_pack(missing, base)
            del base
            forget()

    def slots(self, way: str) -> tuple[int, ...]:
        """How many adapters at once."""
        return (1,) if way in ALONE else tuple(self.arguments.slots)

    def measure_pack(self, cells: list[tuple[str, int, int]], base: Base) -> None:
        """One engine on one base."""
        base_model.dequantise(base.model)
        pack = AdapterPack(PACKS[cells[0][0]](base), self.rows)

        def step(slots: int, batch: int) -> tuple[int, int, int]:
            records = pack.step(range(slots))
            failed = next((each for each in records.values() if isinstance(each, Failure)), None)
            if failed is not None:
                raise CellFailedError(failed.message)
            last = [each for each in records.values() if isinstance(each, StepRecord)]
            read = sum(each.tokens for each in last) - told.get("tokens", 0)
            told["tokens"] = sum(each.tokens for each in last)
            rows = [row for slot in range(slots) for row in rows_of(self.rows, slot, last[0].step, batch)]
            return slots, read, sum(row.labels for row in rows)

        for way, slots, batch in cells:
            told: dict[str, int] = {}
            for slot in range(slots):
                opened = pack.open(slot, spec(slot, batch))
                assert not isinstance(opened, Failure), opened
            self.measure([(way, slots, batch)], step)
            for slot in range(slots):
                pack.close(slot)

    def measure(self, cells: list[tuple[str, int, int]], step: Callable[[int, int], tuple[int, int, int]]) -> None:
        """Times each cell. `step` returns adapter-steps, tokens, and labelled tokens."""
        for way, slots, batch in cells:
            if time.monotonic() > self.deadline:
                self.skipped.append(key(way, slots, batch))
                continue
            machines.forget_peak()
            try:
                step(slots, batch)  # a warm one
                timed = [timed_step(step, slots, batch) for _ in range(self.arguments.steps)]
                cell: dict[str, Any] = self.figures(timed) | {"peak_gb": machines.peak_bytes() / 1e9}
                if torch.cuda.is_available():
                    cell |= gpu_kernels.of(partial(step, slots, batch))
            except (torch.OutOfMemoryError, CellFailedError) as error:
                cell = {"failed": str(error).splitlines()[0][:120]}
            self.cells[key(way, slots, batch)] = cell
            self.keep()
            print(f"{self.name:14} {key(way, slots, batch):34} {cell}", flush=True)

    def figures(self, timed: list[tuple[float, int, int, int]]) -> dict[str, float]:
        """Of steps of the same cell: seconds, adapter-steps, tokens, labelled tokens."""
        seconds, _, tokens, labels = map(sum, zip(*timed, strict=True))
        gflops = 4 * (self.frozen[0] * tokens + self.frozen[1] * labels) / seconds / 1e9
        assert self.peak is not None
        return {
            "adapter_steps_per_second": median(each[1] / each[0] for each in timed),
            "tokens_per_second": tokens / seconds,
            "share_of_peak": gflops / self.peak,
        }

    def keep(self) -> None:
        """Writes what is measured."""
        content = {"model": self.name, "tokens": self.arguments.tokens, "steps": self.arguments.steps}
        machines.keep(self.path, {**content, "device": device(), "peak_gflops": self.peak, "cells": self.cells})

    def table(self) -> list[str]:
        """A Markdown table: adapter-steps per second, and how many times as many as HF alone with checkpointing."""
        lines = [f"\n{self.name} on {device()}, peak {self.peak or 0:.0f} GFLOP/s", ""]
        heads = (
            "way",
            "slots",
            "batch",
            "adapter-steps/s",
            "tokens/s",
            "share of peak",
            "GB",
            "against HF, checkpointing",
        )
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for name, cell in self.cells.items():
            way, slots, batch = name.rsplit(" x ", 2)
            if "failed" in cell:
                lines.append(f"| {way} | {slots} | {batch} | {cell['failed']} | | | | |")
                continue
            usual = self.cells.get(key("HF alone, checkpointing", 1, int(batch)), {}).get("adapter_steps_per_second")
            times = f"{cell['adapter_steps_per_second'] / usual:.1f} times" if usual else ""
            lines.append(
                f"| {way} | {slots} | {batch} | {cell['adapter_steps_per_second']:.2f} "
                f"| {cell['tokens_per_second']:.0f} | {cell['share_of_peak']:.2f} | {cell['peak_gb']:.1f} | {times} |"
            )
        return [*lines, *([f"not measured, out of time: {', '.join(self.skipped)}"] if self.skipped else [])]


def key(way: str, slots: int, batch: int) -> str:
    """Name of a cell."""
    return f"{way} x {slots} x {batch}"


def spec(slot: int, batch: int) -> TrialSpec:
    """What a slot trains: all linear layers, with rank 16."""
    usual = bases.quickstart()
    adapter = usual.adapter.model_copy(update={"target_modules": "all-linear", "r": alone.RANK})
    training = usual.training.model_copy(update={"batch_size": batch})
    return usual.model_copy(update={"adapter": adapter, "training": training, "seed": slot, "steps": 1000})


def rows_of(rows: dataset.Splits, seed: int, step: int, batch: int) -> list[dataset.TokenRow]:
    """The rows of a slot's step, counted from 1."""
    train = rows.train
    return [train.row(i) for i in dataset.batch_rows(seed, len(train), (step - 1) * batch, batch)]


def timed_step(step: Callable[[int, int], tuple[int, int, int]], slots: int, batch: int) -> tuple[float, int, int, int]:
    """Seconds and what the step returns."""
    synchronise()
    started = time.perf_counter()
    done = step(slots, batch)
    synchronise()
    return (time.perf_counter() - started, *done)


def fastest_product(base: Base, tokens: int = 1024) -> float:
    """The most GFLOP/s of the model's largest product: so many tokens times its widest layer."""
    config = base.model.config
    x = torch.randn(tokens, config.hidden_size, device=base.device).to(base.dtype)
    w = torch.randn(config.intermediate_size, config.hidden_size, device=base.device).to(base.dtype)
    flop = 2.0 * tokens * config.hidden_size * config.intermediate_size
    times = []
    for _ in range(30):
        synchronise()
        started = time.perf_counter()
        for _ in range(4):
            torch.nn.functional.linear(x, w)
        synchronise()
        times.append((time.perf_counter() - started) / 4)
    return float(flop / min(times) / 1e9)


def synchronise() -> None:
    """Waits for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget() -> None:
    """Gives memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device() -> str:
    """What trains."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else str(machines.facts()["processor"])


def main(words: list[str] | None = None) -> None:
    """Measures and prints the tables, and writes them to tables.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results/packing"))
    parser.add_argument("--models", nargs="*", default=[bases.MODEL], choices=[bases.MODEL, *bases.SHAPES])
    parser.add_argument("--ways", nargs="*", default=[*ALONE, "flat"], choices=[*ALONE, *PACKS])
    parser.add_argument("--slots", nargs="*", type=int, default=list(SLOTS))
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("--tokens", type=int, default=512, help="of a row of random tokens")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each cell")
    parser.add_argument("--minutes", type=float, default=9.0, help="no cell begins after this")
    parser.add_argument("--no-operators", action="store_true", help="do not count operators")
    arguments = parser.parse_args(words)
    deadline = time.monotonic() + 60 * arguments.minutes
    lines: list[str] = []
    for name in arguments.models:
        bench = Bench(name, arguments, deadline)
        bench.run()
        lines += bench.table()
    if not arguments.no_operators:
        lines += operators.table(arguments.results)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "tables.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
