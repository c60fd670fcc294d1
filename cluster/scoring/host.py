"""Holds a base and scores adapters on it; runs such a host, and packaged models, in processes of their own.

The caller of a host in another process never imports torch, and the memory is given back at the end. Only pydantic
objects, text and bytes pass between the two. The process does not import the caller's script, as multiprocessing does:
the script needs no `__main__` guard. A Ray of this machine's own could run the host too, but starts more slowly: its
first answer came after 21 to 39 s, that of this process after 0.4 to 1.0 s (Ray 2.60, 2 busy CPU cores, 4 times each).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

from cluster import devices, timeouts
from cluster.devices import MEMORY_SHARE, cache, free_bytes, number_gpus_by_bus, visible
from cluster.errors import ClusterError, HostError, HostsDied
from cluster.libraries import silence
from trainables import catalogue
from trainables.base.devices import give_back
from trainables.contract import Device
from trainables.errors import DataError, TrainableError
from trainables.scoring.requests import (
    BaseFacts,
    ExportRequest,
    ExportResult,
    Scorer,
    ScoringProgress,
    ScoringRequest,
    ScoringResult,
    Tell,
    tell_nobody,
)
from trainables.specs import TrialSpec


def can_score(name: str) -> catalogue.Promotable:
    """Returns the trainable's part that scores adapters. Raises HostError if the trainable has none."""
    trainable = catalogue.find(name)
    if not isinstance(trainable, catalogue.Promotable):
        raise HostError(
            f"trainable: {name!r} has no adapters to promote: its trials leave none that can be evaluated again; those "
            "of qlora do (docs/extending.md says what a trainable of your own needs)"
        )
    return trainable


class ScoringHost:
    """A `Scoring` in this process. The first call that needs the base loads it."""

    def __init__(self, base: TrialSpec, tell: Tell = tell_nobody) -> None:
        """Loads nothing; `tell` receives the progress of the scoring."""
        self._base = base
        self.tell = tell
        self._scorer: Scorer | None = None

    def fingerprint(self) -> dict[str, str]:
        """See `Scoring.fingerprint`."""
        return dict(catalogue.find(self._base.trainable).fingerprint(self._base))

    def score(self, request: ScoringRequest) -> ScoringResult:
        """See `Scoring.score`."""
        scorer = self._loaded()
        if request.content is None:
            return scorer.score(request, self.tell)
        named = Path(request.rows)
        with TemporaryDirectory() as folder:
            here = Path(folder) / named.name
            here.write_bytes(request.content)
            try:
                return scorer.score(request.model_copy(update={"rows": str(here), "content": None}), self.tell)
            except DataError as error:
                raise DataError(str(error).replace(str(here), str(named))) from error

    def base_facts(self) -> BaseFacts:
        """See `Scoring.base_facts`."""
        return self._loaded().base_facts()

    def score_apart(self, base: TrialSpec, request: ScoringRequest) -> ScoringResult:
        """See `Scoring.score_apart`."""
        self.free()
        with own_process(base, self.tell, max(1, len(visible()))) as call:
            answer: ScoringResult = call("score", (request,))
        return answer

    def serve(self, script: str, files: Mapping[str, bytes], job: str) -> str:
        """See `Scoring.serve`."""
        self.free()
        self.tell(ScoringProgress(doing="serving the packaged model"))
        return serve(script, files, job)

    def export(self, request: ExportRequest) -> ExportResult:
        """See `Scoring.export`."""
        self.free()
        silence()
        check_memory(self._base, can_score(self._base.trainable))
        from trainables.scoring import adapter_exporter

        return adapter_exporter.export(self._base, request, cache())

    def free(self) -> None:
        """Gives the base's memory back, because a fresh process loads a base onto the same GPU."""
        self._scorer = None
        give_back()

    def _loaded(self) -> Scorer:
        if self._scorer is None:
            self.tell(ScoringProgress())
            silence()
            number_gpus_by_bus()
            trainable = can_score(self._base.trainable)
            check_memory(self._base, trainable)
            self._scorer = trainable.open_scorer(self._base, cache())
        return self._scorer


def check_memory(base: TrialSpec, trainable: catalogue.Promotable) -> None:
    """Raises HostError if the base does not fit into the memory that is free here."""
    own = visible()
    device: Device = "cuda" if own else "cpu"
    count = max(1, len(own))
    spreads = count > 1 and trainable.spreads
    over = (count,) if spreads else ()
    needed = trainable.scoring_bytes(base, device, *over)
    available = int(free_bytes(device, own) * MEMORY_SHARE)
    if needed is not None and needed > available:
        where = "machine" if device == "cpu" else f"machine's fullest of {count} GPUs" if spreads else "GPU"
        on_each = " on each of its GPUs" if spreads else ""
        raise HostError(
            f"model.source: {base.base_model.source!r} needs about {needed / 1e9:.1f} GB{on_each} to be evaluated and "
            f"this {where} has {available / 1e9:.1f} GB free: give --address of a Ray cluster with a host that holds it"
        )


