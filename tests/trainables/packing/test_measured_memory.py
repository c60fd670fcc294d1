"""The estimate against processes that were measured, and how that for the flat engine depends on what it is given.

`tests/benchmarks/memory.py` measures; docs/planning.md has the table.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, Literal

import pytest
from known_models import SMOLLM2

from trainables.contract import RowShape
from trainables.packing import blocks, memory, pass_memory
from trainables.specs import AdapterSpec, DataSpec, ModelSpec, QuantizationSpec, TrainingSpec, TrialSpec

ROWS = RowShape(longest=132, mean=110.4, labelled=0.357, train_rows=600, eval_rows=8, deviation=8.63)
"""The quickstart's, of which the benchmark evaluates eight."""

Scheme = Literal["nf4", "none"]
PEFT_GB: dict[tuple[str, Scheme, int, int], float] = {
    ("attention-qv", "nf4", 8, 1): 1.08,
    ("attention-qv", "nf4", 64, 1): 1.22,
    ("attention-qv", "none", 8, 1): 1.44,
    ("attention-qv", "none", 64, 1): 1.55,
    ("attention", "nf4", 8, 1): 1.09,
    ("attention", "nf4", 64, 1): 1.36,
    ("attention", "none", 8, 1): 1.49,
    ("attention", "none", 64, 1): 1.70,
    ("mlp", "nf4", 8, 1): 1.14,
    ("mlp", "nf4", 64, 1): 1.67,
    ("all-linear", "nf4", 8, 1): 1.33,
    ("all-linear", "nf4", 64, 1): 2.03,
    ("all-linear", "none", 8, 1): 1.64,
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


def trial(**adapter: Any) -> TrialSpec:
    return TrialSpec(
        model=ModelSpec(source="owner/name"),
        adapter=AdapterSpec(**adapter),
        quantization=QuantizationSpec(compute_dtype="float32"),
        training=TrainingSpec(batch_size=2),
        data=DataSpec(train="rows.jsonl", eval="more.jsonl", text="{text}", max_length=192),
    )


def estimate(kind: str | None = "llama", rows: RowShape = ROWS, slots: int = 1, **adapter: Any) -> int:
    spec = trial(**adapter)
    return memory.need(spec, [spec], SMOLLM2, "cpu", rows, kind).total(slots)


@pytest.mark.parametrize("case", PEFT_GB)
def test_estimate_for_peft_is_near_a_measured_process(case: tuple[str, Scheme, int, int]) -> None:
    modules, scheme, r, slots = case
    quantization = QuantizationSpec(scheme=scheme, compute_dtype="float32", residency="4bit")
    spec = trial(r=r, target_modules=modules).model_copy(update={"quantization": quantization})
    host = memory.need(spec, [spec], SMOLLM2, "cpu", ROWS).memory(slots)
    assert (host.total - host.process) / 1e9 + PROCESS_GB == pytest.approx(PEFT_GB[case], rel=0.15)


def test_an_engine_that_is_not_known_yet_counts_as_that_which_takes_more() -> None:
    for modules in ("attention-qv", "all-linear"):
        flat, unknown, others = (
            estimate(kind, target_modules=modules, slots=4) for kind in ("llama", None, "some_other")
        )
        assert flat < unknown == others


def test_more_slots_take_less_each_since_long_rows_seldom_come_together() -> None:
    base = pass_memory.Base(SMOLLM2, 4, "flat", "llama", "cpu")
    saved = [pass_memory.training(base, trial(), ROWS, slots).saved for slots in range(1, 9)]
    more = [after - before for before, after in pairwise(saved)]
    assert all(first >= then > 0 for first, then in pairwise(more))
    assert saved[0] > more[1] > more[-1]


@pytest.mark.parametrize(("share", "short", "count"), [(0.3, 400, 4), (0.3, 400, 8), (0.8, 600, 8), (0.5, 300, 2)])
@pytest.mark.parametrize("is_known", [True, False])
def test_many_rows_at_the_longest_length_are_not_underestimated(
    share: float, short: int, count: int, is_known: bool
) -> None:
    """Long documents that are cut to data.max_length: passes of nothing but them are no rarity."""
    longest = 2048
    mean = share * longest + (1 - share) * short
    deviation = (longest - short) * (share * (1 - share)) ** 0.5
    rows = ROWS.model_copy(update={"longest": longest, "mean": mean, "deviation": deviation if is_known else None})
    lengths = [random.Random(place).choices([longest, short], [share, 1 - share], k=count) for place in range(2000)]
    assert pass_memory.most_tokens(rows, count) >= max(sum(each) for each in lengths)


def test_longer_rows_to_evaluate_on_count_in_evaluation_alone() -> None:
    base = pass_memory.Base(SMOLLM2, 4, "peft", "llama", "cpu")
    longer = ROWS.model_copy(update={"longest_of_all": 8192})
    assert pass_memory.evaluation(base, longer, 1).logits > 8 * pass_memory.evaluation(base, ROWS, 1).logits
    assert pass_memory.training(base, trial(), longer, 1) == pass_memory.training(base, trial(), ROWS, 1)


@pytest.mark.parametrize(("device", "at_once"), [("cpu", 2), ("cuda", 1)])
def test_logits_of_a_chunk_are_the_most_that_the_head_takes_in_each_pass(
    device: Literal["cpu", "cuda"], at_once: int
) -> None:
    base = pass_memory.Base(SMOLLM2, 4, "flat", "llama", device)
    chunk = at_once * SMOLLM2.vocab_size * (512 + 64) * 4
    logits = [pass_memory.training(base, trial(), ROWS, slots).logits for slots in (1, 16, 32)]
    assert logits[0] < logits[1] == logits[2] == chunk
    long = ROWS.model_copy(update={"eval_rows": 600, "labelled": 1.0})
    assert pass_memory.evaluation(base, long, 1).logits == chunk


def test_an_evaluation_pass_is_shared_up_to_a_number_of_tokens() -> None:
    base = pass_memory.Base(SMOLLM2, 4, "flat", "llama", "cpu")
    few, many = (ROWS.model_copy(update={"eval_rows": rows}) for rows in (3, 600))
    # Five times three rows of at most 132 tokens are 1,980, of 2,048 that may share a pass. Two passes run at once.
    one, ten, sixteen = (pass_memory.evaluation(base, few, slots).work for slots in (1, 10, 16))
    assert one < ten == sixteen
    assert pass_memory.evaluation(base, many, 8) == pass_memory.evaluation(base, many, 1)
    assert pass_memory.evaluation(base._replace(device="cuda"), many, 8).work > 7 * 2048 * 6912 * 4


def test_a_large_adapter_is_at_its_largest_while_its_report_is_written() -> None:
    """24 bytes per parameter beside the 16 of the last report; then no logits are there."""
    spec = trial(r=128, target_modules="all-linear")
    parameters = blocks.lora_parameters(SMOLLM2, spec.adapter)
    host = memory.need(spec, [spec], SMOLLM2, "cpu", ROWS, "llama").memory(1)
    assert host.kept == (16 + 24) * parameters
    assert host.logits == 0
    assert memory.need(spec, [spec], SMOLLM2, "cuda", ROWS, "llama").memory(1).kept == 0


def test_dropout_and_narrow_activations_are_counted() -> None:
    plain, dropping = (estimate(lora_dropout=p, target_modules="all-linear") for p in (0.0, 0.1))
    tokens = 2 * 132
    inputs = 5 * 576 + 576 + 1536
    assert dropping - plain == pytest.approx(30 * tokens * inputs * 4, rel=0.001)


@pytest.mark.parametrize(("engine", "layers"), [("llama", 2), ("some_other", 1)])
def test_each_pass_at_the_same_time_may_dequantise_a_layer(engine: str, layers: int) -> None:
    spec = trial(r=8)
    kept = QuantizationSpec(compute_dtype="float32", residency="4bit")
    spec = spec.model_copy(update={"quantization": kept})
    base = memory.need(spec, [spec], SMOLLM2, "cpu", ROWS, engine).memory(1).base
    linear = 30 * sum(ins * outs for ins, outs in blocks.shapes(SMOLLM2).values())
    stored = linear * (0.5 + (1 + 4 / 256) / 64) + (SMOLLM2.parameters - linear) * 4
    assert base == pytest.approx(stored + layers * 576 * 1536 * 4, rel=1e-6)
