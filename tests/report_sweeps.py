"""Sweeps of many trials for the tests of their page: events that a sweep of the toy would have written."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sweep_events import ended, reported

from sweeps.record.events import (
    BaseEvaluated,
    DataPrepared,
    Event,
    HostsStarted,
    SweepEnded,
    SweepPlanned,
    SweepStarted,
    TrialParked,
    TrialStarted,
    TrialState,
    to_line,
)
from sweeps.record.folder import FORMAT, SweepFolder

SPACE: dict[str, Any] = {
    "adapter.r": {"choice": [4, 8, 16, 32]},
    "adapter.target_modules": {"choice": ["attention-qv", "attention", "all-linear"]},
    "training.learning_rate": {"loguniform": [1.0e-5, 1.0e-2]},
}
RUNGS = (1, 3, 9, 27)


def config(name: str = "x", **sections: Any) -> dict[str, Any]:
    """A resolved configuration."""
    budget = {"trials": 8, "steps_per_trial": 27}
    tracking = {"uri": "sqlite:///mlflow.db"}
    return {"name": name, "trainable": "toy", "search_space": SPACE, "budget": budget, "tracking": tracking} | sections


def events(trials: int, document: dict[str, Any], *, ends: bool = True, **metrics: float) -> Iterator[Event]:
    """A sweep in which every third trial of a rung goes on.

    Args:
        trials: how many.
        document: the configuration.
        ends: whether the sweep and its trials come to their end.
        metrics: further metrics, each so many times the eval_loss.
    """
    rng, clock = random.Random(0), 100.0
    yield SweepStarted(time=clock, config=json.dumps(document), sweep_id="x-1")
    yield SweepPlanned(time=clock, steps=5 * trials, seconds=10.0 * trials)
    yield HostsStarted(time=clock + 1, since=clock, hosts=1, slots=2, device="cpu", held=1, held_seconds=1.0)
    yield DataPrepared(time=clock + 1, summary={"train_rows": 600, "eval_rows": 32}, warnings=("row 3 is odd",))
    first = {"eval_loss": 4.5, **{name: 4.5 * times for name, times in metrics.items()}}
    yield BaseEvaluated(time=clock + 2, metrics=first, rows=32, hardware="cpu float32")
    for number in range(trials):
        rate = float(f"{10 ** rng.uniform(-5, -2):.3g}")
        point: dict[str, Any] = {
            "adapter.r": rng.choice([4, 8, 16, 32]),
            "adapter.target_modules": rng.choice(["attention-qv", "attention", "all-linear"]),
            "training.learning_rate": rate,
        }
        params = {name.partition(".")[2]: value for name, value in point.items()} | {"lora_alpha": 32}
        key, rungs = f"{number:012x}", 1 + (number % 3 == 0) + (number % 9 == 0) + (number % 27 == 0)
        level = 1.0 + 0.3 * abs(math.log10(rate) + 3.3) + 0.05 * rng.random()
        for since, step in zip((0, *RUNGS), RUNGS[:rungs], strict=False):
            yield TrialStarted(time=clock, trial_key=key, number=number, params=params, spec="{}", point=point)
            clock += 0.5 * (step - since)
            event = reported(key, step, level + 2.5 / step**0.5, since=since)
            loss = event.metrics["eval_loss"]
            found = {"eval_loss": loss, **{name: times * (5 - loss) for name, times in metrics.items()}}
            told = {"metrics": found, "best_metrics": found, "trainable_params": 1000 + number}
            yield event.model_copy(update={"time": clock, **told})
            yield TrialParked(time=clock + 0.1, trial_key=key, step=step)
        if ends:
            state = TrialState.COMPLETED if rungs == len(RUNGS) else TrialState.STOPPED
            yield ended(key, state, f"rank {number} at step {step}").model_copy(update={"time": clock + 0.2})
    if ends:
        yield SweepEnded(time=clock + 1, reason="finished")


def write(path: Path, told: Iterable[Event], document: dict[str, Any] | None = None) -> SweepFolder:
    """A sweep's folder with these events."""
    path.mkdir(parents=True, exist_ok=True)
    folder = SweepFolder(path)
    document = document or config()
    described = {"format": FORMAT, "sweep_id": f"{document.get('name', 'x')}-1", "config": document}
    folder.config.write_text(json.dumps(described))
    folder.events.write_text("".join(to_line(event) + "\n" for event in told))
    return folder
