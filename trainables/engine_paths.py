"""The ways to compute passes on a base, and the results of a self-test: whether each way is right, and how fast."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from trainables.quantization import Residency
from trainables.specs import Spec, TrialSpec

LEAST_GAIN = 1.05
"""Twice as many slots pay if they train at least this many times as many tokens a second."""
ROOM = 2
"""The most tokens of a pass / the tokens of a step of the slots that pay. Rows are of unequal length, and the rest of a
step beyond the limit would be a small pass."""


class EnginePath(Spec):
    """A way to compute passes on a base."""

    engine: Literal["flat", "grouped", "peft"]
    """See `TrainingSpec.engine`."""
    residency: Residency
    """See `QuantizationSpec.residency`; "dequantised" also for a base that is not quantised."""

    @property
    def engine_name(self) -> str:
        """The engine in words."""
        return "flat, grouped" if self.engine == "grouped" else self.engine

    @property
    def name(self) -> str:
        """The path in words."""
        return self.engine_name if self.residency == "dequantised" else f"{self.engine_name}, 4 bit"

    def given_to(self, base: TrialSpec) -> TrialSpec:
        """Returns `base` with the engine and the residency of this path."""
        training = base.training.model_copy(update={"engine": self.engine})
        quantization = base.quantization.model_copy(update={"residency": self.residency})
        return base.model_copy(update={"training": training, "quantization": quantization})


class Settled(Spec):
    """How a machine computes passes."""

    path: EnginePath
    slots: int | None = None
    """Number of slots that pay: more slots train no faster. None if not measured."""
    pass_tokens: int | None = None
    """Measured value for `TrainingSpec.pass_tokens`. None if not measured, or if the specification sets a number."""
    refused: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """The paths that are not used, a line each with the reason."""

    def given_to(self, base: TrialSpec) -> TrialSpec:
        """Returns `base` with the settled path and pass tokens."""
        base = self.path.given_to(base)
        if self.pass_tokens is None:
            return base
        training = base.training.model_copy(update={"pass_tokens": self.pass_tokens})
        return base.model_copy(update={"training": training})


class PassRate(Spec):
    """The speed of a number of slots that train in shared passes."""

    slots: int
    tokens_per_step: float
    """Tokens of a step of all slots, padding not counted."""
    tokens_per_second: float
    peak_bytes: int | None = None
    """Most memory of the fullest GPU; None on a CPU, where earlier work of the process would count too."""
    estimated_bytes: int | None = None
    """The estimate for `peak_bytes`; None if the model's sizes are unknown."""


class Tried(Spec):
    """The result of a path."""

    path: EnginePath
    difference: float | None = None
    """Distance from PEFT's layers; rounding explains up to 1. None if the path fails or computes NaN."""
    problem: str = ""
    """Why the path is not used; empty if the path is right."""
    may_pass: bool = False
    """Whether a later test may not meet the problem: memory was missing, or the process hung or died."""
    rates: tuple[PassRate, ...] = ()
    """Rates of 1, 2, 4, ... slots, until more slots do not pay or memory ends."""

    @property
    def paying(self) -> PassRate | None:
        """The rate of the most slots that pay: each doubling before was faster. None if the path was not timed."""
        paying = self.rates[0] if self.rates else None
        for few, more in pairwise(self.rates):
            if more.tokens_per_second < LEAST_GAIN * few.tokens_per_second:
                break
            paying = more
        return paying


class SelfTest(Spec):
    """The results of all paths of a base on a device."""

    device: str
    """Name of the device by its maker."""
    seconds: float
    tried: tuple[Tried, ...]

    def settled(self, base: TrialSpec) -> Settled:
        """Returns the fastest right path that the specification allows; the reference if there is none."""
        engine, residency = base.training.engine, base.quantization.residency
        if residency not in base.quantization.traits.residencies:
            residency = "auto"
        own = [
            each
            for each in self.tried
            if engine in ("auto", each.path.engine) and residency in ("auto", each.path.residency)
        ]
        lines = [f"{self.device}: {each.path.name} is not used: {each.problem}" for each in self.tried if each.problem]
        right = [each for each in own if not each.problem]
        if right:
            best = max(right, key=lambda each: each.paying.tokens_per_second if each.paying else 0.0)
            paying, tokens = best.paying, None
            if paying is not None and base.training.pass_tokens == "auto":
                tokens = math.ceil(ROOM * paying.tokens_per_step)
            slots = None if paying is None else paying.slots
            return Settled(path=best.path, slots=slots, pass_tokens=tokens, refused=tuple(lines))
        return Settled(
            path=reference(base), refused=(*lines, f"{self.device}: PEFT's own layers compute, which are slower")
        )


def reference(base: TrialSpec) -> EnginePath:
    """Returns the path of PEFT's own layers on the base as loaded. It needs no test."""
    return EnginePath(engine="peft", residency=base.quantization.traits.residencies[0])
