"""Examines this machine, or a driver and the nodes of its cluster, and yields one finding per check and machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from subprocess import PIPE
from tempfile import TemporaryFile
from typing import Any

from pydantic import Field

from cluster import timeouts
from cluster.doctor import looking
from cluster.doctor.contract import DRIVER, Finding, Site
from trainables.asked_process import Process, asking, kill, last_line
from trainables.inputs.legible import legible
from trainables.specs import Spec
from trainables.timeouts import KILLED_PROCESS

CONNECTION = "connection"
"""The check whether the cluster and its nodes can be reached. It has no `look`."""
_NOT_CONNECTED = (
    "run the doctor on a node of the cluster (the head node), or give the dashboard's address (--address "
    "http://HOST:8265), because Ray's own protocol works on nodes alone; check the address, and RAY_AUTH_MODE=token "
    "with the cluster's token"
)


class Question(Spec):
    """A question to the doctor's process on the cluster, which prints one finding a line (on_cluster.py)."""

    address: str
    site: Site
    versions: dict[str, Any] = Field(default_factory=dict)
    """The driver's facts of the check `versions`, with which nodes are compared."""


def this_machine(site: Site) -> Generator[Finding]:
    """Yields the findings on this machine. Starts no Ray."""
    names = sorted({*looking.chosen("driver", site), *looking.chosen("nodes", site)})
    for name, look in looking.look_at(site, names):
        yield looking.finding(name, look, site)


def a_cluster(site: Site, address: str) -> Generator[Finding]:
    """Yields the findings on the driver here and on each node of the cluster at `address`."""
    site = site.model_copy(update={"node": DRIVER})
    facts: dict[str, dict[str, Any] | None] = {}
    for name, look in looking.look_at(site, looking.chosen("driver", site)):
        facts[name] = look.facts
        yield looking.finding(name, look, site)
    yield from on_nodes(Question(address=address, site=site.without_secrets(), versions=facts.get("versions") or {}))


def on_nodes(question: Question, program: str = "cluster.doctor.on_cluster") -> Generator[Finding]:
    """Yields the findings of a process that joins the cluster; ends in time, and says what is missing.

    The process can be killed when it is late: a machine outside the cluster may need minutes to connect to Ray.
    """
    patience = question.site.patience
    seconds, has_answered = timeouts.DOCTOR_CONNECT_SECONDS * patience, False
    with (
        TemporaryFile() as errors,
        asking((program,), question.model_dump_json(), PIPE, errors) as process,
        ExitStack() as limits,
    ):
        assert process.stdout is not None
        limit = limits.enter_context(_killed_after(seconds, process))
        for line in process.stdout:
            try:
                finding = Finding(**json.loads(line))
            except (ValueError, TypeError):
                continue  # a library has printed something
            if not has_answered:
                limits.close()
                seconds, has_answered = timeouts.DOCTOR_NODES_SECONDS * patience, True
                limit = limits.enter_context(_killed_after(seconds, process))
            yield finding
        is_late = limit.finished.is_set()
        if process.wait(KILLED_PROCESS) != 0:
            why = f"no answer within {seconds:.0f} s" if is_late else last_line(errors)
            yield no_connection(f"{question.address}: {why or 'its process ended without an answer'}")


@contextmanager
def _killed_after(seconds: float, process: Process) -> Iterator[threading.Timer]:
    """Kills a process once the block has lasted `seconds`. In the block the timer's `finished` tells that it did."""
    timer = threading.Timer(seconds, kill, (process,))
    timer.daemon = True
    timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def no_connection(words: str) -> Finding:
    """Says that the cluster cannot be reached."""
    return Finding(CONNECTION, DRIVER, "fail", legible(words), _NOT_CONNECTED)
