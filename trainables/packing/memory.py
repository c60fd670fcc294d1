"""Estimates the memory of a sweep on the device that trains, and how many slots fit. Uses arithmetic, no torch.

The formulas describe a Llama-like block trained through PEFT 0.21 with fp32 adapters, as the reference engine does it.
The flat engine keeps less: no padding, one copy of a layer's inputs, the logits of 512 tokens at a time. By how much
was not measured. The formulas were compared with a CPU process that trained and evaluated SmolLM2-135M (nf4 and
unquantised, fp32 and bf16, one and two adapters on q, v and on all linear layers, with and without dropout; 4 rows of
110 tokens): the estimate is 1 to 9 % above the peak. For an 8B model in bf16 the estimated activations are 79 bytes per
token, layer and unit of hidden size; 74 to 81 were measured.
The extra memory during loading is not counted. For a GGUF file it is all of its weights in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trainables.contract import Device, Memory, Need, RowShape
from trainables.specs import AdapterSpec, ModelFacts, QuantizationSpec, TrialSpec

MAX_SLOTS = 16
"""The most slots that were measured. More gain little, and every slot costs time of the host process."""

# A host process without a model: Python, torch, transformers, peft, ray and datasets; on a GPU the CUDA context.
_PROCESS_BYTES: Mapping[Device, int] = {"cpu": 670_000_000, "cuda": 500_000_000}
# The most that a dequantised base may take beyond its 4-bit form under `residency: auto`. On a CPU several hosts share
# the memory.
_AUTO_RESIDENCY_BYTES: Mapping[Device, int] = {"cpu": 1_000_000_000, "cuda": 4_000_000_000}
# Per trainable parameter in fp32: its weight, its gradient, and the two moments of AdamW.
_WEIGHT_BYTES, _GRADIENT_BYTES, _OPTIMIZER_BYTES = 4, 4, 8
# Per trainable parameter in the memory of the host: weight and moments in a snapshot, and the weight in an adapter.
_KEPT_BYTES = 16
# Per trainable parameter on disk: an adapter in fp32; a snapshot, which also has both moments.
_ADAPTER_BYTES = 4
_SNAPSHOT_BYTES = 12
# fp32 logits, their log-softmax, and the gradients of both.
_TRAINING_LOGIT_BYTES = 16
# By the width of the activations: the logits of the head, their copy in fp32 if they are narrower, their log-softmax.
_EVALUATION_LOGIT_BYTES: Mapping[int, int] = {2: 10, 4: 8}
EVALUATION_TOKENS = 2048
"""The most tokens per slot in one evaluation pass. It is fixed, so that results do not depend on the machine."""

# GSM8K's rows average 217 tokens under a max_length of 512.
_MEAN_OF_LONGEST = 0.4
_BLOCK = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PRESETS: Mapping[str, Sequence[str]] = {
    "attention-qv": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all-linear": _BLOCK,
}


def need(
    base: TrialSpec, largest: Sequence[TrialSpec], facts: ModelFacts, device: Device, rows: RowShape | None = None
) -> Need:
    """Estimates the bytes of the base and of one slot on `device`, and the number of slots that keep it busy.

    `gradient_checkpointing: auto` counts as off; see `checkpointing`.

    Args:
        base: gives quantisation and data, and the batch size for the number of slots.
        largest: the specs of the space that may need the most memory; if empty, `base` itself.
        facts: sizes of the model.
        device: the device that trains.
        rows: the shape of the rows; None assumes rows of data.max_length tokens with a label on every token.
    """
    trials = list(largest) or [base]
    shape = _shape(base, rows)
    width = _dtype_bytes(base.quantization, device)
    parameters = max(lora_parameters(facts, trial.adapter) for trial in trials)
    passes = [_pass(facts, trial, shape, width) for trial in trials]
    heaviest = max(passes, key=lambda memory: memory.total)
    kept = _KEPT_BYTES if device == "cpu" else 0
    slot = heaviest.model_copy(
        update={
            "adapters": parameters * _WEIGHT_BYTES,
            "gradients": parameters * _GRADIENT_BYTES,
            "optimizer": parameters * _OPTIMIZER_BYTES,
            "kept": parameters * kept,
        }
    )
    weights = _dequantised_bytes(facts, width) if is_dequantised(base, facts, device) else None
    host = Memory(process=_PROCESS_BYTES[device], base=weights or _base_bytes(facts, base.quantization, width))
    tokens = base.training.batch_size * (rows.mean if rows is not None else shape.longest * _MEAN_OF_LONGEST)
    return Need(
        base_bytes=host.total,
        slot_bytes=slot.adapters + slot.gradients + slot.optimizer + slot.kept,
        step_bytes=heaviest.total,
        host=host,
        slot=slot,
        saturating_slots=saturating_slots(facts.parameters, device, max(1, round(tokens))),
        adapter_bytes=parameters * _ADAPTER_BYTES,
        snapshot_bytes=parameters * _SNAPSHOT_BYTES,
    )


def _shape(base: TrialSpec, rows: RowShape | None) -> RowShape:
    """Returns the shape of the rows after the cut to data.max_length; if unknown, that of the longest possible rows."""
    most = base.data_spec.max_length
    if rows is None:
        evaluated = base.data_spec.eval_examples or EVALUATION_TOKENS
        return RowShape(longest=most, mean=most, labelled=1.0, train_rows=1, eval_rows=evaluated)
    return rows.model_copy(update={"longest": min(most, rows.longest), "mean": min(most, rows.mean)})


def lora_parameters(facts: ModelFacts, spec: AdapterSpec) -> int:
    """Counts the trainable parameters of an adapter: r x (in + out) per adapted layer, exact for a Llama-like model."""
    shapes = _shapes(facts)
    per_layer = sum(sum(shapes[name]) for name in _targets(shapes, spec))
    return facts.layers * spec.r * per_layer


def scoring_bytes(base: TrialSpec, facts: ModelFacts, device: Device) -> int:
    """Estimates the bytes of the base and of one pass without gradients, which keeps the activations of one block."""
    width = _dtype_bytes(base.quantization, device)
    per_token = _activation_bytes(facts, base.adapter, width) + facts.vocab_size * _EVALUATION_LOGIT_BYTES[width]
    tokens = max(EVALUATION_TOKENS, base.data_spec.max_length)
    return _PROCESS_BYTES[device] + _base_bytes(facts, base.quantization, width) + tokens * per_token


def is_dequantised(base: TrialSpec, facts: ModelFacts, device: Device) -> bool:
    """Tells whether the 4-bit base of `base` is dequantised once; see `QuantizationSpec.residency`."""
    quantization = base.quantization
    if quantization.scheme == "none" or quantization.residency == "4bit":
        return False
    width = _dtype_bytes(quantization, device)
    more = _dequantised_bytes(facts, width) - _base_bytes(facts, quantization, width)
    return quantization.residency == "dequantised" or more <= _AUTO_RESIDENCY_BYTES[device]


def saturating_slots(parameters: int, device: Device, tokens_per_step: int) -> int:
    """Returns the number of slots, 1 to 16, above which more slots do not train faster.

    A GPU is busy with about 2,500 tokens per pass if the model has a billion parameters or more, and with about 8,000
    if it is smaller, since launching kernels then takes most of a step. On a CPU more than about 1,000 tokens gain
    little: SmolLM2-135M at 220 tokens per slot gained 20 % from one slot to two, and 7 % from two to four.

    Args:
        parameters: number of parameters of the base model.
        device: the device that trains.
        tokens_per_step: tokens of one micro-batch of one slot, padding not counted.
    """
    gpu_tokens = 2_500 if parameters >= 1_000_000_000 else 8_000
    busy_tokens = 1_000 if device == "cpu" else gpu_tokens
    return min(MAX_SLOTS, math.ceil(busy_tokens / tokens_per_step))


def checkpointing(need: Need, free_bytes: int) -> bool:
    """Tells whether `gradient_checkpointing: auto` means on, because not even one slot fits without it.

    Args:
        need: the estimate without checkpointing.
        free_bytes: the memory that may be used, before the base is loaded.
    """
    return need.total(1) > free_bytes


def _dtype_bytes(quantization: QuantizationSpec, device: Device) -> int:
    if quantization.compute_dtype == "auto":
        return 2 if device == "cuda" else 4
    return 4 if quantization.compute_dtype == "float32" else 2


def _base_bytes(facts: ModelFacts, quantization: QuantizationSpec, width: int) -> int:
    """Estimates the bytes of the frozen weights. Weights that are not quantised take `width` bytes each.

    bitsandbytes 0.50 quantises the linear layers of the blocks to half a byte per parameter, plus a constant per 64
    parameters. The constant is fp32, or with double quantisation one byte plus an fp32 constant per 256 of them (QLoRA,
    arXiv 2305.14314, section 3). One whole layer at a time is dequantised.
    """
    if quantization.scheme == "none":
        return _dequantised_bytes(facts, width)
    shapes = [inputs * outputs for inputs, outputs in _shapes(facts).values()]
    linear = min(facts.layers * sum(shapes), facts.parameters)
    constants = (1 + 4 / 256) / 64 if quantization.double_quant else 4 / 64
    return round(linear * (0.5 + constants)) + (facts.parameters - linear) * width + max(shapes) * width


def _dequantised_bytes(facts: ModelFacts, width: int) -> int:
    """Estimates the bytes of weights that are not quantised, or not any more."""
    return facts.parameters * width


def _pass(facts: ModelFacts, trial: TrialSpec, rows: RowShape, width: int) -> Memory:
    """Estimates the bytes of one slot's passes in training, with rows as long as the longest, and in evaluation.

    The activations of training and the logits of evaluation are added although they are not used together: their sizes
    differ so much that glibc does not reuse the freed memory of one for the other.
    """
    per_layer = _activation_bytes(facts, trial.adapter, width)
    if trial.training.gradient_checkpointing is True:
        activations = facts.layers * facts.hidden_size * width + per_layer
    else:
        activations = facts.layers * per_layer
    training = trial.training.batch_size * rows.longest
    evaluation = _evaluated(rows) * _EVALUATION_LOGIT_BYTES[width]
    logits = max(training * _TRAINING_LOGIT_BYTES, evaluation) * rows.labelled
    return Memory(activations=training * activations, logits=round(facts.vocab_size * logits))


def _evaluated(rows: RowShape) -> float:
    """Estimates the tokens of the largest evaluation pass of an adapter without padding; see `batches.chunks`."""
    if rows.eval_rows * rows.mean > EVALUATION_TOKENS:
        return EVALUATION_TOKENS
    return min(rows.eval_rows, max(1, EVALUATION_TOKENS // rows.longest)) * rows.mean


def _activation_bytes(facts: ModelFacts, adapter: AdapterSpec, width: int) -> int:
    """Estimates the bytes per token that one Llama block of transformers keeps for the backward pass.

    The frozen part keeps the inputs of both norms (also in fp32 if the base is narrower), queries, keys and values for
    every head, the output of attention, and the gate, activation and product of the MLP. PEFT keeps the input of each
    adapted layer in fp32, and with dropout as many bytes again for the mask.
    """
    shapes = _shapes(facts)
    attention, hidden, inner = shapes["q_proj"][1], facts.hidden_size, facts.intermediate_size
    frozen = (2 * hidden + 4 * attention + 3 * inner) * width + (8 * hidden if width < 4 else 0)
    inputs = sum(shapes[name][0] for name in _targets(shapes, adapter))
    return frozen + inputs * (8 if adapter.lora_dropout > 0 else 4)


def _shapes(facts: ModelFacts) -> Mapping[str, tuple[int, int]]:
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


def _targets(shapes: Mapping[str, tuple[int, int]], spec: AdapterSpec) -> Sequence[str]:
    """Returns the layers of a block that an adapter changes; all of them if a name is not one of Llama's."""
    if isinstance(spec.target_modules, str):
        return _PRESETS.get(spec.target_modules, _BLOCK)
    names = {name.rpartition(".")[2] for name in spec.target_modules}
    return sorted(names) if names <= shapes.keys() else _BLOCK
