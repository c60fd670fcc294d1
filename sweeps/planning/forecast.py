"""What a sweep is expected to do and take: its rule, played on a virtual clock that runs at a measured rate. Pure.

Each trial has a quality that never changes, and reports when its host has given it the steps and the evaluation up to
its next point. What the rule does with trials that cross, or with noise, is the simulator's business; how many the rule
lets through hardly depends on that.

The order in which good trials come decides how many steps a sweep takes (24 trials on 16 slots: 173 to 219), so the
rule is played in many random orders: the mean is what is expected, the middle of them is the range.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise, permutations
from statistics import fmean, quantiles
from typing import Any, Literal, NamedTuple

from search_spaces.space import SearchSpace
from sweeps.config import points, resource
from sweeps.config.model import SweepConfig
from sweeps.planning import arithmetic
from sweeps.planning.capacity import Machine
from sweeps.planning.rates import Load, Range, Rate, RateKey, Speed, answers_key, speed
from sweeps.record.selection import FINALISTS
from sweeps.record.spent import HOUR
from sweeps.schedulers import Decision, Idle, Reported, Resume, Rule, Started
from trainables.contract import RowShape, Work
from trainables.grading.catalogue import needs_answers
from trainables.packing.memory import MEAN_OF_LONGEST
from trainables.specs import seconds as in_seconds

MOST_PLAYED = 1_000
"""Trials that are played at most; the work of more of them follows in proportion."""
MOST_REPORTS = 6_000
"""Reports of all plays together: one or two tenths of a second."""
MOST_PLAYS = 120
"""With so many the mean of 24 trials on 16 slots is within 2 % of that of 2,000 plays. 5 trials have as many orders."""
LEAST_SECONDS = 1e-9
"""The least time of a step: a step of the toy takes no time that a clock tells."""
LEAST_FOR_QUANTILES = 20
"""Plays from which a range is the middle 80 % of them; of fewer, the range is all."""
FORWARD_SHARE = 0.5
"""An evaluated token against a trained one: a frozen base needs no gradients of its weights, so the backward pass costs
about what the forward pass does (2 + 2 FLOP per parameter and token against 2)."""
UNKNOWN = "unknown: run `qsweep plan FILE --calibrate`"
SHOWN = "Sweeps on such GPUs, or `qsweep plan FILE --calibrate` on a machine with one, leave its rates in the cache"
UNNAMED = f"unknown: rates belong to a type of GPU; name it as cluster.gpu. {SHOWN}"
UNMEASURED = (
    "unknown: no rate of a GPU of the type {gpu} is known here, nor the sizes of the model, for an estimate by "
    "arithmetic: give model.facts. " + SHOWN
)
UNCOUNTED = (
    "unknown, as is the share of evaluation: data.eval_examples null takes all rows of data.eval, which are not "
    "counted yet: give data.eval_examples, or run `qsweep plan FILE --calibrate`"
)

LengthsFrom = Literal["tokens", "characters", "max_length"]
"""What the mean length of the rows follows from."""


class Lengths(NamedTuple):
    """How long a host takes that trains one trial: in seconds, or in tokens or steps where no rate is known."""

    unit: float = 1.0
    """For what the rule's points count: a step, or an example."""
    evaluation: float = 0.0

    def of(self, units: float, evaluations: float) -> float:
        """For so many of both."""
        return units * self.unit + evaluations * self.evaluation


class Hosts(NamedTuple):
    """Where a sweep is played."""

    number: int
    slots: int
    """Trials that share a host at most."""
    speeds: tuple[float, ...] = ()
    """How fast a host is that 1, 2, ... trials share; empty where it is as fast for one as for several."""


