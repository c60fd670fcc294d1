"""How much memory a sweep needs on the device that trains, and how many slots fit: arithmetic, no torch.

The formulas describe a Llama-like block trained through PEFT 0.21 with fp32 adapters. They were held against a CPU
process that trained and evaluated SmolLM2-135M (nf4 and unquantised, fp32 and bf16, one and two adapters on q, v and on
all linear layers, with and without dropout; 4 rows of 110 tokens): the estimate is 1 to 9 % above the peak. At the
sizes of an 8B model in bf16 the activations come to 79 bytes per token, layer and unit of hidden size; 74 to 81 were
measured. Not counted: what loading takes for a moment, which for a GGUF file is all of its weights in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trainables.contract import Device, Memory, Need, RowShape
from trainables.specs import AdapterSpec, ModelFacts, QuantizationSpec, TrialSpec

MAX_SLOTS = 16
"""Where packing was studied up to: the gain per slot has long flattened, and every slot costs host time."""

# A host process before its first model: Python, torch, transformers, peft, ray and datasets; a CUDA context.
_PROCESS_BYTES: Mapping[Device, int] = {"cpu": 670_000_000, "cuda": 500_000_000}
# fp32, of each trainable parameter: its weight, its gradient, and the two moments of AdamW.
_WEIGHT_BYTES, _GRADIENT_BYTES, _OPTIMIZER_BYTES = 4, 4, 8
# In the host's memory, of each trainable parameter: weight and moments in a snapshot, and the weight in an adapter.
_KEPT_BYTES = 16
# On disk: an fp32 adapter; a snapshot with both moments beside it.
_ADAPTER_BYTES = 4
_SNAPSHOT_BYTES = 12
# fp32 logits, their log-softmax, and the gradients of both.
_TRAINING_LOGIT_BYTES = 16
# By the width of the activations: logits as the head gives them, in fp32 where that is another type, their log-softmax.
_EVALUATION_LOGIT_BYTES: Mapping[int, int] = {2: 10, 4: 8}
EVALUATION_TOKENS = 2048
"""Most tokens per slot in one pass of an evaluation. Fixed, so that results do not depend on the machine."""

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
    """Estimated bytes of the base and of one slot on `device`, and the slots that keep it busy.

    `gradient_checkpointing: auto` counts as off; see `checkpointing`.

    Args:
        base: says quantisation and data; its batch size is the one that slots are counted with.
        largest: the specs of the space that may need most; none stands for `base` itself.
        facts: sizes of the model.
        device: what trains.
        rows: the rows as they are; where they are not known, each is data.max_length tokens long and every token
            has a label.
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
    host = Memory(process=_PROCESS_BYTES[device], base=_base_bytes(facts, base.quantization, width))
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
    """The rows as they are, cut as the sweep cuts them, or as long as they may be and labelled throughout."""
    most = base.data_spec.max_length
    if rows is None:
        evaluated = base.data_spec.eval_examples or EVALUATION_TOKENS
        return RowShape(longest=most, mean=most, labelled=1.0, train_rows=1, eval_rows=evaluated)
    return rows.model_copy(update={"longest": min(most, rows.longest), "mean": min(most, rows.mean)})


def lora_parameters(facts: ModelFacts, spec: AdapterSpec) -> int:
    """Trainable parameters of an adapter: r x (in + out) per adapted layer, exact for a Llama-like model."""
    shapes = _shapes(facts)
    per_layer = sum(sum(shapes[name]) for name in _targets(shapes, spec))
    return facts.layers * spec.r * per_layer


def scoring_bytes(base: TrialSpec, facts: ModelFacts, device: Device) -> int:
    """Bytes of the base and of one pass over rows without gradients, of which one block's activations are alive."""
    width = _dtype_bytes(base.quantization, device)
    per_token = _activation_bytes(facts, base.adapter, width) + facts.vocab_size * _EVALUATION_LOGIT_BYTES[width]
    tokens = max(EVALUATION_TOKENS, base.data_spec.max_length)
    return _PROCESS_BYTES[device] + _base_bytes(facts, base.quantization, width) + tokens * per_token


