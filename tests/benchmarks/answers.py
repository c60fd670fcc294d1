"""Answering with K adapters in one batch on the shared base against one adapter after the other.

    python -m tests.benchmarks.answers [--adapters 8] [--prompts 4] [--tokens 16] [--model 135M] [--engine flat]

Both in turns in one process, so that they meet the same machine. Processor time is what tells on a busy one: with
OMP_NUM_THREADS=1 no thread waits for another.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence

import torch

from trainables.base import base_model
from trainables.packing.engine import Answer, Answering, Engine, Prompt
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.peft_engine import PeftEngine

from . import bases, packing

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


def main(words: Sequence[str] | None = None) -> None:
    """Prints a line for each way, and how many times as fast the batch is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=bases.MODEL, choices=[bases.MODEL, *bases.SHAPES])
    parser.add_argument("--engine", default="flat", choices=list(ENGINES))
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=4, help="of each adapter")
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    given = parser.parse_args(words)
    base = bases.made(given.model)
    base_model.dequantise(base.model)
    engine = ENGINES[given.engine](base)
    for slot in range(given.adapters):
        for name, matrix in engine.add(slot, packing.spec([16], slot, 1)).items():
            if "lora_B" in name:
                torch.nn.init.normal_(matrix.data, std=0.01)
    of_adapters = prompts(given.model, given.adapters, given.prompts)
    mixed, how = [prompt for own in of_adapters for prompt in own], Answering(frozenset(), given.tokens)
    ways: dict[str, Callable[[], list[Answer]]] = {
        "mixed": lambda: engine.generate(mixed, how),
        "in turn": lambda: [answer for own in of_adapters for answer in engine.generate(own, how)],
    }
    taken = {}
    for name, answer in ways.items():
        answers, seconds, worked = timed(answer)
        taken[name] = (answers, seconds, worked)
        tokens = sum(len(each.ids) for each in answers)
        print(
            f"{name:8} {tokens} tokens in {seconds:.1f} s: {tokens / seconds:.1f} a second, {worked:.1f} s of processor"
        )
    (one, seconds, worked), (other, longer, more) = taken["mixed"], taken["in turn"]
    print(
        f"{longer / seconds:.1f} times as fast ({more / worked:.1f} by processor time), load {os.getloadavg()[0]:.1f}"
    )
    print("equal answers" if one == other else "OTHER ANSWERS")


if __name__ == "__main__":
    main()
