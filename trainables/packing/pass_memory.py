"""Estimates the memory of the passes of an engine: what autograd saves, what a block works with, and the logits.

Uses arithmetic, no torch. Bytes per token, layer and tensor are derived from what torch 2.13 and transformers 5.24 save
for the backward pass; `tests/trainables/packing/test_pass_memory.py` counts the same tensors in real passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from trainables.contract import Device, RowShape
from trainables.packing import blocks
from trainables.packing.engines import FLAT
from trainables.specs import AdapterSpec, ModelFacts, TrialSpec

EVALUATION_TOKENS = 2048
"""The most tokens per slot in one evaluation pass. It is fixed, so that results do not depend on the machine."""
SHARED_TOKENS: Mapping[str, int] = {"cpu": EVALUATION_TOKENS, "cuda": 8 * EVALUATION_TOKENS}
"""The most tokens of all slots in one evaluation pass, by device. More are no faster on a CPU, and leave its caches: a
token took 4 % more time with 3,470 of them than with 1,735. On a GPU these keep any model busy; see
`memory.saturating_slots`."""
AT_ONCE: Mapping[str, int] = {"cpu": 2, "cuda": 1}
"""Passes of the flat engine that run at the same time, by device; see `at_once`. Fixed, as EVALUATION_TOKENS is. More
than two were not measured."""
TRAINED_TOKENS = 4096
"""See `trained_tokens`."""
_SMALL_ON_GPU_TOKENS = 4 * TRAINED_TOKENS
CHUNK_TOKENS = 512
"""Tokens whose logits exist at one time in the flat engine."""
_DEVIATIONS = 4.0
"""How far above its mean a sum of random rows is looked for: about one of 30,000 passes goes beyond."""
FEW_TOKENS = 64
"""Tokens whose exponentials exist at one time in the flat engine: so they stay in the cache of a CPU."""

# fp32 logits, their log-softmax, and the gradients of both.
_PEFT_TRAINING_LOGIT_BYTES = 16
# By the width of the activations: the logits of the head, their copy in fp32 if they are narrower, their log-softmax.
_PEFT_EVALUATION_LOGIT_BYTES: Mapping[int, int] = {2: 10, 4: 8}
# Of a chunk: the logits of the head, and if they are narrower their copy in fp32, beside that of the chunk before.
_FLAT_LOGIT_BYTES: Mapping[int, int] = {2: 10, 4: 4}
# Layers that have the input of another one.
_SHARED_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


class Pass(NamedTuple):
    """What a pass takes beside the base and the adapters, in bytes."""

    saved: int
    """Tensors that autograd saves for the backward pass; 0 in evaluation."""
    work: int
    """Tensors that one block works with beside those: in the backward pass gradients, in evaluation activations."""
    logits: int


class Base(NamedTuple):
    """The base that the passes go through."""

    facts: ModelFacts
    width: int
    """Bytes of an activation."""
    engine: str
    kind: str | None
    """Its model type; None when that is unknown."""
    device: Device


def training(base: Base, trial: TrialSpec, rows: RowShape, slots: int) -> Pass:
    """Estimates the largest pass of a micro-batch of `slots` trials like `trial`, as a sweep may meet it."""
    facts, count = base.facts, slots * trial.training.batch_size
    if base.engine == FLAT:
        passes = min(slots, AT_ONCE[base.device])
        own = passes * most_tokens(rows, trial.training.batch_size)
        limit = max(trained_tokens(facts.parameters, base.device), own)
        tokens = min(limit, most_tokens(rows, count))
        block = tokens * _flat_saved(base, trial.adapter) + slots * _copied_matrices(base, trial.adapter)
        work = tokens * _flat_work(base)
        logits = _flat_logits(base, tokens * rows.labelled, passes)
    else:
        own = trial.training.batch_size * rows.longest
        tokens = min(slots * own, max(trained_tokens(facts.parameters, base.device), own))
        block, work = tokens * peft_saved(facts, trial.adapter, base.width), 0.0
        logits = tokens * rows.labelled * _PEFT_TRAINING_LOGIT_BYTES
    saved = facts.layers * block
    if trial.training.gradient_checkpointing is True:
        saved = facts.layers * tokens * facts.hidden_size * base.width + block
    return Pass(round(saved), round(work), round(facts.vocab_size * logits))


def evaluation(base: Base, rows: RowShape, slots: int) -> Pass:
    """Estimates an evaluation pass of `slots` slots.

    In the flat engine as many share it as `SHARED_TOKENS` lets. For PEFT's engine all do, as when it was measured: a
    host takes less.
    """
    if base.engine == FLAT:
        passes, shared = AT_ONCE[base.device], _sharing(base, rows, slots) * _evaluated(rows)
        tokens = min(passes * shared, max(shared, slots * rows.eval_rows * rows.mean))
        work = tokens * _flat_work(base) + passes * _merged_weight(base)
        logits = _flat_logits(base, tokens * rows.labelled, passes)
    else:
        work, logits = 0.0, slots * _evaluated(rows) * rows.labelled * _PEFT_EVALUATION_LOGIT_BYTES[base.width]
    return Pass(0, round(work), round(base.facts.vocab_size * logits))


def scoring(facts: ModelFacts, adapter: AdapterSpec, width: int, tokens: int) -> int:
    """Estimates a pass of PEFT's own model without gradients, which keeps the activations of one block."""
    return tokens * (peft_saved(facts, adapter, width) + facts.vocab_size * _PEFT_EVALUATION_LOGIT_BYTES[width])


