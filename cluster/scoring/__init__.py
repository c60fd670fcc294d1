"""Scores adapters again, for a promotion: in a process of its own on this machine, or on a host of a Ray cluster.

`host` holds the base and scores, beside the caller or elsewhere. This file is the caller's side.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from cluster import timeouts
from cluster.devices import use_threads
from cluster.errors import HostsDied, first_line
from cluster.scoring.host import Call, Reply, ScoringHost, can_score, own_process, reply, returned
from trainables.scoring.requests import (
    BaseFacts,
    ExportRequest,
    ExportResult,
    ScoringProgress,
    ScoringRequest,
    ScoringResult,
    Tell,
    tell_nobody,
)
from trainables.specs import TrialSpec

NAMESPACE = "qsweep-promotion"


class Scoring:
    """A base that scores adapters, held by a `ScoringHost` in another process."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def fingerprint(self) -> dict[str, str]:
        """See `Trainable.fingerprint`: identifies the host's base and data. Loads nothing."""
        prints: dict[str, str] = self._call("fingerprint", ())
        return prints

    def score(self, request: ScoringRequest) -> ScoringResult:
        """See `Scorer.score`; the first call loads the base."""
        answer: ScoringResult = self._call("score", (request,))
        return answer

    def base_facts(self) -> BaseFacts:
        """See `Scorer.base_facts`."""
        facts: BaseFacts = self._call("base_facts", ())
        return facts

    def score_apart(self, base: TrialSpec, request: ScoringRequest) -> ScoringResult:
        """Frees the base, then scores on another base in a new process there, whose death ends nothing else."""
        answer: ScoringResult = self._call("score_apart", (base, request))
        return answer

    def serve(self, script: str, files: Mapping[str, bytes], job: str) -> str:
        """Frees the base, then runs a script in a fresh process; see `host.serve`."""
        return str(self._call("serve", (script, files, job)))

    def export(self, request: ExportRequest) -> ExportResult:
        """Frees the base, then writes an adapter; see `adapter_exporter.export`."""
        found: ExportResult = self._call("export", (request,))
        return found


@contextmanager
def scoring(base: TrialSpec, address: str | None = None, tell: Tell = tell_nobody, gpus: int = 1) -> Iterator[Scoring]:
    """Scores adapters on `base` while the block runs.

    Args:
        address: address of a Ray cluster (`auto`: the one on this node); None: this machine.
        tell: receives the progress, inside `Scoring.score`.
        gpus: GPUs over which the base is spread, if there are any.

    Raises:
        HostError: the trainable scores nothing.
        HostsDied: no host of the cluster starts (its GPUs are busy, for example), or what evaluates dies.
        ConnectionFailed: no Ray cluster is at the address.
    """
    can_score(base.trainable)
    with own_process(base, tell, gpus) if address is None else _on_cluster(base, address, tell, gpus) as call:
        yield Scoring(call)


@contextmanager
def _on_cluster(base: TrialSpec, address: str, tell: Tell, gpus: int) -> Iterator[Call]:
    import ray

    from cluster.connect import connected
    from cluster.hosts import PROCESS_LOST

    with connected(address, f"{NAMESPACE}-{os.getpid()}"):
        has_gpu = ray.cluster_resources().get("GPU", 0) > 0
        # Two at once: a call, and the question for its progress.
        remote = ray.remote(num_gpus=gpus if has_gpu else 0, num_cpus=0, max_concurrency=2)(_Actor)
        actor = remote.remote(base.model_dump_json())
        try:
            ray.get(actor.ready.remote(), timeout=timeouts.SCORING_START_SECONDS)
        except ray.exceptions.GetTimeoutError:
            raise HostsDied(_not_started(address, gpus, ray.cluster_resources(), ray.available_resources())) from None
        except PROCESS_LOST as error:
            raise HostsDied(f"the host that evaluates cannot start: {first_line(error)}") from error

        def call(method: str, arguments: tuple[Any, ...]) -> Any:
            try:
                answer = actor.call.remote(method, arguments)
                while not ray.wait([answer], timeout=timeouts.SCORING_TURN_SECONDS)[0]:
                    with suppress(ray.exceptions.GetTimeoutError):
                        progress = ray.get(actor.progress.remote(), timeout=timeouts.SCORING_PROGRESS_SECONDS)
                        if progress is not None:
                            tell(progress)
                return returned(ray.get(answer))
            except PROCESS_LOST as error:
                raise HostsDied(f"the host that evaluates is lost: {first_line(error)}") from error

        yield call


def _not_started(address: str, wanted: int, whole: Mapping[str, float], free: Mapping[str, float]) -> str:
    waited = f"--address {address}: waited {timeouts.SCORING_START_SECONDS / 60:.0f} minutes for a"
    gpus = whole.get("GPU", 0)
    if gpus > 0:
        busy = f"{gpus:g} in the cluster, {free.get('GPU', 0):g} of them free"
        way_out = "wait for the sweep that holds them or stop it, or leave --address out to evaluate on this machine"
        what = "GPU" if wanted == 1 else f"machine with {wanted} free GPUs"
        return f"{waited} {what} ({busy}): {way_out}"
    return f"{waited} process to start on the cluster: look at ray status, or leave --address out"


class _Actor:
    def __init__(self, base: str) -> None:
        # Ray sets OMP_NUM_THREADS from num_cpus, which is 0 here.
        use_threads(1)
        self._progress: ScoringProgress | None = None
        self._host = ScoringHost(TrialSpec.model_validate_json(base), self._note)

    def ready(self) -> None:
        """Returns once the actor has started."""

    def _note(self, progress: ScoringProgress) -> None:
        self._progress = progress

    def progress(self) -> ScoringProgress | None:
        """Returns the progress of the running call; None while it scores nothing."""
        return self._progress

    def call(self, method: str, arguments: tuple[Any, ...]) -> Reply:
        """See `reply`."""
        self._progress = None
        return reply(self._host, method, arguments)
