"""Writes the tables of docs/speed.md from figures/, the files that the benchmarks wrote.

    python -m tests.benchmarks.speed_page [RESULTS]     RESULTS: a folder of `make bench`, whose files it takes first

A test compares the page with what would be written.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
FIGURES = Path(__file__).parent / "figures"
MEASURES = ("eight", "short", "engine")
SIDES = {"ours": "here", "plain": "plain"}
PARTS = ("sweep", "fifo", "bare", "one", "many")
Kept = dict[str, Any]
"""What a benchmark has written."""
TAKEN = ("against_ray_tune/*.json", "packing/*.json", "startup/*.json", "driver_scale/*.json")


def page(text: str) -> str:
    """The page with each table between <!-- NAME --> and <!-- end --> as the figures have it."""
    for name, table in TABLES.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        text = "\n".join([before + mark, *table(), "", end + after])
    return text


def read(pattern: str) -> list[Kept]:
    """The files of figures whose path matches, in order."""
    return [json.loads(path.read_text()) for path in sorted(FIGURES.glob(pattern))]


def take(results: Path) -> None:
    """Copies the figures of a results folder."""
    for pattern in TAKEN:
        for path in sorted(results.glob(pattern)):
            target = FIGURES / path.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def against(runs: Mapping[str, Sequence[Kept]]) -> list[str]:
    """This project against plain Ray Tune, by measure: a row a figure, two columns a measure."""
    machine = next(iter(runs.values()))[0]["machine"]
    counts = ", ".join(f"{len(each)} of `{name}`" for name, each in runs.items())
    lines = _filled(f"Runs: {counts}; {_machine(machine)}.")
    lines.append("| | " + " | ".join(f"`{name}`, {side}" for name in runs for side in SIDES.values()) + " |")
    lines.append("|---" * (1 + 2 * len(runs)) + "|")
    for figure, words, digits in (
        ("seconds", "seconds", 0),
        ("steps", "optimizer steps", 0),
        ("tokens_per_second", "tokens/s, evaluations included", 0),
        ("best_loss", "best `eval_loss`", 4),
        ("peak_gb", "memory, all processes, GB", 1),
    ):
        cells = [
            _shown([run["sides"][side][figure] for run in each], digits) for each in runs.values() for side in SIDES
        ]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    for ratio, words in (
        ("times_faster", "**times as fast**"),
        ("times_faster_per_step", "the same per step"),
        ("times_faster_per_token", "the same per token"),
    ):
        cells = [_shown([run[ratio] for run in each], 1) for each in runs.values()]
        lines.append(f"| {words} | {' | | '.join(cells)} | |")
    goals = [f"{run[0]['goal']}" if run[0]["goal"] else "none" for run in runs.values()]
    return [*lines, f"| goal | {' | | '.join(goals)} | |"]


def packing(kept: Kept) -> list[str]:
    """Adapter-steps a second and share of the fastest product: a row a way and number of slots, a column a batch."""
    cells = {tuple(name.rsplit(" x ", 2)): cell for name, cell in kept["cells"].items() if "failed" not in cell}
    batches = sorted({batch for _, _, batch in cells}, key=int)
    lines = _filled(f"{_machine(kept['machine'])}; the fastest product has {kept['peak_gflops']:.0f} GFLOP/s.")
    lines.append(f"| way | slots | {' | '.join(f'batch {batch}' for batch in batches)} |")
    lines.append("|---" * (2 + len(batches)) + "|")
    for way, slots in dict.fromkeys((way, slots) for way, slots, _ in cells):
        row = [cells.get((way, slots, batch)) for batch in batches]
        shown = [
            f"{cell['adapter_steps_per_second']:.2f} ({cell['share_of_peak']:.2f})" if cell else "" for cell in row
        ]
        lines.append(f"| {way} | {slots} | {' | '.join(shown)} |")
    return lines


def operators(kept: Kept) -> list[str]:
    """Operators of a layer: a row a way of training, a column a number of slots."""
    rows: dict[str, list[str]] = {}
    for name, count in kept["operators_per_layer"].items():
        way = name.rpartition(", ")[0] if name.endswith(" slots") else name
        rows.setdefault(way, []).append(f"{count:.0f}")
    lines = [f"| {way} | {' | '.join([*counts, ''][:2])} |" for way, counts in rows.items()]
    return ["| way | 1 slot | 8 slots |", "|---|---|---|", *lines]


def startup(kept: Kept) -> list[str]:
    """Seconds of commands, and of a launch to its first optimizer step."""
    goal = f"the goal of a warm launch is {kept['goal']:.0f} s"
    lines = _filled(f"{_machine(kept['machine'])}; commands: medians of {kept['runs']}; {goal}.")
    lines += ["| `qsweep ...` | seconds | |", "|---|---|---|"]
    lines += [f"| `{command}` | {median(seconds):.1f} | |" for command, seconds in kept["commands"].items()]
    lines += ["| **`launch quickstart`, until** | **cold** | **warm** |"]
    for part in kept["warm"][0]:
        cold, warm = (median(run[part] for run in kept[how]) for how in ("cold", "warm"))
        lines.append(f"| {part} | {cold:.0f} | {warm:.0f} |")
    return lines


def driver(kept: Mapping[str, Kept]) -> list[str]:
    """What many trials cost: a row a figure, by the parts of `driver_scale`."""
    asha, fifo, bare, one, many = (kept[part]["figures"] for part in PARTS)
    memory = asha["rss_mb_at"]
    rows = {
        "driver's CPU a trial": f"{asha['driver_cpu_ms_per_trial']:.0f} ms",
        "driver's memory after 0, and after 1,000 trials": f"{memory['0']:.0f}, {memory['1000']:.0f} MB",
        "time a trial, ASHA": f"{asha['wall_ms_per_trial']:.0f} ms",
        "MLflow has all events, after the last one": f"{asha['drain_seconds']:.0f} s",
        "time a trial without early stopping": f"{fifo['wall_ms_per_trial']:.0f} ms",
        "the same in bare Ray Tune": f"{bare['wall_ms_per_trial']:.0f} ms",
        "a trial process: memory of its own": f"{many['uss_mb']:.0f} MB",
        "CPU to start it": f"{one['start_cpu_seconds']:.1f} s",
        "its CPU a second, 64 at once": f"{many['trial_process_cpu_ms_per_second']:.1f} ms",
        "the driver's CPU a second then": f"{many['driver_cpu_ms_per_second']:.0f} ms",
        "the broker's CPU a second then": f"{many['broker_cpu_ms_per_second']:.0f} ms",
    }
    goal = "the goal is 1.2 times bare Ray Tune's time"
    lines = _filled(f"{_machine(kept['sweep']['machine'])}; one run of each; {goal}.")
    return [*lines, "| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _filled(text: str) -> list[str]:
    return [*textwrap.wrap(text, 120), ""]


def _machine(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("ray", "torch"))
    return f"{facts['processor']}; Python {facts['python']}, {versions}, commit {facts['commit']}"


def _shown(values: list[float], digits: int) -> str:
    middle = f"{median(values):,.{digits}f}"
    least, most = (f"{value:,.{digits}f}" for value in (min(values), max(values)))
    return middle if least == most else f"{middle} ({least} to {most})"


TABLES: dict[str, Callable[[], list[str]]] = {
    "against": lambda: against({name: read(f"against_ray_tune/{name}-float32-*.json") for name in MEASURES}),
    "packing": lambda: packing(*(each for each in read("packing/*.json") if "cells" in each)),
    "operators": lambda: operators(*read("packing/operators.json")),
    "startup": lambda: startup(*read("startup/startup.json")),
    "driver": lambda: driver({part: read(f"driver_scale/{part}.json")[0] for part in PARTS}),
}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
