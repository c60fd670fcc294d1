"""Examines this machine, or a driver and the nodes of its cluster: one answer per check and machine.

All checks of a machine run one after the other in one child process, which may hang or crash, and tells each answer as
it comes. It ends with its caller, and cannot keep the caller waiting.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from subprocess import PIPE
from tempfile import TemporaryFile
from typing import Literal

from cluster import timeouts
from cluster.doctor import gpus, machine, stores, training
from cluster.doctor.contract import DRIVER, Check, CheckResult, Site
from trainables.asked_process import asking, last_line, question
from trainables.inputs.legible import legible
from trainables.timeouts import KILLED_PROCESS

_SMI = "nvidia-smi hangs when the driver does: look for Xid errors in `dmesg`, and restart the machine"
_STORAGE = "the storage does not answer: check its mount, or the credentials and the network"
_MLFLOW = "MLflow or a proxy before it does not answer: check the address, HTTP_PROXY and NO_PROXY"
_TRAIN = "end what else runs there and try again; `qsweep launch` has the same limits and then leaves a path out"
_CHECKS = (
    Check(machine.versions, "both"),
    Check(machine.import_names, "both"),
    Check(machine.file_descriptors, "both"),
    Check(machine.token, "driver"),
    Check(stores.disk, "both", "a drive does not answer: check the mounts"),
    Check(stores.storage, "driver", _STORAGE, needs_file=True),
    Check(stores.mlflow, "driver", _MLFLOW, needs_file=True),
    Check(stores.model_and_data, "nodes", stores.HUB, needs_file=True),
    Check(gpus.gpu, "nodes", _SMI),
    Check(gpus.compute_capability, "nodes", _SMI),
    Check(gpus.memory, "nodes", _SMI, needs_file=True),
    Check(gpus.bf16, "nodes", _SMI),
    Check(gpus.bitsandbytes, "nodes", gpus.RUN_BITSANDBYTES, takes_gpu=True),
    Check(training.train, "nodes", _TRAIN, needs_file=True, takes_gpu=True),
)
CHECKS = {each.name: each for each in _CHECKS}
"""All checks in their order, but for `connection` and `clock`, which only a cluster has (on_cluster.py)."""
TRAIN, CONNECTION = "train", "connection"
NEED_FILE = tuple(sorted(name for name, check in CHECKS.items() if check.needs_file and name != TRAIN))
_NOT_CONNECTED = (
    "run the doctor on a node of the cluster (the head node), or give the dashboard's address (--address "
    "http://HOST:8265), because Ray's own protocol works on nodes alone; check the address, and RAY_AUTH_MODE=token "
    "with the cluster's token"
)
_BUSY = "on a machine that is only busy, QSWEEP_DOCTOR_PATIENCE=4 waits four times as long"


class ProcessError(Exception):
    """A process has not told all its answers; the words say why."""


def chosen(site: Site, *places: Literal["driver", "nodes"]) -> list[str]:
    """Returns the names of the checks for places, in their order."""
    there = [each for each in CHECKS.values() if each.where in ("both", *places)]
    names = [each.name for each in there if site.needs.base is not None or not each.needs_file]
    return [name for name in names if (name == TRAIN) == site.trains]


def this_machine(site: Site) -> Generator[CheckResult]:
    """Yields the answers on this machine. Starts no Ray."""
    return answers(site, chosen(site, "driver", "nodes"))


def a_cluster(site: Site, address: str) -> Generator[CheckResult]:
    """Yields the answers on the driver here and on each node of the cluster at `address`."""
    site = site.model_copy(update={"node": DRIVER, "driver_versions": machine.installed()})
    yield from answers(site, chosen(site, "driver"))
    yield from on_nodes(site.without_secrets(), address)


def on_nodes(site: Site, address: str, program: str = "cluster.doctor.on_cluster") -> Generator[CheckResult]:
    """Yields the answers of a process that joins the cluster, which may need minutes to connect to Ray."""
    connect, nodes = (each * site.patience for each in (timeouts.DOCTOR_CONNECT_SECONDS, timeouts.DOCTOR_NODES_SECONDS))
    try:
        yield from told((program, address), site, connect, nodes)
    except ProcessError as error:
        yield no_connection(f"{address}: {error}")


def no_connection(words: str) -> CheckResult:
    """Says that the cluster cannot be reached."""
    return CheckResult("fail", legible(words), _NOT_CONNECTED).of(CONNECTION, DRIVER)


def answers(site: Site, names: Sequence[str]) -> Generator[CheckResult]:
    """Yields one answer for each check. After a crash the next child goes on; after the time limit none does."""
    left, limit = list(names), timeouts.DOCTOR_LOOK_SECONDS * site.patience
    ends = time.monotonic() + limit
    # Only nodes get the variables of the profile, as hosts do.
    environment = site.needs.environment if site.declared_gpus is not None else {}
    while left:
        why = "its process ended without an answer"
        try:
            for answer in told((__name__, *left), site, ends - time.monotonic(), environment=environment):
                left.remove(answer.check)
                yield answer
        except ProcessError as error:
            why = str(error)
        if left and time.monotonic() < ends:
            name = left.pop(0)
            yield CheckResult("fail", why, CHECKS[name].hung).of(name, site.node)
        elif left:
            late, *others = left
            why = f"no answer within {limit:.0f} s, the limit for all checks of a machine"
            yield CheckResult("fail", why, f"{CHECKS[late].hung}; {_BUSY}").of(late, site.node)
            for name in others:
                yield CheckResult("unknown", f"not looked at, because the check {late} gave no answer").of(
                    name, site.node
                )
            return


def told(
    words: Sequence[str],
    site: Site,
    seconds: float,
    after_first: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Generator[CheckResult]:
    """Yields the answers that a process tells (`tell`). Raises ProcessError if late or failed.

    Args:
        words: the process's module and arguments; it is asked for the site.
        seconds: time limit.
        after_first: time limit that holds from the first answer on, if another.
    """
    ends, rest = time.monotonic() + seconds, b""
    with TemporaryFile() as errors, asking(words, site.model_dump_json(), PIPE, errors, environment) as process:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        ready = select.poll()
        ready.register(pipe)
        while part := os.read(pipe, 65536) if ready.poll(max(0.0, ends - time.monotonic()) * 1000) else None:
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                try:
                    answer = CheckResult(**json.loads(line))
                except (ValueError, TypeError):
                    continue  # a library has printed something
                if after_first is not None:
                    seconds, ends, after_first = after_first, time.monotonic() + after_first, None
                yield answer
        if part is None:
            raise ProcessError(f"no answer within {seconds:.0f} s")
        code = process.wait(KILLED_PROCESS)
        if code != 0:
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise ProcessError(legible(f"its process ended with {ended}: {last_line(errors)}".rstrip(": "), 300))


def tell(answer: CheckResult) -> None:
    """Tells an answer to the process that asked."""
    # Libraries may have printed something without a line's end.
    print(f"\n{json.dumps(asdict(answer))}", flush=True)


def main() -> None:
    """Looks at this machine: python -m cluster.doctor.examine CHECK..., the site on standard input."""
    site = Site.model_validate_json(question())
    for name in sys.argv[1:]:
        try:
            answer = CHECKS[name].look(site)
        except Exception as error:  # an error that the check did not foresee
            answer = CheckResult("unknown", legible(f"{type(error).__name__}: {error}", 300))
        tell(answer.of(name, site.node))


if __name__ == "__main__":
    main()
