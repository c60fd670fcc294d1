"""Names the engines and the sizes of their passes, for the engines and for estimates. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

from trainables.contract import Device
from trainables.specs import TrialSpec

FLAT, PEFT, GROUPED = "flat", "peft", "grouped"
"""The engine without padding; the reference engine on PEFT's own layers; the flat engine's `grouped` mode."""
FLAT_KINDS = frozenset({"gemma", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"})
"""Model types of transformers on which the flat engine was compared with PEFT's: attention, positions and head."""
_SEVERAL = "gemma3"
"""An undecided model type: GGUF files of gemma3_text have it, and multimodal models, which are another class."""
SHARED_INPUT: Mapping[str, str] = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Layer -> the layer beside it that has the same input, by the ends of their names."""

EVALUATION_TOKENS = 2048
"""The most tokens per slot in one evaluation pass. Fixed, so that results do not depend on the machine."""
SHARED_TOKENS: Mapping[str, int] = {"cpu": EVALUATION_TOKENS, "cuda": 8 * EVALUATION_TOKENS}
"""The most tokens of all slots in one evaluation pass, by device. More tokens are no faster on a CPU, and overflow its
caches: a token took 4 % more time in passes of 3,470 tokens than in passes of 1,735. On a GPU this many tokens keep any
model busy; see `memory.saturating_slots`."""
TRAINED_TOKENS = 4096
"""See `trained_tokens`."""
_SMALL_ON_GPU_TOKENS = 4 * TRAINED_TOKENS
PARALLEL_PASSES: Mapping[str, int] = {"cpu": 2, "cuda": 1}
"""Passes of the flat engine that run at the same time, by device; see `parallel_passes`. Fixed, like EVALUATION_TOKENS.
More than two were not measured."""
LOGIT_TOKENS = 512
"""Tokens whose logits exist at one time in the flat engine."""
EXPONENT_TOKENS = 64
"""Tokens whose exponentials exist at one time in the flat engine, so that they fit into the cache of a CPU."""
ANSWERED_ROWS: Mapping[str, int] = {"cpu": 64, "cuda": 128}
"""The most rows that are answered at the same time, by device. A step, which adds one token to each row, reads all
weights once: with SmolLM2-135M a step took 170 ms of one thread for 8 rows, 190 for 16, 260 for 32 and 430 for 64. So
parallel passes do not share the prompts: each would read the weights. More rows, and a GPU, were not measured."""
CACHED_TOKENS: Mapping[str, int] = {"cpu": 4 * EVALUATION_TOKENS, "cuda": 16 * EVALUATION_TOKENS}
"""The most tokens, of prompts and answers of these rows, whose keys and values are kept, by device; at least one row's
tokens. They take 380 MB on a CPU with SmolLM2-135M in float32, and 4.3 GB on a GPU with Llama 3.1 8B in bfloat16, which
is less than its training passes save."""
REFILLED = 8
"""New prompts start when 1 / REFILLED of the places are free. A pass of one prompt takes about as long as a pass of
several, and until then few places are empty."""
LEAST_SHARED: Mapping[str, int] = {"cpu": 4, "cuda": 64}
"""The fewest tokens of a shared start of rows that the flat engine computes only once, by device. Attention joins the
start with each row again. On a CPU the join takes about as long as the layers take for one token. On a GPU it takes
four kernels for each row and layer, whose time was not measured."""


def expected_engine(spec: TrialSpec, kind: str | None) -> str | None:
    """Returns the engine that a base will have, before the base is loaded; None if unknown.

    Args:
        spec: gives the engine setting, the model and the quantisation.
        kind: the base's model type; None if unknown.
    """
    if spec.training.engine == PEFT:
        return PEFT
    if kind in (None, _SEVERAL) or spec.base_model.trust_remote_code:
        return None
    return FLAT if kind in FLAT_KINDS and spec.quantization.compute_dtype != "float16" else PEFT


def parallel_passes(engine: str, device: Device) -> int:
    """Returns the number of passes that an engine runs at the same time."""
    return PARALLEL_PASSES[device] if engine == FLAT else 1


def trained_tokens(base: TrialSpec, parameters: int | None, device: Device) -> int:
    """Returns the most tokens that trials share in one pass of a step; a trial's own micro-batch may have more.

    More trials train in several passes: more tokens at once are no faster, and take memory. SmolLM2-135M on 2 cores
    trained 389 tokens a second in passes of about 1,760 tokens, 381 in passes of 3,520, and 344 in passes of 7,040. A
    GPU's self-test measures how many tokens pay (`Settled.pass_tokens`). Before the test, and for PEFT's engine, the
    number is meant to suffice for `memory.saturating_slots` with rows of unequal lengths, which was not measured.

    Args:
        base: gives `training.pass_tokens`, which takes precedence.
        parameters: parameters of the base; None if unknown.
    """
    if base.training.pass_tokens != "auto":
        return base.training.pass_tokens
    is_small = parameters is not None and parameters < 1_000_000_000
    return _SMALL_ON_GPU_TOKENS if device == "cuda" and is_small else TRAINED_TOKENS
