"""Estimates of memory: against PEFT's own counts, published sizes, and processes that were measured.

`tests/benchmarks/memory.py` measures processes; docs/planning.md says how far they are off.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_models import LLAMA_1B, LLAMA_3B, LLAMA_8B, LLAMA_70B, SMOLLM2
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trainables.contract import Device, RowShape
from trainables.packing import memory
from trainables.specs import AdapterSpec, DataSpec, ModelFacts, ModelSpec, QuantizationSpec, TrainingSpec, TrialSpec

TINY_FACTS = ModelFacts(
    parameters=20_000, layers=3, hidden_size=32, intermediate_size=48, vocab_size=64, attention_heads=4,
    key_value_heads=2,
)  # fmt: skip


def trial(**changes: Any) -> TrialSpec:
    """A spec with fields of its sections changed: r=8, scheme="none", max_length=64, ..."""

    def section(kind: Any, **given: Any) -> Any:
        return kind(**given | {name: value for name, value in changes.items() if name in kind.model_fields})

    return TrialSpec(
        model=ModelSpec(source="owner/name"),
        adapter=section(AdapterSpec),
        quantization=section(QuantizationSpec, residency="4bit"),
        training=section(TrainingSpec),
        data=section(DataSpec, train="rows.jsonl", eval="more.jsonl", text="{text}"),
    )


def needed(facts: ModelFacts, device: Device = "cuda", **changes: Any) -> Any:
    """What one trial needs, where nothing is known of its rows."""
    return memory.need(trial(**changes), [], facts, device)


def rows(longest: int, mean: float | None = None, labelled: float = 1.0, evaluated: int = 2048) -> RowShape:
    """Rows of a shape; all as long as the longest, and labelled throughout, unless told otherwise."""
    return RowShape(longest=longest, mean=mean or longest, labelled=labelled, train_rows=100, eval_rows=evaluated)


@pytest.mark.parametrize("r", [1, 8])
@pytest.mark.parametrize(
    ("modules", "names"),
    [
        ("attention-qv", ["q_proj", "v_proj"]),
        ("attention", ["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        ("all-linear", "all-linear"),
        (("k_proj", "mlp.down_proj"), ["k_proj", "mlp.down_proj"]),
    ],
)
def test_lora_parameters_are_those_that_peft_makes(modules, names, r) -> None:
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, **sizes))
    made = get_peft_model(model, LoraConfig(r=r, target_modules=names, task_type="CAUSAL_LM"))
    trainable, _ = made.get_nb_trainable_parameters()
    assert memory.lora_parameters(TINY_FACTS, AdapterSpec(r=r, target_modules=modules)) == trainable


def test_unknown_names_count_as_all_linear_layers_and_wide_heads_as_wide() -> None:
    everything, unknown, wide = (
        AdapterSpec(r=1, target_modules=modules)
        for modules in ("all-linear", ("q_proj", "c_proj"), ("q_proj", "k_proj"))
    )
    assert memory.lora_parameters(TINY_FACTS, unknown) == memory.lora_parameters(TINY_FACTS, everything)
    facts = TINY_FACTS.model_copy(update={"head_dim": 16})
    assert memory.lora_parameters(facts, wide) == 3 * ((32 + 64) + (32 + 32))


@pytest.mark.parametrize(
    ("facts", "bf16", "nf4", "r16", "r64"),
    [
        (SMOLLM2, 0.27, 0.11, 78, 313),
        (LLAMA_1B, 2.5, 1.0, 180, 721),
        (LLAMA_3B, 6.4, 2.3, 389, 1556),
        (LLAMA_8B, 16.1, 5.7, 671, 2684),
    ],
)
def test_base_takes_the_known_gigabytes_and_a_slot_sixteen_bytes_per_parameter(facts, bf16, nf4, r16, r64) -> None:
    for scheme, gigabytes in (("none", bf16), ("nf4", nf4)):
        base_bytes = needed(facts, scheme=scheme).base_bytes - 500_000_000  # the CUDA context
        assert base_bytes / 1e9 == pytest.approx(gigabytes, rel=0.03, abs=0.12)
    for r, megabytes in ((16, r16), (64, r64)):
        assert needed(facts, r=r, target_modules="all-linear").slot_bytes / 1e6 == pytest.approx(megabytes, abs=0.6)


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
def test_a_small_base_is_dequantised_and_takes_as_much_as_a_plain_one(facts, device, residency, expected) -> None:
    in_4_bits, plain = (needed(facts, device, scheme=scheme).base_bytes for scheme in ("nf4", "none"))
    assert memory.is_dequantised(trial(residency=residency), facts, device) is expected
    assert needed(facts, device, residency=residency).base_bytes == (plain if expected else in_4_bits)
    assert not memory.is_dequantised(trial(scheme="none", residency="dequantised"), facts, device)


def test_double_quantisation_saves_0_37_bits_per_linear_parameter() -> None:
    once, twice = (needed(LLAMA_8B, double_quant=double).base_bytes for double in (False, True))
    assert (once - twice) * 8 / 6.98e9 == pytest.approx(0.373, abs=0.001)


@pytest.mark.parametrize(
    ("compute_dtype", "device", "width"),
    [("auto", "cpu", 4), ("auto", "cuda", 2), ("float32", "cuda", 4), ("bfloat16", "cpu", 2), ("float16", "cuda", 2)],
)
def test_unquantised_weights_are_as_wide_as_the_compute_type(compute_dtype, device, width) -> None:
    wide, own = (
        needed(SMOLLM2, device, scheme="none", compute_dtype=dtype).base_bytes for dtype in ("float32", compute_dtype)
    )
    assert wide - own == SMOLLM2.parameters * (4 - width)


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
    ("nf4", "all-linear", 1, "float32", 0.0): 2.36,
    ("nf4", "all-linear", 2, "float32", 0.0): 3.92,
    ("nf4", "all-linear", 2, "float32", 0.1): 4.63,
    ("nf4", "attention-qv", 1, "bfloat16", 0.0): 2.03,
    ("nf4", "all-linear", 2, "bfloat16", 0.0): 3.88,
    ("none", "attention-qv", 1, "float32", 0.0): 2.52,
    ("none", "all-linear", 2, "float32", 0.0): 4.29,
}
"""Peak resident memory of a process that trained SmolLM2-135M three steps and evaluated it, by scheme, modules, slots,
compute type and dropout: r 16, 4 rows of 110 tokens, every token with a label, 64 evaluation rows (Linux, glibc)."""


@pytest.mark.parametrize("case", MEASURED_GB)
def test_estimate_is_at_most_a_quarter_above_a_measured_process(case: tuple[str, str, int, str, float]) -> None:
    scheme, modules, slots, dtype, dropout = case
    adapter = {"target_modules": modules, "lora_dropout": dropout}
    need = needed(SMOLLM2, "cpu", scheme=scheme, compute_dtype=dtype, max_length=110, eval_examples=64, **adapter)
    assert MEASURED_GB[case] <= need.total(slots) / 1e9 <= 1.25 * MEASURED_GB[case]


def test_largest_specs_decide_and_the_base_does_where_there_are_none() -> None:
    base, deep, wide = trial(r=8), trial(r=64), trial(r=8, batch_size=16)
    both, *others = (memory.need(base, specs, LLAMA_1B, "cuda") for specs in ([deep, wide], [], [deep], [wide]))
    alone, of_deep, of_wide = others
    assert both.slot_bytes == of_deep.slot_bytes == 8 * alone.slot_bytes
    assert both.step_bytes == of_wide.step_bytes > alone.step_bytes
    assert both.base_bytes == alone.base_bytes


def test_longest_row_counts_where_it_is_known_and_never_beyond_max_length() -> None:
    spec = trial(max_length=100)
    known = {
        longest: memory.need(spec, [], LLAMA_1B, "cuda", rows(longest) if longest else None).step_bytes
        for longest in (None, 50, 900)
    }
    assert known[50] < known[None] == known[900]


@given(
    fields=st.fixed_dictionaries(
        {"r": st.integers(1, 128), "batch_size": st.integers(1, 64), "max_length": st.integers(8, 4096)}
    ),
    field=st.sampled_from(["r", "batch_size", "max_length"]),
)
def test_more_of_anything_never_needs_less(fields: dict[str, int], field: str) -> None:
    less, more = (needed(SMOLLM2, "cpu", **each) for each in (fields, fields | {field: fields[field] + 1}))
    assert less.total(2) <= more.total(2)
    assert 1 <= more.saturating_slots <= less.saturating_slots <= memory.MAX_SLOTS


def test_a_host_is_told_by_part_and_the_parts_make_up_the_whole() -> None:
    spec = trial(r=8, target_modules="all-linear", max_length=100)
    need = memory.need(spec, [], SMOLLM2, "cpu")
    one, three = need.memory(1), need.memory(3)
    assert (one.total, three.total) == (need.total(1), need.total(3))
    parameters = memory.lora_parameters(SMOLLM2, spec.adapter)
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


@pytest.mark.parametrize(
    ("parameters", "device", "tokens_per_step", "expected"),
    [
        (8_000_000_000, "cuda", 500, 5),
        (8_000_000_000, "cuda", 5_000, 1),
        (1_000_000_000, "cuda", 2_499, 2),
        (999_999_999, "cuda", 1_000, 8),
        (135_000_000, "cuda", 100, 16),
        (135_000_000, "cpu", 440, 2),
    ],
)
def test_slots_are_as_many_as_keep_the_device_busy(parameters, device, tokens_per_step, expected) -> None:
    assert memory.saturating_slots(parameters, device, tokens_per_step) == expected


def test_shorter_rows_make_more_slots_worth_while_and_unknown_ones_count_as_two_fifths_of_the_longest() -> None:
    spec = trial(batch_size=4, max_length=500)
    shapes = (rows(500), rows(500, 100), None)
    assert [memory.need(spec, [], LLAMA_8B, "cuda", shape).saturating_slots for shape in shapes] == [2, 7, 4]


# Measured processes

QUICKSTART = RowShape(longest=132, mean=110.4, labelled=0.357, train_rows=600, eval_rows=8, deviation=8.63)
"""The quickstart's, of which the benchmark evaluates eight."""

