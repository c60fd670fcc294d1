"""Estimates of memory: against PEFT's own counts, published sizes, and processes that were measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_models import LLAMA_1B, LLAMA_3B, LLAMA_8B, SMOLLM2
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trainables.contract import RowShape
from trainables.data import dataset
from trainables.packing import batches, blocks, memory, pass_memory
from trainables.specs import (
    AdapterSpec,
    DataSpec,
    ModelFacts,
    ModelSpec,
    QuantizationSpec,
    Spec,
    TrainingSpec,
    TrialSpec,
)

TINY: dict[str, int] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TINY_FACTS = ModelFacts(
    parameters=20_000,
    layers=3,
    hidden_size=32,
    intermediate_size=48,
    vocab_size=64,
    attention_heads=4,
    key_value_heads=2,
)


def trial(**changes: Any) -> TrialSpec:
    """A spec with fields of its sections changed: r=8, scheme="none", max_length=64, ..."""
    in_4_bits = {"residency": "4bit"}
    sections: dict[str, dict[str, Any]] = {"adapter": {}, "quantization": in_4_bits, "training": {}, "data": {}}
    kinds: dict[str, type[Spec]] = {
        "adapter": AdapterSpec,
        "quantization": QuantizationSpec,
        "training": TrainingSpec,
        "data": DataSpec,
    }
    for name, value in changes.items():
        section = next(section for section, kind in kinds.items() if name in kind.model_fields)
        sections[section][name] = value
    return TrialSpec(
        model=ModelSpec(source="owner/name"),
        adapter=AdapterSpec(**sections["adapter"]),
        quantization=QuantizationSpec(**sections["quantization"]),
        training=TrainingSpec(**sections["training"]),
        data=DataSpec(train="rows.jsonl", eval="more.jsonl", text="{text}", **sections["data"]),
    )


def rows(longest: int, mean: float | None = None, labelled: float = 1.0, evaluated: int = 2048) -> RowShape:
    """Rows of a shape; all as long as the longest, and labelled throughout, unless told otherwise."""
    return RowShape(longest=longest, mean=mean or longest, labelled=labelled, train_rows=100, eval_rows=evaluated)


@pytest.mark.parametrize("r", [1, 8])
@pytest.mark.parametrize(
    ("target_modules", "names"),
    [
        ("attention-qv", ["q_proj", "v_proj"]),
        ("attention", ["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        ("all-linear", "all-linear"),
        (("k_proj", "mlp.down_proj"), ["k_proj", "mlp.down_proj"]),
    ],
)
def test_lora_parameters_are_those_that_peft_makes(
    target_modules: str | tuple[str, ...], names: str | list[str], r: int
) -> None:
    model = LlamaForCausalLM(LlamaConfig(**TINY))
    made = get_peft_model(model, LoraConfig(r=r, target_modules=names, task_type="CAUSAL_LM"))
    trainable, _ = made.get_nb_trainable_parameters()
    assert blocks.lora_parameters(TINY_FACTS, AdapterSpec(r=r, target_modules=target_modules)) == trainable


def test_unknown_module_names_count_as_all_linear_layers() -> None:
    everything = blocks.lora_parameters(TINY_FACTS, AdapterSpec(target_modules="all-linear"))
    assert blocks.lora_parameters(TINY_FACTS, AdapterSpec(target_modules=("q_proj", "c_proj"))) == everything


def test_heads_wider_than_the_model_are_counted() -> None:
    wide = TINY_FACTS.model_copy(update={"head_dim": 16})
    spec = AdapterSpec(r=1, target_modules=("q_proj", "k_proj"))
    assert blocks.lora_parameters(wide, spec) == 3 * ((32 + 64) + (32 + 32))


@pytest.mark.parametrize(
    ("facts", "r16", "r64"),
    [(SMOLLM2, 78, 313), (LLAMA_1B, 180, 721), (LLAMA_3B, 389, 1556), (LLAMA_8B, 671, 2684)],
)
def test_slot_on_a_gpu_takes_sixteen_bytes_per_trainable_parameter(facts: ModelFacts, r16: int, r64: int) -> None:
    for r, megabytes in ((16, r16), (64, r64)):
        spec = trial(r=r, target_modules="all-linear")
        assert memory.need(spec, [], facts, "cuda").slot_bytes / 1e6 == pytest.approx(megabytes, abs=0.6)


@pytest.mark.parametrize(
    ("facts", "bf16", "nf4"),
    [(SMOLLM2, 0.27, 0.11), (LLAMA_1B, 2.5, 1.0), (LLAMA_3B, 6.4, 2.3), (LLAMA_8B, 16.1, 5.7)],
)
def test_base_takes_the_known_gigabytes_beside_the_cuda_context(facts: ModelFacts, bf16: float, nf4: float) -> None:
    for scheme, gigabytes in (("none", bf16), ("nf4", nf4)):
        base_bytes = memory.need(trial(scheme=scheme), [], facts, "cuda").base_bytes - 500_000_000
        assert base_bytes / 1e9 == pytest.approx(gigabytes, rel=0.03, abs=0.12)


@pytest.mark.parametrize(
    ("facts", "device", "residency", "expected"),
    [
        (SMOLLM2, "cpu", "auto", True),
        (LLAMA_1B, "cpu", "auto", False),
        (LLAMA_1B, "cuda", "auto", True),
        (LLAMA_8B, "cuda", "auto", False),
        (LLAMA_8B, "cuda", "dequantised", True),
        (SMOLLM2, "cpu", "4bit", False),
    ],
)
def test_a_small_base_is_dequantised_and_takes_as_much_as_one_that_never_was_quantised(
    facts: ModelFacts, device: Any, residency: str, expected: bool
) -> None:
    spec = trial(residency=residency)
    in_4_bits, plain = (memory.need(trial(scheme=scheme), [], facts, device).base_bytes for scheme in ("nf4", "none"))
    assert memory.is_dequantised(spec, facts, device) is expected
    assert memory.need(spec, [], facts, device).base_bytes == (plain if expected else in_4_bits)
    assert not memory.is_dequantised(trial(scheme="none", residency="dequantised"), facts, device)


def test_scoring_counts_the_base_in_4_bits_since_it_is_never_dequantised_for_that() -> None:
    kinds = [trial(residency=residency) for residency in ("4bit", "auto", "dequantised")]
    assert len({memory.scoring_bytes(spec, SMOLLM2, "cpu") for spec in kinds}) == 1


def test_double_quantisation_saves_0_37_bits_per_linear_parameter() -> None:
    once, twice = (memory.need(trial(double_quant=double), [], LLAMA_8B, "cuda").base_bytes for double in (False, True))
    assert (once - twice) * 8 / 6.98e9 == pytest.approx(0.373, abs=0.001)


@pytest.mark.parametrize(
    ("compute_dtype", "device", "width"),
    [("auto", "cpu", 4), ("auto", "cuda", 2), ("float32", "cuda", 4), ("bfloat16", "cpu", 2), ("float16", "cuda", 2)],
)
def test_unquantised_weights_are_as_wide_as_the_compute_type(compute_dtype: str, device: Any, width: int) -> None:
    spec = trial(scheme="none", compute_dtype=compute_dtype)
    other = trial(scheme="none", compute_dtype="float32")
    difference = memory.need(other, [], SMOLLM2, device).base_bytes - memory.need(spec, [], SMOLLM2, device).base_bytes
    assert difference == SMOLLM2.parameters * (4 - width)


def test_activations_of_an_8b_model_are_those_that_were_measured() -> None:
    """74 to 81 bytes per token, layer and unit of hidden size: transformers, bitsandbytes and PEFT in bf16."""
    one, two = (
        memory.need(trial(target_modules="all-linear", batch_size=size), [], LLAMA_8B, "cuda", rows(longest=1))
        for size in (1, 2)
    )
    # A second row of one token adds one token; evaluation's logits outweigh training's in both.
    assert 74 <= (two.step_bytes - one.step_bytes) / (32 * 4096) <= 81


MEASURED_GB = {
    ("nf4", "attention-qv", 1, "float32", 0.0): 2.16,
    ("nf4", "attention-qv", 2, "float32", 0.0): 3.44,
    ("nf4", "all-linear", 1, "float32", 0.0): 2.36,
    ("nf4", "all-linear", 2, "float32", 0.0): 3.92,
    ("nf4", "all-linear", 1, "float32", 0.1): 2.68,
    ("nf4", "all-linear", 2, "float32", 0.1): 4.63,
    ("nf4", "attention-qv", 1, "bfloat16", 0.0): 2.03,
    ("nf4", "all-linear", 1, "bfloat16", 0.0): 2.35,
    ("nf4", "all-linear", 2, "bfloat16", 0.0): 3.88,
    ("none", "attention-qv", 1, "float32", 0.0): 2.52,
    ("none", "all-linear", 2, "float32", 0.0): 4.29,
}
"""Peak resident memory of a process that trained SmolLM2-135M three steps and evaluated it, by scheme, modules, slots,
compute type and dropout: r 16, 4 rows of 110 tokens, every token with a label, 64 evaluation rows (Linux, glibc)."""


@pytest.mark.parametrize("case", MEASURED_GB)
def test_estimate_is_at_most_a_quarter_above_a_measured_process(case: tuple[str, str, int, str, float]) -> None:
    scheme, target_modules, slots, compute_dtype, dropout = case
    spec = trial(
        scheme=scheme,
        target_modules=target_modules,
        compute_dtype=compute_dtype,
        lora_dropout=dropout,
        max_length=110,
        eval_examples=64,
    )
    estimate = memory.need(spec, [], SMOLLM2, "cpu").total(slots) / 1e9
    assert MEASURED_GB[case] <= estimate <= 1.25 * MEASURED_GB[case]


def test_largest_specs_decide_and_the_base_does_where_there_are_none() -> None:
    base, deep, wide = trial(r=8), trial(r=64), trial(r=8, batch_size=16)
    alone = memory.need(base, [], LLAMA_1B, "cuda")
    both = memory.need(base, [deep, wide], LLAMA_1B, "cuda")
    assert both.slot_bytes == memory.need(deep, [], LLAMA_1B, "cuda").slot_bytes == 8 * alone.slot_bytes
    assert both.step_bytes == memory.need(wide, [], LLAMA_1B, "cuda").step_bytes > alone.step_bytes
    assert both.base_bytes == alone.base_bytes


def test_longest_row_counts_where_it_is_known_and_never_beyond_max_length() -> None:
    spec = trial(max_length=100)
    known = {
        longest: memory.need(spec, [], LLAMA_1B, "cuda", rows(longest) if longest else None).step_bytes
        for longest in (None, 50, 900)
    }
    assert known[50] < known[None] == known[900]


def test_few_evaluation_rows_make_a_small_evaluation() -> None:
    few, many = (
        memory.need(trial(batch_size=1, max_length=100, eval_examples=count), [], LLAMA_1B, "cuda").step_bytes
        for count in (1, None)
    )
    assert many - few == 128_256 * (2048 * 10 - 100 * 16)


def test_evaluation_passes_are_as_long_as_the_estimate_says_and_hold_every_row_once() -> None:
    rows = [
        dataset.TokenRow(np.zeros(length, np.int32), np.ones(length, bool))
        for length in (700, 3, 500, 700, 900, 12, 2100)
    ]
    found = batches.chunks(rows)
    assert sorted(place for places, _ in found for place in places) == list(range(len(rows)))
    padded = [len(chunk) * max(len(row.ids) for row in chunk) for _, chunk in found]
    # A row that is longer than a pass has one of its own.
    assert padded[0] == 2100
    assert all(tokens <= pass_memory.EVALUATION_TOKENS for tokens in padded[1:])
    assert len(found) < len(rows)


def test_gradient_checkpointing_keeps_one_layer_and_the_inputs_of_the_others() -> None:
    kept, automatic, recomputed = (
        memory.need(trial(gradient_checkpointing=how, max_length=2048), [], LLAMA_8B, "cuda")
        for how in (False, "auto", True)
    )
    assert automatic == kept
    layer = 2 * 4096 * 2 + 4 * 4096 * 2 + 3 * 14_336 * 2 + 8 * 4096 + 2 * 4096 * 4
    assert kept.step_bytes - recomputed.step_bytes == 4 * 2048 * (31 * layer - 32 * 4096 * 2)


@given(
    r=st.integers(1, 128),
    batch_size=st.integers(1, 64),
    max_length=st.integers(8, 4096),
    field=st.sampled_from(["r", "batch_size", "max_length"]),
)
def test_more_of_anything_never_needs_less(r: int, batch_size: int, max_length: int, field: str) -> None:
    given_fields = {"r": r, "batch_size": batch_size, "max_length": max_length}
    less = memory.need(trial(**given_fields), [], SMOLLM2, "cpu")
    more = memory.need(trial(**given_fields | {field: given_fields[field] + 1}), [], SMOLLM2, "cpu")
    assert less.total(2) <= more.total(2)
    assert more.saturating_slots <= less.saturating_slots
    assert 1 <= more.saturating_slots <= memory.MAX_SLOTS


@pytest.mark.parametrize(
    ("parameters", "device", "tokens_per_step", "expected"),
    [
        (8_000_000_000, "cuda", 500, 5),
        (8_000_000_000, "cuda", 5_000, 1),
        (1_000_000_000, "cuda", 2_499, 2),
        (999_999_999, "cuda", 1_000, 8),
        (135_000_000, "cuda", 100, 16),
        (135_000_000, "cpu", 440, 2),
        (8_000_000_000, "cpu", 2_000, 1),
    ],
)
def test_slots_are_as_many_as_keep_the_device_busy(
    parameters: int, device: Any, tokens_per_step: int, expected: int
) -> None:
    assert memory.saturating_slots(parameters, device, tokens_per_step) == expected


def test_rows_count_as_two_fifths_of_the_longest_for_saturation() -> None:
    assert memory.need(trial(batch_size=4, max_length=500), [], LLAMA_8B, "cuda").saturating_slots == 4


def test_a_host_is_told_by_part_and_the_parts_make_up_the_whole() -> None:
    spec = trial(r=8, target_modules="all-linear", max_length=100)
    need = memory.need(spec, [], SMOLLM2, "cpu")
    one, three = need.memory(1), need.memory(3)
    assert (one.total, three.total) == (need.total(1), need.total(3))
    parameters = blocks.lora_parameters(SMOLLM2, spec.adapter)
    # fp32: a weight, a gradient, two moments, and on a CPU a snapshot and an adapter.
    assert (three.adapters, three.gradients, three.optimizer) == (12 * parameters, 12 * parameters, 24 * parameters)
    assert three.kept == 48 * parameters
    assert memory.need(spec, [], SMOLLM2, "cuda").memory(3).kept == 0
    assert (three.base, three.process) == (one.base, one.process)
    assert three.activations == 3 * one.activations > 0
    assert three.logits == 3 * one.logits > 0


def test_an_80_gb_gpu_is_planned_to_hold_32_live_trials_of_an_8b_model() -> None:
    spec = trial(r=16, target_modules="all-linear", scheme="nf4", batch_size=1, max_length=512)
    need = memory.need(spec, [], LLAMA_8B, "cuda", rows(512, 512), "llama")
    assert need.total(8) < need.total(32) < 0.85 * 80e9


@pytest.mark.parametrize("kind", ["llama", None])
def test_activations_are_those_of_a_pass_and_not_of_all_slots(kind: str | None) -> None:
    """512 tokens a trial: eight trials fill a pass of an 8B model on a GPU, and more take turns."""
    need = memory.need(trial(batch_size=1, max_length=512), [], LLAMA_8B, "cuda", rows(512, 512), kind)
    activations = [need.memory(slots).activations for slots in (4, 8, 9, 16)]
    assert activations[1] == pytest.approx(2 * activations[0], rel=0.01)
    assert activations[1:] == pytest.approx([activations[1]] * 3, rel=0.02)
    larger = memory.need(trial(batch_size=16, max_length=512), [], LLAMA_8B, "cuda", rows(512, 512), kind)
    # Twice as many tokens, and fewer adapters' matrices in the type of the activations.
    assert larger.memory(1).activations == pytest.approx(2 * activations[1], rel=0.1)
    assert larger.memory(2).activations == pytest.approx(larger.memory(1).activations, rel=0.02)


def test_only_labelled_tokens_go_through_the_head() -> None:
    spec = trial(max_length=512)
    whole, half = (memory.need(spec, [], SMOLLM2, "cpu", rows(200, labelled=share)).memory(1) for share in (1.0, 0.5))
    assert half.logits == whole.logits // 2
    assert half.activations == whole.activations


def test_rows_that_are_shorter_on_average_make_more_slots_worth_while() -> None:
    spec = trial(batch_size=4, max_length=500)
    long, short = (memory.need(spec, [], LLAMA_8B, "cuda", rows(500, mean)).saturating_slots for mean in (500, 100))
    assert (long, short) == (2, 7)
