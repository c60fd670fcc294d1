"""The ways to compute passes on a base, and what a self-test found of each on a machine: is it right, how fast."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from trainables.specs import Spec, TrialSpec

LEAST_GAIN = 1.05
"""Twice as many slots do not pay that train fewer times as many tokens a second."""
ROOM = 2
"""A pass may have so many times the tokens that pay: rows are unequal, and what is cut off is a small pass."""


class EnginePath(Spec):
    """A way to compute passes on a base."""

    engine: Literal["flat", "grouped", "peft"]
    """As `TrainingSpec.engine`."""
    residency: Literal["4bit", "dequantised"]
    """As `QuantizationSpec.residency`; of a base that is not quantised the latter."""

    @property
    def engine_name(self) -> str:
        """The engine in words."""
        return "flat, grouped" if self.engine == "grouped" else self.engine

    @property
    def name(self) -> str:
        """In words."""
        return self.engine_name if self.residency == "dequantised" else f"{self.engine_name}, 4 bit"

    def given_to(self, base: TrialSpec) -> TrialSpec:
        """Returns the specification whose passes are computed so."""
        training = base.training.model_copy(update={"engine": self.engine})
        quantization = base.quantization.model_copy(update={"residency": self.residency})
        return base.model_copy(update={"training": training, "quantization": quantization})


class Settled(Spec):
    """How passes are computed on a machine."""

    path: EnginePath
    slots: int | None = None
    """How many slots pay there, as was measured: more train no faster. None where it was not."""
    pass_tokens: int | None = None
    """For `TrainingSpec.pass_tokens`, as was measured. None where it was not, or where the specification says it."""
    refused: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """What is not used there, a line each with the reason."""

    def given_to(self, base: TrialSpec) -> TrialSpec:
        """Returns the specification whose passes are computed so."""
        base = self.path.given_to(base)
        if self.pass_tokens is None:
            return base
        training = base.training.model_copy(update={"pass_tokens": self.pass_tokens})
        return base.model_copy(update={"training": training})


class PassRate(Spec):
    """How fast so many slots train in shared passes."""

    slots: int
    tokens_per_step: float
    """Tokens of a step of all slots, padding not counted."""
    tokens_per_second: float
    peak_bytes: int | None = None
    """Most memory of the fullest GPU; None on a CPU, where a process that did other things before cannot tell."""
    estimated_bytes: int | None = None
    """The estimate of it; None where the model's sizes are unknown."""


class Tried(Spec):
    """What came of a path."""

    path: EnginePath
    difference: float | None = None
    """How far it is from PEFT's layers, where 1 is as far as rounding explains; None where it computes no number."""
    problem: str = ""
    """Why it is not used; empty where it is right."""
    may_pass: bool = False
    """Whether the problem may be gone another time: memory was missing, or the process hung or died."""
    rates: tuple[PassRate, ...] = ()
    """With 1, 2, 4, ... slots, until more do not pay or memory ends."""

    @property
    def paying(self) -> PassRate | None:
        """Of the most slots that each doubling up to them made faster; None where it was not timed."""
        paying = self.rates[0] if self.rates else None
        for few, more in pairwise(self.rates):
            if more.tokens_per_second < LEAST_GAIN * few.tokens_per_second:
                break
            paying = more
        return paying


class SelfTest(Spec):
    """What came of all paths of a base on a device."""

    device: str
    """The maker's name."""
    seconds: float
    tried: tuple[Tried, ...]

    def settled(self, base: TrialSpec) -> Settled:
        """The fastest path that is right, of those that the specification allows; else the reference."""
        engine, residency = base.training.engine, base.quantization.residency
        if base.quantization.scheme == "none":
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
    """PEFT's own layers on the base as it was loaded, which need no proof."""
    return EnginePath(engine="peft", residency="dequantised" if base.quantization.scheme == "none" else "4bit")