PEFT_GB = {
    ("attention-qv", "nf4", 8, 1): 1.08,
    ("attention", "nf4", 64, 1): 1.36,
    ("mlp", "nf4", 64, 1): 1.67,
    ("all-linear", "none", 64, 1): 2.44,
    ("attention-qv", "nf4", 8, 8): 3.73,
    ("attention-qv", "none", 64, 8): 4.85,
    ("all-linear", "nf4", 64, 8): 9.20,
    ("all-linear", "none", 8, 8): 5.55,
}
"""Peak resident memory since the base was loaded, by modules, scheme, r and slots: engine `peft`, a base in 4 bits kept
so, outside Ray."""
PROCESS_GB = 0.51
"""What those processes took before the base."""
PEFT_BASE = memory.BaseShape(SMOLLM2, 4, "peft", "llama", "cpu")


def quickstart(**changes: Any) -> TrialSpec:
    given = {"compute_dtype": "float32", "residency": "auto", "batch_size": 2, "max_length": 192}
    return trial(**given | changes)


@pytest.mark.parametrize("case", PEFT_GB)
def test_estimate_for_peft_is_near_a_measured_process(case: tuple[str, str, int, int]) -> None:
    modules, scheme, r, slots = case
    spec = quickstart(r=r, target_modules=modules, scheme=scheme, residency="4bit")
    host = memory.need(spec, [spec], SMOLLM2, "cpu", QUICKSTART).memory(slots)
    assert (host.total - host.process) / 1e9 + PROCESS_GB == pytest.approx(PEFT_GB[case], rel=0.15)


