"""`qsweep plan FILE --calibrate`: about a dozen real steps on this machine, through the loop that hosts run.

No Ray and no tracking: the base is loaded into this process, the sweep's first trials train side by side in the slots
that the plan gives a host, and are evaluated once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

from cluster.devices import cache
from cluster.loop import Outcome, PackLoop
from sweeps.config import points, resource
from sweeps.config.load import Sweep
from sweeps.errors import ConfigError
from sweeps.planning import capacity, measured_speed, rate_store
from sweeps.planning.capacity import Machine
from sweeps.planning.rates import Rate
from trainables import catalogue
from trainables.contract import Failure, Prepared
from trainables.errors import TrainableError
from trainables.specs import TrialSpec

WARM_STEPS = 1
"""Steps of each trial before the clock starts: the first one of a process is slow."""
STEPS = 12
"""Steps of all trials together that are measured, at least 2 of each."""
WAIT_SECONDS = 600.0


def prepare(sweep: Sweep) -> Prepared:
    """Prepares the rows of a sweep on this machine, as its hosts would. Raises ConfigError where they cannot be."""
    config = sweep.config
    try:
        return catalogue.find(config.trainable).prepare(config.base, cache())
    except TrainableError as error:
        raise ConfigError([str(error)]) from None


def calibrate(sweep: Sweep, prepared: Prepared, slots: int, machine: Machine) -> Rate:
    """Measures the rate of this machine for a sweep.

    Takes as long as it takes to load the base, to train about 12 + `slots` steps and to evaluate as many trials.

    Args:
        slots: trials that train side by side, as many as a host of the sweep will have.

    Raises:
        ConfigError: nothing can be trained; says why.
    """
    config, summary = sweep.config, prepared.summary
    trainable, largest = catalogue.find(config.trainable), capacity.largest(config, sweep.space)
    started = time.time()
    try:
        if machine.device == "cuda" and (why := catalogue.blindness(trainable)) is not None:
            raise ConfigError([f"this machine's GPU: {why}"])
        pack = trainable.open_pack(config.base, prepared.payload, cache())
        if machine.free_bytes is not None:
            room = catalogue.Room(machine.device, machine.spread, machine.free_bytes)
            catalogue.settle_auto(trainable, pack, config.base, largest, summary.shape, room)
    except TrainableError as error:
        raise ConfigError([str(error)]) from None
    loop = PackLoop(pack, slots)
    ready = time.time()
    try:
        leases = _open(loop, sweep, slots)
        target = WARM_STEPS + max(2, math.ceil(STEPS / len(leases)))
        with ThreadPoolExecutor(len(leases)) as calls:
            reached = list(calls.map(lambda lease: _reach(loop, lease, target), leases))
    finally:
        loop.stop()
    rate = measured_speed.of_steps(
        [_warm(outcome, ended) for outcome, ended in reached],
        rate_store.rate_key(config, machine.device_name or ""),
        evaluation_rows=summary.eval_rows,
        row_tokens=summary.shape.mean if summary.shape is not None else 0.0,
    )
    return rate.model_copy(update={"start_seconds": ready - started, "host_slots": slots, "is_calibration": True})


def _open(loop: PackLoop, sweep: Sweep, slots: int) -> list[str]:
    """Puts the sweep's first trials that can be trained into the slots; their leases."""
    leases: list[str] = []
    reason = "it has no point"
    for number, spec in enumerate(islice(_first_specs(sweep), 4 * slots)):
        if len(leases) == slots:
            break
        opened = loop.open(str(number), spec, None).result(WAIT_SECONDS)
        if isinstance(opened, Failure):
            reason = opened.message
        else:
            leases.append(str(number))
    if not leases:
        raise ConfigError([f"search_space: nothing of it can be trained: {reason}"])
    return leases


def _first_specs(sweep: Sweep) -> Iterator[TrialSpec]:
    """Trials as a launch of the sweep would begin them; equal ones may come twice, and are as fast as others."""
    config, space = sweep.config, sweep.space
    searcher = config.searcher.build(space, config.seed)
    for point in chain(points.beginning(config, space), iter(searcher.suggest, None)):
        yield resource.of(config).with_steps(points.apply(config.base, point, config.seed))


def _reach(loop: PackLoop, lease: str, target: int) -> tuple[Outcome, float]:
    """The lease at `target`, evaluated there, and when that was; a failure ends it before."""
    while True:
        outcome = loop.advance(lease, target, math.inf, 0, WAIT_SECONDS)
        if outcome is not None and (outcome.evaluation is not None or outcome.failure is not None):
            return outcome, time.time()


def _warm(outcome: Outcome, ended: float) -> measured_speed.Trained:
    """What counts of an outcome: all but the first steps, and the evaluation."""
    first, *rest = outcome.history or (None,)
    return measured_speed.Trained(first, tuple(rest), ended if outcome.evaluation is not None else None)
