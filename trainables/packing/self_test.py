"""Compares each way to compute passes with PEFT's own layers on a given base, and times the ways that agree.

torch's grouped products were wrong, or hung, on some GPUs (pytorch issues 193633, 186365, 172439, 152668), so each path
is tested on the machine that uses it. A path computes an evaluation and two training passes of three adapters of two
ranks on a few real rows. PEFT's layers compute the same passes, and compute them again with embeddings moved by one
rounding. A right path may differ as much as the moved embeddings do, since it rounds in other places.

As a program, this module answers a `PathsToTest` on standard input with a line of JSON for each path; see `path_tests`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from peft.tuners.lora import LoraLayer

from trainables import asked_process
from trainables.base import base_model, devices
from trainables.base.base_model import Base
from trainables.contract import Failure, StepRecord
from trainables.data.dataset import Split, Splits, TokenRow
from trainables.engine_paths import LEAST_GAIN, EnginePath, PassRate, Tried
from trainables.inputs.legible import legible
from trainables.packing.adapter_pack import AdapterPack, choose_engine
from trainables.packing.engine import Engine, Segment
from trainables.packing.memory import MAX_SLOTS
from trainables.packing.path_tests import READY, PathsToTest
from trainables.slot_failures import is_sticky, lacks_memory
from trainables.specs import TrialSpec

ROUNDINGS = 8.0
"""The largest allowed difference / the change that moved embeddings cause."""
LARGEST_DIFFERENCE = 0.5
"""The largest allowed difference as a share of the reference. A gradient of the wrong sign differs by 2."""
_STARTED_B = 0.02
"""Standard deviation of the B matrices, which are zero at the start of a training. With this value adapters add a few
per cent to a layer's outputs."""
_TIMED = 2
"""Number of timed steps, after one step that is not timed."""
_GENTLE = 1e-6
"""A learning rate at which no adapter diverges."""

Numbers = Mapping[str, torch.Tensor]
"""Losses and gradients of some passes, by name, on the CPU in float32."""


