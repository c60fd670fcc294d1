"""What `evaluation.rows: nested` saves and what it costs: replays of sweeps whose trials have values on all rows.

    python -m tests.benchmarks.nested_rows                                   # prints the table of docs/simulator.md
    python -m tests.benchmarks.nested_rows --record FILE --results DIR [KEY=VALUE]...   # a sweep file, recorded here
    python -m tests.benchmarks.nested_rows --results DIR                     # the same table of what was recorded

A recording holds 24 trials of a sweep file, each trained to its end and evaluated on all rows at each report point. A
replay plays the sweep's rule on it in a random order of the trials, with the parts of the product.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from simulator import curves

from sweeps.planning.advice import PAIRED_SPREAD
from sweeps.schedulers import Decision, Idle, Reported, Resume, Started
from sweeps.schedulers.asha import Promote
from trainables.specs import EvaluationSpec

FACTORS = (None, 2, 4, 8)
"""Times fewer rows at the first report point; None for all rows."""
ORDERS, TRIALS = 200, 24
POINTS = (3, 9, 27, 81)
ROWS = (64, 200)
"""Evaluation rows of the simulated sweeps."""
UNPAIRED_SPREAD = 0.34
"""See `PAIRED_SPREAD`."""
OF_BASE = 3.0
"""How many times further from a trial than another trial is the base, row by row, in the simulated sweeps."""
Values = npt.NDArray[np.float64]


class Recording(NamedTuple):
    """A sweep whose trials have values on all rows."""

    name: str
    points: tuple[int, ...]
    losses: Values
    """(trials, points, rows): the loss of each row; infinite from where a trial has diverged."""
    base: Values
    """(rows,)"""
    tokens: Values
    """(rows,): the tokens that count in the loss."""

    def loss(self, trial: int, place: int, rows: int | None = None) -> float:
        """The loss on the first rows of the nested order."""
        return float(self.losses[trial, place, :rows].sum() / self.tokens[:rows].sum())

    def of_base(self, rows: int | None = None) -> float:
        return float(self.base[:rows].sum() / self.tokens[:rows].sum())


class Replayed(NamedTuple):
    """How a replay went."""

    winner: int
    regret: float
    """How far the winner's loss on all rows lies above the lowest of any trial at any point."""
    tokens: float
    """Tokens that were evaluated, without those of the base."""


class Best(NamedTuple):
    """A trial's best step so far."""

    shown: float
    place: int
    rows: int | None


class Replay:
    """A sweep of one slot that is played on a recording, the default configuration first."""

    def __init__(self, recording: Recording, factor: int | None) -> None:
        self._recording, rows = recording, len(recording.base)
        how = EvaluationSpec() if factor is None else EvaluationSpec(rows="nested", rows_factor=factor)
        self._parts = how.parts(rows, len(recording.points))
        self._rule = Promote(recording.points, 3)
        self._best: dict[int, Best] = {}
        self._tokens = 0.0

    def run(self, order: Sequence[int]) -> Replayed:
        waiting = [*order]
        while True:
            work = self._rule.next(not waiting)
            if isinstance(work, Resume):
                self._train(int(work.trial))
            elif work is Idle.NEW:
                self._train(waiting.pop(0))
            else:
                return self._ended()

    def _train(self, trial: int) -> None:
        self._rule.take(Started(str(trial), is_protected=trial == 0))
        decision = Decision.GO_ON
        while decision is Decision.GO_ON and (point := self._rule.next_point(str(trial))) is not None:
            place = self._recording.points.index(point)
            part = self._parts[place]
            self._evaluate(trial, place, None if trial == 0 else part)
            decision = self._rule.take(Reported(str(trial), point, self._brought(trial, place, part)))

    def _evaluate(self, trial: int, place: int, rows: int | None) -> None:
        self._tokens += float(self._recording.tokens[:rows].sum())
        shown, before = self._brought(trial, place, rows), self._best.get(trial)
        known = math.inf if before is None else before.shown
        if self._brought(trial, place, rows if before is None else before.rows) < known:
            self._best[trial] = Best(shown, place, rows)

    def _brought(self, trial: int, place: int, rows: int | None) -> float:
        of = self._recording
        return of.loss(trial, place, rows) + of.of_base() - of.of_base(rows)

    def _ended(self) -> Replayed:
        """Evaluates the best trial on all rows until the best one has all."""
        while (best := min(self._best, key=lambda trial: self._best[trial].shown)) is not None:
            found = self._best[best]
            if found.rows is None:
                lowest = self._recording.losses.sum(axis=2).min() / self._recording.tokens.sum()
                return Replayed(best, found.shown - float(lowest), self._tokens)
            self._tokens += float(self._recording.tokens.sum())
            self._best[best] = Best(self._recording.loss(best, found.place), found.place, None)
        raise AssertionError("there is a trial")