@pytest.mark.parametrize("modules", ["attention-qv", "all-linear"])
def test_an_engine_that_is_not_known_yet_counts_as_that_which_takes_more(modules: str) -> None:
    spec = quickstart(target_modules=modules)
    flat, unknown, others = (
        memory.need(spec, [spec], SMOLLM2, "cpu", QUICKSTART, kind).total(4) for kind in ("llama", None, "some_other")
    )
    assert flat < unknown == others


@pytest.mark.parametrize(
    ("share", "short", "count", "is_known"), [(0.3, 400, 8, True), (0.8, 600, 8, False), (0.5, 300, 2, True)]
)
def test_many_rows_at_the_longest_length_are_not_underestimated(share, short, count, is_known) -> None:
    """Long documents that are cut to data.max_length: passes of nothing but them are no rarity."""
    longest = 2048
    deviation = (longest - short) * (share * (1 - share)) ** 0.5 if is_known else None
    shape = {"longest": longest, "mean": share * longest + (1 - share) * short, "deviation": deviation}
    lengths = [random.Random(place).choices([longest, short], [share, 1 - share], k=count) for place in range(2000)]
    assert memory.most_tokens(QUICKSTART.model_copy(update=shape), count) >= max(sum(each) for each in lengths)


def test_longer_rows_to_evaluate_on_count_in_evaluation_alone() -> None:
    base, longer = PEFT_BASE, QUICKSTART.model_copy(update={"longest_of_all": 8192})
    assert memory.evaluation_pass(base, longer, 1).logits > 8 * memory.evaluation_pass(base, QUICKSTART, 1).logits
    trained = [memory.training_pass(base, quickstart(), shape, 1) for shape in (longer, QUICKSTART)]
    assert trained[0] == trained[1]


