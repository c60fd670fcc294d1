"""Packs with gates, and calls of a host's training loop, for tests: `import pack_loops`."""

from __future__ import annotations

import threading

from cluster.loop import PackLoop
from trainables import toy
from trainables.contract import Failure
from trainables.objective import SortKey
from trainables.specs import AdapterSpec, TrainingSpec, TrialSpec

DEADLINE = 120.0
"""Seconds after which a test that waits has failed: far more than anything here takes."""


def trial(learning_rate: float = 3e-4, r: int = 16, **training) -> TrialSpec:
    given = TrainingSpec(learning_rate=learning_rate, **training)
    return TrialSpec(trainable="toy", adapter=AdapterSpec(r=r), training=given, steps=100)


class Gate:
    """A place where the loop's thread waits until the test lets it go on."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self._reached.set()
        assert self._opened.wait(DEADLINE), "the test never opened the gate"

    def wait_until_reached(self) -> None:
        assert self._reached.wait(DEADLINE), "the loop never came to the gate"

    def open(self) -> None:
        self._opened.set()


class GatedPack(toy.ToyPack):
    """The toy's curves, with a gate before each numbered call of `step`, and a log of what the loop asked for."""

    def __init__(self, *gated: int | str) -> None:
        super().__init__()
        self.gates = {name: Gate() for name in gated}
        """Before calls of `step` by their number, and before each evaluation as "evaluation"."""
        self.log: list[tuple] = []
        self.steps = 0

    def open(self, slot, spec, snapshot=None):
        self.log.append(("open", slot))
        return super().open(slot, spec, snapshot)

    def step(self, slots):
        self.steps += 1
        self.log.append(("step", *slots))
        if self.steps in self.gates:
            self.gates[self.steps].pass_through()
        return super().step(slots)

    def evaluate(self, slots, scored=()):
        self.log.append(("evaluate", *slots))
        if "evaluation" in self.gates:
            self.gates["evaluation"].pass_through()
        return super().evaluate(slots, scored)

    def evaluate_base(self):
        self.log.append(("evaluate_base",))
        return super().evaluate_base()

    def close(self, slot):
        self.log.append(("close", slot))
        super().close(slot)


class Blind(GatedPack):
    """Sees no number where the first slot is evaluated."""

    def evaluate(self, slots, scored=()):
        failure = Failure(kind="diverged", message="eval_loss nan")
        return {**super().evaluate(slots, scored), **({0: failure} if 0 in slots else {})}


CUDA_ERROR = "CUDA error: an illegal memory access was encountered"
"""It spoils the whole process, and any call may tell of it."""


def failing(method: str, error: Exception, *gated: int | str) -> GatedPack:
    """A pack, of which one method raises an error the first time, once it has done its work."""
    pack, errors = GatedPack(*gated), [error]
    real = getattr(pack, method)

    def fails(*arguments):
        answer = real(*arguments)
        if errors:
            raise errors.pop()
        return answer

    setattr(pack, method, fails)
    return pack


def opened(loop: PackLoop, lease: str, spec: TrialSpec | None = None, snapshot: bytes | None = None):
    return loop.open(lease, spec or trial(), snapshot).result(DEADLINE)


NONE = SortKey()
"""No evaluation yet."""


def advanced(loop: PackLoop, lease: str, target: int, best: SortKey = NONE, known: int = 0):
    outcome = loop.advance(lease, target, best, known, DEADLINE)
    assert outcome is not None, f"{lease} never came to step {target}"
    return outcome


def ask(loop: PackLoop, lease: str, target: int) -> None:
    """Names a target without waiting for it."""
    assert loop.advance(lease, target, NONE, 0, 0.0) is None


def steps(history) -> list[int]:
    """The steps of a history."""
    return [record.step for record in history]
