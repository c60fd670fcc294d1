"""A scoring host in a process of its own on this machine: the caller's side and the process's.

The caller never imports torch, and the memory is given back at the end. Only pydantic objects and bytes pass between
the two. The process does not import the caller's script, as multiprocessing's would, so that one needs no `__main__`
guard. A Ray of this machine's own could run the host too, but takes longer to start: from the start to the first answer
it took 21 to 39 s, this process 0.4 to 1.0 s (Ray 2.60, 2 busy CPU cores, four times each).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cluster import devices, timeouts
from cluster.errors import HostsDied
from cluster.scoring.host import ScoringHost, reply, returned
from trainables.scoring.requests import ScoringProgress, ScoringRequest, ScoringResult, Tell, tell_nobody
from trainables.specs import TrialSpec

Call = Callable[[str, tuple[Any, ...]], Any]
"""Calls a method of a `ScoringHost` elsewhere: its name and arguments in, its result out."""
_CHILD = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from cluster.scoring.process import answer_calls; answer_calls(int(sys.argv[1]))"
)


@contextmanager
def own_process(base: TrialSpec, tell: Tell = tell_nobody, gpus: int = 1) -> Iterator[Call]:
    """Starts the process, which ends with the block or with the caller, whatever it is doing.

    Args:
        base: says base model, quantisation and data.
        tell: is told, inside a call, how far the scoring has come.
        gpus: over which the base is spread, where this machine has so many.
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
            # When the child is dead already, the first call says so.
            with suppress(OSError):
                here.send(base)
            yield lambda method, arguments: _call(here, child, (method, arguments), tell)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


class WideHost(ScoringHost):
    """A `ScoringHost` that scores on other bases too."""

    def score_apart(self, base: TrialSpec, request: ScoringRequest) -> ScoringResult:
        """See `Scoring.score_apart`."""
        self.free()
        with own_process(base, self.tell, max(1, len(devices.visible()))) as call:
            answer: ScoringResult = call("score", (request,))
        return answer


def _call(calls: Connection, child: subprocess.Popen[bytes], what: tuple[str, tuple[Any, ...]], tell: Tell) -> Any:
    try:
        calls.send(what)
        while isinstance(answer := calls.recv(), ScoringProgress):
            tell(answer)
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
    # Nobody reads what libraries print there; mistakes come back as answers.
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    calls = Connection(descriptor)
    # The thread that answers also sends the progress: all progress of a call comes before its answer.
    host = WideHost(calls.recv(), calls.send)
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
