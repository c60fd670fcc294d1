"""Estimates of passes against the tensors that autograd saves in real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
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
from trainables.specs import AdapterSpec, DataSpec, ModelFacts, ModelSpec, TrainingSpec, TrialSpec

MODELS = {
    "llama": transformers.LlamaForCausalLM,
    "gemma": transformers.GemmaForCausalLM,
    "gemma3_text": transformers.Gemma3ForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "phi3": transformers.Phi3ForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
}
SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
FACTS = ModelFacts(
    parameters=1, layers=1, hidden_size=64, intermediate_size=160, vocab_size=96, attention_heads=4, key_value_heads=2
)
ROWS, LENGTH = 2, 128
"""Tokens that something is predicted from, in each row."""


def trial(**adapter: Any) -> TrialSpec:
    return TrialSpec(
        model=ModelSpec(source="owner/name"),
        adapter=AdapterSpec(r=8, **adapter),
        training=TrainingSpec(batch_size=ROWS),
        data=DataSpec(train="rows.jsonl", eval="more.jsonl", text="{text}"),
    )


def row_of(place: int, length: int = LENGTH) -> TokenRow:
    """A row that shares no start with any other one."""
    ids = np.arange(length + 1, dtype=np.int32) % 50
    ids[0] = 50 + place
    return TokenRow(ids, np.arange(length + 1) > 0)


def saved_bytes(
    kind: str,
    layers: int,
    dtype: torch.dtype,
    spec: TrialSpec,
    recomputes: bool = False,
    grouped: bool = False,
) -> int:
    """Bytes that autograd saves in one pass of the flat engine, without parameters and buffers of the model."""
    config = MODELS[kind].config_class(num_hidden_layers=layers, **SIZES)
    model = MODELS[kind](config).to(dtype).requires_grad_(False).eval()
    if recomputes:
        checkpoint_gradients(model)
    engine = FlatEngine(Base(model, torch.device("cpu"), dtype), grouped)
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


def estimated(kind: str, spec: TrialSpec, width: int = 4) -> int:
    """The same for one block."""
    rows = RowShape(longest=LENGTH, mean=LENGTH, labelled=1.0, train_rows=9, eval_rows=9)
    return memory.training_pass(memory.BaseShape(FACTS, width, "flat", kind, "cpu"), spec, rows, 1).saved


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_saves_what_is_estimated_in_every_kind_of_model(kind: str, dtype: torch.dtype) -> None:
    spec = trial(target_modules=("qkv_proj",) if kind == "phi3" else "attention-qv")
    assumed = trial(target_modules="attention-qv")
    two, three = (saved_bytes(kind, layers, dtype, spec) for layers in (2, 3))
    assert three - two == pytest.approx(estimated(kind, assumed, dtype.itemsize), rel=0.02)


@pytest.mark.parametrize("target_modules", ["attention", "mlp", "all-linear", ("q_proj", "k_proj", "up_proj")])
def test_a_block_saves_what_is_estimated_for_every_choice_of_modules(target_modules: Any) -> None:
    spec = trial(target_modules=target_modules)
    two, three = (saved_bytes("llama", layers, torch.float32, spec) for layers in (2, 3))
    assert three - two == estimated("llama", spec)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_grouped_block_saves_no_more_than_is_estimated_and_the_rest_is_for_gradients(dtype: torch.dtype) -> None:
    spec, rows = (
        trial(target_modules="all-linear"),
        RowShape(longest=LENGTH, mean=LENGTH, labelled=1.0, train_rows=9, eval_rows=9),
    )
    two, three = (saved_bytes("llama", layers, dtype, spec, grouped=True) for layers in (2, 3))
    base = memory.BaseShape(FACTS, dtype.itemsize, "flat", "llama", "cpu", is_grouped=True)
    gradients = memory.lora_parameters(FACTS, spec.adapter) * (dtype.itemsize + 4)
    found = memory.training_pass(base, spec, rows, 1).saved - gradients
    assert three - two == pytest.approx(found, rel=0.02)
    more = {
        mean: memory.training_pass(base, spec, rows.model_copy(update={"mean": mean, "deviation": 0.0}), 1).saved
        - memory.training_pass(
            base._replace(is_grouped=False), spec, rows.model_copy(update={"mean": mean, "deviation": 0.0}), 1
        ).saved
        for mean in (LENGTH, LENGTH / 2)
    }
    # As many places as tokens of the longest row are filled up in attention.
    assert more[LENGTH / 2] - more[LENGTH] == ROWS * LENGTH / 2 * memory._attended(base)


def test_a_recomputed_block_saves_its_input() -> None:
    spec = trial(target_modules="all-linear")
    two, three = (saved_bytes("llama", layers, torch.float32, spec, recomputes=True) for layers in (2, 3))
    assert three - two == ROWS * LENGTH * FACTS.hidden_size * 4
    several = FACTS.model_copy(update={"layers": 3})
    rows = RowShape(longest=LENGTH, mean=LENGTH, labelled=1.0, train_rows=9, eval_rows=9)
    recomputing = spec.model_copy(update={"training": TrainingSpec(batch_size=ROWS, gradient_checkpointing=True)})
    found = memory.training_pass(memory.BaseShape(several, 4, "flat", "llama", "cpu"), recomputing, rows, 1).saved
    assert found == 3 * (three - two) + estimated("llama", spec)


@pytest.mark.parametrize("trains", [True, False])
def test_a_pass_holds_no_more_than_is_estimated(trains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chunks of logits in the head: the allocations of a whole pass, as the profiler has them."""
    monkeypatch.setitem(pass_limits.PARALLEL_PASSES, "cpu", 1)
    spec = trial(target_modules="attention-qv")
    vocabulary, length = 4096, 3 * pass_limits.LOGIT_TOKENS // ROWS
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(num_hidden_layers=3, **SIZES | {"vocab_size": vocabulary})
    )
    engine = FlatEngine(Base(model.requires_grad_(False).eval(), torch.device("cpu"), torch.float32))
    engine.add(0, spec)
    rows = [row_of(place, length) for place in range(ROWS)]
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile, torch.set_grad_enabled(trains):
        losses = engine.token_losses([Segment(0, rows)])[0]
        if trains:
            losses.sum().backward()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]).max()

    shape = RowShape(longest=length, mean=length, labelled=1.0, train_rows=9, eval_rows=ROWS)
    facts = FACTS.model_copy(update={"layers": 3, "vocab_size": vocabulary})
    base = memory.BaseShape(facts, 4, "flat", "llama", "cpu")
    found = memory.training_pass(base, spec, shape, 1) if trains else memory.evaluation_pass(base, shape, 1)
    most = found.saved + max(found.work, found.logits)
    assert 0.9 * most <= held <= 1.1 * most


