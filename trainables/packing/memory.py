"""Estimates the memory of a sweep on the device that trains, and how many slots fit. Uses arithmetic, no torch.

A host holds its process, the base, and for each slot the adapter with gradients and optimizer moments. The largest of
five situations comes on top: the end of a training pass, a block in evaluation, the head in evaluation, the writing of
a report (on a CPU), and a pass of new prompts (if answers are scored). The passes are those of the engine that the base
will have. If the engine is unknown, they are those of PEFT's engine, which takes more. Bytes per token, layer and
tensor are derived from the tensors that torch 2.13 and transformers 5.24 save for the backward pass;
`tests/trainables/packing/test_pass_memory.py` counts the same tensors in real passes.

Memory that the backward pass has freed counts in all five, and so do the gradients: the allocators (glibc's and CUDA's)
keep freed memory for tensors of like size, and evaluation's tensors are larger. If an allocator gives memory back, the
estimate is too high. The extra memory during loading is not counted; for a GGUF file it is all weights in fp32.

For several GPUs, the estimate is that of a GPU that holds the most of each part at once, so no GPU holds more: the most
blocks of the base that `spread.places` gives to one GPU, with their adapters and activations; everything outside the
blocks; the logits; and the tensors that a block works with.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from trainables.base import spread
from trainables.contract import Device, Memory, Need, RowShape
from trainables.packing.pass_limits import (
    ANSWERED_ROWS,
    CACHED_TOKENS,
    EVALUATION_TOKENS,
    EXPONENT_TOKENS,
    FLAT,
    GROUPED,
    LOGIT_TOKENS,
    PEFT,
    SHARED_INPUT,
    SHARED_TOKENS,
    TRAINED_TOKENS,
    expected_engine,
    parallel_passes,
    trained_tokens,
)
from trainables.specs import AdapterSpec, ModelFacts, QuantizationSpec, TrialSpec

MAX_SLOTS = 16
"""The most slots that were measured. More gain little, and every slot costs time of the host process."""

TOLD_SLOTS = 64
"""The estimate covers hosts of 1 to this many slots. Each slot above counts as if it trained alone."""

# A host process without a model: Python, torch, transformers, peft, ray and datasets; on a GPU the CUDA context.
_PROCESS_BYTES: Mapping[Device, int] = {"cpu": 670_000_000, "cuda": 500_000_000}
# The most that a dequantised base may take beyond its 4-bit form under `residency: auto`. On a CPU several hosts share
# the memory.
_AUTO_RESIDENCY_BYTES: Mapping[Device, int] = {"cpu": 1_000_000_000, "cuda": 4_000_000_000}
# Per trainable parameter in fp32: its weight, its gradient, and the two moments of AdamW.
_WEIGHT_BYTES, _GRADIENT_BYTES = 4, 4
_OPTIMIZER_BYTES: Mapping[str, int] = {"adamw": 8, "adamw_8bit": 2}
# Per trainable parameter on disk: an adapter in fp32. A snapshot also has both moments.
_ADAPTER_BYTES = 4
MEAN_OF_LONGEST = 0.4
"""Assumed mean row length as a share of data.max_length, for rows not read. GSM8K's rows have 217 tokens under 512."""
_DEVIATIONS = 4.0
"""Standard deviations above the mean tokens of a pass that the estimate allows. About one pass in 30,000 has more."""
# fp32 logits, their log-softmax, and the gradients of both.
_PEFT_TRAINING_LOGIT_BYTES = 16
# By the width of the activations: the logits of the head, their copy in fp32 if they are narrower, their log-softmax.
_PEFT_EVALUATION_LOGIT_BYTES: Mapping[int, int] = {2: 10, 4: 8}
# A chunk takes the logits of the head and, where these are narrower, a copy in fp32, beside the chunk before.
_FLAT_LOGIT_BYTES: Mapping[int, int] = {2: 10, 4: 4}