def at_once(engine: str, device: Device) -> int:
    """Returns the number of passes that an engine runs at the same time."""
    return AT_ONCE[device] if engine == FLAT else 1


def trained_tokens(parameters: int | None, device: Device) -> int:
    """Returns the most tokens that trials share in one pass of a step; a trial's own micro-batch may have more.

    When more trials are due, they train in several passes: more tokens at once are no faster, and take memory.
    SmolLM2-135M on 2 cores trained 389 tokens a second in passes of about 1,760, 381 in passes of 3,520, and 344 in
    passes of 7,040. On a GPU it is enough for `memory.saturating_slots` with rows of unequal lengths; that was not
    measured. It does not depend on the memory that is free, so neither do results.

    Args:
        parameters: of the base; None when that is unknown.
        device: the device that trains.
    """
    is_small = parameters is not None and parameters < 1_000_000_000
    return _SMALL_ON_GPU_TOKENS if device == "cuda" and is_small else TRAINED_TOKENS


def most_tokens(rows: RowShape, count: int) -> float:
    """Estimates the most tokens that `count` rows, drawn at random, have together in a step of a sweep.

    A sum of independent rows has a deviation that grows with the square root of their count. Where the deviation is not
    known, it is the largest that rows with this mean and this longest one can have (Bhatia and Davis, American
    Mathematical Monthly 107, 2000).
    """
    largest = math.sqrt(rows.mean * (rows.longest - rows.mean))
    deviation = largest if rows.deviation is None else min(largest, rows.deviation)
    return min(count * rows.longest, count * rows.mean + _DEVIATIONS * math.sqrt(count) * deviation)


