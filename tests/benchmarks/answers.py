"""Answering with K adapters in one batch on the shared base against one adapter after the other.

    python -m tests.benchmarks.answers [--results DIR] [--adapters 8] [--prompts 4] [--tokens 16] [--engine flat]

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
from trainables.packing.engine import Answer, Answering, Engine, Prompt
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.peft_engine import PeftEngine

from . import bases, machines, packing

ENGINES: dict[str, Callable[[base_model.Base], Engine]] = {"flat": FlatEngine, "peft": PeftEngine}


def prompts(name: str, adapters: int, count: int) -> list[list[Prompt]]:
    """The first rows up to their first labelled token, for each adapter."""
    rows = [bases.rows_for(name, None).eval.row(place) for place in range(count)]
    given = [row.ids[: int(row.labelled.argmax())] for row in rows]
    return [[Prompt(slot, ids, seed=place) for place, ids in enumerate(given)] for slot in range(adapters)]


def timed(answer: Callable[[], list[Answer]]) -> tuple[list[Answer], float, float]:
    """Answers, seconds, and seconds of the processor."""
    packing.synchronise()
    started, worked = time.perf_counter(), time.process_time()
    found = answer()
    packing.synchronise()
    return found, time.perf_counter() - started, time.process_time() - worked


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Tokens, seconds and seconds of the processor of each way, and whether both ways gave the same answers."""
    base = bases.made(given.model)
    base_model.dequantise(base.model)
    engine = ENGINES[given.engine](base)
    for slot in range(given.adapters):
        for name, matrix in engine.add(slot, packing.spec([16], slot, 1)).items():
            if "lora_B" in name:
                torch.nn.init.normal_(matrix.data, std=0.01)
    of_adapters = prompts(given.model, given.adapters, given.prompts)
    together, how = [prompt for own in of_adapters for prompt in own], Answering(frozenset(), given.tokens)
    ways: dict[str, Callable[[], list[Answer]]] = {
        "mixed": lambda: engine.generate(together, how),
        "in turn": lambda: [answer for own in of_adapters for answer in engine.generate(own, how)],
    }
    found = {name: timed(answer) for name, answer in ways.items()}
    figures = {
        name: {"tokens": sum(len(each.ids) for each in answers), "seconds": seconds, "processor": worked}
        for name, (answers, seconds, worked) in found.items()
    }
    return {"adapters": given.adapters, "ways": figures, "equal": found["mixed"][0] == found["in turn"][0]}


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
    parser.add_argument("--model", default=bases.MODEL, choices=[bases.MODEL, *bases.SHAPES])
    parser.add_argument("--engine", default="flat", choices=list(ENGINES))
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=4, help="of each adapter")
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    given = parser.parse_args(words)
    path = given.results / "answers.json"
    print("\n".join(table(machines.read(path) or machines.keep(path, measured(given)))))


if __name__ == "__main__":
    main()
