"""A sweep on a virtual clock: the product's own rules and searchers, with curves in place of training.

Nothing is trained and nothing waits. What a sweep takes, when it would be over, and how good its answer is follow from
the curves, the noise of an evaluation, and the number of slots. Pure; randomness is an argument.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from search_spaces.domains import Value
from search_spaces.space import SearchSpace
from sweeps.schedulers import Decision, Idle, Reported, Resume, Rule, Started
from sweeps.searchers import Searcher


@dataclass(frozen=True)
class Curve:
    """The true loss of a trial after so many steps: `end + height * (steps + 1) ** -speed`."""

    end: float
    height: float
    speed: float
    diverges_at: int | None = None
    """From this step on the loss is not finite."""

    def loss(self, steps: int) -> float:
        """Without the noise of an evaluation."""
        if self.diverges_at is not None and steps >= self.diverges_at:
            return math.inf
        return float(self.end + self.height * (steps + 1) ** -self.speed)


class Source(Protocol):
    """Where trials come from."""

    def next(self) -> Curve | None:
        """The next trial, or None when there is none left."""

    def tell(self, trial: int, steps: int, value: float, is_final: bool) -> None:
        """What an evaluation of a trial measured; infinite when it diverged."""


class Listed:
    """Trials with given curves, in their order. It learns nothing."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self._waiting = iter(curves)

    def next(self) -> Curve | None:
        return next(self._waiting, None)

    def tell(self, trial: int, steps: int, value: float, is_final: bool) -> None:
        """Nothing changes."""


@dataclass(frozen=True)
class BestSoFar:
    """What a sweep has to show at some moment."""

    trial: int
    steps: int
    loss: float
    """The true loss of this trial's adapter after `steps`."""


@dataclass
class SimulatedSweep:
    """How a simulated sweep went."""

    steps: int = 0
    """Optimizer steps of all trials together."""
    makespan: float = 0.0
    """When the last trial ended, in the time that one step takes."""
    curves: list[Curve] = field(default_factory=list)
    measured: list[tuple[float, int, int, float]] = field(default_factory=list)
    """Time, trial, steps, measured value of each evaluation that was finite, in order."""

    def answer(self, until: float = math.inf) -> BestSoFar | None:
        """The trial with the lowest measured value until then, as the product's selection takes it."""
        seen = [(value, trial, steps) for time, trial, steps, value in self.measured if time <= until]
        if not seen:
            return None
        _, trial, steps = min(seen)
        return BestSoFar(trial, steps, self.curves[trial].loss(steps))

    def regret(self, full: int, until: float = math.inf) -> float:
        """How far the answer's true loss lies above the best that any of these trials comes to in `full` steps."""
        answer = self.answer(until)
        best = min(curve.loss(full) for curve in self.curves)
        return math.inf if answer is None else answer.loss - best


@dataclass(frozen=True)
class Setting:
    """What a simulated sweep runs on."""

    slots: int = 1
    noise: float = 0.0
    """Standard deviation of an evaluation."""
    evaluation: float = 0.0
    """How long an evaluation takes, in the time of a step."""
    protects_first: bool = False
    """Whether the first trial is trained to its end whatever it reports."""


class Sweep:
    """A sweep on its virtual clock."""

    def __init__(self, rule: Rule, source: Source, setting: Setting, rng: Random) -> None:
        self._rule, self._source, self._setting, self._rng = rule, source, setting, rng
        self._running: list[tuple[float, int, int]] = []
        """When each running trial reports next, its number, and the step that it reports at."""
        self._now = 0.0
        self._is_exhausted = False
        self.outcome = SimulatedSweep()

    def run(self) -> SimulatedSweep:
        self._fill_slots()
        while self._running:
            self._now, trial, point = heapq.heappop(self._running)
            self._report(trial, point)
            self._fill_slots()
        self.outcome.makespan = self._now
        return self.outcome

    def _fill_slots(self) -> None:
        while len(self._running) < self._setting.slots:
            work = self._rule.next(self._is_exhausted)
            if isinstance(work, Resume):
                self._begin(int(work.trial))
            elif work is Idle.NEW:
                self._begin_new()
            else:
                return

    def _begin_new(self) -> None:
        curve = self._source.next()
        self._is_exhausted = curve is None
        if curve is not None:
            self.outcome.curves.append(curve)
            self._begin(len(self.outcome.curves) - 1)

    def _begin(self, trial: int) -> None:
        self._rule.take(Started(str(trial), is_protected=self._setting.protects_first and trial == 0))
        self._go_on(trial)

    def _go_on(self, trial: int) -> None:
        point = self._rule.next_point(str(trial))
        assert point is not None, "a trial at the last point is over"
        steps = point - self._rule.resource(str(trial))
        self.outcome.steps += steps
        heapq.heappush(self._running, (self._now + steps + self._setting.evaluation, trial, point))

    def _report(self, trial: int, point: int) -> None:
        true = self.outcome.curves[trial].loss(point)
        value = true + self._rng.gauss(0.0, self._setting.noise) if math.isfinite(true) else math.inf
        decision = self._rule.take(Reported(str(trial), point, value))
        self._source.tell(trial, point, value, point == self._rule.points[-1] and math.isfinite(value))
        if math.isfinite(value):
            self.outcome.measured.append((self._now, trial, point, value))
        if decision is Decision.GO_ON:
            self._go_on(trial)


