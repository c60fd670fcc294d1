"""Where adapters are scored: in a process of its own on this machine, or on a host of a Ray cluster.

A process of its own, so that the caller never imports torch and the memory is given back at the end. It does not import
the caller's script, so that one needs no `__main__` guard. Which way it is, the base is held by a `Held`, and what goes
back and forth is pydantic objects and bytes.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, cast

from cluster.devices import MEMORY_SHARE, free_bytes, gpus
from cluster.errors import ClusterError, HostError
from trainables import registry
from trainables.contract import Device
from trainables.errors import TrainableError
from trainables.scoring.requests import Answer, Parts, Request, Scorer
from trainables.specs import TrialSpec

NAMESPACE = "qsweep-promotion"
_CHECK_SECONDS = 1800.0
_START_SECONDS = 600.0
"""How long a host of a cluster may take to start, waiting for a GPU included."""
_CHILD = "import sys; sys.path[:] = sys.argv[2:]; from cluster import scoring; scoring.serve_calls(int(sys.argv[1]))"


class Scoring(Protocol):
    """A base that scores adapters, somewhere."""

    def fingerprint(self) -> dict[str, str]:
        """What identifies the base and the data there, as `Trainable.fingerprint`. Nothing is loaded for it."""

    def score(self, request: Request) -> Answer:
        """See `Scorer.score`; the base is loaded by the first call."""

    def parts(self) -> Parts:
        """See `Scorer.parts`."""

    def serve(self, script: str, files: Mapping[str, bytes], job: str) -> str:
        """What a Python script prints, run in a fresh process in a folder of `files`; the base is let go before."""


class CanScore(Protocol):
    """What a trainable offers beside its contract when its adapters can be promoted."""

    def open_scorer(self, base: TrialSpec, cache: Path) -> Scorer:
        """Loads the base onto this process's device."""

    def scoring_bytes(self, base: TrialSpec, device: Device) -> int | None:
        """Memory that this takes; None when it is unknown."""


def can_score(name: str) -> CanScore:
    """The trainable's part that scores adapters.

    Raises:
        HostError: it has none.
    """
    found = registry.find(name)
    if not hasattr(found, "open_scorer"):
        raise HostError(f"trainable: {name!r} has no adapters to promote: it offers no open_scorer and scoring_bytes")
    return cast(CanScore, found)


class Held:
    """A base, loaded when it is needed first."""

    def __init__(self, base: TrialSpec) -> None:
        self._base = base
        self._scorer: Scorer | None = None

    def fingerprint(self) -> dict[str, str]:
        """See `Scoring.fingerprint`."""
        return dict(registry.find(self._base.trainable).fingerprint(self._base))

    def score(self, request: Request) -> Answer:
        """See `Scoring.score`."""
        return self._loaded().score(request)

    def parts(self) -> Parts:
        """See `Scoring.parts`."""
        return self._loaded().parts()

    def serve(self, script: str, files: Mapping[str, bytes], job: str) -> str:
        """See `Scoring.serve`."""
        self._scorer = None
        gc.collect()
        with tempfile.TemporaryDirectory(prefix="qsweep-serving-") as folder:
            model = Path(folder) / "model"
            for name, content in files.items():
                target = model / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            (Path(folder) / "check.py").write_text(script, encoding="utf-8")
            done = subprocess.run(
                # Isolated: neither the current folder nor PYTHONPATH may lend it what the package does not list.
                [sys.executable, "-I", "check.py", str(model)],
                input=job, capture_output=True, encoding="utf-8", errors="replace", cwd=folder, timeout=_CHECK_SECONDS,
            )  # fmt: skip
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise HostError(f"the packaged model cannot be served: {last}")
        return done.stdout

    def _loaded(self) -> Scorer:
        if self._scorer is None:
            # Imported here: it imports Ray, which takes a second.
            from cluster.devices import cache
            from cluster.hosts import quieten

            quieten()
            trainable = can_score(self._base.trainable)
            check_memory(self._base, trainable)
            self._scorer = trainable.open_scorer(self._base, cache())
        return self._scorer


def check_memory(
    base: TrialSpec,
    trainable: CanScore,
    device: Device | None = None,
    free: Callable[[Device], int] = free_bytes,
) -> None:
    """Refuses a base that does not fit into the memory that is free here.

    Raises:
        HostError: it does not fit; says what is needed and where it could be done.
    """
    device = device or ("cuda" if gpus() else "cpu")
    needed, room = trainable.scoring_bytes(base, device), int(free(device) * MEMORY_SHARE)
    if needed is not None and needed > room:
        where = "GPU" if device == "cuda" else "machine"
        raise HostError(
            f"model.source: {base.base_model.source!r} needs about {needed / 1e9:.1f} GB to be evaluated and this "
            f"{where} has {room / 1e9:.1f} GB free: give --address of a Ray cluster with a host that holds it"
        )


