"""Runs checks side by side: in a process of its own each `look` that can hang or crash, the others here.

Such a process answers one question. It ends with whoever asked, and cannot keep them waiting.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from tempfile import TemporaryFile
from typing import IO, Any, Literal

from cluster import timing
from cluster.doctor import gpus, machine, stores
from cluster.doctor.contract import Diagnosis, Facts, Finding, Site, fail
from trainables.inputs.legible import legible
from trainables.specs import Spec

CHECKS = dict(sorted((check.name, check) for check in (*gpus.CHECKS, *machine.CHECKS, *stores.CHECKS)))
"""All checks by their names, but for `connection` and `clock`, which only a cluster has (on_cluster.py)."""
NEED_FILE = tuple(name for name, check in CHECKS.items() if check.needs_file)
Looking = Callable[[Site], Facts]
Process = subprocess.Popen[bytes]


class Look(Spec):
    """What came of a `look`: its facts, or what there is to say in their place."""

    facts: dict[str, Any] | None = None
    problem: Diagnosis | None = None


def chosen(place: Literal["driver", "nodes"], site: Site) -> tuple[str, ...]:
    """The checks that look at a place."""
    has_file = site.needs.base is not None
    there = (check for check in CHECKS.values() if check.where in (place, "both"))
    return tuple(check.name for check in there if has_file or not check.needs_file)


def look_at(site: Site, names: Sequence[str]) -> Iterator[tuple[str, Look]]:
    """Runs checks; what came of each, in their order. All processes end with this generator."""
    checks = [CHECKS[name] for name in names]
    with ExitStack() as processes:
        answers: dict[Looking, Callable[[], Look]] = {}
        for each in checks:
            if each.look not in answers:
                answer: Callable[[], Look] = partial(_looked, each.look, site)
                if each.hung:
                    answer = processes.enter_context(apart(each.look, site, each.seconds, each.hung))
                answers[each.look] = cache(answer)
        for check in checks:
            yield check.name, answers[check.look]()


def finding(name: str, look: Look, site: Site, driver: Facts | None = None) -> Finding:
    """What a check says of a machine that was looked at; `driver` is what a node is compared with, if anything is."""
    facts = {**(look.facts or {}), "driver": driver} if driver else look.facts or {}
    return (look.problem or CHECKS[name].judge(facts, site)).of(name, site.node)


@contextmanager
def apart(
    look: Looking, site: Site, seconds: float = timing.DOCTOR_LOOK_SECONDS, hung: str = ""
) -> Iterator[Callable[[], Look]]:
    """Begins a look in a process of its own, which ends with the block; what is yielded waits for the answer.

    Args:
        look: a function of a module.
        site: what it is given.
        seconds: its time limit, before `site.patience`.
        hung: what to do when it hangs, or its process dies.
    """
    seconds, began = seconds * site.patience, time.monotonic()
    # Only hosts get the variables of the profile.
    environment = site.needs.environment if site.declared_gpus is not None else {}
    words = (__name__, look.__module__, look.__name__)
    with (
        TemporaryFile() as output,
        TemporaryFile() as errors,
        asking(words, site.model_dump_json(), output, errors, environment) as process,
    ):

        def answer() -> Look:
            try:
                code = process.wait(max(0.0, began + seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                busy = "on a machine that is only busy, QSWEEP_DOCTOR_PATIENCE=4 waits four times as long"
                return Look(problem=fail(f"no answer within {seconds:.0f} s", f"{hung}; {busy}"))
            if code == 0:
                return Look.model_validate_json(last_line(output))
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            said = f"its process ended with {ended}: {last_line(errors)}".rstrip(": ")
            return Look(problem=fail(legible(said, 300), hung))

        yield answer


def main() -> None:
    """Answers one question: python -m cluster.doctor.looking MODULE LOOK, the site on standard input."""
    site = Site.model_validate_json(question())
    module, name = sys.argv[1:]
    look = _looked(getattr(importlib.import_module(module), name), site)
    # Libraries may have printed something without a line's end.
    print(f"\n{look.model_dump_json()}", flush=True)


def _looked(look: Looking, site: Site) -> Look:
    try:
        return Look(facts=dict(look(site)))
    except Exception as error:  # what no check has foreseen is told, whatever it is
        return Look(problem=Diagnosis("unknown", legible(f"{type(error).__name__}: {error}", 300)))


@contextmanager
def asking(
    words: Sequence[str],
    asked: str,
    stdout: int | IO[bytes],
    stderr: IO[bytes],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """Runs a module of this Python in a process of its own, and kills it with all it has started after the block.

    Args:
        words: the module, whose `main` begins with `question()`, and its arguments, which anyone on the machine can
            read.
        asked: one line, which nobody else can read.
        environment: variables beside those of this process.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        # -P: the current folder stays where it is in this process's path, and does not come first.
        [sys.executable, "-P", "-m", *words],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        env={**os.environ, **(environment or {}), "PYTHONPATH": path},
    )
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # it has ended already: its exit status says so
            process.stdin.write(asked.encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        kill(process)
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timing.DOCTOR_END_SECONDS)


def kill(process: Process) -> None:
    """Ends a process that was asked, and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def question() -> str:
    """The line that this process was asked. The process ends as soon as the asker is gone."""
    read = b""
    while not read.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            os._exit(1)
        read += part
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    return read.decode()


def _end_with_the_asker() -> None:
    # Not through sys.stdin: its lock would be held while the interpreter ends.
    while os.read(0, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def last_line(file: IO[bytes]) -> str:
    """The last line of a file; empty when there is none."""
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    main()