Shapes = Mapping[str, tuple[int, int]]
"""(in, out) of each linear layer of a block."""
_BLOCK = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PRESETS: Mapping[str, Sequence[str]] = {
    "attention-qv": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all-linear": _BLOCK,
}


def need(  # noqa: PLR0913 - what memory depends on
    base: TrialSpec,
    largest: Sequence[TrialSpec],
    facts: ModelFacts,
    device: Device,
    rows: RowShape | None = None,
    kind: str | None = None,
    gpus: int = 1,
) -> Need:
    """Estimates the bytes of the base and of its slots on `device`, and the number of slots that keep it busy.

    With several GPUs, the bytes are those of the fullest one. `gradient_checkpointing: auto` counts as off; see
    `qlora.settle_auto`.

    Args:
        base: gives quantisation and data, and the batch size for the number of slots.
        largest: the specs of the space that may need the most memory; if empty, `base` itself.
        rows: the shape of the rows; None assumes rows of data.max_length tokens with a label on every token.
        kind: the model type of the base, which decides its engine; None when it is unknown.
        gpus: number of GPUs that share the base; a CPU ignores it.
    """
    trials = list(largest) or [base]
    shape = _shape(base, rows)
    width = _dtype_bytes(base.quantization, device)
    parameters = max(lora_parameters(facts, trial.adapter) for trial in trials)
    engine = expected_engine(base, kind) or PEFT
    share = _share(base, facts, device, gpus, parallel_passes(engine, device))
    tokens_of_pass = trained_tokens(base, facts.parameters, device)
    passed = BaseShape(share.facts, width, engine, kind, device, base.training.engine == GROUPED, tokens_of_pass)
    moments = max(_OPTIMIZER_BYTES[trial.training.optimizer] for trial in trials)
    snapshot = parameters * (_WEIGHT_BYTES + moments)
    # Of the one slot whose snapshot is being written: safetensors 0.8 makes the snapshot and copies it, while the
    # snapshot of the last report is still kept.
    writing = 2 * snapshot if device == "cpu" else 0
    heaviest = [
        max(
            (most for trial in trials for most in _moments(passed, trial, shape, slots, writing)),
            key=attrgetter("total"),
        )
        for slots in range(1, TOLD_SLOTS + 1)
    ]
    adapter = _adapter(max(lora_parameters(share.facts, trial.adapter) for trial in trials), moments, device)
    host = Memory(process=_PROCESS_BYTES[device], base=share.base_bytes)
    tokens = base.training.batch_size * (rows.mean if rows is not None else shape.longest * MEAN_OF_LONGEST)
    return Need(
        base_bytes=host.total,
        slot_bytes=adapter.total,
        step_bytes=heaviest[0].total,
        by_slots=tuple(host.plus(adapter, slots).plus(most) for slots, most in enumerate(heaviest, 1)),
        saturating_slots=saturating_slots(facts.parameters, device, max(1, round(tokens))),
        adapter_bytes=parameters * _ADAPTER_BYTES,
        snapshot_bytes=snapshot,
    )


class _Share(NamedTuple):
    """The part of a base that one GPU holds; the whole base on a single device."""

    facts: ModelFacts
    """Sizes of the base with the number of layers on this GPU. `parameters` counts the whole base."""
    base_bytes: int


def _share(base: TrialSpec, facts: ModelFacts, device: Device, gpus: int, passes: int = 1) -> _Share:
    """Returns the most that one GPU may hold; see the module. Each of the parallel passes may dequantise a layer."""
    width = _dtype_bytes(base.quantization, device)
    whole = _base_bytes(facts, base.quantization, width, passes)
    if is_dequantised(base, facts, device):
        whole = _dequantised_bytes(facts, width)
    if device == "cpu" or gpus == 1:
        return _Share(facts, whole)
    shapes = [inputs * outputs for inputs, outputs in layer_shapes(facts).values()]
    outside = max(0, facts.parameters - facts.layers * sum(shapes)) * width
    block = sum(shapes) * spread.linear_bytes(base.quantization, width)
    count = Counter(spread.places([block] * facts.layers, outside, gpus))
    working = max(shapes) * width  # The layer that is dequantised at a time: one on each GPU.
    of_block = max(0, whole - outside - working) / facts.layers
    most = max(of_block * count[gpu] + (outside if gpu == 0 else 0) for gpu in range(gpus))
    return _Share(facts.model_copy(update={"layers": max(count.values())}), round(most + working))