def _evaluated(rows: RowShape) -> float:
    """Estimates the tokens of the largest evaluation pass of an adapter without padding; see `batches.chunks`."""
    longest = max(rows.longest, rows.longest_of_all)
    if rows.eval_rows * rows.mean > EVALUATION_TOKENS:
        return max(EVALUATION_TOKENS, longest)
    return max(longest, min(rows.eval_rows, max(1, EVALUATION_TOKENS // longest)) * rows.mean)


def _sharing(base: Base, rows: RowShape, slots: int) -> int:
    """Estimates how many of `slots` slots share an evaluation pass; see `batches.sharing`."""
    padded = max(1, min(rows.eval_rows, EVALUATION_TOKENS // rows.longest)) * rows.longest
    return min(slots, max(1, SHARED_TOKENS[base.device] // padded))


def _merged_weight(base: Base) -> int:
    """Returns the bytes of the largest layer with an adapter added to it, which evaluation has in fp32."""
    return 4 * max(math.prod(shape) for shape in blocks.shapes(base.facts).values()) if base.width == 4 else 0


def _flat_saved(base: Base, adapter: AdapterSpec) -> int:
    """Returns the bytes per token that autograd saves of one block in the flat engine.

    Of the frozen part: the input of each norm in fp32, and its scale; queries, keys, values, the output of attention
    and its normaliser for each head; gate, activation, up and product of the MLP. Of the adapters (`lora_product`): the
    input of the adapted layers, once where they share it, and the product x A^T of each; with dropout its factors.
    A plain linear layer that is frozen saves no activation.
    """
    facts, width = base.facts, base.width
    shapes = blocks.shapes(facts)
    attention, shared = shapes["q_proj"][1], shapes["k_proj"][1]
    if base.device == "cuda" and width == 4:
        shared = attention  # See `flat_attention.takes_fewer_keys`.
    norms = 2 * (facts.hidden_size + 1) * 4
    frozen = (2 * attention + 2 * shared + 3 * facts.intermediate_size) * width + 4 * facts.attention_heads
    names = blocks.targets(shapes, adapter)
    kept = sum(shapes[name][0] for name in {_SHARED_INPUT.get(name, name) for name in names})
    factors = sum(shapes[name][0] for name in names) if adapter.lora_dropout > 0 else 0
    return norms + frozen + _more_saved(base) + (kept + factors + len(names) * adapter.r) * width


def _more_saved(base: Base) -> int:
    """Returns what a block of the base's kind saves per token beyond a Llama block.

    Qwen 3 and Gemma 3 have norms of queries and keys, in fp32; Gemma 3 has two more norms in each block. Phi 3 has
    queries, keys and values in one tensor, which the values keep as a whole.
    """
    facts = base.facts
    shapes = blocks.shapes(facts)
    both = shapes["q_proj"][1] + shapes["k_proj"][1]
    of_heads = 4 * (both + facts.attention_heads + facts.key_value_heads)
    more = {"qwen3": of_heads, "gemma3_text": of_heads + 8 * (facts.hidden_size + 1), "phi3": both * base.width}
    return more.get(base.kind or "", 0)


def _copied_matrices(base: Base, adapter: AdapterSpec) -> int:
    """Returns the bytes of an adapter's matrices as activations are, in one block; 0 where they are not copied."""
    if base.width == 4:
        return 0
    return blocks.lora_parameters(base.facts, adapter) // base.facts.layers * base.width


def _flat_work(base: Base) -> int:
    """Returns the bytes per token of what a block works with beside what is saved.

    In evaluation: activation, up and product of the MLP, its input, the residual, and what the model holds on to while
    the block runs, the block's input and the embedding. In the backward pass as many gradients or fewer.
    """
    return (4 * base.facts.hidden_size + 3 * base.facts.intermediate_size) * base.width


def _flat_logits(base: Base, labels: float, passes: int) -> float:
    """Returns the bytes per entry of the vocabulary that the heads of passes at the same time take; see `head_loss`.

    Args:
        base: gives the width of the logits.
        labels: labelled tokens of these passes together.
        passes: how many they are.
    """
    own = labels / passes
    return passes * (min(CHUNK_TOKENS, own) * _FLAT_LOGIT_BYTES[base.width] + min(FEW_TOKENS, own) * 4)


def peft_saved(facts: ModelFacts, adapter: AdapterSpec, width: int) -> int:
    """Estimates the bytes per token that autograd saves of one Llama block of transformers with PEFT's layers.

    The frozen part saves the inputs of both norms (also in fp32 if the base is narrower), queries, keys and values for
    every head, the output of attention, and the gate, activation and product of the MLP. PEFT saves the input of each
    adapted layer in fp32, and with dropout as many bytes again for the mask.
    """
    shapes = blocks.shapes(facts)
    attention, hidden, inner = shapes["q_proj"][1], facts.hidden_size, facts.intermediate_size
    frozen = (2 * hidden + 4 * attention + 3 * inner) * width + (8 * hidden if width < 4 else 0)
    inputs = sum(shapes[name][0] for name in blocks.targets(shapes, adapter))
    return frozen + inputs * (8 if adapter.lora_dropout > 0 else 4)