def serve(script: str, files: Mapping[str, bytes], job: str) -> str:
    """Runs a Python script beside a folder of `files`, and returns what it prints.

    Args:
        script: source; the script gets the folder as its argument and `job` on standard input.
        files: path in the folder -> content.

    Raises:
        HostsDied: the script fails (the message has its last line), or does not end in time.
    """
    with TemporaryDirectory(prefix="qsweep-serving-") as folder:
        model = Path(folder) / "model"
        for name, content in files.items():
            target = model / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        (Path(folder) / "check.py").write_text(script, encoding="utf-8")
        # Isolated: neither the current folder nor PYTHONPATH may lend it what the package does not list.
        command = [sys.executable, "-I", "check.py", str(model)]
        try:
            done = subprocess.run(
                command, input=job, capture_output=True, encoding="utf-8", errors="replace", cwd=folder,
                timeout=timeouts.SERVING_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            minutes = f"{timeouts.SERVING_SECONDS / 60:.0f} minutes"
            raise HostsDied(f"the packaged model cannot be served: it gave no answer within {minutes}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise HostsDied(f"the packaged model cannot be served: {last}")
    return done.stdout


Reply = tuple[str | None, Any, bool]
"""The error's text or None, the method's result, and whether the user can mend the error."""


def reply(host: ScoringHost, method: str, arguments: tuple[Any, ...]) -> Reply:
    """Calls a method for a caller in another process. Errors come back as text, which can always be pickled."""
    try:
        return None, getattr(host, method)(*arguments), False
    except (TrainableError, ClusterError) as error:
        return str(error), None, getattr(error, "exit_code", 2) == 2
    except Exception as error:
        return f"{type(error).__name__}: {error}", None, False


def returned(answer: Reply) -> Any:
    """Returns the method's result. Raises HostError for a mistake of the user's, HostsDied for any other error."""
    problem, value, is_mistake = answer
    if problem is not None:
        raise (HostError if is_mistake else HostsDied)(problem)
    return value


Call = Callable[[str, tuple[Any, ...]], Any]
"""Calls a method of a `ScoringHost` elsewhere: takes its name and arguments, returns its result."""
_CHILD = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from cluster.scoring.host import answer_calls; answer_calls(int(sys.argv[1]))"
)


@contextmanager
def own_process(base: TrialSpec, tell: Tell = tell_nobody, gpus: int = 1) -> Iterator[Call]:
    """Yields calls to a `ScoringHost` in a new process, which ends with the block or the caller, even if it is busy.

    Args:
        tell: receives the progress, inside a call.
        gpus: GPUs over which the base is spread, if this machine has so many.
    """
    here, there = Pipe()
    with here:
        with there, devices.seeing_gpus(gpus):
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(there.fileno()), *sys.path],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[there.fileno()],
                # A group of its own: it ends whole, and Ctrl-C reaches the caller only.
                start_new_session=True,
            )  # fmt: skip
        try:
            # If the child is dead already, the first call says so.
            with suppress(OSError):
                here.send(base)
            yield lambda method, arguments: _call(here, child, (method, arguments), tell)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _call(calls: Connection, child: subprocess.Popen[bytes], what: tuple[str, tuple[Any, ...]], tell: Tell) -> Any:
    try:
        calls.send(what)
        answer = None
        while answer is None or isinstance(answer, ScoringProgress):
            if calls.poll(timeouts.SCORING_TURN_SECONDS):
                answer = calls.recv()
            if isinstance(answer, ScoringProgress):
                tell(answer)  # again and again: a long pass is no silence
    except (EOFError, OSError) as error:
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeouts.SCORING_END_SECONDS)
        raise HostsDied(
            f"the process that evaluates died (exit code {child.returncode}); if memory ran out, give --address of a "
            "Ray cluster with a host that holds the base"
        ) from error
    return returned(answer)


def answer_calls(descriptor: int) -> None:
    """Runs in the process: receives the base, then answers one call after the other."""
    # Nobody reads what libraries print; mistakes come back as answers.
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    calls = Connection(descriptor)
    # The thread that answers also sends the progress: all progress of a call comes before its answer.
    host = ScoringHost(calls.recv(), calls.send)
    waiting: SimpleQueue[tuple[str, tuple[Any, ...]]] = SimpleQueue()
    threading.Thread(target=_receive, args=(calls, waiting), daemon=True).start()
    while True:
        calls.send(reply(host, *waiting.get()))


def _receive(calls: Connection, waiting: SimpleQueue[tuple[str, tuple[Any, ...]]]) -> None:
    """Receives calls in a thread; kills this process and those that it started when the caller is gone."""
    try:
        while True:
            waiting.put(calls.recv())
    except (EOFError, OSError):
        os.killpg(os.getpid(), signal.SIGKILL)