def _adapter(parameters: int, moments: int, device: Device) -> Memory:
    """Returns the memory that a slot holds at all times after its first report.

    In the memory of a CPU host are also the weight and the moments of a snapshot, and the weight of an adapter.
    """
    return Memory(
        adapters=parameters * _WEIGHT_BYTES,
        gradients=parameters * _GRADIENT_BYTES,
        optimizer=parameters * moments,
        kept=parameters * (2 * _WEIGHT_BYTES + moments) if device == "cpu" else 0,
    )


def _moments(base: BaseShape, trial: TrialSpec, rows: RowShape, slots: int, writing: int) -> Iterator[Memory]:
    """Yields the memory on top in each situation that may be the largest; see the module."""
    training = training_pass(base, trial, rows, slots)
    evaluation = evaluation_pass(base, rows, slots)
    yield Memory(activations=training.saved + training.work, logits=training.logits)
    yield Memory(activations=training.saved + evaluation.work)
    yield Memory(activations=training.saved, logits=evaluation.logits)
    yield Memory(activations=training.saved, kept=writing)
    if trial.evaluation.metrics:
        answering = answering_pass(base, rows, slots, trial.evaluation.max_new_tokens or rows.longest)
        yield Memory(activations=training.saved + answering.work, logits=answering.logits)


def _shape(base: TrialSpec, rows: RowShape | None) -> RowShape:
    """Returns the shape of the rows after the cut to data.max_length; if unknown, that of the longest possible rows."""
    most = base.data_spec.max_length
    if rows is None:
        evaluated = base.data_spec.eval_examples or EVALUATION_TOKENS
        return RowShape(longest=most, mean=most, labelled=1.0, train_rows=1, eval_rows=evaluated)
    longest, of_all = min(most, rows.longest), min(most, rows.longest_of_all)
    return rows.model_copy(update={"longest": longest, "longest_of_all": of_all, "mean": min(most, rows.mean)})


def scoring_bytes(base: TrialSpec, facts: ModelFacts, device: Device, gpus: int = 1) -> int:
    """Estimates the bytes of the base and of one pass without gradients, which keeps the activations of one block.

    With several GPUs, the bytes are those of the fullest one. Scoring on a GPU does not dequantise the base.
    """
    width = _dtype_bytes(base.quantization, device)
    in_4_bits = base.model_copy(update={"quantization": base.quantization.model_copy(update={"residency": "4bit"})})
    stays = base if device == "cpu" else in_4_bits
    tokens = max(EVALUATION_TOKENS, base.data_spec.max_length)
    passed = _scoring_pass(facts, base.adapter, width, tokens)
    return _PROCESS_BYTES[device] + _share(stays, facts, device, gpus).base_bytes + passed


def weight_bytes(facts: ModelFacts, quantization: QuantizationSpec) -> int:
    """Estimates the bytes of the frozen weights on a server with a GPU that does not dequantise the base."""
    return _base_bytes(facts, quantization, _dtype_bytes(quantization, "cuda"), passes=0)


def is_dequantised(base: TrialSpec, facts: ModelFacts, device: Device) -> bool:
    """Tells whether the 4-bit base of `base` is dequantised once; see `QuantizationSpec.residency`."""
    quantization = base.quantization
    if not quantization.traits.is_quantised or quantization.residency == "4bit":
        return False
    width = _dtype_bytes(quantization, device)
    more = _dequantised_bytes(facts, width) - _base_bytes(facts, quantization, width)
    return quantization.residency == "dequantised" or more <= _AUTO_RESIDENCY_BYTES[device]