class Play(NamedTuple):
    """How a sweep went."""

    counts: tuple[int, ...]
    """Trials that reported at each of the rule's points."""
    makespan: float
    """What the sweep took on its hosts, as `Lengths` count it."""
    repeats: int = 0
    """Trials that repeated others at the end."""

    def units(self, at: Sequence[int]) -> int:
        """What all trials took of the resource together, where the rule has these points; none stops between two."""
        taken = sum(count * (high - low) for count, (low, high) in zip(self.counts, pairwise((0, *at)), strict=True))
        return taken + self.repeats * at[-1]

    @property
    def evaluations(self) -> int:
        """Evaluations of all trials."""
        return sum(self.counts) + self.repeats * len(self.counts)


@dataclass
class _Host:
    """A host, whose time its trials share equally."""

    running: list[tuple[float, int, int]] = field(default_factory=list)
    """What a trial will have had when it reports, which trial, and at which point."""
    had: float = 0.0
    """What each of its trials has had so far, counted on from trial to trial."""
    since: float = 0.0
    """When that was so."""
    speeds: tuple[float, ...] = ()
    """As those of `Hosts`."""

    def _share(self) -> float:
        """What each of its trials has of it."""
        count = len(self.running)
        return (self.speeds[min(count, len(self.speeds)) - 1] if self.speeds else 1.0) / count

    def begin(self, now: float, length: float, trial: int, point: int) -> None:
        """A trial trains to this point; those that report in one pass resume in the order of their ranks."""
        if self.running:
            self.had += (now - self.since) * self._share()
        self.since = now
        heapq.heappush(self.running, (self.had + length, trial, point))

    def next_report(self) -> tuple[float, int]:
        """When the next trial reports, and which one; never where none trains."""
        if not self.running:
            return math.inf, 0
        goal, trial, _ = self.running[0]
        return self.since + (goal - self.had) / self._share(), trial

    def report(self) -> tuple[float, int, int]:
        """When the next trial reports, which one, and at which point."""
        self.since, _ = self.next_report()
        self.had, trial, point = heapq.heappop(self.running)
        return self.since, trial, point

    def load(self) -> int:
        """How many trials share the host."""
        return len(self.running)


def play(rule: Rule, qualities: Sequence[float], hosts: Hosts, protects_first: bool, lengths: Lengths) -> Play:
    """Plays the sweep whose trials begin in this order, each on the host with the fewest; without repeats.

    Args:
        rule: has seen nothing.
        qualities: of each trial, the lower the better.
        protects_first: the first trial is trained to the end whatever it reports.
    """
    every = [_Host(speeds=hosts.speeds) for _ in range(hosts.number)]
    counts = dict.fromkeys(rule.points, 0)
    begun, now = 0, 0.0

    def begin(host: _Host, trial: int) -> None:
        before, point = rule.resource(str(trial)), rule.next_point(str(trial))
        assert point is not None, "a trial that has reported at the last point is over"
        host.begin(now, lengths.of(point - before, 1), trial, point)

    while True:
        while (emptiest := min(every, key=_Host.load)).load() < hosts.slots:
            work = rule.next(begun >= len(qualities))
            if isinstance(work, Resume):
                trial = int(work.trial)
            elif work is Idle.NEW:
                trial, begun = begun, begun + 1
            else:
                break
            rule.take(Started(str(trial), protects_first and trial == 0))
            begin(emptiest, trial)
        host = min(every, key=_Host.next_report)
        if not host.load():
            return Play(tuple(counts.values()), now)
        now, trial, point = host.report()
        counts[point] += 1
        if rule.take(Reported(str(trial), point, qualities[trial])) is Decision.GO_ON:
            begin(host, trial)


