"""The pack's promises: neighbours change nothing, PEFT's own training gives the same numbers, adapters are whole."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import replace
from functools import cache

import packs
import pytest
import torch
from bitsandbytes.optim import AdamW8bit
from known_models import LLAMA_1B
from packs import BF16, FP32, NEIGHBOURS, plain_losses
from peft import get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch.nn import functional

from trainables import qlora
from trainables.contract import Evaluation, Failure, Opened, RowShape, StepRecord
from trainables.data import dataset
from trainables.packing import peft_adapters, targets
from trainables.packing.adapter_pack import AdapterPack
from trainables.packing.training_loss import Loss
from trainables.scoring import requests
from trainables.specs import QuantizationSpec, learning_rate

TRIAL = packs.spec(seed=7, r=4, lora_dropout=0.2, gradient_accumulation_steps=2, warmup_ratio=0.2)
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture(autouse=True, params=packs.ENGINES, ids=lambda engine: engine.__name__)
def engine(request, monkeypatch):
    monkeypatch.setattr(packs, "ENGINE", request.param)


@cache
def alone_in(engine: str, quantised: bool, dtype: torch.dtype) -> tuple[tuple[float, ...], Evaluation]:
    pack = packs.pack(packs.base(quantised=quantised, dtype=dtype))
    assert isinstance(pack.open(0, TRIAL), Opened)
    return tuple(packs.losses(pack, 0, 10)), evaluation(pack, 0)


def alone() -> tuple[float, ...]:
    """The losses of ten steps of TRIAL without neighbours."""
    return alone_in(packs.ENGINE.__name__, False, torch.float32)[0]


def among(*specs, **base) -> AdapterPack:
    """A pack with these trials in its slots."""
    pack = packs.pack(packs.base(**base))
    for slot, spec in enumerate(specs):
        assert isinstance(pack.open(slot, spec), Opened)
    return pack


@pytest.mark.parametrize(
    ("quantised", "dtype", "within"),
    [(False, torch.float32, FP32), (True, torch.float32, FP32), (False, torch.bfloat16, BF16)],
    ids=["plain", "nf4", "bf16"],
)
def test_trial_computes_the_same_alone_and_with_three_different_neighbours(quantised, dtype, within):
    pack = among(*NEIGHBOURS, TRIAL, quantised=quantised, dtype=dtype)
    expected, evaluated = alone_in(packs.ENGINE.__name__, quantised, dtype)
    assert packs.losses(pack, 3, 10, (0, 1, 2)) == pytest.approx(expected, abs=within)
    assert evaluation(pack, 3).loss == pytest.approx(evaluated.loss, abs=within)


def test_trial_computes_the_same_while_neighbours_join_and_leave():
    expected = alone()
    pack = packs.pack()
    pack.open(5, TRIAL)
    found = packs.losses(pack, 5, 2)
    pack.open(0, NEIGHBOURS[0])
    found += packs.losses(pack, 5, 2, (0,))
    pack.open(1, NEIGHBOURS[1])
    pack.evaluate([0, 5])
    found += packs.losses(pack, 5, 3, (0, 1))
    pack.close(0)
    found += packs.losses(pack, 5, 1, (1,))
    pack.open(0, NEIGHBOURS[2])
    found += packs.losses(pack, 5, 2, (0, 1))
    assert found == pytest.approx(expected, abs=FP32)


@pytest.mark.parametrize("most", [1, 60, 100])
def test_more_trials_than_saturate_a_device_train_in_several_passes(monkeypatch, most):
    expected, sizes = alone(), []
    packs.before_passes(
        monkeypatch, lambda engine, segments: sizes.append((len(segments), engine.pass_tokens(segments)))
    )
    pack = among(*NEIGHBOURS, TRIAL)
    pack.pass_tokens = most
    assert packs.losses(pack, 3, 10, (0, 1, 2)) == pytest.approx(expected, abs=FP32)
    assert all(count == 1 or tokens <= most for count, tokens in sizes)
    assert (max(count for count, _ in sizes) > 1) == (most > 1)


def test_a_pass_that_lacks_memory_is_redone_in_parts_and_tried_at_that_size_only_once(monkeypatch):
    expected, sizes, fitting = alone(), [], 2

    def told(engine, segments):
        sizes.append(len(segments))
        if len(segments) > fitting:
            raise OUT_OF_MEMORY

    packs.before_passes(monkeypatch, told)
    pack = among(TRIAL, *(packs.spec(seed=seed) for seed in range(3)))
    monkeypatch.setattr(pack._engine, "parallel_passes", 1)
    first = pack.step(range(4))
    assert all(isinstance(record, StepRecord) for record in first.values())
    assert sizes[0] == 4
    sizes.clear()
    found = [first[0].train_loss, *packs.losses(pack, 0, 1, (1, 2, 3))]
    assert max(sizes) <= fitting, "no pass was tried in vain"
    assert found + packs.losses(pack, 0, 3, (1, 2, 3)) == pytest.approx(expected[:5], abs=FP32)
    before, fitting = pack.pass_tokens, 0
    assert pack.step([0])[0].kind == "out_of_memory"
    assert pack.pass_tokens == before, "a trial that does not fit alone says nothing of the others"


def test_trial_computes_the_same_under_gradient_checkpointing(monkeypatch):
    """`auto` switches it on for the largest trial of the space, once the base is there."""
    expected = alone()
    pack = packs.pack()
    base = packs.spec(batch_size=1)
    largest = [packs.spec(batch_size=16, r=64), base]
    monkeypatch.setattr("trainables.base.model_source.facts", lambda _: LLAMA_1B)
    rows = RowShape(longest=512, mean=200, labelled=1.0, train_rows=24, eval_rows=6)
    need = qlora.need_of_rows(base, largest, "cpu", rows)
    assert qlora.settle_auto(pack, base, largest, rows, need.total(1)) == need
    assert not any(module.training for module in pack._engine.base.model.modules())
    assert qlora.need_of_rows(base, [base], "cpu", rows).total(1) < need.total(1) - 1
    assert qlora.settle_auto(pack, base, largest, rows, need.total(1) - 1).total(1) < need.total(1)
    assert any(module.training for module in pack._engine.base.model.modules())
    pack.open(0, TRIAL)
    assert packs.losses(pack, 0, 10) == pytest.approx(expected, abs=FP32)


def test_a_gpu_without_bfloat16_is_counted_in_float32(monkeypatch):
    monkeypatch.setattr("trainables.base.model_source.facts", lambda _: LLAMA_1B)
    monkeypatch.setattr("trainables.base.devices.gpus", lambda: (torch.device("cuda", 0),))
    auto, single = (
        packs.spec().model_copy(update={"quantization": QuantizationSpec(compute_dtype=dtype)})
        for dtype in ("auto", "float32")
    )
    for capability, counted in (((7, 5), single), ((8, 0), auto)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, has=capability: has)
        assert qlora.settle_auto(packs.pack(), auto, [auto], None, 10**15) == qlora.need(counted, [counted], "cuda")


def test_forty_steps_with_neighbours_stay_close_in_fp32():
    spec = packs.spec(seed=7, steps=40, learning_rate=3e-3)
    expected = packs.losses(among(spec), 0, 40)
    # Rounding grows with every step: ten times the tolerance of ten steps.
    assert packs.losses(among(*NEIGHBOURS, spec), 3, 40, (0, 1, 2)) == pytest.approx(expected, abs=10 * FP32)


def test_a_clock_that_is_set_back_takes_no_time_from_a_trial(monkeypatch):
    hours = itertools.count(24, -1)
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    pack = packs.pack()
    pack.open(0, TRIAL)
    first, second = (pack.step([0])[0].seconds for _ in range(2))
    assert 0.0 < first < second


@pytest.mark.parametrize(
    ("error", "most", "kind", "message"),
    [
        (None, 0, "diverged", "step 4: train_loss nan"),
        (KeyError("row 17"), 9, "failed", "KeyError: 'row 17'"),
        (OUT_OF_MEMORY, 1, "out_of_memory", "CUDA out of memory"),
    ],
)
def test_a_neighbour_that_fails_is_told_and_changes_nothing(monkeypatch, error, most, kind, message):
    """Its adapter is spoilt, or passes fail that hold it or more than so many slots."""

    def act(_engine, segments):
        if error and (len(segments) > most or any(segment.slot == 1 for segment in segments)):
            raise error

    expected, pack = alone(), among(TRIAL, NEIGHBOURS[0])
    found = packs.losses(pack, 0, 3, (1,))
    packs.before_passes(monkeypatch, act)
    if error is None:
        next(iter(pack._slots[1].parameters.values())).data.fill_(math.nan)
    result = pack.step([0, 1])
    assert isinstance(result[1], Failure)
    assert (result[1].kind, result[1].message[: len(message)]) == (kind, message)
    found.append(result[0].train_loss)
    pack.close(1)
    assert found + packs.losses(pack, 0, 6) == pytest.approx(expected, abs=FP32)


PLAIN = {
    "all-linear": packs.spec(seed=3, r=8, weight_decay=0.1, adam_beta2=0.9),
    "rslora": packs.spec(seed=4, r=4, use_rslora=True, target_modules="attention", max_grad_norm=0.1, adam_beta1=0.7),
    "accumulation": packs.spec(
        seed=5, r=2, lora_alpha=1.0, target_modules="mlp", gradient_accumulation_steps=3, max_grad_norm=None
    ),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "nf4"])
def test_packed_training_equals_plain_peft(name, quantised):
    pack = among(NEIGHBOURS[0], PLAIN[name], quantised=quantised)
    assert packs.losses(pack, 1, 10, (0,)) == pytest.approx(expected_of_peft(name, quantised), abs=FP32)


@cache
def expected_of_peft(name: str, quantised: bool) -> list[float]:
    return plain_peft(packs.base(quantised=quantised).model, PLAIN[name], 10)


LORA_PLUS = packs.spec(seed=6, r=4, weight_decay=0.1, lora_plus_ratio=8.0, schedule="cosine")


def test_another_rate_for_b_trains_as_pefts_own_optimizer_of_lora_plus_also_from_a_snapshot():
    def loraplus(model, spec):
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=1.0, loraplus_lr_ratio=8.0, loraplus_weight_decay=spec.training.weight_decay
        )

    expected = plain_peft(packs.base().model, LORA_PLUS, 20, optimizer_of=loraplus)
    pack = among(NEIGHBOURS[0], LORA_PLUS)
    found = packs.losses(pack, 1, 9, (0,))
    kept, pack = pack.snapshot(1), packs.pack()
    assert isinstance(pack.open(1, LORA_PLUS, kept), Opened)
    assert found + packs.losses(pack, 1, 11) == pytest.approx(expected, abs=FP32)
    plain = LORA_PLUS.model_copy(update={"training": LORA_PLUS.training.model_copy(update={"lora_plus_ratio": None})})
    assert plain_peft(packs.base().model, plain, 20)[1:] != pytest.approx(expected[1:], abs=1e-3)


IN_BYTES = packs.spec(seed=2, r=128, weight_decay=0.1, optimizer="adamw_8bit")
LEVELS = 2e-4
"""PEFT's own five losses move by up to 1e-4 when the base's weights move by 1e-7: a moment takes another of its 256
levels. Moments of 32 bits give losses that are 6e-4 away."""


def test_moments_of_8_bits_are_those_of_bitsandbytes_also_from_a_snapshot():

    def in_bytes(model, spec):
        trained = [p for p in model.parameters() if p.requires_grad]
        return AdamW8bit(trained, lr=1.0, weight_decay=spec.training.weight_decay)

    expected = plain_peft(packs.base().model, IN_BYTES, 5, optimizer_of=in_bytes)
    pack, other = among(NEIGHBOURS[0], IN_BYTES), packs.pack()
    found = packs.losses(pack, 1, 5, (0,))
    assert found[:2] == pytest.approx(expected[:2], abs=FP32)  # the first step's moments are not rounded yet
    assert found == pytest.approx(expected, abs=LEVELS)
    assert isinstance(other.open(1, IN_BYTES, pack.snapshot(1)), Opened)
    assert packs.losses(other, 1, 5) == packs.losses(pack, 1, 5)
    states = pack._slots[1].optimizer.state
    assert {states[parameter]["state1"].dtype for parameter in pack._slots[1].parameters.values()} == {
        torch.uint8,
        torch.float32,  # of fewer than 4,096 numbers
    }
    plain = IN_BYTES.model_copy(update={"training": IN_BYTES.training.model_copy(update={"optimizer": "adamw"})})
    assert plain_peft(packs.base().model, plain, 5) != pytest.approx(expected, abs=LEVELS)


DORA = packs.spec(seed=8, r=4, use_dora=True, weight_decay=0.1, lora_plus_ratio=4.0)


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "nf4"])
def test_dora_beside_plain_lora_trains_as_pefts_own(quantised):
    def loraplus(model, spec):
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=1.0, loraplus_lr_ratio=4.0, loraplus_weight_decay=spec.training.weight_decay
        )

    expected = plain_peft(packs.base(quantised=quantised).model, DORA, 20, optimizer_of=loraplus)
    pack = among(NEIGHBOURS[0], DORA, quantised=quantised)
    assert packs.losses(pack, 1, 20, (0,)) == pytest.approx(expected, abs=FP32)
    lengths = [p for name, p in pack._slots[1].parameters.items() if "magnitude" in name]
    assert len(lengths) == 14
    again = packs.pack(packs.base(quantised=quantised))
    assert isinstance(again.open(1, DORA, pack.restored(pack.adapter(1))), Opened)
    assert evaluation(again, 1).row_losses == pytest.approx(evaluation(pack, 1).row_losses, abs=FP32)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("init", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "nf4"])
def test_a_and_b_start_as_peft_draws_them_on_a_plain_base(init, quantised, use_dora):
    spec = packs.spec(seed=5, r=6, init=init, use_dora=use_dora)
    config = peft_adapters.lora_config(spec, targets.resolve(packs.base().model, "all-linear"))
    config.init_lora_weights = init
    torch.manual_seed(spec.seed)
    expected = {
        name.removeprefix("base_model.model.").replace(".default.", "."): p
        for name, p in get_peft_model(packs.base().model, config).named_parameters()
        if p.requires_grad
    }
    pack = among(NEIGHBOURS[0], spec, quantised=quantised)
    found = {name.removeprefix("base_model.model."): p for name, p in pack._slots[1].parameters.items()}
    assert found.keys() == expected.keys()
    for name, parameter in found.items():
        assert torch.equal(parameter, expected[name]) or (quantised and "magnitude" in name), name
    assert any(float(p.detach().abs().max()) > 0 for name, p in found.items() if "lora_B" in name) is (
        init == "orthogonal"
    )
    first = evaluation(pack, 1)
    packs.losses(pack, 1, 2, (0,))
    assert first.loss != evaluation(pack, 1).loss
    assert requests.problems(spec, pack.adapter(1)) == [], "a folder that any scorer takes"


def mean_loss(model, batch) -> torch.Tensor:
    return sum(plain_losses(model, row).sum() for row in batch) / sum(row.labels for row in batch)


def adamw(model, spec):
    trained = [p for p in model.parameters() if p.requires_grad]
    betas = spec.training.adam_beta1, spec.training.adam_beta2
    return torch.optim.AdamW(trained, lr=1.0, betas=betas, weight_decay=spec.training.weight_decay)


def plain_peft(model, spec, steps, of_example=1, loss=mean_loss, optimizer_of=adamw):
    """PEFT, AdamW and a loop: what anyone would write for one adapter, one row after the other."""
    config = peft_adapters.lora_config(spec, targets.resolve(model, spec.adapter.target_modules))
    torch.manual_seed(spec.seed)
    model = get_peft_model(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer_of(model, spec)
    factors = [group["lr"] for group in optimizer.param_groups]
    data, count = packs.rows().train, spec.training.batch_size * spec.training.gradient_accumulation_steps
    found = []
    for step in range(steps):
        examples = dataset.batch_rows(spec.seed, len(data) // of_example, step * count, count)
        batch = [data.row(of_example * place + own) for place in examples for own in range(of_example)]
        mean = loss(model, batch)
        mean.backward()
        if spec.training.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, spec.training.max_grad_norm)
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = factor * learning_rate(spec.training, step + 1, spec.steps)
        optimizer.step()
        optimizer.zero_grad()
        found.append(mean.item())
    return found


def evaluation(pack, slot) -> Evaluation:
    result = pack.evaluate([slot])[slot]
    assert isinstance(result, Evaluation), result
    return result


def test_eval_loss_is_the_mean_over_completion_tokens_and_holds_every_row_with_its_group():
    rows, own = packs.rows(), packs.rows().eval
    groups = tuple(range(len(own)))
    pack = packs.pack(data=replace(rows, eval=replace(own, groups=groups)))
    pack.open(0, TRIAL)
    found = evaluation(pack, 0)
    expected = row_losses(packs.base().model)  # B is zero before the first step
    assert found.row_losses == pytest.approx(expected, abs=1e-4)
    assert found.row_tokens == tuple(own.row(i).labels for i in groups)
    assert found.loss == pytest.approx(sum(expected) / sum(found.row_tokens), abs=FP32)
    assert found.row_groups == pack.evaluate_base().row_groups == groups
    assert packs.pack().evaluate_base().row_groups == ()


@torch.no_grad()
def row_losses(model) -> list[float]:
    rows = packs.rows().eval
    return [float(plain_losses(model, rows.row(i)).sum()) for i in range(len(rows))]


def test_snapshot_of_another_adapter_is_refused():
    pack = among(NEIGHBOURS[0])
    pack.step([0])
    refused = packs.pack().open(0, TRIAL, pack.snapshot(0))
    assert isinstance(refused, Failure)
    assert "other modules" in refused.message


@pytest.mark.parametrize(("rank", "alpha"), [(16, 128), (8, 16 * 8**0.5)])
def test_peft_reads_the_folder_of_an_adapter_whose_scale_is_folded(tmp_path, rank, alpha):
    """Servers that do not know use_rslora divide by the rank. A folder that names it is as good as before."""
    spec = packs.spec(seed=9, r=rank, use_rslora=True, target_modules="mlp", learning_rate=3e-2)
    pack = among(NEIGHBOURS[0], spec)
    packs.losses(pack, 1, 5, (0,))
    new = pack.adapter(1)
    config = json.loads(new["adapter_config.json"])
    assert (config["use_rslora"], config["lora_alpha"], config["r"]) == (False, alpha, rank)
    assert type(config["lora_alpha"]) is type(alpha)
    assert config["base_model_name_or_path"] == "tiny/model"
    assert sorted(config["target_modules"]) == ["down_proj", "gate_proj", "up_proj"]
    named = json.dumps(config | {"use_rslora": True, "lora_alpha": 2 * rank}).encode()
    found = []
    for files in (new, {**new, "adapter_config.json": named}):
        assert requests.problems(spec, files) == []
        found.append(row_losses(packs.peft_model(files, tmp_path)))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] == pytest.approx(evaluation(pack, 1).row_losses, abs=1e-4)
    assert row_losses(packs.base().model) != pytest.approx(found[0], rel=1e-2)


def test_only_adapters_change():
    loaded = packs.base()
    before = {name: value.clone() for name, value in loaded.model.named_parameters()}
    pack = packs.pack(loaded)
    pack.open(0, TRIAL)
    packs.losses(pack, 0, 3)
    after = {name.replace(".base_layer", ""): value for name, value in loaded.model.named_parameters()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_gradients_of_a_4bit_base_are_the_same_before_and_after_an_evaluation(dtype):
    """bitsandbytes 0.50.2 repacks 4-bit weights on CPUs with AVX512-BF16 at the first evaluation."""
    pack, records = packs.pack(packs.base(quantised=True, dtype=dtype)), []
    for _ in range(2):
        pack.open(0, packs.spec(lora_dropout=0.0, learning_rate=1e-12))
        records.append(pack.step([0])[0])
        pack.evaluate([0])
        pack.close(0)
    before, after = records
    assert (after.train_loss, after.grad_norm) == (before.train_loss, before.grad_norm)


class Preferred(Loss):
    """Pairs of rows of which the first is preferred: the odds-ratio loss of ORPO (arXiv 2403.07691) without its SFT."""

    rows_per_example = 2

    def weight(self, rows):
        return len(rows) / 2

    def total(self, rows, token_losses):
        labels = [row.labels for row in rows]
        means = torch.stack([-of_row.mean() for of_row in token_losses.split(labels)])
        odds = means - torch.log1p(-torch.exp(means))
        return -functional.logsigmoid(odds[::2] - odds[1::2]).sum()


def test_a_pack_trains_what_its_loss_makes_of_log_probabilities():
    """As a loop over plain logits does, and with neighbours; batch_size counts pairs."""
    spec = packs.spec(seed=5, r=4, target_modules="mlp", gradient_accumulation_steps=2, max_grad_norm=None)
    pack = AdapterPack(packs.ENGINE(packs.base()), packs.rows(), loss=Preferred())
    pack.open(0, NEIGHBOURS[0])
    pack.open(1, spec)
    found = packs.losses(pack, 1, 10, (0,))

    def mean(model, batch) -> torch.Tensor:
        return Preferred().total(batch, torch.cat([plain_losses(model, row) for row in batch])) / (len(batch) / 2)

    expected = plain_peft(packs.base().model, spec, 10, of_example=2, loss=mean)
    assert found == pytest.approx(expected, abs=FP32)
    assert found[-1] < found[0]
    assert isinstance(pack.evaluate([1])[1], Evaluation)
