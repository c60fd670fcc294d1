"""Faults of an engine's passes, and a process that tests paths with one of them: `python -m killed_paths`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

import torch

from trainables.packing.flat_engine import FlatEngine

FAULTS = {
    "wrong sign": "times what rounding explains",
    "NaN in the second backward pass": "it computes NaN",
    "raise": "it raises RuntimeError: no kernel",
    "hang": "",
    "die": "",
}
"""Fault -> what is said of it in the process."""


class _Spoilt(torch.autograd.Function):
    """Leaves losses as they are, and multiplies their gradients."""

    @staticmethod
    def forward(ctx: Any, losses: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.factor, None


def faulty(replace: Callable[[Any, str, Any], object], engine: str, fault: str) -> None:
    """Gives the passes of one way of the flat engine a fault; `replace` is `setattr`, or one that is undone."""
    whole, passes = FlatEngine.token_losses, dict[FlatEngine, int]()

    def token_losses(self: FlatEngine, segments: Any) -> Any:
        if self._grouped != (engine == "grouped"):
            return whole(self, segments)
        if fault == "raise":
            raise RuntimeError("no kernel")
        if fault == "die":
            os._exit(3)
        if fault == "hang":
            threading.Event().wait()
        losses = whole(self, segments)
        if not torch.is_grad_enabled():
            return losses
        passes[self] = passes.get(self, 0) + 1
        factor = -1.0 if fault == "wrong sign" else torch.nan if passes[self] == 2 else 1.0
        return [_Spoilt.apply(each, factor) for each in losses]

    replace(FlatEngine, "token_losses", token_losses)


def main() -> None:
    """As `self_test.main` on a tiny model, with the fault that the environment names."""
    import packs

    from trainables.base import base_model
    from trainables.packing import self_test

    faulty(setattr, *json.loads(os.environ["FAULT"]))
    setattr(base_model, "load", lambda _spec, _cache: packs.base())  # noqa: B010 - mypy takes no other function
    self_test.main()


if __name__ == "__main__":
    main()
