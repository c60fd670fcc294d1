"""The estimate of a host's memory against the measured peak of a process: SmolLM2-135M on the quickstart's rows.

    python -m tests.benchmarks.memory --results DIR

Each case is measured in a process of Ray's of its own, as a host is one, and written to DIR/CASE.json; cases that are
there already are not measured again. Cases are named like r8-attention-qv-nf4-1. The table is printed with the share of
cases whose estimate is within 15 %, and written to DIR/table.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
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
OVERRIDES = (
    f"data.eval_examples={ROWS_TO_EVALUATE}", "training.batch_size=2", "quantization.compute_dtype=float32",
    f"training.engine={pass_limits.FLAT}",
)  # fmt: skip
MODULES, SCHEMES = ("attention-qv", "attention", "mlp", "all-linear"), ("nf4", "none")
COLUMNS = tuple(itertools.product((1, 8), (8, 64)))
"""Slots and rank."""


@dataclass(frozen=True)
class Case:
    """What is measured."""

    target_modules: str
    scheme: str
    slots: int
    r: int

    def kept(self, results: Path) -> Path:
        """Where its measurement is."""
        return results / f"r{self.r}-{self.target_modules}-{self.scheme}-{self.slots}.json"


def spec(case: Case) -> TrialSpec:
    """The quickstart with the case's adapter and base."""
    config = load.load("quickstart", [*OVERRIDES, f"quantization.scheme={case.scheme}"], Path.cwd()).config
    adapter = AdapterSpec(r=case.r, target_modules=case.target_modules, alpha_over_r=2)
    return config.base.model_copy(update={"adapter": adapter})


def prepare() -> None:
    """Quantises and caches each base, and the rows: what that leaves in a process is not what a case takes."""
    from cluster.devices import cache

    for scheme in SCHEMES:
        base = spec(Case("attention-qv", scheme, 1, 8))
        qlora.open_pack(base, qlora.prepare(base, cache()).payload, cache())


def measure(case: Case) -> dict[str, float]:
    """Trains and evaluates as many adapters side by side; the most bytes that this process held since it had loaded."""
    import ray
    import torch

    import cluster.hosts  # noqa: F401 - what a host's process holds beside the model
    from cluster.devices import cache
    from trainables.data import dataset

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as in a host
    base = spec(case)
    prepared = qlora.prepare(base, cache())
    rows = dataset.load(prepared.payload)
    pack = qlora.open_pack(base, prepared.payload, cache())
    # Sets VmHWM back to what is resident now (proc(5), clear_refs, since Linux 4.0).
    Path("/proc/self/clear_refs").write_text("5")
    slots = list(range(case.slots))
    for slot in slots:
        pack.open(slot, base.model_copy(update={"seed": slot + 1}))
    kept: dict[int, Any] = {}
    for _ in range(REPORTS):
        pack.step(slots)
        pack.evaluate(slots)
        for slot in slots:  # the host's loop keeps them until the next report, and hands them to their trial
            kept[slot] = pack.snapshot(slot), pack.adapter(slot)
            ray.put(kept[slot])
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        "peak": int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024,
        "longest_row": prepared.summary.longest_train_row or prepared.summary.longest_row,
        "labelled": float(rows.train.labelled.mean()),
    }


def estimated(case: Case, measured: dict[str, Any]) -> int:
    """The bytes that a plan would tell once the rows are known."""
    base = spec(case)
    facts = model_source.facts(base.base_model)
    assert facts is not None, "the model's sizes are known"
    rows = RowShape(
        longest=measured["longest_row"], mean=MEAN_ROW, labelled=measured["labelled"], train_rows=600,
        eval_rows=ROWS_TO_EVALUATE, deviation=DEVIATION,
    )  # fmt: skip
    return memory.need(base, [base], facts, "cpu", rows, model_source.model_type(base.base_model)).total(case.slots)


def table(results: Path) -> list[str]:
    """Measured peak / estimate in GB of each case, lines of Markdown, and how many agree."""
    heads = [f"{slots} slot{'s' if slots > 1 else ''}, r {r}" for slots, r in COLUMNS]
    lines = [f"| modules | base | {' | '.join(heads)} |", "|" + "---|" * (2 + len(COLUMNS))]
    off = []
    for modules, scheme in itertools.product(MODULES, SCHEMES):
        cells = []
        for case in (Case(modules, scheme, slots, r) for slots, r in COLUMNS):
            measured = json.loads(case.kept(results).read_text())
            peak, estimate = measured["peak"] / 1e9, estimated(case, measured) / 1e9
            off.append(estimate / peak - 1)
            cells.append(f"{peak:.2f} / {estimate:.2f} ({off[-1]:+.0%})")
        lines.append(f"| {modules} | {scheme} | {' | '.join(cells)} |")
    near = sum(abs(each) <= NEAR for each in off)
    return [*lines, "", f"{near} of {len(off)} within {NEAR:.0%}; from {min(off):+.0%} to {max(off):+.0%}"]


def run(results: Path) -> None:
    """Measures the cases that are missing, each in a new process of one Ray."""
    import ray

    cases = [Case(modules, scheme, *column) for column in COLUMNS for modules in MODULES for scheme in SCHEMES]
    missing = [case for case in cases if not case.kept(results).is_file()]
    ray.init(address="local", include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        alone = {"num_cpus": 0, "max_calls": 1}
        ray.get(ray.remote(**alone)(prepare).remote())
        for case in missing:
            measured = ray.get(ray.remote(**alone)(measure).remote(case))
            case.kept(results).write_text(json.dumps(measured))
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("memory-results"), help="folder of measured cases")
    results = parser.parse_args().results
    results.mkdir(parents=True, exist_ok=True)
    run(results)
    lines = table(results)
    (results / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
