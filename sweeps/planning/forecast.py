"""Forecasts the trials, steps and time of a sweep. Plays its rule on a virtual clock at a measured rate. Pure.

Each trial has a quality that never changes. A trial reports when its host has computed the steps and the evaluation up
to the trial's next point. Crossing loss curves and noise are left to the simulator: they hardly change how many trials
the rule lets through.

The order in which good trials arrive decides how many steps a sweep takes. So the rule is played in a few random
orders. Their mean is the expected value; the fewest and the most steps are the range of the steps. The time has a range
of its own, a factor up and down, because it depends more on the speed of the hosts than on the order.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from statistics import fmean
from typing import Literal, NamedTuple

from search_spaces.space import SearchSpace
from sweeps.config import points, resource
from sweeps.config.model import SweepConfig
from sweeps.planning import arithmetic
from sweeps.planning.capacity import Machine, slots_in_all
from sweeps.planning.rates import Load, Range, Rate, RateKey, Speed, answers_key, speed
from sweeps.record.selection import FINALISTS
from sweeps.record.spent import HOUR
from sweeps.schedulers import Decision, Idle, Reported, Resume, Rule, Started
from trainables.contract import RowShape, Work
from trainables.grading.catalogue import needs_answers
from trainables.packing.memory import MEAN_OF_LONGEST
from trainables.specs import seconds as in_seconds

ORDERS = 9
"""Orders that are played. Of ten sweeps in random orders, two have the fewest or the most steps, so the range of nine
holds the tenth in four of five cases."""
MOST_PLAYED = 300
"""Maximum number of trials that are played. The work of a larger sweep is scaled up in proportion."""
LEAST_SECONDS = 1e-9
"""Least seconds of a step: no clock can measure a step of the toy."""
FORWARD_SHARE = 0.5
"""Work of an evaluated token over the work of a trained one. A frozen base needs no gradients of its weights, so the
backward pass costs about as much as the forward pass (2 + 2 FLOP per parameter and token against 2)."""
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
"""Source of the mean length of the rows."""


class UnitTimes(NamedTuple):
    """Time of a host that trains one trial: in seconds; without a rate, in tokens or steps."""

    unit: float = 1.0
    """Time of one unit of the resource: a step or an example."""
    evaluation: float = 0.0
    """Time of an evaluation on all rows."""
    shares: tuple[float, ...] = ()
    """Share of the evaluation rows at each report point, for all trials but a protected one; empty for all rows."""

    def share(self, place: int, is_protected: bool = False) -> float:
        """Returns the share of the evaluation rows at a report point."""
        return 1.0 if is_protected or not self.shares else self.shares[place]

    def time_for(self, units: float, evaluations: float) -> float:
        """Returns the time of a host for this many units and evaluations."""
        return units * self.unit + evaluations * self.evaluation


class Play(NamedTuple):
    """Result of one play of a sweep."""

    counts: tuple[int, ...]
    """Trials that reported at each of the rule's points."""
    makespan: float
    """Time from the first trial to the end of the last one, in the unit of `UnitTimes`."""
    repeats: int = 0
    """Trials that repeated others at the end."""

    def units(self, at: Sequence[int]) -> int:
        """Counts the units of the resource that all trials used. A trial never stops between two of the points `at`."""
        taken = sum(count * (high - low) for count, (low, high) in zip(self.counts, pairwise((0, *at)), strict=True))
        return taken + self.repeats * at[-1]

    @property
    def evaluations(self) -> int:
        """Counts the evaluations of all trials and repeats."""
        return sum(self.counts) + self.repeats * len(self.counts)

    def whole_evaluations(self, lengths: UnitTimes, protects_first: bool) -> float:
        """Returns the evaluations on all rows that have as many rows as the evaluations of all trials and repeats."""
        shares = [lengths.share(place) for place in range(len(self.counts))]
        of_first = sum(1.0 - share for share in shares) if protects_first else 0.0
        return of_first + sum((count + self.repeats) * own for count, own in zip(self.counts, shares, strict=True))


