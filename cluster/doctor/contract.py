"""Defines a check of the doctor: `look` collects facts on a machine, and `judge` says what the facts mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from cluster import timeouts
from trainables.contract import Device
from trainables.specs import Spec, TrialSpec

Health = Literal["ok", "warn", "fail", "unknown"]
DRIVER, THIS_MACHINE = "driver", "this machine"
"""Names of machines. A node of a cluster has its address as its name."""
Facts = Mapping[str, Any]
"""JSON data, because the facts may come from another machine."""


class Needs(Spec):
    """The needs of a sweep. The defaults hold if no sweep file is given."""

    base: TrialSpec | None = None
    """The sweep's base; None if no sweep file is given."""
    storage: str | None = None
    """Absolute path of the folder for the sweep's folder, or the URI of an object store."""
    work_folder: str | None = None
    """The folder on the driver's disk: `storage` itself, or the folder that is mirrored to an object store."""
    tracking_uri: str | None = None
    """The MLflow store, with its password: no node is sent this field."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables that the profile sets for hosts, such as HF_HOME: the checks on nodes see them too."""
    gpus_per_host: int = 1
    """GPUs of one machine that a host takes, if there are GPUs; 0: hosts train on CPUs even if there are."""
    cpu_hosts: int = 1
    """Hosts that share a machine without a GPU."""
    one_slot_bytes: dict[Device | Literal["cuda float32"], int] = Field(default_factory=dict)
    """Device -> memory of a host with one slot, of several GPUs on the fullest. `cuda float32`: without bfloat16."""
    planned_bytes: dict[Device, int] = Field(default_factory=dict)
    """Device -> memory of a host with the plan's slots."""
    disk_bytes: int | None = None
    """Most room on disk that the plan may take."""
    disk_budget: int | None = None
    """budget.disk in bytes."""


class Site(Spec):
    """A machine to look at, and the needs of the sweep that is to run there."""

    node: str = THIS_MACHINE
    declared_gpus: float | None = None
    """GPUs that Ray counts on the node; None if no Ray was asked: on the driver, and on this machine."""
    needs: Needs = Needs()
    patience: float = 1.0
    """Multiplies each time limit."""
    trains: bool = False
    """Whether to run only the test of how passes are computed (`training`)."""

    def trains_on(self, listed_gpus: int) -> Device:
        """Returns the device that trains here if nvidia-smi lists this many GPUs."""
        return "cuda" if listed_gpus and self.declared_gpus != 0 and self.needs.gpus_per_host else "cpu"

    def on_node(self, node: str, declared_gpus: float) -> Site:
        """Returns the site of the same sweep on a node of the cluster."""
        return self.model_copy(update={"node": node, "declared_gpus": declared_gpus})

    def without_secrets(self) -> Site:
        """Returns the site without the fields that only the driver may know."""
        return self.model_copy(update={"needs": self.needs.model_copy(update={"tracking_uri": None})})


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer: the result of a check on a machine."""

    check: str
    node: str
    state: Health
    seen: str
    mend: str = ""
    rows: Sequence[Mapping[str, str]] = ()
    """A table below the line, each row by the names of its columns."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of a check on one machine."""

    state: Health
    seen: str
    mend: str = ""
    """The way out; empty when all is well."""
    rows: Sequence[Mapping[str, str]] = ()

    def of(self, check: str, node: str) -> Finding:
        """Returns the diagnosis as a line of the doctor's answer."""
        return Finding(check, node, self.state, self.seen, self.mend, self.rows)


def ok(seen: str) -> Diagnosis:
    """Says that all is well."""
    return Diagnosis("ok", seen)


def warn(seen: str, mend: str) -> Diagnosis:
    """Says that a sweep can run, but not as well as it might."""
    return Diagnosis("warn", seen, mend)


def fail(seen: str, mend: str) -> Diagnosis:
    """Says that a sweep cannot run."""
    return Diagnosis("fail", seen, mend)


@dataclass(frozen=True)
class Check:
    """A check. The checks with the same `look` share its facts."""

    name: str
    where: Literal["driver", "nodes", "both"]
    """The machines of the check: where the driver runs, where trials train, or both."""
    look: Callable[[Site], Facts]
    """A function of a module. Raises no foreseeable error."""
    judge: Callable[[Facts, Site], Diagnosis]
    """Pure. For a node of a cluster, the facts of `versions` hold the driver's facts under "driver"."""
    hung: str = ""
    """The way out if `look`, in its own process, hangs or crashes. Empty if `look` can do neither: it runs in place."""
    seconds: float = timeouts.DOCTOR_LOOK_SECONDS
    """The time limit of a `look` in a process of its own."""
    needs_file: bool = False
    takes_gpu: bool = False
    """Whether `look` computes on the GPUs: on a cluster Ray is asked for them first."""
