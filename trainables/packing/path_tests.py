"""Tests the paths of a base on this machine, once for each combination of everything that decides the result.

`self_test` runs in a process of its own, so that a kernel that hangs or kills the process only costs its path. The
results are kept in the cache, so that the next start takes no time. Results are not kept if a path met a problem that
may pass, such as memory that another program holds.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, TimeoutExpired
from tempfile import TemporaryFile

from trainables import asked_process, timeouts
from trainables.base import devices, model_source
from trainables.cache_files import write_whole
from trainables.contract import Device, RowShape
from trainables.data import dataset
from trainables.data.dataset import TokenRow
from trainables.engine_paths import EnginePath, SelfTest, Settled, Tried
from trainables.inputs.legible import legible
from trainables.packing import memory
from trainables.packing.pass_limits import trained_tokens
from trainables.specs import Spec, TrialSpec

METHOD = "3"
"""Raise this number when the self-test or a path changes. Results under an earlier number are then not used."""
HUNG = "it hung"
UNREADY = "PEFT's layers could not be computed: "
READY = "the reference is computed"
"""The first line of the process. Each further line is a `Tried`."""
ROWS = 16
"""Rows to train on that a self-test uses. Its comparison uses the first five."""


class PathsToTest(Spec):
    """The input of the process that tests paths."""

    base: TrialSpec
    cache: str
    rows: tuple[tuple[tuple[int, ...], tuple[bool, ...]], ...]
    """A few rows to train on: token ids, and for each token whether it counts in the loss."""
    pass_tokens: int
    """The most tokens of a pass; on a GPU all tokens of the slots, unless the specification sets a number."""
    paths: tuple[tuple[EnginePath, tuple[int, ...]], ...]
    """Each path with the estimated bytes of 1, 2, ... slots, without those of the process; empty if unknown."""


def candidates(base: TrialSpec, is_dequantised: bool) -> tuple[EnginePath, ...]:
    """Returns the paths of a base that the flat engine covers, the 4-bit paths first.

    Args:
        is_dequantised: whether the base may be dequantised.
    """
    residencies = base.quantization.traits.residencies[: 2 if is_dequantised else 1]
    return tuple(
        EnginePath(engine=engine, residency=residency) for residency in residencies for engine in ("flat", "grouped")
    )


def found(base: TrialSpec, kind: str | None, data: bytes, cache: Path, anew: bool = False) -> SelfTest:
    """Returns the results of a base's paths on this process's device; tests now if no results are kept.

    Args:
        kind: the model type of the base.
        data: see `Trainable.open_pack`.
        cache: the folder of bases and self-tests.
        anew: whether to test in any case.
    """
    from trainables.base import base_model

    rows = _spread_rows(data)
    file = _file(base, rows, cache)
    test = None if anew else _read(file)
    if test is None:
        base_model.origin_of(base, cache)  # Makes a missing 4-bit base here, since that may take long.
        test = tested(_question(base, kind, rows, cache), devices.kind(devices.first()))
        if not any(each.may_pass for each in test.tried):
            with suppress(OSError):  # Then the next start tests again.
                write_whole(file, test.model_dump_json(indent=1).encode())
    return test


def _spread_rows(data: bytes) -> list[TokenRow]:
    """Returns `ROWS` rows to train on, from the shortest to the longest."""
    train = dataset.load(data).train
    order = sorted(range(len(train)), key=lambda i: (len(train.row(i).ids), i))
    return [train.row(order[(len(order) - 1) * place // (ROWS - 1)]) for place in range(ROWS)]


def _file(base: TrialSpec, rows: Sequence[TokenRow], cache: Path) -> Path:
    """Returns the file that keeps a self-test. Its name identifies everything that the test depends on."""
    row = sum(len(row.ids) for row in rows) // len(rows)
    identity = (
        METHOD,
        model_source.fingerprint(base.base_model),
        base.quantization.model_dump_json(exclude={"residency"}),
        base.adapter.model_dump_json(),
        # Rows of about as many tokens give about the same passes.
        f"{base.training.batch_size} {base.training.pass_tokens} {row.bit_length()} {_is_dequantised(base)}",
        f"{len(devices.gpus())} {devices.kind(devices.first())}",
        *(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes")),
    )
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    return cache / "self-tests" / f"{digest[:16]}.json"


def _read(path: Path) -> SelfTest | None:
    with suppress(OSError, ValueError):
        return SelfTest.model_validate_json(path.read_bytes())
    return None


def _question(base: TrialSpec, kind: str | None, rows: Sequence[TokenRow], cache: Path) -> PathsToTest:
    facts, device = model_source.facts(base.base_model), _device()
    tokens, labels = sum(len(row.ids) for row in rows), sum(row.labels for row in rows)
    longest = max(len(row.ids) for row in rows)
    shape = RowShape(
        longest=longest, mean=tokens / len(rows), labelled=labels / tokens, train_rows=len(rows), eval_rows=1
    )
    pass_tokens = trained_tokens(base, None if facts is None else facts.parameters, device)
    if device == "cuda" and base.training.pass_tokens == "auto":  # The test finds out how many tokens pay.
        pass_tokens = memory.MAX_SLOTS * base.training.batch_size * longest

    def estimate(path: EnginePath) -> tuple[int, ...]:
        if facts is None:
            return ()
        bounded = devices.in_own_type(Settled(path=path, pass_tokens=pass_tokens).given_to(base))
        need = memory.need(bounded, (), facts, device, shape, kind, max(1, len(devices.gpus())))
        return tuple(each.total - each.process for each in need.by_slots[: memory.MAX_SLOTS])

    return PathsToTest(
        base=base,
        cache=str(cache),
        rows=tuple((tuple(map(int, row.ids)), tuple(map(bool, row.labelled))) for row in rows),
        pass_tokens=pass_tokens,
        paths=tuple((path, estimate(path)) for path in candidates(base, _is_dequantised(base))),
    )


def _device() -> Device:
    return "cuda" if devices.first().type == "cuda" else "cpu"


def _is_dequantised(base: TrialSpec) -> bool:
    """Tells whether the base may be dequantised. "4bit" counts as `auto`, since a settled path may have set it."""
    facts, quantization = model_source.facts(base.base_model), base.quantization
    if not quantization.traits.is_quantised:
        return False
    if facts is None or quantization.residency == "dequantised":
        return quantization.residency == "dequantised"
    is_open = base.model_copy(update={"quantization": quantization.model_copy(update={"residency": "auto"})})
    return memory.is_dequantised(devices.in_own_type(is_open), facts, _device())


def tested(question: PathsToTest, device: str, program: str = "trainables.packing.self_test") -> SelfTest:
    """Tests the paths of a question in a process. If the process hangs or dies, tests the other paths in a new one.

    If an engine hung with one residency, its other residency is not tested, since each hang costs minutes.
    """
    began, found, left = time.monotonic(), list[Tried](), question.paths
    while left:
        of_process = list(_tested(question.model_copy(update={"paths": left}), program))
        found += of_process
        left, last = left[len(of_process) :], of_process[-1]
        if last.problem.startswith(HUNG):
            alike = [path for path, _ in left if path.engine == last.path.engine]
            why = f"it was not tested, since {last.path.name} hung"
            found += [Tried(path=path, problem=why, may_pass=True) for path in alike]
            left = tuple(each for each in left if each[0] not in alike)
    return SelfTest(device=device, seconds=time.monotonic() - began, tried=tuple(found))


def _tested(question: PathsToTest, program: str) -> Iterator[Tried]:
    """Yields the results of one process, up to the path at which the process hung or died."""
    with (
        TemporaryFile() as errors,
        asked_process.asking((program,), question.model_dump_json(), PIPE, errors) as process,
    ):
        line = _line(process, timeouts.SELF_TEST_LOAD)
        is_ready, others = line == READY, question.paths
        while is_ready and others:
            line = _line(process, timeouts.SELF_TEST_PATH)
            if not line.startswith("{"):
                break
            yield Tried.model_validate_json(line)
            others = others[1:]
        if others:
            why = legible(line or _died(process, asked_process.last_line(errors)), 300)
            # Without even a reference, no other process would come further.
            yield from (
                Tried(path=path, problem=f"{'' if is_ready else UNREADY}{why}", may_pass=True)
                for path, _ in (others[:1] if is_ready else others)
            )


def _died(process: asked_process.Process, said: str) -> str:
    with suppress(TimeoutExpired):
        process.wait(timeouts.KILLED_PROCESS)
    code = process.returncode
    ended = "no exit code yet" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"its process ended with {ended}: {said}".rstrip(": ")


def _line(process: asked_process.Process, seconds: float) -> str:
    """Returns the next line of the answer; a message that begins with `HUNG` if it is late; "" if the process ended."""
    assert process.stdout is not None
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        asked_process.kill(process)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        for line in process.stdout:
            if line.startswith((b"{", READY.encode())):  # else a library has printed something
                return line.decode().strip()
    finally:
        timer.cancel()
    return f"{HUNG}: no answer within {seconds:.0f} s" if is_late.is_set() else ""
