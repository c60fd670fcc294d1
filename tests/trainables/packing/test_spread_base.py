"""Adapters on a base whose blocks lie on two GPUs train as on one device, and nothing mixes the two.

The GPUs are declared (`declared_gpus`): what runs there computes on the CPU, so the numbers must be equal.
"""

from __future__ import annotations

from functools import partial

import declared_gpus
import packs
import pytest
import torch
from declared_gpus import GPUS, place_of

from trainables.base import base_checks, base_model
from trainables.base.base_model import Base, Origin, checkpoint_gradients
from trainables.contract import Evaluation, Opened, StepRecord
from trainables.packing import pass_limits
from trainables.packing.adapter_pack import AdapterPack
from trainables.packing.engine import Answer, Answering, Prompt
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.peft_engine import PeftEngine
from trainables.scoring.adapter_scorer import AdapterScorer
from trainables.scoring.requests import BASE, tell_nobody

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

TRIALS = [
    packs.spec(seed=11, r=2, lora_dropout=0.3, target_modules="attention-qv", batch_size=3),
    packs.spec(seed=12, r=8, weight_decay=0.1, max_grad_norm=0.5, gradient_accumulation_steps=2),
]
SLOTS = range(len(TRIALS))
ROWS = packs.rows(evaluation=3)
FLAT, GROUPED, PEFT = FlatEngine, partial(FlatEngine, grouped=True), PeftEngine


def trained(pack: AdapterPack, steps: int = 2) -> list[float]:
    """Losses and gradient norms of all steps, then the losses of all evaluation rows."""
    found: list[float] = []
    for _ in range(steps):
        for record in pack.step(SLOTS).values():
            assert isinstance(record, StepRecord), record
            found += [record.train_loss, record.grad_norm]
    for evaluation in pack.evaluate(SLOTS).values():
        assert isinstance(evaluation, Evaluation), evaluation
        found += evaluation.row_losses
    return found


def here(architecture: str = "llama", quantised: bool = False) -> Base:
    """A tiny base on one device."""
    return packs.base(architecture, quantised, layers=4)


def spread_out(base: Base, architecture: str = "llama") -> Base:
    """The base on two GPUs; call it where these are declared."""
    return declared_gpus.spread_out(base, architecture, layers=4)


def opened(base: Base, make=FLAT, snapshots: dict[int, bytes] | None = None) -> AdapterPack:
    pack = AdapterPack(make(base), ROWS)
    for slot in SLOTS:
        given = pack.open(slot, TRIALS[slot], (snapshots or {}).get(slot))
        assert isinstance(given, Opened), given
    return pack


@pytest.mark.parametrize(
    ("make", "architecture", "quantised", "checkpointing"),
    [
        (FLAT, "llama", False, False),
        (FLAT, "llama", True, True),
        (GROUPED, "qwen3", False, False),
        (FLAT, "gemma3_text", False, True),
        (PEFT, "llama", True, False),
        (PEFT, "qwen3", False, True),
        (PEFT, "gemma3_text", False, False),
        (PEFT, "gpt2", False, False),
        (PEFT, "opt", False, True),
    ],
)
def test_numbers_are_those_of_one_device(monkeypatch, make, architecture, quantised, checkpointing):
    alone, base = (here(architecture, quantised) for _ in range(2))
    if checkpointing:
        checkpoint_gradients(alone.model)
        checkpoint_gradients(base.model)
    expected = trained(opened(alone, make))
    with declared_gpus.declared(monkeypatch):
        pack = opened(spread_out(base, architecture), make)
        found = trained(pack)
        assert pack.peak_memory_bytes() == 0  # of CUDA, which is not there
    assert found == pytest.approx(expected, rel=1e-5)
    assert declared_gpus.seen() == set(GPUS)


@pytest.mark.parametrize(("make", "architecture"), [(FLAT, "mistral"), (GROUPED, "qwen3"), (PEFT, "llama")])
def test_answers_are_those_of_one_device(monkeypatch, make, architecture):
    monkeypatch.setitem(pass_limits.ANSWERED_ROWS, "cuda", 2)
    rows = packs.train_rows(*range(4))
    prompts = [Prompt(slot, rows[place].ids, seed=place) for place, slot in enumerate((0, None, 1, 0))]

    def answers(base: Base) -> list[Answer]:
        engine = make(base)
        for slot in SLOTS:
            for parameter in engine.add(slot, TRIALS[slot]).values():
                parameter.data.add_(0.02)
        return engine.generate(prompts, Answering(frozenset({5}), most=6, temperature=0.5))

    expected, base = answers(here(architecture)), here(architecture)
    with declared_gpus.declared(monkeypatch):
        found = answers(spread_out(base, architecture))
    assert found == expected
    assert declared_gpus.seen() == set(GPUS)


