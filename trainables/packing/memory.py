"""Estimates the memory of a sweep on the device that trains, and how many slots fit. Uses arithmetic, no torch.

A host holds its process, the base, and of each slot the adapter with gradients and moments. On top comes the largest of
four moments: the end of a training pass, a block in evaluation, the head in evaluation, and on a CPU the writing of a
report. `pass_memory` derives the passes for the engine that the base will have, or for PEFT's, which takes more, where
that is not known yet.

What the backward pass has freed counts in all four, and so do the gradients: the allocators (glibc's and CUDA's) keep
freed memory for tensors of like size, and evaluation's are larger. Where they give it back the estimate is too high.
The extra memory during loading is not counted. For a GGUF file it is all of its weights in fp32.

A host of several GPUs is counted by a GPU that would hold the most of each part at once, so none holds more: the most
blocks of the base with their adapters and activations, as `spread.places` gives them out, what lies outside the blocks,
and whole what a block works with and the logits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from trainables.base import spread
from trainables.contract import Device, Memory, Need, RowShape
from trainables.packing import blocks, engines, pass_memory
from trainables.packing.pass_memory import EVALUATION_TOKENS
from trainables.specs import ModelFacts, QuantizationSpec, TrialSpec

MAX_SLOTS = 16
"""The most slots that were measured. More gain little, and every slot costs time of the host process."""

TOLD_SLOTS = 64
"""Numbers of slots that are estimated one by one; of more, each counts as if it trained alone."""

# A host process without a model: Python, torch, transformers, peft, ray and datasets; on a GPU the CUDA context.
_PROCESS_BYTES: Mapping[Device, int] = {"cpu": 670_000_000, "cuda": 500_000_000}
# The most that a dequantised base may take beyond its 4-bit form under `residency: auto`. On a CPU several hosts share
# the memory.
_AUTO_RESIDENCY_BYTES: Mapping[Device, int] = {"cpu": 1_000_000_000, "cuda": 4_000_000_000}
# Per trainable parameter in fp32: its weight, its gradient, and the two moments of AdamW.
_WEIGHT_BYTES, _GRADIENT_BYTES, _OPTIMIZER_BYTES = 4, 4, 8
# Per trainable parameter in the memory of the host: weight and moments in a snapshot, and the weight in an adapter.
_KEPT_BYTES = 16
# Per trainable parameter of the one slot whose snapshot is being written: safetensors 0.8 makes it and copies it, while
# the one of the last report is still kept.
_WRITING_BYTES = 24
# Per trainable parameter on disk: an adapter in fp32; a snapshot, which also has both moments.
_ADAPTER_BYTES = 4
_SNAPSHOT_BYTES = 12
# GSM8K's rows average 217 tokens under a max_length of 512.
_MEAN_OF_LONGEST = 0.4
_TOTAL = attrgetter("total")


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

    Of several GPUs, the bytes are those of the fullest one.

    `gradient_checkpointing: auto` counts as off; see `qlora.settle_auto`.

    Args:
        base: gives quantisation and data, and the batch size for the number of slots.
        largest: the specs of the space that may need the most memory; if empty, `base` itself.
        rows: the shape of the rows; None assumes rows of data.max_length tokens with a label on every token.
        kind: the model type of the base, which decides its engine; None when it is unknown.
        gpus: over which the base is spread; a CPU has none.
    """
    trials = list(largest) or [base]
    shape = _shape(base, rows)
    width = _dtype_bytes(base.quantization, device)
    parameters = max(blocks.lora_parameters(facts, trial.adapter) for trial in trials)
    engine = engines.expected(base, kind) or engines.PEFT
    share = _share(base, facts, device, gpus, pass_memory.at_once(engine, device))
    passed = pass_memory.Base(share.facts, width, engine, kind, device)
    writing = parameters * _WRITING_BYTES if device == "cpu" else 0
    heaviest = [
        max((most for trial in trials for most in _moments(passed, trial, shape, slots, writing)), key=_TOTAL)
        for slots in range(1, TOLD_SLOTS + 1)
    ]
    adapter = _adapter(max(blocks.lora_parameters(share.facts, trial.adapter) for trial in trials), device)
    host = Memory(process=_PROCESS_BYTES[device], base=share.base_bytes)
    tokens = base.training.batch_size * (rows.mean if rows is not None else shape.longest * _MEAN_OF_LONGEST)
    return Need(
        base_bytes=host.total,
        slot_bytes=adapter.total,
        step_bytes=heaviest[0].total,
        by_slots=tuple(host.plus(adapter, slots).plus(most) for slots, most in enumerate(heaviest, 1)),
        saturating_slots=saturating_slots(facts.parameters, device, max(1, round(tokens))),
        adapter_bytes=parameters * _ADAPTER_BYTES,
        snapshot_bytes=parameters * _SNAPSHOT_BYTES,
    )