@pytest.mark.parametrize("kind", MODELS)
def test_answers_keep_the_keys_and_values_that_are_estimated(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    made: list[flat_attention.Cache] = []

    class Noted(flat_attention.Cache):
        def __init__(self, rows: int, tokens: int) -> None:
            super().__init__(rows, tokens)
            made.append(self)

    monkeypatch.setattr(generation, "Cache", Noted)
    model = MODELS[kind](MODELS[kind].config_class(num_hidden_layers=3, **SIZES)).requires_grad_(False).eval()
    engine = FlatEngine(Base(model, torch.device("cpu"), torch.float32))
    prompts = [Prompt(None, row_of(place % 40, 40).ids[:40], 0) for place in range(100)]
    engine.generate(prompts, Answering(frozenset(), most=2))
    kept = sum(each.nbytes for pair in made[0]._layers.values() for each in pair)
    base = memory.BaseShape(FACTS.model_copy(update={"layers": 3}), 4, "flat", kind, "cpu")
    rows = RowShape(longest=40, mean=40, labelled=1.0, train_rows=9, eval_rows=100)
    # One pass of as many new prompts as tokens of an evaluation pass.
    passed = memory.answering_pass(base, rows, 1, 2).work - 2048 * memory._flat_work(base)
    assert kept == passed == pass_limits.ANSWERED_ROWS["cpu"] * 42 * 3 * 2 * 2 * 16 * 4
