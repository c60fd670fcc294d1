"""The estimate of a host's memory against the measured peak of a process: SmolLM2-135M on the quickstart's rows.

    python -m tests.benchmarks.memory --results DIR

Each case is measured in a process of Ray's of its own, as a host is one, and written to DIR/CASE.json; cases that are
there already are not measured again. The table is printed, and written to DIR/table.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.config import load
from trainables import qlora
from trainables.contract import RowShape
from trainables.specs import AdapterSpec, TrialSpec

REPORTS = 2
ROWS_TO_EVALUATE = 8
MEAN_ROW = 110.4
"""Tokens of a row of the quickstart to train on, on average."""
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


def measure(case: Case) -> dict[str, Any]:
    """Trains and evaluates as many adapters side by side; the bytes that this process held at each stage."""
    start = _status("VmRSS")
    import torch

    import cluster.hosts  # noqa: F401 - what a host's process holds beside the model
    from cluster.devices import cache
    from trainables.data import dataset

    torch.set_num_threads(1)  # two at a low priority wait for one another where others are busy
    base = spec(case)
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
        for slot in slots:  # as the host's loop keeps them until the next report
            kept[slot] = pack.snapshot(slot), pack.adapter(slot)
    return {
        "start": start,
        "loading": loading,
        "loaded": loaded,
        **stages,
        "peak": _status("VmHWM"),
        "longest_row": prepared.summary.longest_train_row,
        "labelled": float(rows.train.labelled.mean()),
        "labelled_eval": float(rows.eval.labelled.mean()),
    }


def measure_as_host(case: Case) -> dict[str, Any]:
    """What `measure` returns in an actor's process, which holds what each host holds of Ray's."""
    import ray

    ray.init(address="local", include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        measured: dict[str, Any] = ray.get(ray.remote(num_cpus=0)(measure).remote(case))
    finally:
        ray.shutdown()
    return measured


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status (proc(5)): VmRSS what is resident now, VmHWM the most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _forget_peak() -> None:
    """Sets VmHWM back to what is resident now (proc(5), clear_refs, since Linux 4.0)."""
    Path("/proc/self/clear_refs").write_text("5")


def table(results: Path) -> list[str]:
    """The estimate beside the measured peak, a line of Markdown for each case that was measured."""
    lines = ["| modules | base | r | slots | measured GB | estimated GB | off |", "|---|---|---|---|---|---|---|"]
    for case in CASES:
        path = results / f"{case.name}.json"
        if not path.is_file():
            continue
        measured = json.loads(path.read_text())
        rows = RowShape(
            longest=measured["longest_row"], mean=MEAN_ROW, labelled=measured["labelled"], train_rows=600,
            eval_rows=ROWS_TO_EVALUATE,
        )  # fmt: skip
        need = qlora.need_of_rows(spec(case), [spec(case)], "cpu", rows)
        assert need is not None, "the model's sizes are known"
        peak, estimate = measured["peak"] / 1e9, need.total(case.slots) / 1e9
        lines.append(
            f"| {case.target_modules} | {case.scheme} | {case.r} | {case.slots} | {peak:.2f} | {estimate:.2f} "
            f"| {estimate / peak - 1:+.0%} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("memory-results"), help="folder of measured cases")
    parser.add_argument("--case", help="measure this one in this process; prepare: fill the caches only")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    places = {case: arguments.results / f"{case.name}.json" for case in CASES}
    if arguments.case == "prepare":
        prepare()
    elif arguments.case is not None:
        case = next(case for case in CASES if case.name == arguments.case)
        places[case].write_text(json.dumps(measure_as_host(case)))
    else:
        missing = [case.name for case, path in places.items() if not path.is_file()]
        for name in (["prepare"] if missing else []) + missing:
            words = ["-m", "tests.benchmarks.memory", "--results", str(arguments.results), "--case", name]
            subprocess.run([sys.executable, *words], check=True)
    if arguments.case is None:
        lines = table(arguments.results)
        (arguments.results / "table.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