class Reference:
    """The numbers of PEFT's layers on a base without adapters, and the allowed distance of a right path."""

    def __init__(self, base: Base, spec: TrialSpec, rows: Sequence[TokenRow]) -> None:
        self.base, self._spec, self._rows = base, spec, rows
        own = EnginePath(engine="peft", residency="4bit")
        self._numbers = numbers(base, own, spec, rows)
        moved = []
        for seed in (1, 2):
            with _moved_embeddings(base, seed):
                moved.append(numbers(base, own, spec, rows))
        scales = {name: max(_apart(each[name], of) for each in moved) for name, of in self._numbers.items()}
        # Some matrices move little by chance: each may differ by at least the median of its kind.
        kinds: dict[str, list[float]] = {}
        for name, scale in scales.items():
            kinds.setdefault(_kind(name), []).append(scale)
        middle = {kind: median(of_kind) for kind, of_kind in kinds.items()}
        least = torch.finfo(torch.float32).eps  # Losses and gradients are float32.
        self._allowed = {
            name: min(LARGEST_DIFFERENCE, ROUNDINGS * max(scale, middle[_kind(name)], least))
            for name, scale in scales.items()
        }

    def difference(self, path: EnginePath) -> float:
        """Returns the path's distance from the reference, at most 1 for a right path; NaN if the path computes NaN."""
        found = numbers(self.base, path, self._spec, self._rows)
        shares = [_apart(found[name], of) / self._allowed[name] for name, of in self._numbers.items()]
        return math.nan if any(map(math.isnan, shares)) else max(shares)


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the norm of the difference as a share of the expected norm."""
    size = float(expected.norm())
    return float((found - expected).norm()) / size if size else (0.0 if not found.any() else math.inf)


@contextmanager
def _moved_embeddings(base: Base, seed: int) -> Iterator[None]:
    """Makes each number of the embeddings one rounding larger or smaller while the block runs."""
    generator = torch.Generator().manual_seed(seed)

    def move(_layer: torch.nn.Module, _inputs: object, outputs: torch.Tensor) -> torch.Tensor:
        signs = torch.randint(0, 2, outputs.shape, generator=generator).to(outputs.device) * 2.0 - 1.0
        return (outputs.double() * (1.0 + signs * torch.finfo(outputs.dtype).eps)).to(outputs.dtype)

    hook = base.model.get_input_embeddings().register_forward_hook(move)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def opened_on(base: Base, path: EnginePath) -> Iterator[Engine]:
    """Yields the path's engine on a base without adapters, and removes all adapters after the block.

    Raises:
        NotImplementedError: another engine than that of the path would train.
    """
    attention = base.model.config._attn_implementation
    try:
        engine, name = choose_engine(base, path.engine)
        if name != path.engine_name:
            raise NotImplementedError(f"the engine is {name}")
        yield engine
    finally:
        base.model.set_attn_implementation(attention)
        for name, layer in list(base.model.named_modules()):
            if isinstance(layer, LoraLayer):
                parent, _, own = name.rpartition(".")
                setattr(base.model.get_submodule(parent), own, layer.get_base_layer())
        # PEFT notes its adapters on the model that it changes (tuners/tuners_utils.py, 0.21.2).
        vars(base.model).pop("peft_config", None)
        devices.give_back()


def adapters(spec: TrialSpec, count: int) -> list[TrialSpec]:
    """Returns specs of `count` adapters like the sweep's, without dropout, every second one with half the rank."""
    half = spec.adapter.model_copy(update={"r": max(1, spec.adapter.r // 2), "lora_dropout": 0.0})
    ranks = (spec.adapter.model_copy(update={"lora_dropout": 0.0}), half)
    return [spec.model_copy(update={"adapter": ranks[seed % 2], "seed": seed}) for seed in range(count)]


def numbers(base: Base, path: EnginePath, spec: TrialSpec, rows: Sequence[TokenRow]) -> Numbers:
    """Returns the numbers of a path: losses of an evaluation, and losses and gradients of two training passes."""
    shared = [(0, rows[0:2]), (1, rows[2:3]), (2, rows[3:5])]
    passes = {
        "first pass": shared,
        "second pass": [(slot, of) for slot, (_, of) in zip((2, 0, 1), shared, strict=True)],
    }
    found: dict[str, torch.Tensor] = {}
    with opened_on(base, path) as engine:
        matrices = {}
        for slot, each in enumerate(adapters(spec, len(shared))):
            generator = torch.Generator().manual_seed(slot)
            for name, matrix in engine.add(slot, each).items():
                matrices[f"{slot} {name}"] = matrix
                if "lora_B" in name:
                    matrix.data.copy_(_STARTED_B * torch.randn(matrix.shape, generator=generator))
        with torch.no_grad():
            losses = engine.token_losses([Segment(slot, of) for slot, of in shared])
            found["evaluation"] = torch.cat(losses).float().cpu()
        for name, of_pass in passes.items():
            losses = engine.token_losses([Segment(slot, of) for slot, of in sorted(of_pass, key=lambda each: each[0])])
            torch.cat(losses).mean().backward()
            found[name] = torch.cat(losses).detach().float().cpu()
            for of, matrix in matrices.items():
                assert matrix.grad is not None
                found[f"gradient in {name}:{of}"] = matrix.grad.float().cpu()
                matrix.grad = None
    return found


def tried(reference: Reference, path: EnginePath, question: PathsToTest, estimates: Sequence[int]) -> Tried:
    """Tests and times a path. Raises only errors that break the whole process."""
    base = reference.base
    try:
        if path.residency == "dequantised":
            base_model.dequantise(base.model)
        difference = reference.difference(path)
        if math.isnan(difference):
            return Tried(path=path, problem="it computes NaN where PEFT's layers compute numbers")
        if difference > 1.0:
            problem = f"it differs from PEFT's layers by {difference:.1f} times what rounding explains"
            return Tried(path=path, difference=min(difference, sys.float_info.max), problem=problem)
        rates = tuple(_rates(base, path, question, estimates))
    except Exception as error:
        if is_sticky(error):
            raise
        problem = legible(f"it raises {type(error).__name__}: {error}", 300)
        return Tried(path=path, problem=problem, may_pass=lacks_memory(error))
    return Tried(path=path, difference=difference, rates=rates)


def _rates(base: Base, path: EnginePath, question: PathsToTest, estimates: Sequence[int]) -> Iterator[PassRate]:
    """Yields the rates of 1, 2, 4, ... slots, until more slots do not pay or memory ends."""
    split, before = _split(question), 0.0
    usual = {"gradient_accumulation_steps": 1, "learning_rate": _GENTLE}
    spec = question.base.model_copy(update={"training": question.base.training.model_copy(update=usual)})
    with opened_on(base, path) as engine:
        if base.device.type == "cuda":
            for device in base.devices:
                torch.cuda.reset_peak_memory_stats(device)
        pack = AdapterPack(engine, Splits(split, split), pass_tokens=question.pass_tokens)
        for slot, each in enumerate(adapters(spec, MAX_SLOTS)):
            if isinstance(pack.open(slot, each), Failure):
                return
            slots = slot + 1
            if slots & slot:  # no power of two
                continue
            first = _tokens(pack, slots)  # The first step warms up, so it is not timed.
            began = time.perf_counter()
            *_, last = (_tokens(pack, slots) for _ in range(_TIMED))
            if first is None or last is None or pack.pass_tokens < question.pass_tokens:
                return  # Memory ended.
            tokens, seconds = (last - first) / _TIMED, (time.perf_counter() - began) / _TIMED
            yield PassRate(
                slots=slots,
                tokens_per_step=tokens,
                tokens_per_second=tokens / seconds,
                peak_bytes=pack.peak_memory_bytes() if base.device.type == "cuda" else None,
                estimated_bytes=estimates[slot] if slot < len(estimates) else None,
            )
            if tokens / seconds < LEAST_GAIN * before:
                return
            before = tokens / seconds


def _tokens(pack: AdapterPack, slots: int) -> int | None:
    """Does a step; returns the tokens of all steps of these slots so far, or None if memory ends."""
    records = list(pack.step(range(slots)).values())
    failures = [each for each in records if isinstance(each, Failure)]
    if any(each.kind != "out_of_memory" for each in failures):
        raise RuntimeError(failures[0].message)
    return None if failures else sum(each.tokens for each in records if isinstance(each, StepRecord))


def _split(question: PathsToTest) -> Split:
    ids = [np.array(tokens, dtype=np.int32) for tokens, _ in question.rows]
    labelled = [np.array(counts, dtype=bool) for _, counts in question.rows]
    starts = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    return Split(np.concatenate(ids), starts, np.concatenate(labelled))


def main() -> None:
    """Answers one question; see the module."""
    question = PathsToTest.model_validate_json(asked_process.question())
    base = base_model.load(question.base, Path(question.cache))
    split = _split(question)
    reference = Reference(base, question.base, [split.row(i) for i in range(len(split))])
    # Libraries may have printed something without a line's end.
    print(f"\n{READY}", flush=True)
    for path, estimates in question.paths:
        print(f"\n{tried(reference, path, question, estimates).model_dump_json()}", flush=True)


if __name__ == "__main__":
    main()
