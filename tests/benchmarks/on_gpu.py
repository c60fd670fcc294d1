"""What there is to know of a machine's GPU, on one page: `make gpu`. Under 20 minutes on one card.

    python -m tests.benchmarks.on_gpu --results DIR          the quickstart's model, and random weights up to 8B
    python -m tests.benchmarks.on_gpu --results DIR --tiny   a try-out with tiny shapes, on a CPU too

Each part is a command of its own with a time limit, and what it prints is kept in DIR/PART.txt. The page, DIR/page.md,
says first what failed; DIR/page.json has the same.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tiny_sweeps

from cluster import devices

from . import machines

MINUTES = 19.0
LAST_LINES = 12
"""Of what a part has printed, when it failed."""


@dataclass(frozen=True)
class Part:
    """One question, and the command that answers it."""

    name: str
    asks: str
    words: Sequence[str]
    """What follows `python -m`."""
    minutes: float
    tables: str = ""
    """The file with its tables; without one what it has printed is shown."""


@dataclass(frozen=True)
class Outcome:
    """What came of a part."""

    seconds: float
    failure: str
    """Why it failed; empty where it did not."""
    printed: str
    tables: str


def parts(results: Path, tiny: bool) -> list[Part]:
    """The parts, the most important ones first: the last ones may find no time left."""
    file = "quickstart"
    packing = ["--models", "135M", "1B", "8B", "--slots", "1", "4", "8", "--batches", "1", "--minutes", "6"]
    if tiny:
        tiny_sweeps.write(results)
        file = str(results / "sweep.yaml")
        packing = ["--models", "tiny", "--slots", "1", "2", "--batches", "1", "--steps", "1", "--no-operators"]
    ways = ["--ways", "HF alone, checkpointing", "HF alone", "flat", "flat, grouped"]
    found = [
        Part(
            "self-test", "Which ways to compute passes are right here, how fast, and is memory as estimated?",
            ["sweeps", "doctor", "--train", file, "--json"], 5,
        ),
        Part("tests", "Do the tests pass that need a GPU?", ["pytest", "-m", "gpu", "-rs", "tests/trainables"], 3),
        Part(
            "packing", "How many times as fast as alone are adapters that share passes?",
            ["tests.benchmarks.packing", "--results", str(results / "packing"), *packing, *ways], 8,
            "packing/tables.md",
        ),
    ]  # fmt: skip
    if not tiny:
        place = str(results / "eight")
        words = ["tests.benchmarks.against_ray_tune", "--results", place, "--measures", "eight", "--dtype", "bfloat16"]
        found.append(Part("eight", "How long does a sweep take against plain Ray Tune?", words, 8, "eight/tables.md"))
    return found


def run(part: Part, results: Path, seconds: float) -> Outcome:
    """Runs a part for so many seconds at most."""
    if seconds <= 0:
        return Outcome(0.0, "no time was left", "", "")
    began, file = time.monotonic(), results / f"{part.name}.txt"
    path = os.pathsep.join([str(Path.cwd()), str(Path.cwd() / "tests"), os.environ.get("PYTHONPATH", "")])
    with file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *part.words], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            code = process.wait(max(0.0, seconds))
            failure = "" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            failure = f"not done after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    tables = results / part.tables
    return Outcome(
        seconds=time.monotonic() - began,
        failure=failure,
        printed=file.read_text(errors="replace"),
        tables=tables.read_text() if part.tables and tables.is_file() else "",
    )


def refused(printed: str) -> list[str]:
    """The paths that `qsweep doctor --train --json` refuses, with the reason."""
    found: list[str] = []
    for line in printed.splitlines():
        with suppress(ValueError):
            findings = json.loads(line)["findings"] if line.startswith('{"ok"') else ()
            rows = [row for finding in findings for row in finding.get("rows", ())]
            found += [f"{row['path']}: {row['problem']}" for row in rows if row.get("problem")]
    return found


def page(machine: Mapping[str, Any], found: Mapping[str, tuple[Part, Outcome]]) -> str:
    """The page, as Markdown."""
    failed = [name for name, (_, outcome) in found.items() if outcome.failure]
    verdict = f"**FAILED: {', '.join(failed)}**" if failed else "All parts ran to their end."
    unused = [line for _, outcome in found.values() for line in refused(outcome.printed)]
    if unused:
        verdict += f" **NOT USED, since wrong or broken here: {'; '.join(unused)}**"
    lines = ["# On this GPU", "", f"{machine['device']}; {machine['processor']}; commit {machine['commit']}", ""]
    lines += [", ".join(f"{name} {version}" for name, version in machine["versions"].items()), "", verdict]
    for name, (part, outcome) in found.items():
        state = f"FAILED: {outcome.failure}" if outcome.failure else "ok"
        lines += ["", f"## {name}: {state} ({outcome.seconds:.0f} s)", "", part.asks, ""]
        if outcome.failure:
            lines += ["```", *outcome.printed.splitlines()[-LAST_LINES:], "```"]
        elif not outcome.tables:
            lines += ["```", *(line for line in outcome.printed.splitlines() if not line.startswith("{")), "```"]
        lines += outcome.tables.splitlines()
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> None:
    """Runs all parts, and writes the page whatever becomes of them; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results/gpu"))
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all parts together")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args(words)
    results: Path = arguments.results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * arguments.minutes
    found: dict[str, tuple[Part, Outcome]] = {}
    machine = machines.facts() | {"device": devices.name("cuda" if devices.gpus() else "cpu")}
    for part in parts(results, arguments.tiny):
        print(f"{part.name}: {part.asks}", flush=True)
        found[part.name] = part, run(part, results, min(60 * part.minutes, deadline - time.monotonic()))
        outcomes = {name: asdict(each) | {"asks": of.asks} for name, (of, each) in found.items()}
        machines.keep(results / "page.json", {"device": machine["device"], "parts": outcomes})
        (results / "page.md").write_text(page(machine, found))
    print((results / "page.md").read_text())
    if any(outcome.failure for _, outcome in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