@contextmanager
def scoring(base: TrialSpec, address: str | None = None) -> Iterator[Scoring]:
    """Something that scores adapters on `base`, as long as the block runs.

    Args:
        base: says base model, quantisation and data.
        address: of a Ray cluster (`auto`: the one on this node); this machine when None.

    Raises:
        HostError: the trainable scores nothing, or no host of the cluster starts: its GPUs are busy, for example.
        ConnectionFailed: no Ray cluster is at the address.
    """
    can_score(base.trainable)
    if address is not None:
        with _on_cluster(base, address) as there:
            yield there
        return
    here, there_end = Pipe()
    with here:
        with there_end:
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(there_end.fileno()), *sys.path],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[there_end.fileno()],
                # A group of its own, which ends whole; Ctrl-C is heard here.
                start_new_session=True,
            )  # fmt: skip
        try:
            # One that is dead already is told of by the first call.
            with suppress(OSError):
                here.send(base)
            yield _Remote(lambda method, arguments: _call(here, process, method, arguments))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Remote:
    """A `Held` elsewhere."""

    def __init__(self, call: Callable[[str, tuple[Any, ...]], Any]) -> None:
        self._call = call

    def fingerprint(self) -> dict[str, str]:
        found: dict[str, str] = self._call("fingerprint", ())
        return found

    def score(self, request: Request) -> Answer:
        answer: Answer = self._call("score", (request,))
        return answer

    def parts(self) -> Parts:
        parts: Parts = self._call("parts", ())
        return parts

    def serve(self, script: str, files: Mapping[str, bytes], job: str) -> str:
        return str(self._call("serve", (script, files, job)))


def serve_calls(descriptor: int) -> None:
    """The process's loop: the base, then a call in, an answer out; ends with the caller, whatever is being done."""
    # What the libraries say there has no reader; mistakes come back as answers.
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    calls = Connection(descriptor)
    held = Held(calls.recv())
    asked: SimpleQueue[tuple[str, tuple[Any, ...]]] = SimpleQueue()
    threading.Thread(target=_hear, args=(calls, asked), daemon=True).start()
    while True:
        calls.send(_answer(held, *asked.get()))


def _hear(calls: Connection, asked: SimpleQueue[tuple[str, tuple[Any, ...]]]) -> None:
    """Takes calls in; ends the process, and those that it started, when the caller is gone."""
    try:
        while True:
            asked.put(calls.recv())
    except (EOFError, OSError):
        os.killpg(os.getpid(), signal.SIGKILL)


def _answer(held: Held, method: str, arguments: tuple[Any, ...]) -> tuple[str | None, Any]:
    """The user's mistake if there is one, and the answer."""
    try:
        return None, getattr(held, method)(*arguments)
    except (TrainableError, ClusterError) as error:
        return str(error), None
    except Exception as error:  # as text: what libraries raise need not be picklable
        return f"{type(error).__name__}: {error}", None


def _call(calls: Connection, process: subprocess.Popen[bytes], method: str, arguments: tuple[Any, ...]) -> Any:
    try:
        calls.send((method, arguments))
        problem, answer = calls.recv()
    except (EOFError, OSError) as error:
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        raise HostError(
            f"the process that evaluates died (exit code {process.returncode}); if memory ran out, give --address of a "
            "Ray cluster with a host that holds the base"
        ) from error
    return _checked(problem, answer)


def _checked(problem: str | None, answer: Any) -> Any:
    if problem is not None:
        raise HostError(problem)
    return answer


@contextmanager
def _on_cluster(base: TrialSpec, address: str) -> Iterator[Scoring]:
    import ray

    from cluster.connect import connected
    from cluster.hosts import PROCESS_LOST

    with connected(address, f"{NAMESPACE}-{os.getpid()}"):
        has_gpu = ray.cluster_resources().get("GPU", 0) > 0
        actor = ray.remote(num_gpus=1 if has_gpu else 0, num_cpus=0)(_Actor).remote(base.model_dump_json())
        try:
            ray.get(actor.ready.remote(), timeout=_START_SECONDS)
        except ray.exceptions.GetTimeoutError:
            raise HostError(_not_started(address, ray.cluster_resources(), ray.available_resources())) from None
        except PROCESS_LOST as error:
            raise HostError(f"the host that evaluates cannot start: {str(error).splitlines()[0]}") from error

        def call(method: str, arguments: tuple[Any, ...]) -> Any:
            try:
                return _checked(*ray.get(actor.call.remote(method, arguments)))
            except PROCESS_LOST as error:
                raise HostError(f"the host that evaluates is lost: {str(error).splitlines()[0]}") from error

        yield _Remote(call)


def _not_started(address: str, whole: Mapping[str, float], free: Mapping[str, float]) -> str:
    """What was waited for in vain; the resources are Ray's."""
    waited = f"--address {address}: waited {_START_SECONDS / 60:.0f} minutes for a"
    gpus = whole.get("GPU", 0)
    if gpus > 0:
        busy = f"{gpus:g} in the cluster, {free.get('GPU', 0):g} of them free"
        way_out = "wait for the sweep that holds them or stop it, or leave --address out to evaluate on this machine"
        return f"{waited} GPU ({busy}): {way_out}"
    return f"{waited} process to start on the cluster: look at ray status, or leave --address out"


class _Actor:
    """A `Held` as a Ray actor."""

    def __init__(self, base: str) -> None:
        # Ray sets OMP_NUM_THREADS from num_cpus, which is 0 here.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
        self._held = Held(TrialSpec.model_validate_json(base))

    def ready(self) -> None:
        """Returns once the actor has started."""

    def call(self, method: str, arguments: tuple[Any, ...]) -> tuple[str | None, Any]:
        """The answer of a method; see `_answer`."""
        return _answer(self._held, method, arguments)
