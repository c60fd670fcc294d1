"""Runs the `look` of each check in a process of its own, so that none can hang or take down the others."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Literal

from cluster.doctor import contract, processes
from cluster.doctor.contract import Asked, Diagnosis, Facts, Finding
from trainables.inputs.legible import legible
from trainables.specs import Spec

AT_ONCE = 4
"""Checks that look at the same time: most of them wait."""


class Look(Spec):
    """What came of a `look`; one of the fields is set."""

    facts: dict[str, Any] | None = None
    hung_seconds: float | None = None
    """It had not answered after this time, and was ended."""
    crash: str | None = None
    """Its process ended without an answer."""
    error: str | None = None
    """It could not look, and why."""


def look(name: str, asked: Asked, step: Literal["look", "collect"] = "look") -> Look:
    """Runs one step of a check, in a process of its own."""
    seconds = contract.find(name).SECONDS * asked.patience
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            with processes.asking(
                (__name__, name, step),
                asked.model_dump_json(),
                output,
                errors,
                environment=asked.environment if asked.declared_gpus is not None else {},
            ) as process:
                code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return Look(hung_seconds=seconds)
        except OSError as error:
            return Look(error=f"no process could be started for it: {error}")
        last = last_line(output)
        if code == 0 and last.startswith("{"):
            return Look.model_validate_json(last)
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Look(crash=legible(f"its process ended with {ended}: {last_line(errors)}".rstrip(": "), 300))


def look_all(names: Sequence[str], asked: Asked) -> Iterator[tuple[str, Look]]:
    """Runs several checks at once; what came of each, in their order."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from zip(names, pool.map(lambda name: look(name, asked), names), strict=True)
    except BaseException:  # interrupted: nobody wants the other answers
        pool.shutdown(wait=False, cancel_futures=True)
        processes.end_all()
        raise
    pool.shutdown()


def judged(name: str, found: Look, driver: Mapping[str, Look], asked: Asked) -> Finding:
    """The diagnosis of what a check has found at `asked.node`.

    Args:
        found: what came of its `look`.
        driver: what came of the checks on the driver.
    """
    check = contract.find(name)
    if found.facts is not None:
        of_driver: Facts = (driver[name].facts if name in driver else None) or {}
        diagnosis = check.judge(found.facts, of_driver, asked)
    elif found.hung_seconds is not None:
        mend = f"{check.HUNG}; on a machine that is only busy, QSWEEP_DOCTOR_PATIENCE=4 waits four times as long"
        diagnosis = Diagnosis("fail", f"no answer within {found.hung_seconds:.0f} s", mend)
    elif found.crash is not None:
        diagnosis = Diagnosis("fail", found.crash, check.HUNG)
    else:
        diagnosis = Diagnosis("unknown", found.error or "nothing was found")
    return Finding(name, asked.node, diagnosis.state, diagnosis.seen, diagnosis.mend)


def main() -> None:
    """Answers one question: python -m cluster.doctor.looking CHECK STEP, the question on standard input."""
    asked = Asked.model_validate_json(processes.question())
    name, step = sys.argv[1:]
    try:
        answer = Look(facts=dict(getattr(contract.find(name), step)(asked)))
        line = answer.model_dump_json()
    except Exception as error:  # what no check has foreseen is told, whatever it is
        line = json.dumps({"error": legible(f"{type(error).__name__}: {error}", 300)})
    # Libraries may have printed something without a line's end.
    print(f"\n{line}", flush=True)


def last_line(file: IO[bytes]) -> str:
    """The last line of a file; empty when there is none."""
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    main()