def layer_places(pack: AdapterPack) -> list[torch.device]:
    return [place_of(block.mlp.up_proj.weight) for block in pack._engine.base.model.model.layers]


@pytest.mark.parametrize("make", packs.ENGINES, ids=lambda engine: engine.__name__)
def test_matrices_and_moments_lie_with_their_layer(monkeypatch, make):
    with declared_gpus.declared(monkeypatch):
        pack = opened(spread_out(here()), make)
        of_layers = layer_places(pack)
        assert of_layers == [GPUS[0], *[GPUS[1]] * 3]
        assert pack._engine.base.devices == GPUS
        pack.step(SLOTS)
        for slot in pack._slots.values():
            for name, parameter in slot.parameters.items():
                expected = of_layers[int(name.partition(".layers.")[2].partition(".")[0])]
                moments = [slot.optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")]
                assert {place_of(each) for each in (parameter, *moments)} == {expected}, name


def test_snapshots_and_adapters_go_from_one_device_to_two_and_back(monkeypatch):
    whole = opened(here())
    whole.step(SLOTS)
    snapshots = {slot: whole.snapshot(slot) for slot in SLOTS}
    with declared_gpus.declared(monkeypatch):
        pack = opened(spread_out(here()), snapshots=snapshots)
        for slot in pack._slots.values():
            for parameter, state in slot.optimizer.state.items():
                assert place_of(state["exp_avg"]) == place_of(parameter)
                assert place_of(state["step"]).type == "cpu"
        assert {slot: pack.snapshot(slot) for slot in SLOTS} == snapshots
        assert all(pack.adapter(slot) == whole.adapter(slot) for slot in SLOTS)
        found = trained(pack)
        again = {slot: pack.snapshot(slot) for slot in SLOTS}
    assert found == pytest.approx(trained(whole), rel=1e-5)
    back = opened(here(), snapshots=again)
    assert [back._slots[slot].step for slot in SLOTS] == [3, 3]
    assert trained(back) == pytest.approx(trained(whole), rel=1e-5)


def test_a_trial_does_not_depend_on_its_neighbour(monkeypatch):
    with declared_gpus.declared(monkeypatch):
        both, alone = opened(spread_out(here())), AdapterPack(FLAT(spread_out(here())), ROWS)
        alone.open(1, TRIALS[1])
        assert packs.losses(alone, 1, 2) == pytest.approx(packs.losses(both, 1, 2, (0,)), rel=1e-6)


def test_a_base_that_is_dequantised_once_stays_where_it_lies(monkeypatch):
    bases = [here(quantised=True) for _ in range(2)]
    with declared_gpus.declared(monkeypatch):
        kept, dequantised = map(spread_out, bases)
        base_model.dequantise(dequantised.model)
        found = opened(dequantised)
        assert layer_places(found) == [GPUS[0], *[GPUS[1]] * 3]
        assert trained(found) == pytest.approx(trained(opened(kept)), rel=1e-6)


def test_the_base_alone_is_evaluated_and_checked_as_on_one_device(monkeypatch):
    expected = AdapterPack(FLAT(here()), ROWS).evaluate_base()
    with declared_gpus.declared(monkeypatch):
        base = spread_out(here())
        base_checks.refuse_foresight("tiny/model", base.model)
        found = AdapterPack(FLAT(base), ROWS).evaluate_base()
    assert found.row_losses == pytest.approx(expected.row_losses, rel=1e-6)


def test_promotion_scores_on_two_gpus_as_on_one(monkeypatch, tmp_path):
    whole = opened(here())
    whole.step(SLOTS)
    evaluation = whole.evaluate([1])[1]
    with declared_gpus.declared(monkeypatch):
        there = spread_out(here())
        loaded = Base(there.model, there.device, there.dtype, Origin("0" * 40, {}))
        monkeypatch.setattr(base_model, "load", lambda *_: loaded)
        monkeypatch.setattr(base_model, "origin_of", lambda *_: loaded.origin)
        monkeypatch.setattr(base_model, "load_tokenizer", lambda *_: None)
        scorer = AdapterScorer(TRIALS[1], tmp_path)
        bare, found = (
            scorer._scored(name, files, ROWS.eval, None, tell_nobody)
            for name, files in ((BASE, None), ("one", whole.adapter(1)))
        )
    assert found.evaluation.row_losses == pytest.approx(evaluation.row_losses, rel=1e-5)
    assert found.evaluation.row_losses != pytest.approx(bare.evaluation.row_losses, rel=1e-3)
