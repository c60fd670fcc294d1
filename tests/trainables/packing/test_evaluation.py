"""Evaluations: the base's own, once on a machine, and what tells a model that has diverged from one that has not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import packs
import pytest
import torch
import trainable_kits
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from trainables import evaluation_metrics, qlora
from trainables.base import devices
from trainables.contract import Evaluation, Failure
from trainables.data import dataset
from trainables.evaluation_metrics import METRICS
from trainables.packing.batches import pad
from trainables.packing.evaluation import base_file, read_or_make
from trainables.packing.passes import evaluation_passes


def plain_peft(quantised: bool) -> list[float]:
    """Row losses with a trained-looking adapter that is disabled, in the passes of an evaluation."""
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(packs.base(quantised=quantised).model, config).eval()
    data = packs.rows().eval
    found = [0.0] * len(data)
    with torch.no_grad(), model.disable_adapter():
        for places, rows in evaluation_passes([data.row(i) for i in range(len(data))]):
            batch = pad(rows)
            # Only the positions that have a label go through the head, as everywhere here.
            hidden = model.base_model.model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
            logits = model.get_output_embeddings()(hidden[batch.keep]).float()
            losses = functional.cross_entropy(logits, batch.answers, reduction="none").double()
            counts = [row.labels for row in rows]
            for place, piece in zip(places, losses.split(counts), strict=True):
                found[place] = float(piece.sum())
    return found


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "nf4"])
def test_to_the_last_bit_what_plain_peft_gives_with_its_adapter_disabled(quantised):
    pack = packs.pack(packs.base(quantised=quantised))
    expected = plain_peft(quantised)
    assert list(pack.evaluate_base().row_losses) == expected
    for slot, modules in enumerate(("all-linear", "mlp")):
        pack.open(slot, packs.spec(seed=slot, lora_dropout=0.1, target_modules=modules))
    packs.losses(pack, 1, 3, (0,))
    assert list(pack.evaluate_base().row_losses) == expected
    pack.close(0)
    assert list(pack.evaluate_base().row_losses) == expected


def test_a_pass_that_raises_is_a_failure_of_the_base(monkeypatch):
    packs.before_passes(monkeypatch, lambda engine, segments: 1 / 0)
    found = packs.pack().evaluate_base()
    assert isinstance(found, Failure)
    assert found.message == "ZeroDivisionError: division by zero"


# On disk

ROWS = (6.0, 4.0), (2, 3)
EVALUATION = evaluation_metrics.evaluation(*ROWS, hardware="cpu float32")


def never() -> Evaluation:
    raise AssertionError("it is there already")


def kept(path: Path, evaluate: Callable[[], Evaluation | Failure] = never, sizes: tuple = ()) -> Evaluation | Failure:
    return read_or_make(path, evaluate, replace(packs.rows().eval, sizes=sizes), METRICS)


def test_an_evaluation_that_is_kept_is_not_made_again_and_gets_the_metrics_that_are_new(tmp_path):
    path = base_file(tmp_path, "base", "nf4", "rows")
    assert kept(path, lambda: EVALUATION) == EVALUATION
    assert kept(path) == EVALUATION
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    found = kept(path, sizes=(4, 6))
    assert (found.metrics["eval_bits_per_byte"], found.row_bytes) == (pytest.approx(1 / math.log(2)), (4, 6))


def test_another_base_quantisation_type_or_other_rows_are_another_evaluation(tmp_path):
    identities = [("a", "b"), ("a", "c"), ("b", "a"), ("a",), ("a", "b", "")]
    assert len({base_file(tmp_path, *identity) for identity in identities}) == len(identities)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        EVALUATION.model_dump_json().encode()[:-20],
        json.dumps(EVALUATION.document() | {"row_tokens": [0, 0]}).encode(),
        json.dumps(EVALUATION.document() | {"eval_loss": 0.1}).encode(),
    ],
    ids=["empty", "cut short", "no tokens", "a loss that is not that of its rows"],
)
def test_an_evaluation_whose_file_is_damaged_is_made_again(tmp_path, content):
    path = tmp_path / "kept.json"
    path.write_bytes(content)
    assert kept(path, lambda: EVALUATION) == EVALUATION
    assert kept(path) == EVALUATION


def test_an_evaluation_that_failed_is_not_kept_and_one_that_cannot_be_is_there(tmp_path):
    path = tmp_path / "kept.json"
    failure = Failure(kind="out_of_memory", message="no room")
    assert kept(path, lambda: failure) == failure
    assert not path.exists()
    path.write_text("")
    assert kept(path / "below a file.json", lambda: EVALUATION) == EVALUATION


def test_a_pack_that_finds_the_evaluation_of_its_base_computes_none(tmp_path, monkeypatch):
    first, again = (
        packs.AdapterPack(packs.PeftEngine(packs.base()), packs.rows(), known_base=tmp_path / "kept.json")
        for _ in range(2)
    )
    expected = first.evaluate_base()
    packs.before_passes(monkeypatch, lambda engine, segments: never())
    assert again.evaluate_base() == expected


def test_another_kind_of_gpu_is_another_evaluation(tmp_path, monkeypatch):
    """Their losses differ more than those of one kind, and the cache may be on a disk that both see."""
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"{device}'s maker's name")
    assert [devices.kind(torch.device(each)) for each in ("cpu", "cuda")] == ["cpu", "cuda's maker's name"]
    base = trainable_kits.qlora_kit(tmp_path).base
    prepared = qlora.prepare(base, tmp_path)
    for kind in ("NVIDIA A100", "NVIDIA H100", "NVIDIA A100"):
        monkeypatch.setattr(devices, "kind", lambda _device, kind=kind: kind)
        found = qlora.open_pack(base, prepared.payload, tmp_path).evaluate_base()
        bits = sum(found.row_losses) / math.log(2)
        assert found.metrics["eval_bits_per_byte"] == pytest.approx(bits / prepared.summary.eval_bytes)
    assert len(list((tmp_path / "base-evaluations").iterdir())) == 2


# Diverged or not


@pytest.mark.parametrize("biased", [False, True], ids=["uniform", "constant"])
def test_a_trial_whose_output_no_longer_depends_on_the_input_has_diverged(biased):
    """The last norm divides by infinity: all logits are the bias of the head, or 0."""
    loaded = packs.base()
    if biased:
        loaded.model.lm_head.bias = torch.nn.Parameter(torch.linspace(-4, 4, packs.tiny_models.VOCAB_SIZE), False)
    engine = packs.FlatEngine(loaded)
    pack = packs.AdapterPack(engine, packs.rows())
    pack.open(0, packs.spec())
    pack.open(1, packs.spec(seed=7))
    # What the last block adds fits into single precision on every processor, and the squares of it do not.
    next(p for name, p in engine._adapters.parameters[0].items() if "1.mlp.down_proj.lora_B" in name).data.fill_(1e30)
    result = pack.evaluate([0, 1])
    assert isinstance(result[0], Failure) and result[0].kind == "diverged"
    assert result[0].message.endswith(": the output no longer depends on the input")
    assert biased or result[0].message.startswith(f"eval_loss {math.log(packs.tiny_models.VOCAB_SIZE):.4f}")
    assert all(isinstance(other, Evaluation) for other in (result[1], pack.evaluate_base()))


def test_a_trial_whose_learning_rate_is_far_too_high_has_diverged_wherever_its_numbers_overflow():
    """In a step's gradient or in the evaluation's last norm: that is the processor's affair."""
    pack = packs.AdapterPack(packs.FlatEngine(packs.base()), packs.rows())
    pack.open(0, packs.spec(learning_rate=1e3))
    pack.open(1, packs.spec(seed=7))
    steps = (pack.step([0, 1]) for _ in range(10))
    found = next((step for step in steps if isinstance(step[0], Failure)), None) or pack.evaluate([0, 1])
    assert isinstance(found[0], Failure) and found[0].kind == "diverged"
    assert isinstance(pack.evaluate([1])[1], Evaluation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_model_that_is_all_but_uniform_has_not_diverged(dtype):
    loaded = packs.base(dtype=dtype)
    loaded.model.lm_head.weight.mul_(1e-2)
    found = packs.AdapterPack(packs.FlatEngine(loaded), packs.rows()).evaluate_base()
    assert isinstance(found, Evaluation)
    assert found.loss == pytest.approx(math.log(packs.tiny_models.VOCAB_SIZE), abs=1e-2)


def test_equal_rows_say_nothing_of_what_the_output_depends_on():
    row = packs.rows().eval.row(0)
    same = dataset.Split(np.tile(row.ids, 8), np.arange(9) * len(row.ids), np.tile(row.labelled, 8))
    assert len(set(row.ids[row.labelled])) > row.labels - 3, "a test of rows whose tokens hardly repeat"
    pack = packs.AdapterPack(packs.FlatEngine(packs.base()), dataset.Splits(packs.rows().train, same))
    assert isinstance(pack.evaluate_base(), Evaluation)
