"""Defines the resource: trials are compared after equal numbers of optimizer steps, or of examples. Pure.

If the space searches the batch size, trials with equal steps have seen unequal data. Rungs then count examples (rows
that were trained on), and each trial takes as many steps as its batch needs for them. Otherwise rungs count steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal

import search_spaces
from search_spaces.domains import Domain, Value
from search_spaces.space import SearchSpace
from sweeps.config.model import SweepConfig
from sweeps.schedulers import SchedulerSettings
from trainables.specs import TrainingSpec, TrialSpec

Unit = Literal["step", "example"]
BATCH = ("training.batch_size", "training.gradient_accumulation_steps")
"""Fields whose product is the batch: the rows of an optimizer step."""
MOST_LISTED = 64
"""A domain with more values is sampled instead of listed."""
MOST_COMMON = 8
"""Rungs are multiples of the batches' least common multiple, if this is at most 8 times the largest batch. Otherwise a
trial reports after the first of its steps that reaches the rung."""


@dataclass(frozen=True)
class Resource:
    """Report points in their own unit, and in a trial's steps."""

    unit: Unit
    scheduler: SchedulerSettings
    """The sweep's scheduler, with its first report point in `unit`."""
    total: int
    """Steps or examples of a trial that is not stopped early."""

    @property
    def points(self) -> tuple[int, ...]:
        """Returns the report points in `unit`."""
        return self.scheduler.points(self.total)

    def steps(self, training: TrainingSpec) -> tuple[int, ...]:
        """Returns the report points in optimizer steps of a trial: the first step at or past each point."""
        return in_steps(self.points, self.unit, training)

    def points_for(self, spec: TrialSpec) -> dict[str, list[int]]:
        """Returns the trial's report points in steps, and in examples if rungs count examples."""
        return {
            "points": list(self.steps(spec.training)),
            "examples": list(self.points) if self.unit == "example" else [],
        }

    def with_steps(self, spec: TrialSpec) -> TrialSpec:
        """Returns the trial with its own number of steps, which its learning rate schedule spans."""
        return spec.model_copy(update={"steps": self.steps(spec.training)[-1]})


def in_steps(points: Sequence[int], unit: Unit, training: TrainingSpec) -> tuple[int, ...]:
    """See `Resource.steps`."""
    return tuple(points) if unit == "step" else tuple(_steps(point, rows_per_step(training)) for point in points)


def rows_per_step(training: TrainingSpec) -> int:
    """Returns the batch: the rows of one optimizer step."""
    return training.batch_size * training.gradient_accumulation_steps


def rows_per_trial(config: SweepConfig) -> int:
    """Returns the rows that a trial trains on if it is not stopped early; its last step may go a few rows beyond."""
    compared = of(config)
    return compared.total * (1 if compared.unit == "example" else rows_per_step(config.training))


def of(config: SweepConfig) -> Resource:
    """Returns the resource of a settled sweep: examples if `budget.examples_per_trial` is given, else steps."""
    examples = config.budget.examples_per_trial
    if examples is None:
        return Resource("step", config.scheduler, config.budget.steps_per_trial)
    named = config.search_space
    space = search_spaces.load(named) if isinstance(named, str) else SearchSpace.parse(named)
    first = _first(config, space)
    return Resource("example", _starting(config.scheduler, first), examples)


def with_examples(config: SweepConfig, space: SearchSpace, train_rows: int | None) -> tuple[SweepConfig, list[str]]:
    """Settles examples per trial, if they are the resource; returns the configuration and mistakes in its budget.

    Rounds `examples_per_trial` up to a multiple of all batches of the space. `steps_per_trial` becomes the steps of the
    default configuration. `train_rows` is None if not known yet.
    """
    budget = config.budget
    examples = budget.examples_per_trial
    if budget.epochs_per_trial is not None:
        if train_rows is None:
            return config, [
                f"budget.epochs_per_trial: {budget.epochs_per_trial:g}: how many rows there are is known only after "
                "they are prepared: give budget.examples_per_trial instead"
            ]
        examples = max(1, math.ceil(budget.epochs_per_trial * train_rows))
    if examples is None and any(field in space.domains for field in BATCH):
        examples = budget.steps_per_trial * rows_per_step(config.training)
    if examples is None:
        return config, []
    total = _rounded(config, space, examples)
    steps = _steps(total, rows_per_step(config.training))
    changed = config.model_copy(
        update={
            "budget": budget.model_copy(
                update={"examples_per_trial": total, "epochs_per_trial": None, "steps_per_trial": steps}
            )
        }
    )
    listed = enumerate(_listed(changed))
    return changed, [
        f"searcher.points.{number}: {line}" for number, rows in listed for line in too_large(changed, rows)
    ]


