"""Defines what a check of the doctor is asked, and its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from trainables.contract import Device
from trainables.specs import Spec, TrialSpec

CheckState = Literal["ok", "warn", "fail", "unknown"]
DRIVER, THIS_MACHINE = "driver", "this machine"
"""Names of machines. A node of a cluster has its address as its name."""


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
    driver_versions: dict[str, str | None] | None = None
    """Versions of the driver's libraries (`machine.installed`), which those of a node must equal."""

    def trains_on(self, listed_gpus: int) -> Device:
        """Returns the device that trains here if nvidia-smi lists this many GPUs."""
        return "cuda" if listed_gpus and self.declared_gpus != 0 and self.needs.gpus_per_host else "cpu"

    def without_secrets(self) -> Site:
        """Returns the site without the fields that only the driver may know."""
        return self.model_copy(update={"needs": self.needs.model_copy(update={"tracking_uri": None})})


@dataclass(frozen=True)
class CheckResult:
    """One line of the doctor: what a check found on a machine."""

    state: CheckState
    """`warn`: a sweep can run, but not as well as it might. `fail`: a sweep cannot run."""
    seen: str
    mend: str = ""
    """The way out; empty when all is well."""
    rows: Sequence[Mapping[str, str]] = ()
    """A table below the line, each row by the names of its columns."""
    check: str = ""
    node: str = ""

    def of(self, check: str, node: str) -> CheckResult:
        """Returns the answer with the names of its check and machine."""
        return replace(self, check=check, node=node)


@dataclass(frozen=True)
class Check:
    """A check. Its name is that of its function."""

    look: Callable[[Site], CheckResult]
    where: Literal["driver", "nodes", "both"]
    """The machines of the check: where the driver runs, where trials train, or both."""
    hung: str = "end what else runs there and try again"
    """The way out if `look` hangs or crashes."""
    needs_file: bool = False
    takes_gpu: bool = False
    """Whether `look` computes on the GPUs: on a cluster Ray is asked for them first."""

    @property
    def name(self) -> str:
        """The name that people see."""
        return self.look.__name__
