"""Chooses the engine of a base: without padding where that covers it, else PEFT's own layers. Needs no torch to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.specs import TrialSpec

if TYPE_CHECKING:
    from trainables.base.base_model import Base
    from trainables.packing.engine import Engine

FLAT, PEFT = "flat", "peft"
FLAT_KINDS = frozenset({"gemma", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"})
"""Model types of transformers on which the flat engine was compared with PEFT's: attention, positions and head."""
_SEVERAL = "gemma3"
"""A model type of GGUF files with gemma3_text inside, and of multimodal models, which are another class."""


def expected(spec: TrialSpec, kind: str | None) -> str | None:
    """Returns the engine that `choose` will take, before the base is loaded; None when that cannot be known.

    Args:
        spec: its model and quantisation.
        kind: the base's model type; None when it is unknown.
    """
    if kind in (None, _SEVERAL) or spec.base_model.trust_remote_code:
        return None
    return FLAT if kind in FLAT_KINDS and spec.quantization.compute_dtype != "float16" else PEFT


def choose(base: Base) -> tuple[Engine, str]:
    """Returns the engine for a base that has no adapters yet, and its name with the reason where it is PEFT's."""
    from trainables.packing.flat_engine import FlatEngine, uncovered
    from trainables.packing.peft_engine import PeftEngine

    problem = uncovered(base)
    return (FlatEngine(base), FLAT) if problem is None else (PeftEngine(base), f"{PEFT}, since {problem}")