def saturating_slots(parameters: int, device: Device, tokens_per_step: int) -> int:
    """Slots after which more of them train no faster, 1 to 16, for a model of `parameters` parameters.

    A GPU is busy with about 2,500 tokens in flight at a billion parameters and more, and with about 8,000 below, where
    launching the kernels takes most of a step. On a CPU packing hides no more than Python's own time.

    Args:
        parameters: of the base model.
        device: what trains.
        tokens_per_step: tokens of one micro-batch of one slot, padding not counted.
    """
    gpu_tokens = 2_500 if parameters >= 1_000_000_000 else 8_000
    busy_tokens = 1_000 if device == "cpu" else gpu_tokens
    return min(MAX_SLOTS, math.ceil(busy_tokens / tokens_per_step))


def checkpointing(need: Need, free_bytes: int) -> bool:
    """Whether `gradient_checkpointing: auto` means on: not even one slot fits when its activations are kept.

    Args:
        need: the estimate without checkpointing.
        free_bytes: what may be planned with, before the base is loaded.
    """
    return need.total(1) > free_bytes


def _dtype_bytes(quantization: QuantizationSpec, device: Device) -> int:
    if quantization.compute_dtype == "auto":
        return 2 if device == "cuda" else 4
    return 4 if quantization.compute_dtype == "float32" else 2


def _base_bytes(facts: ModelFacts, quantization: QuantizationSpec, width: int) -> int:
    """The frozen weights, `width` bytes wide where they are not quantised.

    bitsandbytes 0.50 quantises the linear layers of the blocks: half a byte per parameter, and per block of 64 an fp32
    constant, or with double quantisation one byte and an fp32 constant per 256 of those (QLoRA, arXiv 2305.14314,
    section 3). One layer at a time is dequantised as a whole.
    """
    if quantization.scheme == "none":
        return facts.parameters * width
    shapes = [inputs * outputs for inputs, outputs in _shapes(facts).values()]
    linear = min(facts.layers * sum(shapes), facts.parameters)
    constants = (1 + 4 / 256) / 64 if quantization.double_quant else 4 / 64
    return round(linear * (0.5 + constants)) + (facts.parameters - linear) * width + max(shapes) * width


def _pass(facts: ModelFacts, trial: TrialSpec, rows: RowShape, width: int) -> Memory:
    """What one slot's passes take: those that train, whose rows are as long as the longest, and those that evaluate.

    Training's activations and evaluation's logits come after one another and yet add up: they differ so much in size
    that glibc keeps the freed memory of the one from the other.
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
    """Tokens of an adapter's largest evaluation pass, padding not counted; see `batches.chunks`."""
    if rows.eval_rows * rows.mean > EVALUATION_TOKENS:
        return EVALUATION_TOKENS
    return min(rows.eval_rows, max(1, EVALUATION_TOKENS // rows.longest)) * rows.mean


def _activation_bytes(facts: ModelFacts, adapter: AdapterSpec, width: int) -> int:
    """Bytes per token that one block of transformers' Llama keeps for the backward pass.

    The frozen part keeps what enters both norms (in fp32 as well, when the base is narrower), queries, keys and values
    with each head its own, attention's output, and the MLP's gate, activation and product. PEFT keeps what enters each
    adapted layer in fp32; with dropout, the mask in place of the undropped input as well.
    """
    shapes = _shapes(facts)
    attention, hidden, inner = shapes["q_proj"][1], facts.hidden_size, facts.intermediate_size
    frozen = (2 * hidden + 4 * attention + 3 * inner) * width + (8 * hidden if width < 4 else 0)
    inputs = sum(shapes[name][0] for name in _targets(shapes, adapter))
    return frozen + inputs * (8 if adapter.lora_dropout > 0 else 4)


def _shapes(facts: ModelFacts) -> Mapping[str, tuple[int, int]]:
    """(in, out) of the linear layers of a Llama block, grouped-query attention included."""
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
    """The block's layers that an adapter changes; all of them where a name is not one of Llama's."""
    if isinstance(spec.target_modules, str):
        return _PRESETS.get(spec.target_modules, _BLOCK)
    names = {name.rpartition(".")[2] for name in spec.target_modules}
    return sorted(names) if names <= shapes.keys() else _BLOCK
