"""Answering with K adapters in one batch on the shared base against one adapter after the other.

    python -m tests.benchmarks.answers [--results DIR]

Both in turns in one process, so that they meet the same machine. Processor time is what tells on a busy one: with
OMP_NUM_THREADS=1 no thread waits for another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from trainables.base import base_model
from trainables.packing.engine import Answer, Answering, Prompt
from trainables.packing.flat_engine import FlatEngine

from . import bases, machines, packing

ADAPTERS, PROMPTS, TOKENS = 8, 4, 16
"""Adapters, prompts of each, and tokens of an answer."""


def prompts() -> list[list[Prompt]]:
    """The first rows up to their first labelled token, for each adapter."""
    split = bases.rows_for(bases.MODEL).eval
    given = [row.ids[: int(row.labelled.argmax())] for row in map(split.row, range(PROMPTS))]
    return [[Prompt(slot, ids, seed=place) for place, ids in enumerate(given)] for slot in range(ADAPTERS)]


def timed(answer: Callable[[], list[Answer]]) -> tuple[list[Answer], float, float]:
    """Answers, seconds, and seconds of the processor."""
    packing.synchronise()
    started, worked = time.perf_counter(), time.process_time()
    found = answer()
    packing.synchronise()
    return found, time.perf_counter() - started, time.process_time() - worked


def measured() -> dict[str, Any]:
    """Tokens, seconds and seconds of the processor of each way, and whether both ways gave the same answers."""
    base = bases.made(bases.MODEL)
    base_model.dequantise(base.model)
    engine = FlatEngine(base)
    for slot in range(ADAPTERS):
        for name, matrix in engine.add(slot, packing.spec(slot, 1)).items():
            if "lora_B" in name:
                torch.nn.init.normal_(matrix.data, std=0.01)
    of_adapters = prompts()
    together, how = [prompt for own in of_adapters for prompt in own], Answering(frozenset(), TOKENS)
    ways: dict[str, Callable[[], list[Answer]]] = {
        "mixed": lambda: engine.generate(together, how),
        "in turn": lambda: [answer for own in of_adapters for answer in engine.generate(own, how)],
    }
    found = {name: timed(answer) for name, answer in ways.items()}
    figures = {
        name: {"tokens": sum(len(each.ids) for each in answers), "seconds": seconds, "processor": worked}
        for name, (answers, seconds, worked) in found.items()
    }
    return {"adapters": ADAPTERS, "ways": figures, "equal": found["mixed"][0] == found["in turn"][0]}


def table(kept: dict[str, Any]) -> list[str]:
    """The table's lines, in Markdown."""
    mixed, in_turn = kept["ways"]["mixed"], kept["ways"]["in turn"]
    lines = [f"| {kept['adapters']} adapters answer | tokens | seconds | of processor |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {way['tokens']} | {way['seconds']:.1f} | {way['processor']:.1f} |"
        for name, way in kept["ways"].items()
    ]
    times = [in_turn[what] / mixed[what] for what in ("seconds", "processor")]
    lines.append(f"| times as fast | | {times[0]:.1f} | {times[1]:.1f} |")
    return [*lines, "", "equal answers" if kept["equal"] else "OTHER ANSWERS"]


def main(words: Sequence[str] | None = None) -> None:
    """Measures, unless that was done, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results/answers"))
    path = parser.parse_args(words).results / "answers.json"
    print("\n".join(table(machines.read(path) or machines.keep(path, measured()))))


if __name__ == "__main__":
    main()