def saturating_slots(parameters: int, device: Device, tokens_per_step: int) -> int:
    """Returns the number of slots, 1 to 16, above which more slots do not train faster.

    A GPU is busy with about 2,500 tokens per pass if the model has a billion parameters or more, and with about 8,000
    if it is smaller, since launching kernels then takes most of a step. On a CPU more than about 500 tokens gain
    little and cost memory: SmolLM2-135M at 220 tokens per slot gained 20 % from one slot to two, and 7 % from two to
    four.

    Args:
        tokens_per_step: tokens of one micro-batch of one slot, padding not counted.
    """
    gpu_tokens = 2_500 if parameters >= 1_000_000_000 else 8_000
    busy_tokens = 500 if device == "cpu" else gpu_tokens
    return min(MAX_SLOTS, math.ceil(busy_tokens / tokens_per_step))


def _dtype_bytes(quantization: QuantizationSpec, device: Device) -> int:
    if quantization.compute_dtype == "auto":
        return 2 if device == "cuda" else 4
    return 4 if quantization.compute_dtype == "float32" else 2


def _base_bytes(facts: ModelFacts, quantization: QuantizationSpec, width: int, passes: int = 1) -> int:
    """Estimates the bytes of the frozen weights. Weights that are not quantised take `width` bytes each.

    The linear layers of the blocks are quantised. Each of the parallel passes has one whole layer dequantised.
    """
    if not quantization.traits.is_quantised:
        return _dequantised_bytes(facts, width)
    shapes = [inputs * outputs for inputs, outputs in layer_shapes(facts).values()]
    linear = min(facts.layers * sum(shapes), facts.parameters)
    held = round(linear * quantization.traits.linear_bytes(quantization.double_quant))
    return held + (facts.parameters - linear) * width + passes * max(shapes) * width


def loaded_bytes(facts: ModelFacts, quantization: QuantizationSpec) -> int:
    """Estimates the bytes that a host reads and writes before its base is ready, from weights of 16 bits."""
    # A quantised base is written to the cache once and loaded from there (`base_model.load`).
    made = _base_bytes(facts, quantization, 2, passes=0) if quantization.traits.is_quantised else 0
    return 2 * (facts.parameters + made)


def _dequantised_bytes(facts: ModelFacts, width: int) -> int:
    """Estimates the bytes of weights that are not quantised, or not any more."""
    return facts.parameters * width


# Passes


class Pass(NamedTuple):
    """Bytes of a pass beside the base and the adapters."""

    saved: int
    """Tensors that autograd saves for the backward pass; 0 in evaluation."""
    work: int
    """Other tensors that one block works with: gradients in the backward pass, activations in evaluation."""
    logits: int


class BaseShape(NamedTuple):
    """The base and the engine that compute the passes."""

    facts: ModelFacts
    width: int
    """Bytes of an activation."""
    engine: str
    kind: str | None
    """Model type of the base; None if unknown."""
    device: Device
    is_grouped: bool = False
    """Whether the flat engine computes all adapters together; see `FlatEngine`."""
    pass_tokens: int = TRAINED_TOKENS
    """See `pass_limits.trained_tokens`."""


