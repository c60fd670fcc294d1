"""Measures the speed of hosts from a sweep's event log, or by a calibration (`qsweep plan FILE --calibrate`).

A pass of a host trains several trials, and each of their steps records its own time. So the time of a host is the time
in which at least one step runs, not the sum over the trials. A trial goes to the host with the fewest trials. So the
number of hosts that train is the number of steps that run, up to all hosts.

A calibration takes about a dozen real steps on this machine, through the loop that hosts run, without Ray or tracking.
The base is loaded into this process. The sweep's first trials train side by side, in as many slots as the plan gives a
host, and are evaluated once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, takewhile
from typing import NamedTuple, TypeVar

from cluster.devices import cache
from cluster.loop import Outcome, PackLoop
from sweeps.config import points, resource
from sweeps.config.load import LoadedSweep
from sweeps.errors import ConfigError
from sweeps.planning.capacity import Machine, largest
from sweeps.planning.rates import Rate, RateKey, rate_key
from sweeps.record.events import (
    BaseEvaluated,
    DataPrepared,
    Event,
    HostsChanged,
    HostsStarted,
    SweepStarted,
    TrialEnded,
    TrialReported,
    TrialScored,
)
from trainables import catalogue
from trainables.contract import Failure, Prepared, StepRecord
from trainables.errors import TrainableError
from trainables.objective import SortKey
from trainables.specs import EvaluationSpec, TrialSpec

LEAST_STEPS = 6
"""A sweep with fewer steps gives no rate: the first steps of a process are slow."""
WARM_STEPS = 1
"""Steps of each trial that a calibration does not measure: the first step of a process is slow."""
STEPS = 12
"""Steps that a calibration measures, over all trials; at least 2 of each trial."""
WAIT_SECONDS = 600.0
"""Longest wait of a calibration for a trial to open, and for a trial to be trained and evaluated."""

NO_SCORES = EvaluationSpec()

Interval = tuple[float, float]
_Found = TypeVar("_Found", bound=Event)


class TrainedStretch(NamedTuple):
    """Consecutive steps of one trial, and the evaluation after them."""

    before: StepRecord | None
    """The step before `steps`; None if `steps` begin with the trial's first."""
    steps: Sequence[StepRecord]
    evaluated: float | None
    """End of the evaluation after the last step, in seconds since the epoch; None without an evaluation."""
    is_scored: bool = False
    """Whether the evaluation scored answers, which takes far longer than the loss."""
    rows: int | None = None
    """Rows of the evaluation; None for all."""


def rate_of_sweep(
    events: Iterable[Event], key: RateKey, scores: EvaluationSpec = NO_SCORES, answers: str = ""
) -> Rate | None:
    """Measures the rate under the latest driver of a sweep; None if too few steps or evaluations were measured.

    `answers` is the `rates.answers_key` of the sweep.
    """
    story = list(events)
    begun = max((number for number, event in enumerate(story) if isinstance(event, SweepStarted)), default=0)
    own, trained = story[begun:], [part for part in _parts(story, scores) if part[0] >= begun]
    changed, hosts = _last(own, HostsChanged), _last(own, HostsStarted)
    # The rate of one host is unknown if the number of hosts changed or a host may hang.
    if hosts is None or (changed is not None and own.index(changed) > own.index(hosts)):
        return None
    data, base = _last(story, DataPrepared), _last(story, BaseEvaluated)
    summary = data.summary if data is not None else {}
    rows, tokens = int(summary.get("train_rows", 0)), int(summary.get("train_tokens", 0))
    evaluated = base.rows if base is not None else int(summary.get("eval_rows", 0))
    parts = [part for _, _, part in trained]
    rate = rate_of_steps(parts, key, evaluated, tokens / rows if rows else 0.0, hosts.hosts)
    evaluations = list(_evaluations(parts))
    if rate.steps < LEAST_STEPS or not any(_evaluations(part for part in parts if not part.is_scored)):
        return None
    working = busy_seconds([*(span for span, _ in _steps(parts)), *evaluations])
    # After this event, the answers of the finalists are scored.
    last = [*takewhile(lambda event: not isinstance(event, TrialScored), own)][-1]
    idle = max(0.0, last.time - hosts.time - working)
    return rate.model_copy(
        update={
            "start_seconds": max(0.0, hosts.time - own[0].time),
            "trial_seconds": idle / len({trial for _, trial, _ in trained}),
            "host_slots": hosts.slots / hosts.hosts,
            "time": story[-1].time,
            "answers": answers if rate.answer_seconds is not None else "",
        }
    )


