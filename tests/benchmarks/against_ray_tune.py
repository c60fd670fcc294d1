"""A sweep of this project against the same search in plain Ray Tune: same points, rungs, rows and model.

    python -m tests.benchmarks.against_ray_tune --results DIR [--data FOLDER | --train FILE --eval FILE ...]

- eight: eight fixed points, worst first, rungs at 1, 3 and 9 steps; this project's promote, Ray's ASHA (stop form)
- short: --trials random points of 1 to 3 steps, rungs at 1 and 3
- engine: the eight points for 3 steps without early stopping on either side: what the engine alone gives

Both sides run in one go, one after the other, each as a command of its own with a new MLflow database; the 4-bit base
and the tokens of the rows are made before. What DIR holds already is not measured again. Without --data, the rows of
the quickstart; --data is a folder with gsm8k_train.jsonl and gsm8k_test.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import yaml

from cluster.devices import cache
from search_spaces.space import SearchSpace
from sweeps.config import load
from sweeps.record.events import HostsStarted, TrialReported, TrialStarted
from sweeps.record.folder import read_events
from trainables import qlora
from trainables.base import base_model
from trainables.data import dataset

from . import machines, search, watched

REDUCTION = 3
GOALS = {"eight": 3.5, "short": 8.0}


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


@dataclass(frozen=True)
class Told:
    """A report of a trial."""

    trial: str
    at: float
    """Seconds since the epoch."""
    step: int
    loss: float
    tokens: int
    """Trained on so far by this trial."""


def measures(trials: int) -> dict[str, Measure]:
    """Name -> comparison."""
    space = SearchSpace.parse(search.SPACE)
    drawn = Random(1)
    short = [dict(space.sample(drawn)) for _ in range(trials)]
    return {
        "eight": Measure(search.eight_points(), 9, 1, early=True),
        "short": Measure(short, 3, 1, early=True),
        "engine": Measure(search.eight_points(), 3, 3, early=False),
    }


def rows_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The `data` part of a sweep file."""
    if arguments.data is not None:
        named: dict[str, Any] = dict(search.sweep_file(arguments.data.resolve(), "", {})["data"])
    elif arguments.train is not None:
        named = {"train": str(arguments.train.resolve()), "prompt": arguments.prompt, "max_length": 256}
        named["completion"] = arguments.completion
        if arguments.eval is not None:
            named["eval"] = str(arguments.eval.resolve())
    else:
        quickstart = load.load("quickstart", [], Path.cwd()).config.base.data_spec
        named = quickstart.model_dump(exclude={"test"}, exclude_defaults=True)
    return named | {"eval_examples": arguments.eval_rows}


