"""Holds a base and scores adapters on it, in the process that it is made in; runs packaged models in a fresh one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster import timeouts
from cluster.devices import MEMORY_SHARE, cache, free_bytes, number_gpus_by_bus, visible
from cluster.errors import ClusterError, HostError, HostsDied
from cluster.libraries import silence
from trainables import catalogue
from trainables.base.devices import give_back
from trainables.contract import Device
from trainables.errors import DataError, TrainableError
from trainables.scoring.exports import ExportRequest, ExportResult
from trainables.scoring.requests import (
    BaseFacts,
    Scorer,
    ScoringProgress,
    ScoringRequest,
    ScoringResult,
    Tell,
    tell_nobody,
)
from trainables.specs import TrialSpec


def can_score(name: str) -> catalogue.Promotable:
    """The trainable's part that scores adapters.

    Raises:
        HostError: it has none.
    """
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
        """A host that has loaded nothing yet; `tell` is told how far the scoring has come."""
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

    def serve(self, script: str, files: Mapping[str, bytes], job: str) -> str:
        """See `Scoring.serve`."""
        self.free()
        return serve(script, files, job)

    def export(self, request: ExportRequest) -> ExportResult:
        """Writes an adapter on the base in a form that servers read; see `trainables.scoring.exporter.export`."""
        self.free()
        silence()
        check_memory(self._base, can_score(self._base.trainable))
        from trainables.scoring import exporter

        return exporter.export(self._base, request, cache())

    def free(self) -> None:
        """Gives the base's memory back: a fresh process loads one onto the same GPU."""
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
    """Refuses a base that does not fit into the memory that is free here.

    Raises:
        HostError: it does not fit; says what is needed and where it could be done.
    """
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
        script: its source; it is given the folder as its argument and `job` on standard input.
        files: path in the folder -> content.
        job: what the script is to do.

    Raises:
        HostsDied: the script fails, and its last line is told; or it does not end in time.
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
"""What went wrong if something did, what the method returned, and whether it is a mistake that the user can mend."""


def reply(host: ScoringHost, method: str, arguments: tuple[Any, ...]) -> Reply:
    """Calls a method for a caller in another process. Errors come back as text, which can always be pickled."""
    try:
        return None, getattr(host, method)(*arguments), False
    except (TrainableError, ClusterError) as error:
        return str(error), None, getattr(error, "exit_code", 2) == 2
    except Exception as error:
        return f"{type(error).__name__}: {error}", None, False


def returned(answer: Reply) -> Any:
    """What the method returned.

    Raises:
        HostError: the user's mistake.
        HostsDied: it failed otherwise.
    """
    problem, value, is_mistake = answer
    if problem is not None:
        raise (HostError if is_mistake else HostsDied)(problem)
    return value