def _last(events: Sequence[Event], kind: type[_Found]) -> _Found | None:
    return next((event for event in reversed(events) if isinstance(event, kind)), None)


def _parts(events: Iterable[Event], scores: EvaluationSpec) -> Iterator[tuple[int, str, TrainedStretch]]:
    """Yields the number, the trial and the steps of each event that holds steps; parts of one trial are consecutive."""
    latest: dict[str, StepRecord] = {}
    for number, event in enumerate(events):
        if isinstance(event, TrialReported):
            history, evaluated = event.history, event.evaluated_time if event.history else None
            is_scored, rows = any(map(scores.scores_by, event.metrics)), None if event.part is None else event.part.rows
        elif isinstance(event, TrialEnded):
            history, evaluated, is_scored, rows = event.history, None, False, None
        else:
            continue
        yield number, event.trial_key, TrainedStretch(latest.get(event.trial_key), history, evaluated, is_scored, rows)
        latest.update({event.trial_key: history[-1]} if history else {})


def _steps(parts: Iterable[TrainedStretch]) -> Iterator[tuple[Interval, int]]:
    """Yields the time and the tokens of steps whose time is known, because the step before each is recorded too."""
    for part in parts:
        step, seconds, tokens = (
            (part.before.step, part.before.seconds, part.before.tokens) if part.before else (0, 0.0, 0)
        )
        for each in part.steps:
            taken = each.seconds - seconds
            if taken >= 0 and each.step == step + 1:
                yield (each.time - taken, each.time), each.tokens - tokens
            step, seconds, tokens = each.step, each.seconds, each.tokens


def _evaluations(parts: Iterable[TrainedStretch]) -> Iterator[Interval]:
    """Yields begin and end of each evaluation. Drops an end before its begin: two machines' clocks differ."""
    for part in parts:
        last = part.steps[-1] if part.steps else part.before
        if part.evaluated is not None and last is not None and part.evaluated >= last.time:
            yield last.time, part.evaluated


def rate_of_steps(
    parts: Sequence[TrainedStretch], key: RateKey, evaluation_rows: int, row_tokens: float, hosts: int = 1
) -> Rate:
    """Computes the rate from steps that trials took side by side; `row_tokens` is the mean of a row."""
    by_loss = [part for part in parts if not part.is_scored and list(_evaluations([part]))]
    steps, evaluations = list(_steps(parts)), list(_evaluations(by_loss))
    # The first evaluation of a part on a host is of the base too, on all rows.
    of_bases = hosts if any(part.rows for part in by_loss) else 0
    whole = of_bases + sum(1.0 if part.rows is None else part.rows / evaluation_rows for part in by_loss)
    answers = list(_evaluations(part for part in parts if part.is_scored))
    times = [span for span, _ in steps]
    stepping, working = busy_seconds(times, hosts), busy_seconds([*times, *evaluations], hosts)
    answering = busy_seconds([*times, *evaluations, *answers], hosts) - working
    slots = max(1.0, sum(end - begin for begin, end in times) / stepping) if stepping else 1.0
    count = max(1, len(steps))
    return Rate(
        key=key,
        tokens_per_step=sum(tokens for _, tokens in steps) / count,
        slots=slots,
        host_slots=slots,
        step_seconds=stepping * slots / count,
        evaluation_seconds=(working - stepping) / (whole or 1),
        evaluation_rows=evaluation_rows,
        row_tokens=row_tokens,
        start_seconds=0.0,
        trial_seconds=0.0,
        steps=len(steps),
        time=max((end for _, end in [*times, *evaluations, *answers]), default=0.0),
        answer_seconds=answering / len(answers) if answers else None,
    )