def sweep_file(name: str, measure: Measure, rows: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The sweep as this project's file. Without warm-up, since HF's first step of a warm-up has a rate of 0."""
    training = {**search.TRAINED["training"], "warmup_ratio": 0.0}
    early = {"kind": "asha", "variant": "promote"} if measure.early else {"kind": "fifo"}
    return {
        "name": name,
        **search.TRAINED,
        "quantization": {**search.TRAINED["quantization"], "compute_dtype": dtype},
        "training": training,
        "data": rows,
        "search_space": search.SPACE,
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


def ours(folder: Path, content: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Runs this project's sweep; its figures."""
    seen = search.launched(folder, content)
    events = [event for event, _ in read_events(folder / "results" / content["name"] / "events.jsonl")]
    reports = [event for event in events if isinstance(event, TrialReported)]
    told = [
        Told(each.trial_key, each.report.time, each.report.step, each.report.metrics["eval_loss"], each.report.tokens)
        for each in reports
    ]
    begun = next(event.time for event in events if isinstance(event, TrialStarted))
    hosts = next(event for event in events if isinstance(event, HostsStarted))
    by_trial = {
        key: [each for each in reports if each.trial_key == key] for key in {each.trial_key for each in reports}
    }
    busy = union([span for of_trial in by_trial.values() for span in spans(of_trial)])
    return figures(seen, told, job["eval_tokens"]) | {
        "busy_share": busy / seen.seconds,
        "busy_share_from_first_trial": busy / (max(each.at for each in told) - begun),
        "seconds_to_first_trial": begun - seen.started,
        "hosts": hosts.hosts,
        "slots": hosts.slots,
    }


def spans(reports: list[TrialReported]) -> list[tuple[float, float]]:
    """When a trial trained and was evaluated: from, to. Passes are shared among trials, so spans of several overlap."""
    found, before = [], 0.0
    for report in (each.report for each in reports):
        for step in report.history:
            found.append((step.time - (step.seconds - before), step.time))
            before = step.seconds
        found.append((report.history[-1].time, report.time))
    return found


def union(found: list[tuple[float, float]]) -> float:
    """Seconds that at least one of the spans covers."""
    covered, reached = 0.0, 0.0
    for begin, end in sorted(found):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


def plain(folder: Path, measure: Measure, job: dict[str, Any]) -> dict[str, Any]:
    """Runs the same search in plain Ray Tune; its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    told = job | {
        "points": measure.points, "rungs": measure.rungs, "reduction_factor": REDUCTION, "early": measure.early,
        "tracking_uri": f"sqlite:///{folder}/mlflow.db", "folder": str(folder),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(told, indent=1))
    words = [sys.executable, "-m", "tests.benchmarks.plain_ray_tune", "job.json", "answer.json"]
    seen = watched.run(words, folder, {**os.environ, "PYTHONPATH": str(Path.cwd())})
    reports = json.loads((folder / "answer.json").read_text())["reports"]
    busy = {each["trial"]: each["busy"] for each in reports}
    return figures(
        seen,
        [Told(each["trial"], each["at"], each["step"], each["eval_loss"], each["tokens"]) for each in reports],
        job["eval_tokens"],
    ) | {"busy_share": sum(busy.values()) / (seen.seconds * (os.cpu_count() or 1))}


def figures(seen: watched.Watched, told: list[Told], eval_tokens: int) -> dict[str, Any]:
    """What both sides are asked."""
    told = sorted(told, key=lambda each: each.at)
    steps = {each.trial: each.step for each in told}
    trained = sum({each.trial: each.tokens for each in told}.values())
    read = trained + len(told) * eval_tokens
    return {
        "seconds": seen.seconds,
        "trials": len(steps),
        "steps": sum(steps.values()),
        "evaluations": len(told),
        "trained_tokens": trained,
        "evaluated_tokens": len(told) * eval_tokens,
        "tokens_per_second": read / seen.seconds,
        "peak_gb": seen.peak_bytes / 1e9,
        "cores_used": seen.cpu_seconds / seen.seconds,
        "best_loss": min(each.loss for each in told),
        "losses": [[each.at - seen.started, each.loss, each.step] for each in told],
    }


def seconds_to(target: float, side: dict[str, Any]) -> float:
    """Seconds from the command's start to the first report that is as good as the target."""
    return float(next(at for at, loss, _ in side["losses"] if loss <= target))


def compared(name: str, both: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The ratios of one run."""
    target = max(side["best_loss"] for side in both.values())
    reached = {which: seconds_to(target, side) for which, side in both.items()}
    per_token = {which: 1.0 / side["tokens_per_second"] for which, side in both.items()}
    per_step = {which: side["seconds"] / side["steps"] for which, side in both.items()}
    return {
        "goal": GOALS.get(name),
        "times_faster": both["plain"]["seconds"] / both["ours"]["seconds"],
        "loss": target,
        "seconds_to_loss": reached,
        "times_faster_to_loss": reached["plain"] / reached["ours"],
        "times_faster_per_step": per_step["plain"] / per_step["ours"],
        "times_faster_per_token": per_token["plain"] / per_token["ours"],
    }


def run(name: str, measure: Measure, arguments: argparse.Namespace, number: int) -> dict[str, Any]:
    """One run of both sides, or what is kept of it."""
    folder = arguments.results / f"{name}-{arguments.dtype}-{number}"
    kept = folder.with_suffix(".json")
    answer = machines.read(kept)
    if answer is not None:
        return answer
    content = sweep_file(name, measure, rows_of(arguments), arguments.dtype)
    job = prepare(arguments.results, content)
    both = {
        "ours": ours(folder / "ours", content, job),
        "plain": plain(folder / "plain", measure, job),
    }
    return machines.keep(
        kept,
        {
            "measure": name,
            "eval_rows": arguments.eval_rows,
            "dtype": arguments.dtype,
            "sides": both,
            **compared(name, both),
        },
    )


def table(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: the median of the runs, with the least and the most where there are several."""

    def shown(values: list[float], digits: int) -> str:
        middle = f"{median(values):.{digits}f}"
        return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    lines = [f"\n{name}, {runs[0]['dtype']} ({runs[0]['machine']['processor']}, load {runs[0]['machine']['load']})", ""]
    lines += ["| | this project | plain Ray Tune |", "|---|---|---|"]
    for figure, digits in (
        ("seconds", 0), ("trials", 0), ("steps", 0), ("evaluations", 0), ("tokens_per_second", 0), ("peak_gb", 1),
        ("cores_used", 2), ("busy_share", 2), ("best_loss", 4),
    ):  # fmt: skip
        cells = [shown([each["sides"][side][figure] for each in runs], digits) for side in ("ours", "plain")]
        lines.append(f"| {figure.replace('_', ' ')} | {' | '.join(cells)} |")
    cells = [shown([each["seconds_to_loss"][side] for each in runs], 0) for side in ("ours", "plain")]
    lines += [f"| seconds to the worse of the two best losses | {' | '.join(cells)} |", ""]
    for ratio in ("times_faster", "times_faster_to_loss", "times_faster_per_step", "times_faster_per_token"):
        goal = f" (goal {GOALS[name]})" if ratio == "times_faster" and name in GOALS else ""
        lines.append(f"{ratio.replace('_', ' ')}: {shown([each[ratio] for each in runs], 2)}{goal}")
    return lines


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results/against-ray-tune"))
    parser.add_argument("--measures", nargs="*", default=list(measures(1)), choices=list(measures(1)))
    parser.add_argument("--trials", type=int, default=32, help="of `short`")
    parser.add_argument("--eval-rows", type=int, default=16)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="both sides compute in it")
    parser.add_argument("--data", type=Path, help="folder with gsm8k_train.jsonl and gsm8k_test.jsonl")
    parser.add_argument("--train", type=Path, help="a JSONL file to train on, with --prompt and --completion")
    parser.add_argument("--eval", type=Path, help="a JSONL file to evaluate on; the last rows of --train without it")
    parser.add_argument("--prompt", help="template over the columns, for example {question}")
    parser.add_argument("--completion", help="template over the columns, for example {answer}")
    arguments = parser.parse_args(words)
    if arguments.train is not None and None in (arguments.prompt, arguments.completion):
        parser.error("--train needs --prompt and --completion")
    arguments.results = arguments.results.resolve()
    return arguments


def main(words: list[str] | None = None) -> None:
    """Measures and prints the tables, and writes them to tables.md."""
    arguments = parsed(words)
    lines = []
    for name in arguments.measures:
        measure = measures(arguments.trials)[name]
        lines += table(name, [run(name, measure, arguments, number) for number in range(1, arguments.runs + 1)])
    (arguments.results / "tables.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
