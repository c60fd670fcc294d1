"""The candidate that passed the gate."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.promotion.candidates import Candidate
from sweeps.promotion.evidence import Evidence
from sweeps.promotion.gate import Verdict
from sweeps.tracking.registry import Version


@dataclass(frozen=True)
class Winner:
    """The candidate that passed the gate, and what its version says of it."""

    candidate: Candidate
    candidates: int
    """How many were compared."""
    champion: Version | None
    base_identity: str
    evidence: Evidence
    verdict: Verdict
    forced: tuple[str, ...]
    """The objections that --force overrode."""
