"""Estimates of passes against the tensors that autograd saves in real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import packs
import pytest
import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks

from trainables.base.base_model import Base, checkpoint_gradients
from trainables.contract import RowShape
from trainables.data.dataset import TokenRow
from trainables.packing import flat_attention, generation, memory, pass_limits
from trainables.packing.engine import Answering, Prompt, Segment
from trainables.packing.flat_engine import FlatEngine
from trainables.specs import ModelFacts, TrainingSpec, TrialSpec

KINDS = sorted(pass_limits.FLAT_KINDS)
SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
FACTS = ModelFacts(
    parameters=1, layers=1, hidden_size=64, intermediate_size=160, vocab_size=96, attention_heads=4, key_value_heads=2
)
ROWS, LENGTH = 2, 128
"""Tokens that something is predicted from, in each row."""
SHAPE = RowShape(longest=LENGTH, mean=LENGTH, labelled=1.0, train_rows=9, eval_rows=9)


def trial(**adapter: Any) -> TrialSpec:
    return packs.spec(r=8, batch_size=ROWS, **adapter)


def row_of(place: int, length: int = LENGTH) -> TokenRow:
    """A row that shares no start with any other one."""
    ids = np.arange(length + 1, dtype=np.int32) % 50
    ids[0] = 50 + place
    return TokenRow(ids, np.arange(length + 1) > 0)


def flat(kind: str, layers: int, dtype: torch.dtype = torch.float32, grouped: bool = False, **sizes: int) -> FlatEngine:
    """The flat engine on a model of so many blocks."""
    config = transformers.AutoConfig.for_model(kind, num_hidden_layers=layers, **SIZES | sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).requires_grad_(False).eval()
    return FlatEngine(Base(model, torch.device("cpu"), dtype), grouped)


def saved_bytes(engine: FlatEngine, spec: TrialSpec) -> int:
    """Bytes that autograd saves in one pass, without parameters and buffers of the model."""
    model = engine.base.model
    engine.add(0, spec)
    rows = [row_of(place) for place in range(ROWS)]
    of_model = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in of_model:
            saved[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        engine.token_losses([Segment(0, rows)])
    return sum(storage.nbytes() for storage in saved.values())


def of_block(kind: str, spec: TrialSpec, dtype: torch.dtype = torch.float32, grouped: bool = False) -> int:
    two, three = (saved_bytes(flat(kind, layers, dtype, grouped), spec) for layers in (2, 3))
    return three - two


def estimated(kind: str, spec: TrialSpec, width: int = 4, shape: RowShape = SHAPE, **of_base: Any) -> int:
    """The same by arithmetic."""
    return memory.training_pass(memory.BaseShape(FACTS, width, "flat", kind, "cpu", **of_base), spec, shape, 1).saved


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_saves_what_is_estimated_in_every_kind_of_model(kind: str, dtype: torch.dtype) -> None:
    spec = trial(target_modules=("qkv_proj",) if kind == "phi3" else "attention-qv")
    expected = estimated(kind, trial(target_modules="attention-qv"), dtype.itemsize)
    assert of_block(kind, spec, dtype) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("target_modules", ["attention", "mlp", "all-linear", ("q_proj", "k_proj", "up_proj")])
def test_a_block_saves_what_is_estimated_for_every_choice_of_modules(target_modules: Any) -> None:
    spec = trial(target_modules=target_modules)
    assert of_block("llama", spec) == estimated("llama", spec)


@pytest.mark.parametrize("target_modules", ["attention", "mlp", "all-linear"])
def test_a_block_with_dora_saves_what_is_estimated_and_has_the_parameters(target_modules: Any) -> None:
    spec = trial(target_modules=target_modules, use_dora=True)
    assert of_block("llama", spec) == pytest.approx(estimated("llama", spec), rel=0.02)
    trained = flat("llama", 1).add(0, spec).values()
    assert sum(parameter.numel() for parameter in trained) == memory.lora_parameters(FACTS, spec.adapter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_grouped_block_saves_no_more_than_is_estimated_and_the_rest_is_for_gradients(dtype: torch.dtype) -> None:
    spec, width = trial(target_modules="all-linear"), dtype.itemsize
    gradients = memory.lora_parameters(FACTS, spec.adapter) * (width + 4)
    found = estimated("llama", spec, width, is_grouped=True) - gradients
    assert of_block("llama", spec, dtype, grouped=True) == pytest.approx(found, rel=0.02)
    of_longest, of_half = (
        estimated("llama", spec, width, shape, is_grouped=True) - estimated("llama", spec, width, shape)
        for shape in (SHAPE.model_copy(update={"mean": mean, "deviation": 0.0}) for mean in (LENGTH, LENGTH / 2))
    )
    # As many places as tokens of the longest row are filled up in attention.
    base = memory.BaseShape(FACTS, width, "flat", "llama", "cpu")
    assert of_half - of_longest == ROWS * LENGTH / 2 * memory._attended(base)


def test_a_recomputed_block_saves_its_input() -> None:
    spec = trial(target_modules="all-linear")
    engines = [flat("llama", layers) for layers in (2, 3)]
    for engine in engines:
        checkpoint_gradients(engine.base.model)
    two, three = (saved_bytes(engine, spec) for engine in engines)
    assert three - two == ROWS * LENGTH * FACTS.hidden_size * 4
    base = memory.BaseShape(FACTS.model_copy(update={"layers": 3}), 4, "flat", "llama", "cpu")
    recomputing = spec.model_copy(update={"training": TrainingSpec(batch_size=ROWS, gradient_checkpointing=True)})
    found = memory.training_pass(base, recomputing, SHAPE, 1).saved
    assert found == 3 * (three - two) + estimated("llama", spec)


@pytest.mark.parametrize("trains", [True, False])
def test_a_pass_holds_no_more_than_is_estimated(trains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chunks of logits in the head: the allocations of a whole pass, as the profiler has them."""
    monkeypatch.setitem(pass_limits.PARALLEL_PASSES, "cpu", 1)
    spec = trial(target_modules="attention-qv")
    vocabulary, length = 4096, 3 * pass_limits.LOGIT_TOKENS // ROWS
    engine = flat("llama", 3, vocab_size=vocabulary)
    engine.add(0, spec)
    rows = [row_of(place, length) for place in range(ROWS)]
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile, torch.set_grad_enabled(trains):
        losses = engine.token_losses([Segment(0, rows)])[0]
        if trains:
            losses.sum().backward()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]).max()

    shape = SHAPE.model_copy(update={"longest": length, "mean": length, "eval_rows": ROWS})
    facts = FACTS.model_copy(update={"layers": 3, "vocab_size": vocabulary})
    base = memory.BaseShape(facts, 4, "flat", "llama", "cpu")
    found = memory.training_pass(base, spec, shape, 1) if trains else memory.evaluation_pass(base, shape, 1)
    most = found.saved + max(found.work, found.logits)
    assert 0.9 * most <= held <= 1.1 * most


@pytest.mark.parametrize("kind", KINDS)
def test_answers_keep_the_keys_and_values_that_are_estimated(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    made: list[flat_attention.Cache] = []

    class Noted(flat_attention.Cache):
        def __init__(self, rows: int, tokens: int) -> None:
            super().__init__(rows, tokens)
            made.append(self)

    monkeypatch.setattr(generation, "Cache", Noted)
    prompts = [Prompt(None, row_of(place % 40, 40).ids[:40], 0) for place in range(100)]
    flat(kind, 3).generate(prompts, Answering(frozenset(), most=2))
    kept = sum(each.nbytes for pair in made[0]._layers.values() for each in pair)
    base = memory.BaseShape(FACTS.model_copy(update={"layers": 3}), 4, "flat", kind, "cpu")
    rows = SHAPE.model_copy(update={"longest": 40, "mean": 40, "eval_rows": 100})
    # One pass of as many new prompts as tokens of an evaluation pass.
    passed = memory.answering_pass(base, rows, 1, 2).work - 2048 * memory._flat_work(base)
    assert kept == passed == pass_limits.ANSWERED_ROWS["cpu"] * 42 * 3 * 2 * 2 * 16 * 4
