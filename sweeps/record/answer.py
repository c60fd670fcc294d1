"""The answer to a request, before it is written into the event log. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search_spaces.space import Point
from sweeps.config.points import Scalar


@dataclass(frozen=True)
class Answer:
    """Whether a request is granted. One that asks for what is so already is granted, and changes nothing."""

    is_accepted: bool
    message: str
    """What will come of it, or why nothing will."""
    point: Point | None = None
    """As that of `RequestAnswered`."""
    changes: Mapping[str, Scalar | None] = field(default_factory=dict)
    """As those of `RequestAnswered`."""
    trial_key: str | None = None
    """As that of `RequestAnswered`."""
