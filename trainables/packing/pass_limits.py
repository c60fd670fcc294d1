"""Names the engines, and tells the sizes of their passes: what estimates and engines both go by. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

from trainables.contract import Device
from trainables.specs import TrialSpec

FLAT, PEFT, GROUPED = "flat", "peft", "grouped"
"""The engine without padding, and the reference engine on PEFT's own layers; a way of the first, see `FlatEngine`."""
FLAT_KINDS = frozenset({"gemma", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"})
"""Model types of transformers on which the flat engine was compared with PEFT's: attention, positions and head."""
_SEVERAL = "gemma3"
"""A model type of GGUF files with gemma3_text inside, and of multimodal models, which are another class."""
SHARED_INPUT: Mapping[str, str] = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Layers of these kinds that have the input of another layer beside them, by the ends of their names."""

EVALUATION_TOKENS = 2048
"""The most tokens per slot in one evaluation pass. It is fixed, so that results do not depend on the machine."""
SHARED_TOKENS: Mapping[str, int] = {"cpu": EVALUATION_TOKENS, "cuda": 8 * EVALUATION_TOKENS}
"""The most tokens of all slots in one evaluation pass, by device. More are no faster on a CPU, and leave its caches: a
token took 4 % more time with 3,470 of them than with 1,735. On a GPU these keep any model busy; see
`memory.saturating_slots`."""
TRAINED_TOKENS = 4096
"""See `trained_tokens`."""
_SMALL_ON_GPU_TOKENS = 4 * TRAINED_TOKENS
PARALLEL_PASSES: Mapping[str, int] = {"cpu": 2, "cuda": 1}
"""Passes of the flat engine that run at the same time, by device; see `parallel_passes`. Fixed, as EVALUATION_TOKENS
is. More than two were not measured."""
LOGIT_TOKENS = 512
"""Tokens whose logits exist at one time in the flat engine."""
EXPONENT_TOKENS = 64
"""Tokens whose exponentials exist at one time in the flat engine: so they stay in the cache of a CPU."""
ANSWERED_ROWS: Mapping[str, int] = {"cpu": 64, "cuda": 128}
"""The most rows that are answered at the same time, by device. A step of one more token of each reads all weights once:
of SmolLM2-135M it took 170 ms of one thread for 8 rows, 190 for 16, 260 for 32 and 430 for 64. So prompts are not
shared out to parallel passes: each would read the weights. More rows, and a GPU, were not measured."""
CACHED_TOKENS: Mapping[str, int] = {"cpu": 4 * EVALUATION_TOKENS, "cuda": 16 * EVALUATION_TOKENS}
"""The most tokens of these rows, prompts and answers, whose keys and values are kept, by device; at least one row's. Of
SmolLM2-135M in float32 they take 380 MB, of Llama 3.1 8B in bfloat16 4.3 GB: less than its training passes save."""
REFILLED = 8
"""Rows that ended give their places to others when they are one part in so many of all: a pass of one prompt takes
about as long as one of several, and meanwhile few places are empty."""
LEAST_SHARED: Mapping[str, int] = {"cpu": 4, "cuda": 64}
"""Tokens of a start that rows share from which it is computed once in the flat engine, by device. Attention puts the
start together again with each row. On a CPU that takes about as long as one token takes the layers. On a GPU it is four
kernels for each row and layer; what they take there was not measured."""


def expected_engine(spec: TrialSpec, kind: str | None) -> str | None:
    """Returns the engine that a base will have, before the base is loaded; None when that cannot be known.

    Args:
        spec: its model and quantisation.
        kind: the base's model type; None when it is unknown.
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

    When more trials are due, they train in several passes: more tokens at once are no faster, and take memory.
    SmolLM2-135M on 2 cores trained 389 tokens a second in passes of about 1,760, 381 in passes of 3,520, and 344 in
    passes of 7,040. A GPU's self-test measures how many pay there (`Settled.pass_tokens`); before it, and for PEFT's
    engine, it is enough for `memory.saturating_slots` with rows of unequal lengths, which was not measured.

    Args:
        base: gives `training.pass_tokens`, which goes before.
        parameters: of the base; None when that is unknown.
        device: the device that trains.
    """
    if base.training.pass_tokens != "auto":
        return base.training.pass_tokens
    is_small = parameters is not None and parameters < 1_000_000_000
    return _SMALL_ON_GPU_TOKENS if device == "cuda" and is_small else TRAINED_TOKENS
