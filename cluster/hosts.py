"""A host is a process that holds the base model and trains adapters on it, on one or more GPUs or on the CPU.

A host returns plain values and bytes, never torch objects: a light process would have to import torch to unpickle
those. The loop trains in a thread of its own, so that a host answers while it trains.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import ray
from pydantic import Field
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

from cluster.devices import (
    MEMORY_SHARE,
    cache,
    free_bytes,
    gpus,
    name,
    number_gpus_by_bus,
    use_threads,
)
from cluster.errors import HostError
from cluster.libraries import silence
from cluster.loop import BY_LOSS, Finalist, Judged, Large, Outcome, PackLoop
from cluster.pace import Doing
from trainables import catalogue
from trainables.contract import (
    Device,
    Evaluation,
    Failure,
    Opened,
    Prepared,
    RowShape,
    StepRecord,
    Target,
    TargetModules,
)
from trainables.engine_paths import Settled
from trainables.errors import TrainableError
from trainables.objective import SortKey
from trainables.specs import Spec, TrialSpec

T = TypeVar("T")
PROCESS_LOST = (RayActorError, NodeDiedError, OutOfMemoryError)
"""Errors of a call to an actor whose process is gone, or out of reach (ActorUnavailableError, a RayActorError). Ray's
memory monitor kills with OutOfMemoryError, which is no RayActorError (ray/exceptions.py, 2.60)."""


class SlotLimits(Spec):
    """Says how many slots a host may have."""

    slots: int | Literal["auto"]
    """A number, or auto: as many as fit into the free memory."""
    at_most: int
    """Upper bound for auto. The broker is given the bound of all hosts together, a host the bound of its own slots."""
    largest: tuple[TrialSpec, ...]
    """Specs of the search space that need the most memory."""
    hosts_per_machine: int = 1
    """Hosts that share a machine's cores, and on CPUs its memory."""

    def of_each(self, hosts: int) -> int:
        """Returns the most slots that one of the hosts may have: 5 if `at_most` is 9 and `hosts` is 2 (4 + 5)."""
        return max(1, -(-self.at_most // max(1, hosts)))


class HostOptions(Spec):
    """Says what a sweep takes of the cluster, what its hosts' processes are given, and what went before them."""

    hosts: int | Literal["auto"] = "auto"
    gpus_per_host: int | Literal["auto"] = "auto"
    """auto: one if the cluster has GPUs when the sweep starts, else none. Several GPUs are of one machine."""
    may_grow: bool = False
    """Whether nodes may join. If not, more hosts than GPUs are a mistake."""
    env_vars: dict[str, str] = Field(default_factory=dict)
    pip: tuple[str, ...] = ()
    """Packages that Ray installs when the hosts start."""
    bases: tuple[TrialSpec, ...] = ()
    """Specs of the bases that trials may name beside the first one: hosts are shared out among them as they start."""
    hardware_before: str = ""
    """Hardware of a resumed sweep's former evaluations, see `Evaluation.hardware`; empty if not known."""


class HostPlace(NamedTuple):
    """The GPUs, or the CPU, on which a host computes."""

    node_id: str
    """Ray's id of its node."""
    gpus: tuple[str, ...]
    """Ray's numbers of its GPUs on that node; none on a CPU."""

    def overlaps(self, other: HostPlace) -> bool:
        """Tells whether both are on one node, and have a GPU in common or none."""
        return self.node_id == other.node_id and (self.gpus == other.gpus or not {*self.gpus}.isdisjoint(other.gpus))


class HostFacts(Spec):
    """Describes a host that is ready."""

    pid: int
    node: str
    """IP address of its machine."""
    device: Device
    slots: int
    estimated_bytes: int | None
    """Memory that these slots are expected to take, of several GPUs on the fullest; None if not known."""
    device_name: str = ""
    """See `devices.name`."""
    engine: str = ""
    """The engine that computes the trials' losses, in words; empty if the trainable does not say."""
    settled: Settled | None = None
    """See `Trainable.settle_path`."""
    hardware: str = ""
    """See `Evaluation.hardware`; empty if the trainable does not say."""
    node_id: str = ""
    """Ray's id of its node."""
    gpu_ids: tuple[str, ...] = ()
    """See `HostPlace.gpus`."""

    @property
    def place(self) -> HostPlace:
        """Returns the GPUs, or the CPU, on which the host computes."""
        return HostPlace(self.node_id, self.gpu_ids)


def memory_share(free: int, hosts: int, beside: Sequence[int]) -> int:
    """Returns the bytes that one more CPU host may take of its machine: an equal share, as far as it is free.

    Args:
        free: free bytes of the machine.
        hosts: hosts that share the machine, also those that are still to come.
        beside: bytes that each ready host there is expected to take; they are no longer free.
    """
    return min(free // max(1, hosts - len(beside)), (free + sum(beside)) // hosts)


class Host:
    """The actor's class; see `HostActor`."""

    def __init__(self, base: str, limits: SlotLimits) -> None:
        if not ray.get_gpu_ids():
            # Ray leaves a host without GPUs the sight of all of them.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._base = TrialSpec.model_validate_json(base)
        self._trainable = catalogue.find(self._base.trainable)
        self._limits = limits
        self._loop: PackLoop | None = None
        self._settled: Settled | None = None
        self._calls = ThreadPoolExecutor(max_workers=128, thread_name_prefix="host-call")
        silence()
        number_gpus_by_bus()
        # Ray sets OMP_NUM_THREADS from num_cpus, which is 0 for a CPU host.
        use_threads(limits.hosts_per_machine)

    async def node_id(self) -> str:
        """Returns Ray's id of this host's node. The call waits until Ray has placed the host."""
        return str(ray.get_runtime_context().get_node_id())

    async def resolve(self, values: tuple[TargetModules, ...]) -> list[Target] | None:
        """Returns the modules that each value of adapter.target_modules means; None if the trainable cannot tell.

        Raises HostError with the user's mistake.
        """
        return await asyncio.get_running_loop().run_in_executor(self._calls, self._resolve, values)

    async def prepare(self) -> Prepared:
        """Prepares the data, and settles how passes are computed. Raises HostError with the user's mistake."""
        return await asyncio.get_running_loop().run_in_executor(self._calls, self._prepare)

    async def start(self, data: bytes, rows: RowShape | None, beside: tuple[HostFacts, ...]) -> HostFacts:
        """Loads the base model and starts the training loop. Raises HostError with the user's mistake.

        Args:
            rows: None if there are no rows.
            beside: the hosts on this node that are ready and stay.
        """
        return await asyncio.get_running_loop().run_in_executor(self._calls, self._start, data, rows, beside)

    async def open(self, lease: str, spec: str, snapshot: bytes | None) -> Opened | Failure:
        """See `PackLoop.open`; `spec` is JSON."""
        return await self._answered(self._running().open(lease, TrialSpec.model_validate_json(spec), snapshot))

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]
    async def advance(
        self,
        lease: str,
        target: int,
        best: SortKey,
        known: int,
        wait_seconds: float,
        judged: Judged = BY_LOSS,
    ) -> tuple[Outcome | None, Large]:
        """See `PackLoop.advance` and `Outcome.split`."""
        call = partial(self._running().advance, lease, target, best, known, wait_seconds, judged)
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(self._calls, call)
        finally:
            self._running()
        return (None, Large()) if outcome is None else outcome.split()

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]
    async def save(self, lease: str, known: int) -> tuple[Outcome, Large]:
        """See `PackLoop.save` and `Outcome.split`."""
        return (await self._answered(self._running().save(lease, known))).split()

    async def evaluate_base(self) -> Evaluation | Failure:
        """See `PackLoop.evaluate_base`."""
        return await self._answered(self._running().evaluate_base())

    async def evaluate_finalists(self, finalists: tuple[Finalist, ...]) -> list[Evaluation | Failure]:
        """See `PackLoop.evaluate_finalists`."""
        return await self._answered(self._running().evaluate_finalists(finalists))

    async def latest(self) -> tuple[dict[str, StepRecord], Doing | None]:
        """See `PackLoop.latest` and `PackLoop.doing`."""
        loop = self._running()
        return loop.latest(), loop.doing()

    async def close(self, lease: str) -> None:
        """See `PackLoop.close`."""
        await self._answered(self._running().close(lease))

    async def move_out(self) -> None:
        """See `PackLoop.move_out`."""
        self._running().move_out()

    async def _answered(self, answer: Future[T]) -> T:
        try:
            return await asyncio.wrap_future(answer)
        finally:
            # A caller must not get the error of a broken loop as an answer: this ends the process.
            self._running()

    def _resolve(self, values: tuple[TargetModules, ...]) -> list[Target] | None:
        try:
            found = self._trainable.resolve_targets(self._base, values, cache())
        except TrainableError as error:
            raise HostError(str(error)) from None
        return None if found is None else list(found)

    def _own_gpus(self) -> list[str]:
        """Returns Ray's numbers of this host's GPUs. Raises HostError if the trainable cannot use them."""
        # A cluster may count GPUs on a machine that has none, to try out where hosts are placed.
        own = [str(index) for index in ray.get_gpu_ids()] if gpus() else []
        if own and (why := catalogue.blindness(self._trainable)) is not None:
            raise HostError(f"GPU {' and '.join(own)} of {ray.util.get_node_ip_address()}: {why}")
        return own

    def _prepare(self) -> Prepared:
        self._own_gpus()  # Preparing quantises the base, on the CPU where no GPU is seen.
        try:
            prepared = self._trainable.prepare(self._base, cache())
            settled = self._settle(prepared.payload)
        except TrainableError as error:
            raise HostError(str(error)) from None
        return prepared.model_copy(update={"settled": settled})

    def _settle(self, data: bytes) -> Settled | None:
        """Settles how this host computes passes. Asks the trainable once, since a failed self-test is not kept."""
        if self._settled is None:
            self._settled = self._trainable.settle_path(self._base, data, cache())
            if self._settled is not None:
                self._base = self._settled.given_to(self._base)
        return self._settled

    def _start(self, data: bytes, rows: RowShape | None, beside: tuple[HostFacts, ...]) -> HostFacts:
        own = self._own_gpus()
        device: Device = "cuda" if own else "cpu"
        free, at_most = free_bytes(device, own), self._limits.at_most
        if device == "cpu":
            free = memory_share(free, self._limits.hosts_per_machine, [each.estimated_bytes or 0 for each in beside])
            # Hosts beside this one may hold less than is expected until they train larger adapters.
            at_most = min(at_most, max((each.slots for each in beside), default=at_most))
        room = catalogue.Room(device, max(1, len(own)), int(free * MEMORY_SHARE))
        try:
            settled = self._settle(data)
            pack = self._trainable.open_pack(self._base, data, cache())
            # After loading: a hub model's sizes are known now.
            need = catalogue.settle_auto(self._trainable, pack, self._base, self._limits.largest, rows, room)
        except TrainableError as error:
            raise HostError(str(error)) from None
        if need is not None and settled is not None and settled.slots is not None:
            need = need.model_copy(update={"saturating_slots": settled.slots})
        if self._base.evaluation.metrics and self._base.evaluation.when == "best" and not hasattr(pack, "restored"):
            rule = "needs a pack with the method `restored` (trainables/contract.py)"
            raise HostError(f"evaluation.when: best {rule}, and {self._base.trainable}'s has none: take last or every")
        if self._base.evaluation.rows == "nested" and not hasattr(pack, "evaluate_parts"):
            rule = "needs a pack with the method `evaluate_parts` (trainables/contract.py)"
            raise HostError(f"evaluation.rows: nested {rule}, and {self._base.trainable}'s has none: take all")
        slots = self._limits.slots
        if slots == "auto":
            slots = need.slots(room.usable, at_most) if need is not None else 1
        self._loop = PackLoop(pack, slots)
        estimate = need.total(slots) if need is not None else None
        return HostFacts(
            pid=os.getpid(),
            node=ray.util.get_node_ip_address(),
            device=device,
            slots=slots,
            estimated_bytes=estimate,
            device_name=name(device, own, self._limits.hosts_per_machine),
            engine=getattr(pack, "engine_name", ""),
            settled=settled,
            hardware=str(getattr(pack, "hardware", "")),
            node_id=str(ray.get_runtime_context().get_node_id()),
            gpu_ids=tuple(own),
        )

    def _running(self) -> PackLoop:
        if self._loop is None:
            raise HostError("the host has not started")
        if self._loop.fatal is not None:
            # Nothing can train here any more, and the broker replaces a host only when its process is gone.
            os._exit(1)
        return self._loop


HostActor = ray.remote(max_concurrency=256)(Host)