def simulate(rule: Rule, source: Source, setting: Setting, rng: Random) -> SimulatedSweep:
    """How a sweep goes under `rule` with trials from `source`; `rng` gives the noise of the evaluations."""
    return Sweep(rule, source, setting, rng).run()


Arrange = Callable[[list[Curve]], list[Curve]]

ARRIVALS: dict[str, Arrange] = {
    "random": lambda curves: curves,
    "improving": lambda curves: sorted(curves, key=lambda curve: -curve.end),
    "worsening": lambda curves: sorted(curves, key=lambda curve: curve.end),
}
"""In which order good and bad trials come. A searcher that learns brings them in improving order."""


def curves(count: int, rng: Random, full: int, diverging: float = 0.1) -> Iterator[Curve]:
    """Curves as one finds them: fast starters tend to end worse, so that they cross; some diverge."""
    for _ in range(count):
        quality, own = rng.random(), rng.random()
        diverges_at = rng.randint(1, full) if rng.random() < diverging else None
        yield Curve(1 + 0.3 * quality, 1.5 + 0.5 * rng.random(), 0.5 + 0.3 * (quality + own), diverges_at)


SPACE: dict[str, dict[str, Any]] = {
    "adapter.r": {"choice": [4, 8, 16, 32, 64]},
    "adapter.target_modules": {"choice": ["attention-qv", "attention", "mlp", "all-linear"]},
    "training.learning_rate": {"loguniform": [1.0e-5, 1.0e-2]},
    "training.warmup_ratio": {"uniform": [0.0, 0.2]},
}


class Searched:
    """Trials of a searcher on a surface as sweeps meet them: the learning rate decides most, and too much diverges."""

    def __init__(self, searcher: Searcher, trials: int, rng: Random, full: int) -> None:
        """The surface is drawn from `rng`: its best learning rate lies around 1e-3, by a factor of 2."""
        self._searcher, self._left, self._full = searcher, trials, full
        self._best_rate = 10 ** rng.gauss(-3.0, 0.3)
        self._modules = dict(
            zip(("all-linear", "attention", "mlp", "attention-qv"), (0.0, 0.15, 0.1, 0.3), strict=True)
        )
        self._own = rng
        self._points: list[Mapping[str, Value]] = []

    def next(self) -> Curve | None:
        point = self._searcher.suggest() if self._left else None
        if point is None:
            return None
        self._left -= 1
        self._points.append(point)
        self._searcher.tell(point, 0, None, False)
        return self.curve(point)

    def curve(self, point: Mapping[str, Any]) -> Curve:
        """Of this point, with some scatter of its own."""
        off = math.log10(point["training.learning_rate"] / self._best_rate)
        rank = abs(math.log2(point["adapter.r"] / 32)) * 0.05
        warmup = (point["training.warmup_ratio"] - 0.05) ** 2 * 3
        quality = min(1.5, 0.5 * off**2 + rank + self._modules[point["adapter.target_modules"]] + warmup)
        diverges_at = self._own.randint(1, self._full) if off > 0.7 and self._own.random() < 0.7 else None
        return Curve(1 + 0.3 * quality, 1.5, 0.5 + 0.3 * min(1.0, quality) + 0.1 * self._own.random(), diverges_at)

    def tell(self, trial: int, steps: int, value: float, is_final: bool) -> None:
        self._searcher.tell(self._points[trial], steps, value if math.isfinite(value) else "diverged", is_final)

    def least(self, draws: int = 1000) -> float:
        """The best loss after full training of so many points drawn at random: what regret is measured against."""
        space, rng = SearchSpace.parse(SPACE), Random(0)
        found = (self.curve(space.sample(rng)).loss(self._full) for _ in range(draws))
        return min(found)
