"""Runs checks side by side. Each `look` that can hang or crash runs in its own process, the others in this one.

Such a process answers one question. It ends with its caller, and cannot keep the caller waiting.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from tempfile import TemporaryFile
from typing import Any, Literal

from cluster.doctor import gpus, machine, stores, training
from cluster.doctor.contract import Diagnosis, Facts, Finding, Site, fail
from trainables.asked_process import asking, last_line, question
from trainables.inputs.legible import legible
from trainables.specs import Spec

CHECKS = dict(
    sorted((check.name, check) for check in (*gpus.CHECKS, *machine.CHECKS, *stores.CHECKS, *training.CHECKS))
)
"""All checks by their names, but for `connection` and `clock`, which only a cluster has (on_cluster.py)."""
NEED_FILE = tuple(name for name, check in CHECKS.items() if check.needs_file and name != training.TRAIN)
Looking = Callable[[Site], Facts]


class Look(Spec):
    """The facts of a `look`, or the problem that prevented them."""

    facts: dict[str, Any] | None = None
    problem: Diagnosis | None = None


def chosen(place: Literal["driver", "nodes"], site: Site) -> tuple[str, ...]:
    """Returns the names of the checks for a place."""
    has_file = site.needs.base is not None
    there = (check for check in CHECKS.values() if check.where in (place, "both"))
    names = tuple(check.name for check in there if has_file or not check.needs_file)
    return tuple(name for name in names if (name == training.TRAIN) == site.trains)


def look_at(site: Site, names: Sequence[str]) -> Iterator[tuple[str, Look]]:
    """Runs checks; yields each name and look, in order. All processes end with this generator."""
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
    """Judges a look; `driver` has the driver's facts, if the check compares a node with them."""
    facts = {**(look.facts or {}), "driver": driver} if driver else look.facts or {}
    return (look.problem or CHECKS[name].judge(facts, site)).of(name, site.node)


@contextmanager
def apart(look: Looking, site: Site, seconds: float, hung: str) -> Iterator[Callable[[], Look]]:
    """Begins a look in a process that ends with the block; yields a function that waits for the answer.

    `site.patience` multiplies `seconds`; for `hung` see `Check`.
    """
    seconds, began = seconds * site.patience, time.monotonic()
    # Only nodes get the variables of the profile, as hosts do.
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
    except Exception as error:  # an error that the check did not foresee
        return Look(problem=Diagnosis("unknown", legible(f"{type(error).__name__}: {error}", 300)))


if __name__ == "__main__":
    main()
