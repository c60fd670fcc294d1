"""Decides which base each host holds. Pure.

A host holds one base at a time. A host without trials takes another base once trials wait for that base and none waits
for its own. A base without a host goes before the others, and of those the base with the most trials that wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Held(NamedTuple):
    """A host that stays."""

    base: str
    """Name of its base: `TrialSpec.base_name`."""
    room: int
    """Slots that are free for further trials."""
    is_idle: bool
    """Whether it has no trial and evaluates nothing."""


def changes(hosts: Mapping[str, Held], starting: Mapping[str, int], waiting: Mapping[str, int]) -> dict[str, str]:
    """Returns host id -> its next base, for the hosts that are to change their base now.

    Args:
        starting: base -> slots of the hosts that are being made with it.
        waiting: base -> trials that wait for a slot on it.
    """
    room = Counter(starting)
    for held in hosts.values():
        room[held.base] += held.room
    places = {*starting, *(held.base for held in hosts.values())}
    lacking = {base: count - room[base] for base, count in waiting.items() if count > room[base]}
    found: dict[str, str] = {}
    for host_id, held in hosts.items():
        if not lacking:
            break
        if held.is_idle and not waiting.get(held.base):
            base = max(lacking, key=lambda each: (each not in places, lacking[each]))
            found[host_id] = base
            places.add(base)
            lacking[base] -= max(1, held.room)
            if lacking[base] <= 0:
                del lacking[base]
    return found


def of_new(held: Mapping[str, int], waiting: Mapping[str, int], bases: Sequence[str]) -> str:
    """Returns the base of a host that is made: the one with the most waiting trials for each of its hosts.

    If no trial waits, the base with the fewest hosts; of equal ones the first.

    Args:
        held: base -> hosts that hold it or are being made with it.
        bases: the bases to choose from, at least one.
    """
    return max(bases, key=lambda base: (waiting.get(base, 0) / (held.get(base, 0) + 1), -held.get(base, 0)))
