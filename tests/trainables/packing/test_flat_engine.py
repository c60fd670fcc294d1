"""The engine without padding gives the numbers of the reference engine, and what one leaves the other takes up."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import packs
import pytest
import tiny_models
import torch
from bitsandbytes.nn import Linear8bitLt
from packs import BF16, FP32, GRADIENT, NEIGHBOURS, train_rows

from trainables import qlora
from trainables.base.base_model import checkpoint_gradients
from trainables.contract import Opened, StepRecord
from trainables.packing import flat_attention, flat_engine, pass_limits
from trainables.packing.adapter_pack import AdapterPack, choose_engine
from trainables.packing.engine import Answer, Answering, DropoutKey, Engine, Prompt, Segment
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.peft_engine import PeftEngine

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

TRIALS = [*NEIGHBOURS, packs.spec(seed=7, r=4, lora_dropout=0.2, weight_decay=0.1)]
GROUPED = partial(FlatEngine, grouped=True)
FLATS = pytest.mark.parametrize("make", [FlatEngine, GROUPED], ids=["in turn", "grouped"])
KINDS = pytest.mark.parametrize("architecture", sorted(pass_limits.FLAT_KINDS))

Gradients = dict[str, torch.Tensor]


def trained(pack: AdapterPack, steps: int) -> tuple[list[float], list[Any]]:
    """Losses of every slot at every step, and the evaluations at the end."""
    slots = range(len(TRIALS))
    for slot in slots:
        assert isinstance(pack.open(slot, TRIALS[slot]), Opened)
    records = [record for _ in range(steps) for record in pack.step(slots).values()]
    assert all(isinstance(record, StepRecord) for record in records)
    return [record.train_loss for record in records], list(pack.evaluate(slots).values())


@pytest.mark.parametrize(
    ("quantised", "makes"), [(False, [FlatEngine]), (True, [FlatEngine, GROUPED])], ids=["plain", "nf4"]
)
def test_twenty_steps_of_four_trials_are_those_of_the_reference(quantised, makes):
    (expected, evaluated), *flats = (
        trained(AdapterPack(make(packs.base(quantised=quantised)), packs.rows()), 20) for make in (PeftEngine, *makes)
    )
    for found, evaluations in flats:
        assert found == pytest.approx(expected, rel=FP32)
        for now, before in zip(evaluations, evaluated, strict=True):
            assert now.loss == pytest.approx(before.loss, rel=FP32)
            assert now.row_losses == pytest.approx(before.row_losses, abs=1e-3)
            assert now.row_tokens == before.row_tokens


def pass_of(engine: Engine, drop: float = 0.2, start: int = 0) -> tuple[list[torch.Tensor], list[Gradients]]:
    """Losses and gradients of two adapters and of rows of the base, in one pass. All rows share `start` tokens."""
    rows = [packs.starting_alike(row, start) for row in train_rows(*range(7))]
    parameters = [
        packs.add(engine, slot, packs.spec(seed=slot, r=r, lora_dropout=drop), seed=slot)
        for slot, r in enumerate((4, 8))
    ]
    assert all(len(of_slot) == len(parameters[0]) > 0 for of_slot in parameters)
    keys = [DropoutKey(1, 1, 0), DropoutKey(2, 1, 0)]
    segments = [Segment(0, rows[:3], keys[0]), Segment(None, rows[3:5]), Segment(1, rows[5:], keys[1])]
    losses = engine.token_losses(segments)
    # Unequal weights, as the trainer's: each token's gradient is scaled on its own.
    sum(of_segment.sum() / (place + 1) for place, of_segment in enumerate(losses)).backward()
    return losses, [{name: p.grad for name, p in of_slot.items() if p.grad is not None} for of_slot in parameters]


# Longer than Mistral's window of 8 tokens. A mask of dropout that is drawn again must be the same one.
@pytest.mark.parametrize(
    ("checkpointing", "drop", "start"), [(True, 0.2, 0), (False, 0.0, 10)], ids=["checkpointed, dropout", "one start"]
)
@KINDS
def test_losses_and_gradients_are_those_of_the_reference(architecture, checkpointing, drop, start):
    results = []
    for make in (PeftEngine, FlatEngine, GROUPED):
        base = packs.base(architecture)
        if checkpointing:
            checkpoint_gradients(base.model)
        results.append(pass_of(make(base), drop, start))
    (expected, gradients), *flats = results
    for found, of_flat in flats:
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=FP32)
        for of_slot, of_reference in zip(of_flat, gradients, strict=True):
            assert of_slot.keys() == of_reference.keys()
            for name in of_reference:
                packs.assert_near(of_slot[name], of_reference[name], GRADIENT, name)


# With prompts and answers longer than Mistral's window of 8 tokens.
@KINDS
def test_drawn_answers_are_those_of_the_reference(monkeypatch, architecture):
    def answers(make) -> list[Answer]:
        engine = make(packs.base(architecture))
        for slot, r in enumerate((4, 8)):
            for parameter in engine.add(slot, packs.spec(seed=slot, r=r, lora_dropout=0.2)).values():
                parameter.data.add_(0.02)
        rows = enumerate(train_rows(*range(9)))
        prompts = [Prompt((0, None, 1)[place % 3], row.ids, seed=place) for place, row in rows]
        return engine.generate(prompts, Answering(frozenset(range(0, tiny_models.VOCAB_SIZE, 12)), 20, 1.0))

    expected = answers(PeftEngine)
    assert answers(GROUPED) == expected
    monkeypatch.setitem(pass_limits.ANSWERED_ROWS, "cpu", 4)
    assert answers(FlatEngine) == expected
    assert any(answer.is_ended for answer in expected)
    assert len({tuple(answer.ids) for answer in expected}) > 5


def test_losses_with_dropout_in_bfloat16_are_near_those_of_the_reference():
    expected, found = (pass_of(each(packs.base(dtype=torch.bfloat16)))[0] for each in (PeftEngine, FlatEngine))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.mean(), theirs.mean(), rtol=0, atol=BF16)


@pytest.mark.parametrize(("first", "second"), [(PeftEngine, FlatEngine), (FlatEngine, PeftEngine)])
def test_a_snapshot_goes_on_in_the_other_engine(first, second):
    trial = packs.spec(seed=7, r=4, lora_dropout=0.2)
    whole, resumed = (AdapterPack(make(packs.base()), packs.rows()) for make in (first, second))
    whole.open(0, trial)
    packs.losses(whole, 0, 5)
    assert resumed.open(3, trial, whole.snapshot(0)).step == 5
    assert resumed.adapter(3) == whole.adapter(0)
    assert packs.losses(resumed, 3, 5) == pytest.approx(packs.losses(whole, 0, 5), abs=FP32)


@FLATS
def test_a_nan_in_one_adapter_stays_in_it(make):
    engine = make(packs.base())
    # Of different lengths, so that one is filled up where rows lie side by side.
    short, long = sorted(train_rows(0, 1), key=lambda row: len(row.ids))
    ill, healthy = (engine.add(slot, packs.spec(seed=slot)) for slot in range(2))
    for parameter in ill.values():
        parameter.data.fill_(torch.nan)
    sick, well = engine.token_losses([Segment(0, [long]), Segment(1, [short])])
    (sick.sum() + well.sum()).backward()
    assert sick.isnan().all()
    assert well.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in healthy.values())


@FLATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_on_a_cpu_neighbours_change_nothing_but_the_rounding_of_products(make, dtype):
    def alone_and_with(others: int) -> list[torch.Tensor]:
        engine = make(packs.base(dtype=dtype))
        segments = []
        for slot, r in enumerate((8, 16, 4, 8)[: 1 + others]):
            parameters = engine.add(slot, packs.spec(seed=slot, r=r, lora_alpha=12.0))
            for parameter in parameters.values():
                parameter.data.add_(0.01)
            segments.append(Segment(slot, train_rows(slot)))
        losses = engine.token_losses(segments[::-1])
        torch.cat(losses).sum().backward()
        return [losses[-1], *(parameter.grad for parameter in engine._adapters.parameters[0].values())]

    # A processor's kernels may sum in another order where a product has more rows, or where grouped matrices are padded
    # to the largest rank.
    within = FP32 if dtype is torch.float32 else 0.0
    alone = alone_and_with(0)
    for others in (1, 3):
        for one, other in zip(alone, alone_and_with(others), strict=True):
            packs.assert_near(other, one, within)


def test_without_grouped_products_the_engine_says_what_is_missing(monkeypatch):
    monkeypatch.delattr(torch.nn.functional, "grouped_mm")
    _, name = choose_engine(packs.base(), "grouped")
    assert re.fullmatch(r"flat, since torch .*grouped_mm; torch 2\.10 and later have it", name)


def test_bases_that_the_flat_engine_does_not_cover_are_refused_with_why():
    found = {name: packs.base(name) for name in ("gpt2", "opt", "mixtral", "deepseek_v3", "gemma3_text", "llama")}
    assert [name for name, base in found.items() if flat_engine.uncovered(base) is None] == ["gemma3_text", "llama"]
    found["gemma3_text"].model.config.final_logit_softcapping = 30.0
    found["llama"].model.model.layers[1].mlp.up_proj = Linear8bitLt(32, 64, bias=False)
    found["half"] = packs.base(dtype=torch.float16)
    said = {
        "gpt2": "model_type 'gpt2' is not one of gemma, gemma3_text, llama",
        "gemma3_text": "the model sets final_logit_softcapping",
        "llama": "its layer model.layers.1.mlp.up_proj is a Linear8bitLt",
        "half": "its activations are float16",
    }
    for name, why in said.items():
        assert str(flat_engine.uncovered(found[name])).startswith(why)
    with pytest.raises(ValueError, match="gpt2"):
        FlatEngine(found["gpt2"])
    engine, name = choose_engine(packs.base("gpt2"))
    assert (type(engine), name) == (PeftEngine, f"peft, since {flat_engine.uncovered(packs.base('gpt2'))}")


def test_the_engine_is_known_before_the_base_is_loaded(tmp_path):
    trial = packs.spec()
    half = trial.quantization.model_copy(update={"compute_dtype": "float16"})
    own_code = trial.base_model.model_copy(update={"trust_remote_code": True})
    for spec, kind, name in (
        (trial, "llama", "flat"),
        (trial, "gpt2", "peft"),
        (trial, None, None),
        (trial, "gemma3", None),
        (trial.model_copy(update={"quantization": half}), "llama", "peft"),
        (trial.model_copy(update={"model": own_code}), "llama", None),
    ):
        assert pass_limits.expected_engine(spec, kind) == name
    for kind, name, grouped in (("llama", "flat", "flat, grouped"), ("gpt2", "peft", "peft"), ("nowhere", None, None)):
        if kind != "nowhere":
            tiny_models.build(kind).config.save_pretrained(tmp_path / kind)
        spec = trial.model_copy(update={"model": trial.base_model.model_copy(update={"source": str(tmp_path / kind)})})
        assert qlora.engine(spec) == name
        training = spec.training.model_copy(update={"engine": "grouped"})
        assert qlora.engine(spec.model_copy(update={"training": training})) == grouped


def test_keys_that_a_kernel_does_not_share_are_repeated(monkeypatch):
    assert not flat_attention.takes_fewer_keys("cuda", torch.float32)
    query, key, value = torch.rand(1, 6, 9, 8), torch.rand(1, 2, 9, 8), torch.rand(1, 2, 9, 8)
    shared, windowed = (flat_attention._row(query, key, value, None, window) for window in (None, 9))
    monkeypatch.setattr(flat_attention, "takes_fewer_keys", lambda *_: False)
    whole, given = flat_attention.functional.scaled_dot_product_attention, []

    def kernel(*tensors, **options):
        given.append(options["enable_gqa"])
        return whole(*tensors, **options)

    monkeypatch.setattr(flat_attention.functional, "scaled_dot_product_attention", kernel)
    torch.testing.assert_close(flat_attention._row(query, key, value, None, None), shared)
    torch.testing.assert_close(windowed, shared)
    assert given == [False]