def test_an_evaluation_pass_is_shared_up_to_a_number_of_tokens() -> None:
    base = PEFT_BASE._replace(engine="flat")
    few, many = (QUICKSTART.model_copy(update={"eval_rows": rows}) for rows in (3, 600))
    # Five times three rows of at most 132 tokens are 1,980, of 2,048 that may share a pass. Two passes run at once.
    one, ten, sixteen = (memory.evaluation_pass(base, few, slots).work for slots in (1, 10, 16))
    assert one < ten == sixteen
    assert memory.evaluation_pass(base, many, 8) == memory.evaluation_pass(base, many, 1)
    assert memory.evaluation_pass(base._replace(device="cuda"), many, 8).work > 7 * 2048 * 6912 * 4


def test_a_large_adapter_is_at_its_largest_while_its_report_is_written() -> None:
    """24 bytes per parameter beside the 16 of the last report; then no logits are there."""
    spec = quickstart(r=128, target_modules="all-linear")
    parameters = memory.lora_parameters(SMOLLM2, spec.adapter)
    host = memory.need(spec, [spec], SMOLLM2, "cpu", QUICKSTART, "llama").memory(1)
    assert host.kept == (16 + 24) * parameters
    assert host.logits == 0
    assert memory.need(spec, [spec], SMOLLM2, "cuda", QUICKSTART, "llama").memory(1).kept == 0


# Several GPUs

GSM8K = RowShape(longest=512, mean=217, labelled=0.6, train_rows=7000, eval_rows=200)
H100 = int(80e9 * 0.85)


def spread_trial(scheme: str = "nf4", residency: str = "auto", **changes: Any) -> TrialSpec:
    return trial(r=16, scheme=scheme, residency=residency, target_modules="all-linear", **changes)


def spread_need(spec: TrialSpec, gpus: int, device: Device = "cuda") -> Any:
    return memory.need(spec, [], LLAMA_70B, device, GSM8K, "llama", gpus)


def test_a_base_that_fits_no_single_gpu_fits_several() -> None:
    spec = spread_trial("none", gradient_checkpointing=True)
    fitting = [gpus for gpus in range(1, 9) if spread_need(spec, gpus).total(1) <= H100]
    assert fitting == [3, 4, 5, 6, 7, 8]  # 141 GB of weights, in bfloat16
    assert spread_need(spec, 2).base_bytes == pytest.approx(71e9, rel=0.02)


@pytest.mark.parametrize("spec", [spread_trial(), spread_trial("none")])
def test_what_lies_in_blocks_is_spread_and_what_a_pass_needs_is_whole_on_each_gpu(spec: TrialSpec) -> None:
    alone, shared = spread_need(spec, 1).memory(4), spread_need(spec, 4).memory(4)
    for part in ("base", "adapters", "gradients", "optimizer", "activations"):
        assert 0.25 <= getattr(shared, part) / getattr(alone, part) < 0.4, part
    assert (shared.logits, shared.process) == (alone.logits, alone.process)
    assert spread_need(spec, 4, "cpu") == spread_need(spec, 1, "cpu")


def test_a_pass_that_scores_is_whole_on_the_gpu_that_holds_the_most() -> None:
    alone, shared = (memory.scoring_bytes(spread_trial("none"), LLAMA_70B, "cuda", gpus) for gpus in (1, 2))
    assert 0.5 < shared / alone < 0.56
    assert memory.scoring_bytes(spread_trial(residency="dequantised"), LLAMA_70B, "cuda", 2) < shared
