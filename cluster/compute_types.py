"""Warns where the hosts of a sweep compute in types that do not compare, or in one that makes their CPU slower."""

from __future__ import annotations

from cluster.hosts import HostFacts
from trainables.base import device_probe


class ComputeTypes:
    """The types that the hosts of a sweep compute in. Losses of two types do not compare, on whatever device."""

    def __init__(self, before: str) -> None:
        """No host so far; for `before` see `HostOptions.hardware_before`."""
        self._before = before
        self._seen: dict[str, str] = {}
        """Type -> the first host of it, in words."""
        self._is_slowness_told = False

    def add(self, facts: HostFacts) -> list[str]:
        """One more host is ready: what is to be said of its type, each thing once."""
        told = self._other_type(facts)
        speed = facts.bfloat16_speed
        if speed is not None and device_probe.is_slow(speed) and not self._is_slowness_told:
            self._is_slowness_told = True
            told.append(
                f"warning: the CPU of {facts.node} {device_probe.in_words(speed)}: launch with "
                "quantization.compute_dtype=float32"
            )
        return told

    def _other_type(self, facts: HostFacts) -> list[str]:
        own, before, others = _type(facts.hardware), _type(self._before), list(self._seen.values())
        if not own or own in self._seen:
            return []
        self._seen[own] = f"{facts.hardware} on {facts.node}"
        if before and before not in self._seen:
            return [
                f"warning: this sweep's losses were computed in {self._before} before it was resumed, and are computed "
                f"in {self._seen[own]} now: the two do not compare: stop it and resume it where hosts compute in "
                f"{before}, or launch it anew with quantization.compute_dtype=float32"
            ]
        if not others:
            return []
        return [
            f"warning: hosts compute in different types ({others[0]}, {self._seen[own]}), so that losses of their "
            "trials do not compare: launch with quantization.compute_dtype=float32, or leave the nodes of one type out"
        ]


def _type(hardware: str) -> str:
    return hardware.rpartition(" ")[2]
