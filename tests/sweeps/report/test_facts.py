"""The facts about a sweep: what it took, and what it was made of."""

from __future__ import annotations

import json
from typing import Any

import report_sweeps as sweeps
from sweep_events import answered, hosts, record, reported, started

from sweeps.record.events import DataPrepared, Event, SweepPlanned, SweepStarted
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import facts

ROWS = {"train_rows": 7473, "eval_rows": 32, "dropped_rows": 0, "truncated_rows": 12}
SUMMARY: dict[str, Any] = {"fingerprint": "ab12", **ROWS}


def of(document: dict[str, Any], *events: Event, **fingerprints: str) -> SweepRecord:
    begun = SweepStarted(sweep_id="toy-1", time=0.0, config=json.dumps(document), fingerprints=fingerprints)
    return record([begun, *events])


def test_what_a_sweep_was_made_of_is_told_as_it_is_now() -> None:
    prints = {"model": "hub/model@v1", "model.weights": "7c", "data.train": "9f"}
    more = answered(2.0, changes={"budget.trials": 12})
    found = facts.made_of(of(sweeps.config(), DataPrepared(time=1.0, summary=SUMMARY), more, **prints))
    assert {fact.name: fact.value for fact in found} == {
        "budget.trials": "12",
        "fingerprint of model": "hub/model@v1",
        "fingerprint of model.weights": "7c",
        "fingerprint of data.train": "9f",
        "rows to train on": "7,473",
        "rows to evaluate on": "32",
        "truncated rows": "12",
        "fingerprint of the tokens": "ab12",
    }


def test_what_a_sweep_took_stands_beside_its_plan() -> None:
    spec = json.dumps({"steps": 27, "training": {"batch_size": 4, "gradient_accumulation_steps": 2}})
    trial = started("a", 0, r=8).model_copy(update={"spec": spec})
    found = of(sweeps.config(), SweepPlanned(time=0.0, steps=9, seconds=90.0), trial, reported("a", 3, 2.0))
    told = {fact.name: fact.value for fact in facts.taken(found, 100.0)}
    assert (told["steps"], told["trained"]) == ("3 (planned: 9)", "24 rows, 300 tokens")
    assert told["time"] == "1 min 40 s (planned: 1 min 30 s)"


def test_what_gpu_hours_have_cost_is_told_at_a_price() -> None:
    held = hosts(0.0, hosts=2, slots=8, device="cuda", held=2, gpus_per_host=4)
    found = of(sweeps.config(), held, started("a", 0), reported("a", 1, 2.0).model_copy(update={"time": 900.0}))
    told = {fact.name: fact.value for fact in facts.taken(found, 900.0, 2.5)}
    assert (told["held"], told["cost"]) == ("2.00 GPU-hours", "5.00 at 2.5 a GPU-hour")
    none = {fact.name: fact.value for fact in facts.taken(of(sweeps.config()), 900.0, 2.5)}
    assert none["cost"] == "none: the sweep has held no GPU"