def training_pass(base: BaseShape, trial: TrialSpec, rows: RowShape, slots: int) -> Pass:
    """Estimates the largest training pass that a sweep may meet with `slots` trials like `trial`."""
    facts, count = base.facts, slots * trial.training.batch_size
    if base.engine == FLAT:
        passes = min(slots, parallel_passes(FLAT, base.device))
        own = passes * most_tokens(rows, trial.training.batch_size)
        limit = max(base.pass_tokens, own)
        tokens = min(limit, most_tokens(rows, count))
        block = tokens * _flat_saved(base, trial.adapter) + slots * _copied_matrices(base, trial.adapter)
        if base.is_grouped:  # Rows lie side by side, each as long as the longest.
            block += (rows.longest / rows.mean - 1) * tokens * _attended(base)
        # DoRA measures the rows of one weight at a time, in fp32 and beside the frozen weight in fp32.
        measured = 8 * max(map(math.prod, layer_shapes(facts).values())) if trial.adapter.use_dora else 0
        work = tokens * _flat_work(base) + passes * measured
        logits = _flat_logits(base, tokens * rows.labelled, passes)
    else:
        own = trial.training.batch_size * rows.longest
        tokens = min(slots * own, max(base.pass_tokens, own))
        block, work = tokens * peft_saved(facts, trial.adapter, base.width), 0.0
        logits = tokens * rows.labelled * _PEFT_TRAINING_LOGIT_BYTES
    saved = facts.layers * block
    if trial.training.gradient_checkpointing is True:
        saved = facts.layers * tokens * facts.hidden_size * base.width + block
    return Pass(round(saved), round(work), round(facts.vocab_size * logits))


def evaluation_pass(base: BaseShape, rows: RowShape, slots: int) -> Pass:
    """Estimates an evaluation pass of `slots` slots.

    In the flat engine, as many slots share a pass as `SHARED_TOKENS` allows. For PEFT's engine all slots count in one
    pass, as in the measurements; a host takes less.
    """
    if base.engine == FLAT:
        passes, shared = parallel_passes(FLAT, base.device), _sharing(base, rows, slots) * _evaluated(rows)
        tokens = min(passes * shared, max(shared, slots * rows.eval_rows * rows.mean))
        work = tokens * _flat_work(base) + passes * _merged_weight(base)
        logits = _flat_logits(base, tokens * rows.labelled, passes)
    else:
        work, logits = 0.0, slots * _evaluated(rows) * rows.labelled * _PEFT_EVALUATION_LOGIT_BYTES[base.width]
    return Pass(0, round(work), round(base.facts.vocab_size * logits))