def plays(config: SweepConfig, trials: int, hosts: Hosts, lengths: Lengths) -> list[Play]:
    """Plays a checked sweep in random orders of arrival: few trials in all orders, FIFO in one.

    Args:
        trials: how many the sweep has; where they are more than MOST_PLAYED, a part is played.
    """
    compared, protects_first = resource.of(config), config.searcher.start_with_default
    at, played = compared.points, min(trials, MOST_PLAYED)
    larger, count = trials / played, min(hosts.number, played)
    outcomes = []
    for order in _orders(played, len(at)) if config.scheduler.compares else [range(played)]:
        rule, qualities = compared.scheduler.build(compared.total), list(map(float, order))
        part = play(rule, qualities, Hosts(count, hosts.slots), protects_first, lengths)
        counts = tuple(round(reached * larger) for reached in part.counts)
        repeats = config.searcher.most_repeats(counts[-1])
        # Hosts share the work of more trials. The end, when the last of them train and hosts idle, stays as it is.
        more = (larger - 1) * lengths.of(part.units(at), part.evaluations) / count
        again = math.ceil(repeats / hosts.number) * lengths.of(at[-1], len(at))
        outcomes.append(Play(counts, part.makespan + more + again, repeats))
    return outcomes


def _orders(trials: int, reports: int) -> Iterable[Sequence[int]]:
    """Orders in which trials of rising quality arrive: all of few trials, else random ones."""
    if math.factorial(min(trials, MOST_PLAYS)) <= MOST_PLAYS:
        return permutations(range(trials))
    rng = random.Random(0)
    count = max(3, min(MOST_PLAYS, MOST_REPORTS // (trials * reports)))
    return (rng.sample(range(trials), trials) for _ in range(count))


@dataclass(frozen=True)
class RowsAndRates:
    """What is known of rows and rates before a sweep."""

    rates: Sequence[Rate] = ()
    key: RateKey | None = None
    """What a rate of the base on the device is known by; None when the device is unknown."""
    rows: RowShape | None = None
    """None when the rows were never prepared on this machine."""
    eval_rows: int | None = None
    """Rows of an evaluation, as a look at the local files has counted them; None without it."""
    row_tokens: float | None = None
    """Mean tokens of a row, by its characters, as a look at the local files tells them; None without it."""
    work: Work | None = None
    """What a GPU computes; None where that is unknown."""
    types: tuple[str, ...] = ()
    """Types in the table of GPUs that the device may be: one where it has a name, none where nothing is known."""


@dataclass(frozen=True)
class Answers:
    """What scoring the answers takes."""

    evaluations: float
    """Evaluations whose answers are scored, that of the base among them."""
    tokens: float | None
    """Tokens that are generated at most, about; 0 where labels are ranked. None where nothing bounds them yet."""
    share: float | None
    """Part of the work that goes into these evaluations, 0 to 1; None where no sweep has scored answers alike."""


@dataclass(frozen=True)
class Forecast:
    """What is expected of a sweep, as far as that can be said."""

    reaching: tuple[float, ...]
    """Trials at each report point, rounded to a tenth."""
    steps: Range
    """Optimizer steps of all trials, their repeats included."""
    evaluations: float
    """Evaluations of all trials, and one of the base."""
    tokens: float | None
    """Tokens of these steps; None without rows."""
    lengths_from: LengthsFrom
    evaluation_share: float | None
    """Part of the work that goes into evaluations, 0 to 1; None when nothing is known of it."""
    seconds: Range | None
    """From the command to the answer; None when there is neither a rate nor an estimate by arithmetic."""
    gpu_hours: Range | None
    """GPU-hours of all hosts to the end; 0 on CPUs."""
    is_measured: bool
    """Whether the time follows from a rate that was measured."""
    rate: str
    """Where the time comes from, in words, or how to know it."""
    answers: Answers | None = None
    """None where answers are not scored. Time and hours hold them where their share is known."""

    def as_json(self) -> dict[str, Any]:
        """Plain data, with the same names."""
        return {**asdict(self), "are_tokens_known": self.lengths_from == "tokens"}


def forecast(config: SweepConfig, space: SearchSpace, machine: Machine, slots: int, known: RowsAndRates) -> Forecast:
    """Forecasts a checked sweep on hosts of so many slots each."""
    trials, hosts = trials_of(config, space), machine.hosts
    compared, per_unit = resource.of(config), resource.steps_per_unit(config, space)
    evaluated, (row_tokens, lengths_from) = evaluation_rows(config, known), _row_tokens(config, known)
    rows_per_step = resource.rows_per_trial(config) / compared.total / per_unit
    load = Load(rows_per_step * row_tokens, slots, evaluated or 0, row_tokens)
    scores, answered = answers_key(config), _answered_tokens(config, known)
    rate = None if evaluated is None else _speed(config, known, load, answered)
    lengths = _lengths(rate, load, per_unit)
    made = plays(config, trials, Hosts(hosts, slots), lengths)
    # Plays of a part of very many trials are scaled up, and what is rounded may go beyond what is possible.
    most = most_steps(config, space, trials, hosts * slots)
    steps = _range([min(float(most), per_unit * each.units(compared.points)) for each in made])
    evaluations = fmean(each.evaluations for each in made) + 1
    work = lengths.of(steps.expected / per_unit, evaluations)
    scored = {
        "every": evaluations,
        "last": fmean(each.counts[-1] + each.repeats for each in made) + 1,
        "best": fmean(min(FINALISTS + config.searcher.start_with_default, trials) + each.repeats for each in made) + 1,
    }[config.evaluation.when]
    answering = scored * rate.answer_seconds if rate is not None and rate.answer_seconds is not None else None
    generated = None if answered is None else scored * answered
    seconds = None if rate is None else _seconds(rate, made, trials, (lengths.evaluation + (answering or 0.0)) / hosts)
    is_share_known = bool(rate.step_seconds) if rate is not None else bool(row_tokens) and evaluated is not None
    return Forecast(
        reaching=tuple(round(fmean(column), 1) for column in zip(*(each.counts for each in made), strict=True)),
        steps=steps,
        evaluations=round(evaluations, 1),
        tokens=steps.expected * load.tokens_per_step if row_tokens else None,
        lengths_from=lengths_from,
        evaluation_share=evaluations * lengths.evaluation / work if is_share_known else None,
        seconds=seconds,
        gpu_hours=None if seconds is None else seconds.times(hosts * machine.gpus / HOUR),
        is_measured=rate is not None and rate.is_measured,
        rate=rate.source if rate else _unknown(config, known, machine),
        answers=Answers(round(scored, 1), generated, answering and answering / (work + answering)) if scores else None,
    )


def _speed(config: SweepConfig, known: RowsAndRates, load: Load, answered: float | None) -> Speed | None:
    """The speed of a host: as it was measured, else by arithmetic; None where neither is known."""
    scores = answers_key(config)
    measured = speed(known.rates, known.key, load, scores) if known.key is not None else None
    if measured is not None or known.work is None or not known.types:
        return measured
    return arithmetic.speed(
        known.work, known.types, config.quantization.compute_dtype, load, answered if scores else None
    )


def _answered_tokens(config: SweepConfig, known: RowsAndRates) -> float | None:
    """Tokens that are generated in an evaluation at most, each answer as long as `evaluation.max_new_tokens` allows.

    Left out, that is a quarter more than the longest completion: about the labelled part of the longest row. 0 where
    nothing is generated, None where nothing bounds it.
    """
    scores, rows = config.evaluation, known.rows
    if not needs_answers(scores):
        return 0.0
    longest = scores.max_new_tokens
    if longest is None and rows is not None:
        longest = math.ceil(1.25 * rows.longest * rows.labelled)
    answered = min([count for count in (scores.examples, evaluation_rows(config, known)) if count], default=None)
    return None if longest is None or answered is None else float(answered * longest)


def _lengths(rate: Speed | None, load: Load, per_unit: float) -> Lengths:
    """How long a unit of the resource and an evaluation are: in seconds, else in tokens, else in steps.

    Args:
        per_unit: optimizer steps of a unit.
    """
    if rate is not None:
        # The trials of a host report one after the other where nothing takes time, and side by side where all does.
        return Lengths(max(LEAST_SECONDS, rate.step_seconds) * per_unit, rate.evaluation_seconds)
    if load.row_tokens:
        return Lengths(load.tokens_per_step * per_unit, load.evaluation_rows * load.row_tokens * FORWARD_SHARE)
    return Lengths(per_unit)


def _seconds(rate: Speed, made: Sequence[Play], trials: int, base: float) -> Range:
    """From the command to the answer. The start, and what a trial takes beside its work, no other host shares.

    Args:
        base: seconds of the evaluation of the base, and of what answers take.
    """
    begun = trials + fmean(each.repeats for each in made)
    work = _range([base + each.makespan for each in made]).by(rate.off)
    return work.plus(rate.start_seconds).plus(rate.trial_seconds.times(begun))


def _range(values: Sequence[float]) -> Range:
    """The mean of several plays, and where most of them lie."""
    many = len(values) >= LEAST_FOR_QUANTILES
    low, *_, high = quantiles(values, n=10) if many else (min(values), max(values))
    return Range(fmean(values), low, high)


def _unknown(config: SweepConfig, known: RowsAndRates, machine: Machine) -> str:
    """Why no time can be told, and what to do about it."""
    if evaluation_rows(config, known) is None:
        return UNCOUNTED
    if machine.gpus and known.key is not None and config.cluster.gpu is not None:
        return UNMEASURED.format(gpu=config.cluster.gpu)
    return UNNAMED if known.key is None and machine.gpus else UNKNOWN


def evaluation_rows(config: SweepConfig, known: RowsAndRates) -> int | None:
    """Rows of one evaluation, 0 where there is no data; None where all rows are taken and nobody has counted them."""
    if config.data is None:
        return 0
    if known.rows is not None:
        return known.rows.eval_rows
    return known.eval_rows if known.eval_rows is not None else config.data.eval_examples


def _row_tokens(config: SweepConfig, known: RowsAndRates) -> tuple[float, LengthsFrom]:
    """Mean tokens of a row, 0 where there are none, and what they follow from."""
    if config.data is None:
        return 0.0, "max_length"
    if known.rows is not None:
        return known.rows.mean, "tokens"
    if known.row_tokens is not None:
        return min(known.row_tokens, float(config.data.max_length)), "characters"
    return config.data.max_length * MEAN_OF_LONGEST, "max_length"


def most_steps(config: SweepConfig, space: SearchSpace, trials: int, slots: int) -> int:
    """Optimizer steps that the sweep takes at most, its repeats included."""
    compared, again = resource.of(config), config.searcher.most_repeats(trials)
    most = compared.scheduler.most_steps(compared.total, trials, slots, config.searcher.start_with_default)
    return resource.most_steps(config, space, most + again * compared.total, trials + again)


def shortest_budget(config: SweepConfig, gpus: int) -> tuple[float, str] | None:
    """Seconds of the budget of time that is used up first, and what it is called; None where nothing bounds it.

    Args:
        gpus: of all hosts together, which share its GPU-hours; 0 on a CPU: nothing counts against them there.
    """
    budgets = []
    if config.budget.wall_clock is not None:
        budgets.append((in_seconds(config.budget.wall_clock), f"budget.wall_clock {config.budget.wall_clock}"))
    if config.budget.gpu_hours is not None and gpus:
        hours = config.budget.gpu_hours
        budgets.append((hours * HOUR / gpus, f"budget.gpu_hours {hours:g}"))
    return min(budgets, default=None)


def trials_of(config: SweepConfig, space: SearchSpace) -> int:
    """Different trials, as many as there are and the budget allows."""
    distinct = different(config, space)
    return config.budget.count if distinct is None else min(config.budget.count, distinct)


def different(config: SweepConfig, space: SearchSpace) -> int | None:
    """How many different trials there are; None when they do not run out."""
    distinct = config.searcher.size(space)
    if distinct is None:
        return None
    beginning = points.beginning(config, space)
    return distinct + len({points.seed(config.seed, point) for point in beginning if not space.contains(point)})
