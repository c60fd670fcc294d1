"""What the doctor's process on the cluster is asked and answers, without importing Ray."""

from __future__ import annotations

from pydantic import Field

from cluster.doctor.contract import Asked
from cluster.doctor.looking import Look
from trainables.specs import Spec


class Question(Spec):
    """What the parent asks."""

    address: str
    asked: Asked
    names: tuple[str, ...]
    """The checks."""


class NodeFacts(Spec):
    """A node that is alive."""

    name: str
    gpus: float
    """As Ray counts them."""


class Line(Spec):
    """A line of the output; one of the fields is set."""

    refused: str | None = None
    """Why there is no connection."""
    nodes: tuple[NodeFacts, ...] | None = None
    """The connection is there, and these are to be looked at."""
    node: str | None = None
    """The node that `looks` or `lost` is about."""
    looks: dict[str, Look] = Field(default_factory=dict)
    lost: str | None = None
    """Why nothing could be looked at there."""
