"""How many operators a layer issues in a training pass: on a GPU each is a kernel or more. Counted on a CPU.

The difference between a model of four layers and one of two, so that embedding and head do not count. Views, which
compute nothing, do not count either. Forward and backward of one micro-batch in bfloat16, as on a GPU; the optimizer is
apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.base import base_model
from trainables.base.base_model import Base
from trainables.packing.engine import Engine, Segment
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.peft_engine import PeftEngine

from . import alone, bases, machines

SLOTS = (1, 8)
GOAL = 200
"""At most so many, however many adapters."""


class Counted(TorchDispatchMode):
    """Counts operators that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def per_layer(pass_of: Callable[[Base], Callable[[], None]]) -> float:
    """Operators per layer of a pass."""
    counts = []
    for layers in (2, 4):
        base = bases.random_base(replace(bases.SHAPES["tiny"], layers=layers), torch.bfloat16)
        once = pass_of(base)
        once()
        # As before each optimizer step: gradients are then kept as they come, and not added to earlier ones.
        base.model.zero_grad(set_to_none=True)
        with Counted() as during:
            once()
        counts.append(during.count)
    return (counts[1] - counts[0]) / 2


def packed(engine: Callable[[Base], Engine], slots: int) -> Callable[[Base], Callable[[], None]]:
    """Makes a pass of so many adapters with one row each."""

    def made(base: Base) -> Callable[[], None]:
        from .packing import spec

        base_model.dequantise(base.model)
        running: Engine = engine(base)
        train = bases.rows_for("tiny", 32, 16).train
        for slot in range(slots):
            running.add(slot, spec([16], slot, 1))

        def once() -> None:
            losses = running.token_losses([Segment(slot, [train.row(slot)]) for slot in range(slots)])
            torch.stack([each.mean() for each in losses]).sum().backward()

        return once

    return made


def solo(checkpointing: bool) -> Callable[[Base], Callable[[], None]]:
    """Makes a pass of one adapter alone through HF and PEFT."""

    def made(base: Base) -> Callable[[], None]:
        rows = bases.rows_for("tiny", 32, 16)
        trained = alone.Alone(base, rows, checkpointing)
        return lambda: trained.backward([rows.train.row(0)])

    return made


def counted() -> dict[str, float]:
    """Way of training -> operators per layer."""
    found = {"HF alone": per_layer(solo(False)), "HF alone, checkpointing": per_layer(solo(True))}
    ways: dict[str, Callable[[Base], Engine]] = {
        "flat": FlatEngine,
        "flat, grouped": partial(FlatEngine, grouped=True),
        "peft": PeftEngine,
    }
    for name, engine in ways.items():
        found |= {f"{name}, {slots} slots": per_layer(packed(engine, slots)) for slots in SLOTS}
    return found


def table(results: Path) -> list[str]:
    """Counts, or reads what was counted; a Markdown table."""
    path = results / "operators.json"
    kept = machines.read(path) or machines.keep(path, {"operators_per_layer": counted(), "goal": GOAL})
    title = f"Operators per layer, forward and backward in bfloat16, counted on a CPU (goal: at most {GOAL})"
    lines = [f"\n{title}", "", "| way | operators |", "|---|---|"]
    return lines + [f"| {name} | {count:.0f} |" for name, count in kept["operators_per_layer"].items()]
