"""Examines this machine, or a driver and the nodes of its cluster, and yields one finding per check and place."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from subprocess import PIPE
from typing import IO

from pydantic import ValidationError

from cluster.doctor import contract, looking, processes
from cluster.doctor.contract import DRIVER, THIS_MACHINE, Asked, Finding
from cluster.doctor.looking import Look
from cluster.doctor.messages import Line, NodeFacts, Question
from trainables.inputs.legible import legible

CONNECT_SECONDS = 90.0
"""How long a connection to Ray may take."""
NODES_SECONDS = 500.0
"""How long the nodes may take together, after the connection."""
CONNECTION = "connection"
"""Whether the cluster and its nodes can be reached at all: a check without a file of its own."""
STORAGE = "storage"
"""The check that is judged last, when each node has written."""
_NOT_CONNECTED = (
    "run the doctor on a node of the cluster (the head node), or give the dashboard's address (--address "
    "http://HOST:8265), because Ray's own protocol works on nodes alone; check the address, and RAY_AUTH_MODE=token "
    "with the cluster's token"
)
_NOT_THERE = (
    "install this project there in Ray's Python as on the driver (docs/cluster.md), and remove other packages that are "
    "imported as sweeps or cluster; if the node is overloaded, try again"
)


def this_machine(asked: Asked) -> Generator[Finding]:
    """What there is to say of this machine. Starts no Ray."""
    asked = asked.model_copy(update={"node": THIS_MACHINE, "mark": uuid.uuid4().hex})
    has_file = asked.base is not None
    names = {*contract.chosen("driver", has_file), *contract.chosen("nodes", has_file)} - {"clock"}
    try:
        for name, look in looking.look_all(sorted(names), asked):
            yield looking.judged(name, look, {name: look}, asked)
    finally:
        _collect(asked)


def a_cluster(asked: Asked, address: str) -> Generator[Finding]:
    """What there is to say of the driver here and of each node of the cluster at `address`."""
    asked = asked.model_copy(update={"node": DRIVER, "mark": uuid.uuid4().hex})
    has_file = asked.base is not None
    driver: dict[str, Look] = {}
    try:
        for name, look in looking.look_all(contract.chosen("driver", has_file), asked):
            driver[name] = look
            yield looking.judged(name, look, {name: look}, asked)
        names = contract.chosen("nodes", has_file)
        for_nodes = asked.model_copy(update={"tracking_uri": None})
        yield from _nodes(Question(address=address, asked=for_nodes, names=names), driver)
    finally:
        _collect(asked)


def _nodes(question: Question, driver: dict[str, Look]) -> Iterator[Finding]:
    places: dict[str, Asked] = {}
    looks: dict[str, dict[str, Look]] = {}
    for answer in _answers(question):
        if answer.refused is not None:
            yield Finding(CONNECTION, DRIVER, "fail", legible(answer.refused), _NOT_CONNECTED)
        elif answer.nodes is not None:
            places = {node.name: question.asked.on_node(node.name, node.gpus) for node in answer.nodes}
            yield _connected(answer.nodes, question.address, question.asked.gpus_per_host)
        elif answer.lost is not None and answer.node is not None:
            yield Finding(CONNECTION, answer.node, "fail", answer.lost, _NOT_THERE)
        elif answer.node is not None:
            looks.setdefault(answer.node, {}).update(answer.looks)
            for name in sorted(set(answer.looks) - {STORAGE}):
                yield looking.judged(name, answer.looks[name], driver, places[answer.node])
    for node, name in _unanswered(question, places, looks):
        yield looking.judged(name, Look(error="no answer: not looked at"), driver, places[node])
    arrived = _collect(question.asked)
    for node, found in looks.items():
        if STORAGE in found:
            yield looking.judged(STORAGE, found[STORAGE], {STORAGE: arrived}, places[node])


def _unanswered(
    question: Question, places: dict[str, Asked], looks: dict[str, dict[str, Look]]
) -> Iterator[tuple[str, str]]:
    """Nodes and their checks on GPUs that have no answer: those come last, and may not have come at all."""
    for node, found in looks.items():
        trains = "gpu" in found and (places[node].declared_gpus or 0) >= 1
        for name in question.names if trains else ():
            if contract.find(name).TAKES_GPU and name not in found:
                yield node, name


def _answers(question: Question) -> Iterator[Line]:
    """What the process on the cluster answers; ends within its time limits, and says what has not been answered."""
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    unheard: list[str] | None = None
    with (
        tempfile.TemporaryFile() as errors,
        processes.asking(("cluster.doctor.on_cluster",), question.model_dump_json(), PIPE, errors) as process,
    ):
        assert process.stdout is not None
        threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True).start()
        patience = question.asked.patience
        seconds, began = CONNECT_SECONDS * patience, time.monotonic()
        why = f"no answer within {seconds:.0f} s"
        while True:
            try:
                line = lines.get(timeout=max(0.0, began + seconds - time.monotonic()))
            except queue.Empty:
                break
            if line is None:
                why = looking.last_line(errors) or "its process ended without an answer"
                break
            try:
                answer = Line.model_validate_json(line)
            except ValidationError:
                continue  # a library has printed something
            if answer.refused is not None:
                unheard = []
            elif answer.nodes is not None:
                unheard = [node.name for node in answer.nodes]
                seconds, began = NODES_SECONDS * patience, time.monotonic()
                why = f"no answer within {seconds:.0f} s"
            elif unheard is not None and answer.node in unheard:
                unheard.remove(answer.node)
            yield answer
    if unheard is None:
        yield Line(refused=f"{question.address}: {why}")
    for node in unheard or ():
        yield Line(node=node, lost=why)


def _pass_on(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _connected(nodes: tuple[NodeFacts, ...], address: str, gpus_per_host: int) -> Finding:
    """Says what the cluster has; fails where its GPUs are on machines that are all too small for a host."""
    gpus = sum(node.gpus for node in nodes)
    seen = f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'} with {gpus:g} GPUs at {address}"
    if gpus_per_host <= 1 or any(node.gpus >= gpus_per_host for node in nodes):
        return Finding(CONNECTION, DRIVER, "ok", seen)
    seen += (
        f"; a host takes {gpus_per_host} GPUs of one machine, and none has so many: the sweep waits for one that has"
    )
    mend = "lower cluster.gpus_per_host, or let such a machine join"
    # A cluster without any GPU may be one whose autoscaler brings machines when the sweep asks for them.
    return Finding(CONNECTION, DRIVER, "fail" if gpus else "warn", seen, mend)


def _collect(asked: Asked) -> Look:
    """What nodes have written into the storage; removes it. Does nothing the second time."""
    if asked.storage is None:
        return Look(facts={})
    return looking.look(STORAGE, asked, "collect")