def busy_seconds(intervals: Iterable[Interval], most: int = 1) -> float:
    """Integrates over time the number of intervals that run at once, capped at `most`; in seconds."""
    ends = sorted(each for begin, end in intervals for each in ((begin, 1), (end, -1)))
    total, running, since = 0.0, 0, 0.0
    for now, more in ends:
        total += min(running, most) * (now - since)
        running, since = running + more, now
    return total


def prepare(sweep: LoadedSweep) -> Prepared:
    """Prepares the rows of a sweep on this machine, as its hosts would; raises ConfigError if that fails."""
    config = sweep.config
    try:
        return catalogue.find(config.trainable).prepare(config.base, cache())
    except TrainableError as error:
        raise ConfigError([str(error)]) from None


def calibrate(sweep: LoadedSweep, prepared: Prepared, slots: int, machine: Machine) -> Rate:
    """Measures this machine's rate: loads the base, trains about 12 + `slots` steps of `slots` trials, evaluates them.

    Raises:
        ConfigError: the base cannot be loaded, or no trial can be trained.
    """
    config, summary = sweep.config, prepared.summary
    trainable = catalogue.find(config.trainable)
    started = time.time()
    try:
        if machine.device == "cuda" and (why := catalogue.blindness(trainable)) is not None:
            raise ConfigError([f"this machine's GPU: {why}"])
        pack = trainable.open_pack(config.base, prepared.payload, cache())
        if machine.free_bytes is not None:
            room = catalogue.Room(machine.device, machine.spread, machine.free_bytes)
            catalogue.settle_auto(trainable, pack, config.base, largest(config, sweep.space), summary.shape, room)
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
    rate = rate_of_steps(
        [_warm(outcome, ended) for outcome, ended in reached],
        rate_key(config, machine.device_name or ""),
        evaluation_rows=summary.eval_rows,
        row_tokens=summary.shape.mean if summary.shape is not None else 0.0,
    )
    return rate.model_copy(update={"start_seconds": ready - started, "host_slots": slots, "is_calibration": True})


def _open(loop: PackLoop, sweep: LoadedSweep, slots: int) -> list[str]:
    """Puts the sweep's first trials that can be trained into the slots; returns their leases."""
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


def _first_specs(sweep: LoadedSweep) -> Iterator[TrialSpec]:
    """Yields the trials that a launch would begin with. Equal trials may repeat, which does not change their speed."""
    config, space = sweep.config, sweep.space
    base = config.base.model_copy(update={"evaluation": NO_SCORES})  # a few steps do not tell how long answers become
    searcher = config.searcher.build(space, config.seed)
    for point in chain(points.beginning(config, space), iter(searcher.suggest, None)):
        yield resource.of(config).with_steps(points.apply(base, point, config.seed))


def _reach(loop: PackLoop, lease: str, target: int) -> tuple[Outcome, float]:
    """Trains a lease to step `target` and evaluates it there; a failure ends it. Returns the outcome and its time."""
    while True:
        outcome = loop.advance(lease, target, SortKey(), 0, WAIT_SECONDS)
        if outcome is not None and (outcome.evaluation is not None or outcome.failure is not None):
            return outcome, time.time()


def _warm(outcome: Outcome, ended: float) -> TrainedStretch:
    """Returns the measured part of an outcome: all steps but the first, and the evaluation."""
    first, *rest = outcome.history or (None,)
    return TrainedStretch(first, tuple(rest), ended if outcome.evaluation is not None else None)
