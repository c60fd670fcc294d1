"""What a check is: a module of `checks/` with the names of `Check`. Found by its name; nothing is registered."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, cast

from pydantic import Field

from cluster.doctor import checks
from trainables.contract import Device
from trainables.specs import Spec, TrialSpec

Health = Literal["ok", "warn", "fail", "unknown"]
DRIVER, THIS_MACHINE = "driver", "this machine"
"""Names of places. A node of a cluster has its address as its name."""
Facts = Mapping[str, Any]
"""What a `look` returns: JSON data, because it may come from another machine."""


class Asked(Spec):
    """What the checks need to know of the sweep and of the place that they look at. None: no sweep file was given."""

    node: str = THIS_MACHINE
    """The place that is looked at."""
    declared_gpus: float | None = None
    """GPUs that Ray counts on the node; None where no Ray was asked."""
    base: TrialSpec | None = None
    """What the sweep trains."""
    storage: str | None = None
    """Absolute path of the folder for the sweep's folder, or the URI of an object store."""
    work_folder: str | None = None
    """The folder on the driver's disk: `storage` itself, or the one that is mirrored to an object store."""
    uses_gpus: bool = True
    """False when the file has hosts train on CPUs whatever the cluster has."""
    gpus_per_host: int = 1
    """GPUs of one machine that a host takes where it takes any."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables that the profile sets for hosts, such as HF_HOME: the checks on nodes see them too."""
    tracking_uri: str | None = None
    """The MLflow store, with its password: never sent to a node."""
    needed_bytes: dict[Device, int] = Field(default_factory=dict)
    """Memory of a host with one slot, by what trains; of several GPUs on the fullest."""
    planned_bytes: dict[Device, int] = Field(default_factory=dict)
    """Memory of a host with the slots of the plan."""
    cpu_hosts: int = 1
    """Hosts that share a machine without a GPU."""
    disk_bytes: int | None = None
    """The plan's most room on disk."""
    disk_budget: int | None = None
    """budget.disk."""
    patience: float = 1.0
    """Multiplies each time limit."""
    mark: str = ""
    """Name of the folder that shows whether two places see the same storage."""

    @property
    def is_driver_alone(self) -> bool:
        """Whether the place is the driver of a cluster, on which nothing trains."""
        return self.node == DRIVER

    def trains_on(self, listed_gpus: int) -> Device:
        """What trains at the place, where nvidia-smi lists so many GPUs."""
        return "cuda" if listed_gpus and self.declared_gpus != 0 and self.uses_gpus else "cpu"

    def on_node(self, node: str, declared_gpus: float) -> Asked:
        """The same for a node, without the driver's secrets."""
        return self.model_copy(update={"node": node, "declared_gpus": declared_gpus, "tracking_uri": None})


@dataclass(frozen=True)
class Diagnosis:
    """What a check says of one place."""

    state: Health
    seen: str
    mend: str = ""
    """What to do. Empty when all is well."""


@dataclass(frozen=True)
class Finding:
    """A diagnosis with its check and its place: one line of the doctor's answer."""

    check: str
    node: str
    state: Health
    seen: str
    mend: str = ""


class Check(Protocol):
    """The names that a module of `checks/` has."""

    ON: Literal["driver", "nodes", "both"]
    """Where it looks: where the sweep's own process runs, where trials train, or in both places."""
    NEEDS_FILE: bool
    """Whether it has nothing to look at without a sweep file."""
    TAKES_GPU: bool
    """Whether it computes on the GPUs: on a cluster it asks Ray for them first."""
    SECONDS: float
    """The time limit of `look`."""
    HUNG: str
    """What to do when `look` does not come back in time."""

    def look(self, asked: Asked) -> Facts:
        """Collects facts on this machine. Raises nothing that it can foresee."""

    def judge(self, facts: Facts, driver: Facts, asked: Asked) -> Diagnosis:
        """Says what the facts mean. Pure.

        Args:
            facts: of the place that is judged.
            driver: of the driver; the same as `facts` where that is judged, and empty where it is not known.
            asked: as `look` was asked.
        """


@cache
def names() -> tuple[str, ...]:
    """The names of all checks."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(checks.__path__)))


def find(name: str) -> Check:
    """The check of that name."""
    return cast(Check, importlib.import_module(f"{checks.__name__}.{name}"))


def chosen(place: Literal["driver", "nodes"], has_file: bool) -> tuple[str, ...]:
    """Checks that look at a place."""
    return tuple(
        name for name in names() if find(name).ON in (place, "both") and (has_file or not find(name).NEEDS_FILE)
    )


def left_out() -> tuple[str, ...]:
    """Checks that need a sweep file."""
    return tuple(name for name in names() if find(name).NEEDS_FILE)