def simulated(rows: int, seed: int) -> Recording:
    """Curves of the simulator on rows of equal length, which differ in difficulty, and on which trials differ."""
    rng, draw = Random(seed), np.random.default_rng(seed)
    difficulty = draw.normal(0.0, UNPAIRED_SPREAD, rows)
    spread = PAIRED_SPREAD / math.sqrt(2)
    losses = np.empty((TRIALS, len(POINTS), rows))
    for trial, curve in enumerate(curves(TRIALS, rng, POINTS[-1], diverging=0.0)):
        own = draw.normal(0.0, spread, rows)
        losses[trial] = [curve.loss(point) + difficulty + own for point in POINTS]
    base = 4.0 + difficulty + draw.normal(0.0, OF_BASE * spread, rows)
    return Recording(f"simulated, {rows} rows", POINTS, losses, base, np.ones(rows))


def table(recordings: Sequence[Sequence[Recording]]) -> Iterator[str]:
    """A line for each kind of recording: winners that change / regret / share of the tokens, for each factor."""
    yield f"| {' | '.join(['sweep', 'all rows', *(f'1/{factor}' for factor in FACTORS if factor)])} |"
    yield "|" + "---|" * (len(FACTORS) + 1)
    for alike in recordings:
        found: dict[int | None, list[Replayed]] = {factor: [] for factor in FACTORS}
        for number in range(ORDERS):
            recording, rng = alike[number % len(alike)], Random(number)
            order = [0, *rng.sample(range(1, len(recording.losses)), len(recording.losses) - 1)]
            for factor in FACTORS:
                found[factor].append(Replay(recording, factor).run(order))
        whole = found[None]
        cells = []
        for done in found.values():
            changed = fmean(one.winner != other.winner for one, other in zip(done, whole, strict=True))
            share = fmean(one.tokens / other.tokens for one, other in zip(done, whole, strict=True))
            cells.append(f"{changed:.0%} / {fmean(each.regret for each in done):.4f} / {share:.0%}")
        yield f"| {alike[0].name} | {' | '.join(cells)} |"


def record(file: str, results: Path, changes: Sequence[str]) -> Path:
    """Trains the trials of a sweep file in this process, and keeps their losses in a file."""
    from cluster.devices import cache
    from sweeps.config import points, resource
    from sweeps.config.load import load
    from trainables import catalogue
    from trainables.contract import Evaluation, StepRecord
    from trainables.data import dataset

    sweep = load(file, changes, Path.cwd())
    config, space = sweep.config, sweep.space
    trainable = catalogue.find(config.trainable)
    prepared = trainable.prepare(config.base, cache())
    pack = trainable.open_pack(config.base, prepared.payload, cache())
    at, searcher = resource.of(config).points, config.searcher.build(space, config.seed)
    chosen = [points.completed(config.base, space, {}), *filter(None, (searcher.suggest() for _ in range(TRIALS - 1)))]
    nested, base = dataset.nested_order(dataset.load(prepared.payload).eval), pack.evaluate_base()
    assert isinstance(base, Evaluation)
    losses = np.full((TRIALS, len(at), len(nested)), np.inf)
    for number, point in enumerate(chosen):
        spec = resource.of(config).with_steps(points.apply(config.base, point, config.seed))
        pack.open(0, spec)
        for step in range(1, at[-1] + 1):
            if not isinstance(pack.step([0])[0], StepRecord):
                break
            if step in at and isinstance(found := pack.evaluate([0])[0], Evaluation):
                losses[number, at.index(step)] = np.asarray(found.row_losses)[nested]
        pack.close(0)
        print(f"trial {number} of {TRIALS}: {losses[number].sum(axis=1) / sum(base.row_tokens)}", flush=True)
    of_base, tokens = (np.asarray(each, float)[nested] for each in (base.row_losses, base.row_tokens))
    path = results / f"{config.name}.npz"
    np.savez_compressed(path, points=at, losses=losses, base=of_base, tokens=tokens)
    return path


def recorded(path: Path) -> Recording:
    """Reads a file of `record`."""
    with np.load(path) as found:
        points = tuple(found["points"].tolist())
        return Recording(path.stem, points, found["losses"], found["base"], found["tokens"])


def main() -> None:
    """Records, or prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", metavar="FILE")
    parser.add_argument("--results", type=Path)
    parser.add_argument("changes", nargs="*")
    asked = parser.parse_args()
    if asked.record is not None:
        asked.results.mkdir(parents=True, exist_ok=True)
        print(record(asked.record, asked.results, asked.changes))
    elif asked.results is not None:
        print("\n".join(table([[recorded(path)] for path in sorted(asked.results.glob("*.npz"))])))
    else:
        print("\n".join(table([[simulated(rows, seed) for seed in range(ORDERS)] for rows in ROWS])))


if __name__ == "__main__":
    main()
