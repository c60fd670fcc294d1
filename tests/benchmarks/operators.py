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
from typing import Any, Self

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from trainables.base import base_model
from trainables.base.base_model import Base
from trainables.packing.engine import Engine, Segment
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.peft_engine import PeftEngine

from . import alone, bases, machines, speed_page

SLOTS = (1, 8)
GOAL = 150
"""At most so many, however many adapters, with a 4-bit base."""
IN_TURN_GOAL = 500
"""At most so many for 8 adapters one after the other, with a 4-bit base."""
DEQUANTISED_GOAL = 120
"""As `GOAL`, with a dequantised base."""


_NO_KERNEL = ("detach", "empty", "empty_like", "new_empty")
"""Operators that compute nothing, beside views."""


class Counted(TorchDispatchMode):
    """Counts operators that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.overloadpacket.__name__ not in _NO_KERNEL:
            self.count += 1
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Self:
        # torch writes a norm out on a CPU, but has a kernel forward and one backward for it on a GPU (aten,
        # _fused_rms_norm, 2.13): so it counts as these.
        self._norm = functional.rms_norm
        functional.rms_norm = lambda *given: _Norm.apply(self, *given)
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        functional.rms_norm = self._norm
        super().__exit__(*raised)


class _Norm(torch.autograd.Function):
    """The norm, as one operator each way of a `Counted`."""

    @staticmethod
    def forward(ctx: Any, counted: Counted, x: torch.Tensor, *given: Any) -> torch.Tensor:
        ctx.counted, ctx.given = counted, given
        ctx.save_for_backward(x)
        counted.count += 1
        with _disable_current_modes():
            return counted._norm(x, *given)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        ctx.counted.count += 1
        with _disable_current_modes(), torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return None, *torch.autograd.grad(ctx.counted._norm(x, *ctx.given), x, gradients), None, None, None


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


def packed(
    engine: Callable[[Base], Engine], slots: int, quantised: bool = False, recomputing: bool = False
) -> Callable[[Base], Callable[[], None]]:
    """Makes a pass of so many adapters with one row each, on a base that is dequantised or not."""

    def made(base: Base) -> Callable[[], None]:
        from .packing import spec

        if not quantised:
            base_model.dequantise(base.model)
        if recomputing:
            base_model.checkpoint_gradients(base.model)
        running: Engine = engine(base)
        train = bases.rows_for("tiny", 32, 16).train
        for slot in range(slots):
            running.add(slot, spec(slot, 1))

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
        for bits, quantised in (("", False), (", 4 bit", True)):
            found |= {f"{name}{bits}, {slots} slots": per_layer(packed(engine, slots, quantised)) for slots in SLOTS}
    return found


def table(results: Path) -> list[str]:
    """Counts, or reads what was counted; a Markdown table."""
    path = results / "operators.json"
    kept = machines.read(path) or machines.keep(path, {"operators_per_layer": counted()})
    return [
        "\nOperators per layer, forward and backward in bfloat16, counted on a CPU",
        "",
        *speed_page.operators(kept),
    ]