def too_large(config: SweepConfig, rows: int) -> list[str]:
    """Refuses a step of `rows` rows that would pass two report points at once.

    Checks only points that a user chose: batches of the space itself are never too large.
    """
    compared = of(config)
    reached = [_steps(point, rows) for point in compared.points]
    if compared.unit == "step" or len(set(reached)) == len(reached):
        return []
    most = min(after - before for before, after in pairwise(compared.points))
    told = " x ".join(BATCH)
    return [
        f"{told}: {rows} rows a step pass two report points at once (the points are at "
        f"{', '.join(str(point) for point in compared.points)} examples): take at most {most} rows a step"
    ]


def steps_per_unit(config: SweepConfig, space: SearchSpace) -> float:
    """Returns the optimizer steps of one unit of the resource, as the mean over the batches of the space."""
    if of(config).unit == "step":
        return 1.0
    sizes = batches(config, space)
    return sum(1 / size for size in sizes) / len(sizes)


def most_steps(config: SweepConfig, space: SearchSpace, units: int, trials: int) -> int:
    """Returns the maximum optimizer steps of `trials` trials that use `units` units of the resource together.

    Assumes the smallest batch of the space and of `searcher.points`. The last step of each trial may go beyond its
    report point.
    """
    compared = of(config)
    if compared.unit == "step":
        return units
    smallest = min([*batches(config, space), *_listed(config)])
    beyond = max(-point % smallest for point in compared.points)
    return (units + trials * beyond) // smallest


def more_seen(config: SweepConfig, space: SearchSpace) -> float:
    """Returns the largest excess of examples, as a share, that one trial may have seen over another at a rung.

    0 unless the batches of the space have no small common multiple, see MOST_COMMON.
    """
    compared = of(config)
    sizes = batches(config, space)
    if compared.unit == "step" or _common(sizes) != 1:
        return 0.0
    seen = [[_up(point, size) for size in sizes] for point in compared.points]
    return max(max(each) / min(each) - 1 for each in seen)


def batches(config: SweepConfig, space: SearchSpace) -> tuple[int, ...]:
    """Returns the batches of the space, in rows of a step, ascending; of a long range, its ends and values between."""
    choices: list[Sequence[int]] = []
    for field in BATCH:
        name = field.partition(".")[2]
        domain = space.domains.get(field)
        values = _some(domain) if domain is not None else ()
        own: int = getattr(config.training, name)
        choices.append([own, *(value for value in values if isinstance(value, int))])
    return tuple(sorted({math.prod(chosen) for chosen in product(*choices)}))


def _some(domain: Domain) -> Sequence[Value]:
    """Returns the values of a domain; of a long range a sample, which has no small common multiple either."""
    if domain.size is not None and domain.size <= MOST_LISTED:
        return domain.values() or ()
    return (*domain.extremes(), *(domain.at(place / MOST_LISTED) for place in range(MOST_LISTED)))


def _listed(config: SweepConfig) -> Iterator[int]:
    """Yields the rows of a step at each of `searcher.points`, which may lie outside the space."""
    for point in config.searcher.points:
        sizes = [point.get(field, getattr(config.training, field.partition(".")[2])) for field in BATCH]
        yield math.prod(size for size in sizes if isinstance(size, int))


def _first(config: SweepConfig, space: SearchSpace) -> int:
    """Returns the first report point in examples: grace_steps of the default, at least one step of every batch."""
    sizes = batches(config, space)
    return _up(max(config.scheduler.grace_steps * rows_per_step(config.training), sizes[-1]), _common(sizes))


def _rounded(config: SweepConfig, space: SearchSpace, examples: int) -> int:
    """Rounds `examples` up, so that the last two report points are at least one step apart for every batch."""
    sizes = batches(config, space)
    total = _up(examples, _common(sizes))
    points = _starting(config.scheduler, _first(config, space)).points(total)
    return max(total, points[-2] + sizes[-1]) if len(points) > 1 else total


def _starting(scheduler: SchedulerSettings, first: int) -> SchedulerSettings:
    return scheduler.model_copy(update={"grace_steps": first})


def _common(sizes: Sequence[int]) -> int:
    """Returns the least common multiple of the batches, or 1 if it is large (MOST_COMMON)."""
    common = math.lcm(*sizes)
    return common if common <= MOST_COMMON * sizes[-1] else 1


def _steps(examples: int, rows: int) -> int:
    return -(-examples // rows)


def _up(examples: int, rows: int) -> int:
    return _steps(examples, rows) * rows
