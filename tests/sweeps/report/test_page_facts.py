"""The facts of a sweep's page: what it took, and what it was made of."""

from __future__ import annotations

import json
from typing import Any

import report_sweeps as sweeps
from sweep_events import answered, hosts, record, reported, started

from sweeps.record.events import DataPrepared, Event, SweepPlanned, SweepStarted
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import page_facts

QLORA: dict[str, Any] = {
    "model": {"source": "hub/model", "revision": "v1"},
    "quantization": {"scheme": "nf4", "double_quant": True, "compute_dtype": "bfloat16"},
    "data": {"train": "rows.jsonl", "prompt": "{question}", "completion": "{answer}", "eval": None, "max_length": 256},
    "scheduler": {"kind": "asha", "variant": "promote", "overfit_patience": None},
    "seed": 7,
}
ROWS = {"train_rows": 7473, "eval_rows": 32, "dropped_rows": 0, "truncated_rows": 12}
SUMMARY: dict[str, Any] = {"fingerprint": "ab12", **ROWS}


def of(document: dict[str, Any], *events: Event, **fingerprints: str) -> SweepRecord:
    begun = SweepStarted(sweep_id="toy-1", time=0.0, config=json.dumps(document), fingerprints=fingerprints)
    return record([begun, *events])


def test_what_a_sweep_was_made_of_is_told_as_it_is_now() -> None:
    prints = {"model": "hub/model@v1", "model.weights": "7c", "data.train": "9f"}
    more = answered(2.0, changes={"budget.trials": 12})
    document = sweeps.config(trainable="qlora", **QLORA)
    found = page_facts.made_of(of(document, DataPrepared(time=1.0, summary=SUMMARY), more, **prints))
    values = {heading: {fact.name: fact.value for fact in facts} for heading, facts in found.items()}
    assert values["Model"] == {
        "trainable": "qlora",
        "source": "hub/model",
        "revision": "v1",
        "fingerprint of model": "hub/model@v1",
        "fingerprint of model.weights": "7c",
        "quantisation": "nf4",
        "double_quant": "True",
        "compute_dtype": "bfloat16",
    }
    assert values["Data"] == {
        "train": "rows.jsonl",
        "prompt": "{question}",
        "completion": "{answer}",
        "max_length": "256",
        "fingerprint of data.train": "9f",
        "rows to train on": "7,473",
        "rows to evaluate on": "32",
        "truncated rows": "12",
        "fingerprint of the tokens": "ab12",
    }
    search = values["Search"]
    assert search["training.learning_rate"] == "{loguniform: [1.0e-05, 0.01]}"
    assert (search["budget.trials"], search["scheduler"]) == ("8, changed to 12", "asha, variant promote")
    assert (search["objective"], search["seed"]) == ("eval_loss", "7")


def test_an_unquantised_base_is_lora() -> None:
    document = sweeps.config(**{**QLORA, "quantization": {"scheme": "none", "double_quant": True}})
    model = {fact.name: fact for fact in page_facts.made_of(of(document))["Model"]}
    assert model["quantisation"].meaning == "plain LoRA on a base that is not quantised"
    assert "double_quant" not in model


def test_what_a_sweep_took_stands_beside_its_plan() -> None:
    spec = json.dumps({"steps": 27, "training": {"batch_size": 4, "gradient_accumulation_steps": 2}})
    trial = started("a", 0, r=8).model_copy(update={"spec": spec})
    found = of(sweeps.config(), SweepPlanned(time=0.0, steps=9, seconds=90.0), trial, reported("a", 3, 2.0))
    facts = {fact.name: fact.value for fact in page_facts.cost(found, 100.0)}
    assert (facts["optimizer steps"], facts["examples"], facts["tokens"]) == ("3", "24", "300")
    assert (facts["time"], facts["planned at launch"]) == ("1 min 40 s", "9 steps, 1 min 30 s")


def test_what_gpu_hours_have_cost_is_told_at_a_price() -> None:
    held = hosts(0.0, hosts=2, slots=8, device="cuda", held=2, gpus_per_host=4)
    found = of(sweeps.config(), held, started("a", 0), reported("a", 1, 2.0).model_copy(update={"time": 900.0}))
    assert page_facts.money(found, 2.5) == "cost: 5.00, for 2.00 GPU-hours at 2.5 each"
    assert page_facts.money(of(sweeps.config()), 2.5) == "cost: none, as the sweep has held no GPU"
