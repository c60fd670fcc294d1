"""The estimate of a host's memory against the measured peak of a process: SmolLM2-135M on the quickstart's rows.

    python -m tests.benchmarks.memory --results DIR [--only TEXT ...] [--engine peft]

Each case is measured in a process of Ray's of its own, as a host is one, and written to DIR/CASE.json; cases that are
there already are not measured again. Cases are named like r8-attention-qv-nf4-1. The table is printed with the share of
cases whose estimate is within 15 %, and written to DIR/table.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.config import load
from trainables import qlora
from trainables.base import model_source
from trainables.contract import RowShape
from trainables.packing import memory, pass_limits
from trainables.specs import AdapterSpec, TrialSpec

REPORTS = 2
ROWS_TO_EVALUATE = 8
MEAN_ROW, DEVIATION = 110.4, 8.63
"""Tokens of a row of the quickstart to train on, on average, and their standard deviation."""
NEAR = 0.15
OVERRIDES = (f"data.eval_examples={ROWS_TO_EVALUATE}", "training.batch_size=2", "quantization.compute_dtype=float32")


@dataclass(frozen=True)
class Case:
    """What is measured."""

    r: int
    target_modules: str
    scheme: str
    slots: int

    @property
    def name(self) -> str:
        return f"r{self.r}-{self.target_modules}-{self.scheme}-{self.slots}"


CASES = tuple(
    Case(r, modules, scheme, slots)
    for slots, modules, scheme, r in itertools.product(
        (1, 8), ("attention-qv", "attention", "mlp", "all-linear"), ("nf4", "none"), (8, 64)
    )
)


def spec(case: Case) -> TrialSpec:
    """The quickstart with the case's adapter and base."""
    config = load.load("quickstart", [*OVERRIDES, f"quantization.scheme={case.scheme}"], Path.cwd()).config
    adapter = AdapterSpec(r=case.r, target_modules=case.target_modules, alpha_over_r=2)
    return config.base.model_copy(update={"adapter": adapter})


def prepare() -> None:
    """Quantises and caches each base, and the rows: what that leaves in a process is not what a case takes."""
    from cluster.devices import cache

    for scheme in ("nf4", "none"):
        base = spec(Case(8, "attention-qv", scheme, 1))
        qlora.open_pack(base, qlora.prepare(base, cache()).payload, cache())


def measure(case: Case, engine: str) -> dict[str, Any]:
    """Trains and evaluates as many adapters side by side; the bytes that this process held at each stage."""
    start = _status("VmRSS")
    import ray
    import torch

    import cluster.hosts  # noqa: F401 - what a host's process holds beside the model
    from cluster.devices import cache
    from trainables.data import dataset

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as in a host
    base = spec(case)
    base = base.model_copy(update={"training": base.training.model_copy(update={"engine": engine})})
    prepared = qlora.prepare(base, cache())
    rows = dataset.load(prepared.payload)
    pack = qlora.open_pack(base, prepared.payload, cache())
    loading = _status("VmHWM")
    _forget_peak()
    loaded = _status("VmRSS")
    slots = list(range(case.slots))
    for slot in slots:
        pack.open(slot, base.model_copy(update={"seed": slot + 1}))
    stages = {"opened": _status("VmHWM")}
    kept: dict[int, Any] = {}
    for report in range(REPORTS):
        pack.step(slots)
        stages[f"trained {report}"] = _status("VmHWM")
        pack.evaluate(slots)
        stages[f"evaluated {report}"] = _status("VmHWM")
        for slot in slots:  # the host's loop keeps them until the next report, and hands them to their trial
            kept[slot] = pack.snapshot(slot), pack.adapter(slot)
            ray.put(kept[slot])
        stages[f"reported {report}"] = _status("VmHWM")
    return {
        "engine": getattr(pack, "engine_name", ""),
        "start": start,
        "loading": loading,
        "loaded": loaded,
        **stages,
        "peak": _status("VmHWM"),
        "shared": _status("RssShmem"),
        "longest_row": prepared.summary.longest_train_row or prepared.summary.longest_row,
        "labelled": float(rows.train.labelled.mean()),
        "labelled_eval": float(rows.eval.labelled.mean()),
    }


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status (proc(5)): VmRSS what is resident now, VmHWM the most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _forget_peak() -> None:
    """Sets VmHWM back to what is resident now (proc(5), clear_refs, since Linux 4.0)."""
    Path("/proc/self/clear_refs").write_text("5")