def play(
    rule: Rule, qualities: Sequence[float], hosts: int, slots: int, protects_first: bool, lengths: UnitTimes
) -> Play:
    """Plays one sweep without repeats on `hosts` of `slots` each. Trials begin in this order.

    The rule has taken no event. Each trial reports its quality at every point; lower is better. Trials share the time
    of their host equally, and each has as much of it as on the host with the most trials.
    """
    running: list[tuple[float, int, int]] = []  # heap of the next reports: value of `had` at the report, trial, point
    counts = dict.fromkeys(rule.points, 0)
    # A trial that begins later counts from what each running trial has had of its host until then.
    begun, now, had = 0, 0.0, 0.0

    def begin(trial: int) -> None:
        before, point = rule.resource(str(trial)), rule.next_point(str(trial))
        assert point is not None, "a trial that has reported at the last point is over"
        share = lengths.share(rule.points.index(point), protects_first and trial == 0)
        heapq.heappush(running, (had + lengths.time_for(point - before, share), trial, point))

    while True:
        while len(running) < hosts * slots:
            work = rule.next(begun >= len(qualities))
            if isinstance(work, Resume):
                trial = int(work.trial)
            elif work is Idle.NEW:
                trial, begun = begun, begun + 1
            else:
                break
            rule.take(Started(str(trial), protects_first and trial == 0))
            begin(trial)
        if not running:
            return Play(tuple(counts.values()), now)
        sharing = math.ceil(len(running) / hosts)
        goal, trial, point = heapq.heappop(running)
        now, had = now + (goal - had) * sharing, goal
        counts[point] += 1
        if rule.take(Reported(str(trial), point, qualities[trial])) is Decision.GO_ON:
            begin(trial)


def plays(config: SweepConfig, trials: int, hosts: int, slots: int, lengths: UnitTimes) -> list[Play]:
    """Plays a checked sweep in a few orders of arrival, and in one if its scheduler does not compare trials."""
    compared, protects_first = resource.of(config), config.searcher.start_with_default
    at, played = compared.points, min(trials, MOST_PLAYED)
    larger, outcomes = trials / played, list[Play]()
    for order in _orders(played) if config.scheduler.compares else [range(played)]:
        rule, qualities = compared.scheduler.build(compared.total), list(map(float, order))
        part = play(rule, qualities, hosts, slots, protects_first, lengths)
        counts = tuple(round(reached * larger) for reached in part.counts)
        repeats = config.searcher.most_repeats(counts[-1])
        evaluations = sum(lengths.share(place) for place in range(len(at)))
        again = math.ceil(repeats / hosts) * lengths.time_for(at[-1], evaluations)
        outcomes.append(Play(counts, part.makespan * larger + again, repeats))
    return outcomes