class _Share(NamedTuple):
    """What a GPU holds of a base that is spread over several; all of it on one device."""

    facts: ModelFacts
    """Those of the base, but with the layers that lie there. `parameters` stay those of all."""
    base_bytes: int


def _share(base: TrialSpec, facts: ModelFacts, device: Device, gpus: int, at_once: int = 1) -> _Share:
    """Returns what the fullest GPU may hold; see the module. Each of the passes at once may dequantise a layer."""
    width = _dtype_bytes(base.quantization, device)
    whole = _base_bytes(facts, base.quantization, width, at_once)
    if is_dequantised(base, facts, device):
        whole = _dequantised_bytes(facts, width)
    if device == "cpu" or gpus == 1:
        return _Share(facts, whole)
    shapes = [inputs * outputs for inputs, outputs in blocks.shapes(facts).values()]
    outside = max(0, facts.parameters - facts.layers * sum(shapes)) * width
    block = sum(shapes) * spread.linear_bytes(base.quantization, width)
    count = Counter(spread.places([block] * facts.layers, outside, gpus))
    working = max(shapes) * width  # The layer that is dequantised at a time: one on each GPU.
    of_block = max(0, whole - outside - working) / facts.layers
    most = max(of_block * count[gpu] + (outside if gpu == 0 else 0) for gpu in range(gpus))
    return _Share(facts.model_copy(update={"layers": max(count.values())}), round(most + working))


def _adapter(parameters: int, device: Device) -> Memory:
    """Returns what a slot holds at all times after its first report."""
    return Memory(
        adapters=parameters * _WEIGHT_BYTES,
        gradients=parameters * _GRADIENT_BYTES,
        optimizer=parameters * _OPTIMIZER_BYTES,
        kept=parameters * _KEPT_BYTES if device == "cpu" else 0,
    )


def _moments(base: pass_memory.Base, trial: TrialSpec, rows: RowShape, slots: int, writing: int) -> Iterator[Memory]:
    """Yields what comes on top at each moment that may be the largest; see the module."""
    training = pass_memory.training(base, trial, rows, slots)
    evaluation = pass_memory.evaluation(base, rows, slots)
    yield Memory(activations=training.saved + training.work, logits=training.logits)
    yield Memory(activations=training.saved + evaluation.work)
    yield Memory(activations=training.saved, logits=evaluation.logits)
    yield Memory(activations=training.saved, kept=writing)


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

    Of several GPUs, those of the fullest one. The base is not dequantised for it.
    """
    width = _dtype_bytes(base.quantization, device)
    stays = base.model_copy(update={"quantization": base.quantization.model_copy(update={"residency": "4bit"})})
    tokens = max(EVALUATION_TOKENS, base.data_spec.max_length)
    passed = pass_memory.scoring(facts, base.adapter, width, tokens)
    return _PROCESS_BYTES[device] + _share(stays, facts, device, gpus).base_bytes + passed


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


def _base_bytes(facts: ModelFacts, quantization: QuantizationSpec, width: int, at_once: int = 1) -> int:
    """Estimates the bytes of the frozen weights. Weights that are not quantised take `width` bytes each.

    bitsandbytes 0.50 quantises the linear layers of the blocks to half a byte per parameter, plus a constant per 64
    parameters. The constant is fp32, or with double quantisation one byte plus an fp32 constant per 256 of them (QLoRA,
    arXiv 2305.14314, section 3). Each of the passes at once has one whole layer dequantised.
    """
    if quantization.scheme == "none":
        return _dequantised_bytes(facts, width)
    shapes = [inputs * outputs for inputs, outputs in blocks.shapes(facts).values()]
    linear = min(facts.layers * sum(shapes), facts.parameters)
    constants = (1 + 4 / 256) / 64 if quantization.double_quant else 4 / 64
    return round(linear * (0.5 + constants)) + (facts.parameters - linear) * width + at_once * max(shapes) * width


def _dequantised_bytes(facts: ModelFacts, width: int) -> int:
    """Estimates the bytes of weights that are not quantised, or not any more."""
    return facts.parameters * width