def estimated(case: Case, engine: str, measured: dict[str, Any]) -> int:
    """The bytes that a plan would tell once the rows are known."""
    base = spec(case)
    facts = model_source.facts(base.base_model)
    assert facts is not None, "the model's sizes are known"
    rows = RowShape(
        longest=measured["longest_row"], mean=MEAN_ROW, labelled=measured["labelled"], train_rows=600,
        eval_rows=ROWS_TO_EVALUATE, deviation=DEVIATION,
    )  # fmt: skip
    kind = model_source.model_type(base.base_model) if engine == pass_limits.FLAT else None
    return memory.need(base, [base], facts, "cpu", rows, kind).total(case.slots)


def table(results: Path, engine: str) -> list[str]:
    """Measured peak / estimate in GB of each case that was measured, lines of Markdown, and how many agree."""
    columns = [(slots, r) for slots in (1, 8) for r in (8, 64)]
    heads = [f"{slots} slot{'s' if slots > 1 else ''}, r {r}" for slots, r in columns]
    lines = [f"| modules | base | {' | '.join(heads)} |", "|" + "---|" * (2 + len(columns))]
    off = []
    for modules, scheme in dict.fromkeys((case.target_modules, case.scheme) for case in CASES):
        words = []
        for slots, r in columns:
            case = Case(r, modules, scheme, slots)
            path = place(results, case, engine)
            words.append("")
            if path.is_file():
                measured = json.loads(path.read_text())
                peak, estimate = measured["peak"] / 1e9, estimated(case, engine, measured) / 1e9
                off.append(estimate / peak - 1)
                words[-1] = f"{peak:.2f} / {estimate:.2f} ({off[-1]:+.0%})"
        if any(words):
            lines.append(f"| {modules} | {scheme} | {' | '.join(words)} |")
    near = sum(abs(each) <= NEAR for each in off)
    return (
        [*lines, "", f"{near} of {len(off)} within {NEAR:.0%}; from {min(off):+.0%} to {max(off):+.0%}"] if off else []
    )


def place(results: Path, case: Case, engine: str) -> Path:
    """Where a case's measurement is."""
    return results / f"{'' if engine == pass_limits.FLAT else f'{engine}-'}{case.name}.json"


def run(cases: Sequence[Case], engine: str, results: Path) -> None:
    """Measures the cases, each in a new process of one Ray."""
    import ray

    ray.init(address="local", include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        alone = {"num_cpus": 0, "max_calls": 1}
        ray.get(ray.remote(**alone)(prepare).remote())
        for case in cases:
            measured = ray.get(ray.remote(**alone)(measure).remote(case, engine))
            place(results, case, engine).write_text(json.dumps(measured))
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("memory-results"), help="folder of measured cases")
    parser.add_argument("--only", nargs="+", default=[], help="measure only cases with one of these in their name")
    parser.add_argument("--engine", choices=(pass_limits.FLAT, pass_limits.PEFT), default=pass_limits.FLAT)
    arguments = parser.parse_args()
    results, engine = arguments.results, arguments.engine
    results.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in CASES if not arguments.only or any(text in case.name for text in arguments.only)]
    missing = [case for case in chosen if not place(results, case, engine).is_file()]
    if missing:
        run(missing, engine, results)
    lines = table(results, engine)
    (results / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