def _orders(trials: int) -> Iterable[Sequence[int]]:
    """Returns the ranks of the trials in the order in which they arrive: all orders of up to four trials, else ORDERS.

    Each trial is good in some of them and bad in others, so they tell more than as many random ones.
    """
    if trials <= 4:
        return permutations(range(trials))
    ranks = random.Random(0).sample(range(trials), trials)
    return ([(rank + order * trials // ORDERS) % trials for rank in ranks] for order in range(ORDERS))


@dataclass(frozen=True)
class RowsAndRates:
    """Rows and rates that are known before a sweep."""

    rates: Sequence[Rate] = ()
    key: RateKey | None = None
    """Identifies the rate of this base on this device; None if the device is unknown."""
    rows: RowShape | None = None
    """None if this machine has never prepared the rows."""
    eval_rows: int | None = None
    """Rows of an evaluation, counted in the local files; None if they were not counted."""
    row_tokens: float | None = None
    """Mean tokens of a row, estimated from the characters of the local files; None if they were not read."""
    work: Work | None = None
    """Work of a GPU; None if unknown."""
    types: tuple[str, ...] = ()
    """Types in the table of GPUs that the device may be. Empty if nothing is known of the device."""


@dataclass(frozen=True)
class AnswersWork:
    """Work of scoring the answers."""

    evaluations: float
    """Evaluations whose answers are scored, including the evaluation of the base."""
    tokens: float | None
    """Estimated maximum of generated tokens; 0 if labels are ranked, None if the number is not bounded yet."""
    share: float | None
    """Share of these evaluations in all work, 0 to 1; None if the time of answers is unknown."""


@dataclass(frozen=True)
class Forecast:
    """Expected trials, steps, tokens and time of a sweep, as far as they are known."""

    reaching: tuple[float, ...]
    """Trials at each report point, rounded to a tenth."""
    steps: Range
    """Optimizer steps of all trials and repeats."""
    evaluations: float
    """Evaluations of all trials, and one of the base."""
    tokens: float | None
    """Tokens of these steps; None without rows."""
    lengths_from: LengthsFrom
    evaluation_share: float | None
    """Share of evaluations in all work, 0 to 1, without the scoring of answers; None if unknown."""
    seconds: Range | None
    """Seconds from the command to the result; None if there is neither a rate nor an estimate by arithmetic."""
    gpu_hours: Range | None
    """GPU-hours of all hosts to the end; 0 on CPUs, None if the time is unknown."""
    is_measured: bool
    """Whether the time follows from a measured rate."""
    rate: str
    """Source of the time, in words; if the time is unknown, how to get it."""
    start_seconds: Range | None = None
    """The part of `seconds` before the first step: Ray starts, and each host loads the base."""
    most_seconds: Range | None = None
    """Seconds of a sweep with the most steps that its rule can let through; see `most_steps`."""
    start_source: str = ""
    """Source of `start_seconds`, in words."""
    parts: tuple[int, ...] = ()
    """Evaluation rows at each report point, where these are parts of the rows; see `EvaluationSpec.rows`."""
    answers: AnswersWork | None = None
    """None if answers are not scored. Time and GPU-hours include the answers if their share is known."""


def forecast(config: SweepConfig, space: SearchSpace, machine: Machine, slots: int, known: RowsAndRates) -> Forecast:
    """Forecasts a checked sweep on hosts with `slots` slots each."""
    trials, hosts = trials_of(config, space), machine.hosts
    compared, per_unit = resource.of(config), resource.steps_per_unit(config, space)
    evaluated, (row_tokens, lengths_from) = evaluation_rows(config, known), _row_tokens(config, known)
    rows_per_step = resource.rows_per_trial(config) / compared.total / per_unit
    load = Load(rows_per_step * row_tokens, slots, evaluated or 0, row_tokens)
    scores, answered = answers_key(config), _answered_tokens(config, known)
    rate = None if evaluated is None else _speed(config, known, load, answered)
    parts = config.evaluation.parts(evaluated or 0, len(compared.points))
    shares = tuple(1.0 if part is None or not evaluated else part / evaluated for part in parts)
    lengths = _lengths(rate, load, per_unit)._replace(shares=shares)
    made = plays(config, trials, hosts, slots, lengths)
    # A play of a part of very many trials is scaled up. Rounding may lift its steps above the possible number.
    most = most_steps(config, space, trials, hosts * slots)
    taken = [min(float(most), per_unit * each.units(compared.points)) for each in made]
    steps = Range(fmean(taken), min(taken), max(taken))
    evaluations = fmean(each.evaluations for each in made) + 1
    whole = fmean(each.whole_evaluations(lengths, config.searcher.start_with_default) for each in made) + 1
    work = lengths.time_for(steps.expected / per_unit, whole)
    scored = {
        "every": evaluations,
        "last": fmean(each.counts[-1] + each.repeats for each in made) + 1,
        "best": fmean(min(FINALISTS + config.searcher.start_with_default, trials) + each.repeats for each in made) + 1,
    }[config.evaluation.when]
    answering = scored * rate.answer_seconds if rate is not None and rate.answer_seconds is not None else None
    generated = None if answered is None else scored * answered
    worked = (lengths.evaluation + (answering or 0.0)) / hosts + fmean(each.makespan for each in made)
    # Later report points are further apart, so the work grows at most as the steps do.
    worst = most_steps(config, space, trials, slots_in_all(config, slots, hosts)) / steps.expected
    begun = trials + fmean(each.repeats for each in made)
    seconds, most_seconds = (
        None if rate is None else rate.seconds(worked * more, begun) for more in (1.0, max(1.0, worst))
    )
    is_share_known = bool(rate.step_seconds) if rate is not None else bool(row_tokens) and evaluated is not None
    return Forecast(
        reaching=tuple(round(fmean(column), 1) for column in zip(*(each.counts for each in made), strict=True)),
        steps=steps,
        evaluations=round(evaluations, 1),
        tokens=steps.expected * load.tokens_per_step if row_tokens else None,
        lengths_from=lengths_from,
        evaluation_share=whole * lengths.evaluation / work if is_share_known else None,
        seconds=seconds,
        start_seconds=None if rate is None else rate.start_seconds,
        most_seconds=most_seconds,
        gpu_hours=None if seconds is None else seconds.times(hosts * machine.gpus / HOUR),
        is_measured=rate is not None and rate.is_measured,
        rate=rate.source if rate else _unknown(config, known, machine),
        start_source=rate.start_source if rate else "",
        parts=tuple(part or evaluated for part in parts) if evaluated and any(parts) else (),
        answers=AnswersWork(round(scored, 1), generated, answering and answering / (work + answering))
        if scores
        else None,
    )


def _speed(config: SweepConfig, known: RowsAndRates, load: Load, answered: float | None) -> Speed | None:
    scores = answers_key(config)
    measured = speed(known.rates, known.key, load, scores) if known.key is not None else None
    if measured is not None or known.work is None or not known.types:
        return measured
    return arithmetic.speed(
        known.work, known.types, config.quantization.compute_dtype, load, answered if scores else None
    )


def _answered_tokens(config: SweepConfig, known: RowsAndRates) -> float | None:
    """Returns the maximum tokens that an evaluation generates; 0 if it generates none, None if nothing bounds them.

    Each answer is as long as `evaluation.max_new_tokens` allows. Its default is 1.25 times the longest completion,
    which is about the labelled part of the longest row.
    """
    scores, rows = config.evaluation, known.rows
    if not needs_answers(scores):
        return 0.0
    longest = scores.max_new_tokens
    if longest is None and rows is not None:
        longest = math.ceil(1.25 * rows.longest * rows.labelled)
    answered = min([count for count in (scores.examples, evaluation_rows(config, known)) if count], default=None)
    return None if longest is None or answered is None else float(answered * longest)


def _lengths(rate: Speed | None, load: Load, per_unit: float) -> UnitTimes:
    """Returns times in seconds, else in tokens, else in steps; `per_unit` are the optimizer steps of a unit."""
    if rate is not None:
        # A step must take some time: otherwise a host would play its trials one after the other, not side by side.
        return UnitTimes(max(LEAST_SECONDS, rate.step_seconds) * per_unit, rate.evaluation_seconds)
    if load.row_tokens:
        return UnitTimes(load.tokens_per_step * per_unit, load.evaluation_rows * load.row_tokens * FORWARD_SHARE)
    return UnitTimes(per_unit)


def _unknown(config: SweepConfig, known: RowsAndRates, machine: Machine) -> str:
    if evaluation_rows(config, known) is None:
        return UNCOUNTED
    if machine.gpus and known.key is not None and config.cluster.gpu is not None:
        return UNMEASURED.format(gpu=config.cluster.gpu)
    return UNNAMED if known.key is None and machine.gpus else UNKNOWN


def evaluation_rows(config: SweepConfig, known: RowsAndRates) -> int | None:
    """Returns the rows of one evaluation; 0 without data, None if all rows are taken and were not counted."""
    if config.data is None:
        return 0
    if known.rows is not None:
        return known.rows.eval_rows
    return known.eval_rows if known.eval_rows is not None else config.data.eval_examples


def _row_tokens(config: SweepConfig, known: RowsAndRates) -> tuple[float, LengthsFrom]:
    if config.data is None:
        return 0.0, "max_length"
    if known.rows is not None:
        return known.rows.mean, "tokens"
    if known.row_tokens is not None:
        return min(known.row_tokens, float(config.data.max_length)), "characters"
    return config.data.max_length * MEAN_OF_LONGEST, "max_length"


def most_steps(config: SweepConfig, space: SearchSpace, trials: int, slots: int) -> int:
    """Returns the maximum optimizer steps of the sweep, including its repeats."""
    compared, again = resource.of(config), config.searcher.most_repeats(trials)
    most = compared.scheduler.most_steps(compared.total, trials, slots, config.searcher.start_with_default)
    return resource.most_steps(config, space, most + again * compared.total, trials + again)


def shortest_budget(config: SweepConfig, gpus: int) -> tuple[float, str] | None:
    """Returns the seconds of the time budget that ends first, with its words; None if nothing bounds the time.

    `gpus` are those of all hosts, which share the GPU-hours; 0 on a CPU, where `budget.gpu_hours` bounds nothing.
    """
    budgets = []
    if config.budget.wall_clock is not None:
        budgets.append((in_seconds(config.budget.wall_clock), f"budget.wall_clock {config.budget.wall_clock}"))
    if config.budget.gpu_hours is not None and gpus:
        hours = config.budget.gpu_hours
        budgets.append((hours * HOUR / gpus, f"budget.gpu_hours {hours:g}"))
    return min(budgets, default=None)


def trials_of(config: SweepConfig, space: SearchSpace) -> int:
    """Returns the number of trials: `budget.trials`, or the number of different trials if that is smaller."""
    distinct = distinct_trials(config, space)
    return config.budget.count if distinct is None else min(config.budget.count, distinct)


def distinct_trials(config: SweepConfig, space: SearchSpace) -> int | None:
    """Returns the number of different trials; None if it is unlimited."""
    distinct = config.searcher.size(space)
    if distinct is None:
        return None
    beginning = points.beginning(config, space)
    return distinct + len({points.seed(config.seed, point) for point in beginning if not space.contains(point)})