def answering_pass(base: BaseShape, rows: RowShape, slots: int, most: int) -> Pass:
    """Estimates a pass of new prompts beside the keys and values of all rows that are answered at the same time.

    Args:
        most: the most tokens of an answer.
    """
    facts, tokens = base.facts, rows.longest + most
    count = min(ANSWERED_ROWS[base.device], slots * rows.eval_rows, max(1, CACHED_TOKENS[base.device] // tokens))
    keys = count * tokens * facts.layers * 2 * layer_shapes(facts)["k_proj"][1] * base.width
    passed = count * rows.longest
    if base.engine == FLAT:
        passed = min(passed, max(rows.longest, SHARED_TOKENS[base.device]))
    # The logits, their copy in fp32, and the noise for drawing tokens.
    return Pass(0, round(keys + passed * _flat_work(base)), round(count * facts.vocab_size * (base.width + 8)))


def _scoring_pass(facts: ModelFacts, adapter: AdapterSpec, width: int, tokens: int) -> int:
    """Estimates a pass of PEFT's own model without gradients, which keeps the activations of one block."""
    return tokens * (peft_saved(facts, adapter, width) + facts.vocab_size * _PEFT_EVALUATION_LOGIT_BYTES[width])


def most_tokens(rows: RowShape, count: int) -> float:
    """Estimates the most tokens that `count` rows, drawn at random, have together in a step of a sweep.

    The standard deviation of a sum of independent rows grows with the square root of their count. If the deviation of a
    row is unknown, it counts as the largest possible for this mean and this longest row (Bhatia and Davis, American
    Mathematical Monthly 107, 2000).
    """
    largest = math.sqrt(rows.mean * (rows.longest - rows.mean))
    deviation = largest if rows.deviation is None else min(largest, rows.deviation)
    return min(count * rows.longest, count * rows.mean + _DEVIATIONS * math.sqrt(count) * deviation)


def _evaluated(rows: RowShape) -> float:
    """Estimates the tokens of an adapter's largest evaluation pass without padding; see `passes.evaluation_passes`."""
    longest = max(rows.longest, rows.longest_of_all)
    if rows.eval_rows * rows.mean > EVALUATION_TOKENS:
        return max(EVALUATION_TOKENS, longest)
    return max(longest, min(rows.eval_rows, max(1, EVALUATION_TOKENS // longest)) * rows.mean)


def _sharing(base: BaseShape, rows: RowShape, slots: int) -> int:
    """Estimates how many of `slots` slots share an evaluation pass; see `passes.share_passes`."""
    padded = max(1, min(rows.eval_rows, EVALUATION_TOKENS // rows.longest)) * rows.longest
    return min(slots, max(1, SHARED_TOKENS[base.device] // padded))


def _merged_weight(base: BaseShape) -> int:
    """Returns the bytes of the largest layer with an adapter merged into it; 0 unless activations are fp32."""
    return 4 * max(math.prod(shape) for shape in layer_shapes(base.facts).values()) if base.width == 4 else 0


def _flat_saved(base: BaseShape, adapter: AdapterSpec) -> int:
    """Returns the bytes per token that autograd saves of one block in the flat engine.

    The frozen part saves the input of each norm in fp32, and its scale; queries, keys, values, the output of attention
    and its normaliser for each head; gate, activation, up and product of the MLP. The adapters (`lora_product`) save
    the input of the adapted layers, once for layers that share an input; the product x A^T of each layer; and with
    dropout the factors. A frozen plain linear layer saves no activation.
    """
    facts, width = base.facts, base.width
    shapes = layer_shapes(facts)
    norms = 2 * (facts.hidden_size + 1) * 4
    frozen = _attended(base) + 3 * facts.intermediate_size * width
    names = adapted_layers(shapes, adapter)
    kept = sum(shapes[name][0] for name in {SHARED_INPUT.get(name, name) for name in names})
    factors = sum(shapes[name][0] for name in names) if adapter.lora_dropout > 0 else 0
    dora = _dora_saved(shapes, adapter)
    return norms + frozen + _more_saved(base) + (kept + factors + dora + len(names) * adapter.r) * width


def _dora_saved(of_block: Shapes, adapter: AdapterSpec) -> int:
    """Returns the numbers per token that DoRA saves of a block: outputs of its layers, and with dropout inputs."""
    names = adapted_layers(of_block, adapter) if adapter.use_dora else ()
    return sum(of_block[name][1] + (of_block[name][0] if adapter.lora_dropout > 0 else 0) for name in names)


def _attended(base: BaseShape) -> int:
    """Returns the bytes per token that attention saves: queries, keys, values, output, and a normaliser per head."""
    shapes = layer_shapes(base.facts)
    attention, shared = shapes["q_proj"][1], shapes["k_proj"][1]
    if base.device == "cuda" and base.width == 4:
        shared = attention  # See `flat_attention.takes_fewer_keys`.
    return (2 * attention + 2 * shared) * base.width + 4 * base.facts.attention_heads


def _more_saved(base: BaseShape) -> int:
    """Returns the bytes per token that a block of the base's kind saves beyond a Llama block.

    Qwen 3 and Gemma 3 have norms of queries and keys, in fp32; Gemma 3 has two more norms in each block. Phi 3 has
    queries, keys and values in one tensor; the saved values keep the whole tensor alive.
    """
    facts = base.facts
    shapes = layer_shapes(facts)
    both = shapes["q_proj"][1] + shapes["k_proj"][1]
    of_heads = 4 * (both + facts.attention_heads + facts.key_value_heads)
    more = {"qwen3": of_heads, "gemma3_text": of_heads + 8 * (facts.hidden_size + 1), "phi3": both * base.width}
    return more.get(base.kind or "", 0)


def _copied_matrices(base: BaseShape, adapter: AdapterSpec) -> int:
    """Returns the bytes of copies of an adapter's matrices in one block; 0 without copies."""
    parameters = lora_parameters(base.facts, adapter) // base.facts.layers
    if base.is_grouped:  # The stacks, their gradients, and at the end of the backward pass each adapter's gradients.
        return parameters * (2 * base.width + 4)
    return 0 if base.width == 4 else parameters * base.width


def _flat_work(base: BaseShape) -> int:
    """Returns the bytes per token of the tensors that a block works with beside the saved ones.

    In evaluation these are activation, up, product and input of the MLP, the residual, and the block's input and the
    embedding, which the model holds while the block runs. In the backward pass they are as many gradients or fewer.
    """
    return (4 * base.facts.hidden_size + 3 * base.facts.intermediate_size) * base.width


def _flat_logits(base: BaseShape, labels: float, passes: int) -> float:
    """Returns the bytes of the heads of parallel passes, per entry of the vocabulary; see `flat_engine`.

    Args:
        base: gives the width of the logits.
        labels: labelled tokens of these passes together.
        passes: number of parallel passes.
    """
    own = labels / passes
    return passes * (min(LOGIT_TOKENS, own) * _FLAT_LOGIT_BYTES[base.width] + min(EXPONENT_TOKENS, own) * 4)


def peft_saved(facts: ModelFacts, adapter: AdapterSpec, width: int) -> int:
    """Estimates the bytes per token that autograd saves of one Llama block of transformers with PEFT's layers.

    The frozen part saves the inputs of both norms (also in fp32 if the base is narrower), queries, keys and values for
    every head, the output of attention, and the gate, activation and product of the MLP. PEFT saves the input of each
    adapted layer in fp32, and with dropout as many bytes again for the mask.
    """
    shapes = layer_shapes(facts)
    attention, hidden, inner = shapes["q_proj"][1], facts.hidden_size, facts.intermediate_size
    frozen = (2 * hidden + 4 * attention + 3 * inner) * width + (8 * hidden if width < 4 else 0)
    inputs = sum(shapes[name][0] for name in adapted_layers(shapes, adapter))
    # With DoRA also both products that it scales and the scaled one, in fp32.
    return frozen + inputs * (8 if adapter.lora_dropout > 0 else 4) + 12 * _dora_saved(shapes, adapter)


# Blocks


def layer_shapes(facts: ModelFacts) -> Shapes:
    """Returns (in, out) of the linear layers of a Llama block, also with grouped-query attention."""
    head = facts.head_dim or facts.hidden_size // facts.attention_heads
    attention, shared = facts.attention_heads * head, facts.key_value_heads * head
    hidden, inner = facts.hidden_size, facts.intermediate_size
    return {
        "q_proj": (hidden, attention),
        "k_proj": (hidden, shared),
        "v_proj": (hidden, shared),
        "o_proj": (attention, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def adapted_layers(of_block: Shapes, spec: AdapterSpec) -> Sequence[str]:
    """Returns the layers of a block that an adapter changes; all of them if a name is not one of Llama's."""
    if isinstance(spec.target_modules, str):
        return _PRESETS.get(spec.target_modules, _BLOCK)
    names = {name.rpartition(".")[2] for name in spec.target_modules}
    return sorted(names) if names <= of_block.keys() else _BLOCK


def lora_parameters(facts: ModelFacts, spec: AdapterSpec) -> int:
    """Counts the trainable parameters of an adapter, exact for a Llama-like model.

    They are r x (in + out) per adapted layer, and with DoRA the length of each row.
    """
    shapes = list(map(layer_shapes(facts).__getitem__, adapted_layers(layer_shapes(facts), spec)))
    lengths = sum(outs for _, outs in shapes) if spec.use_dora else 0
    return facts.layers * (spec.r * sum(map(sum, shapes)) + lengths)
