"""Warns of searches that save or tell little, of budgets that are too short, and of idle GPUs. Pure."""

from __future__ import annotations

import math

from search_spaces.domains import Value
from search_spaces.space import SearchSpace
from sweeps.config import points, resource
from sweeps.config.model import SweepConfig
from sweeps.config.number_words import counted, duration
from sweeps.planning.capacity import highest
from sweeps.planning.forecast import Forecast, distinct_trials, shortest_budget
from sweeps.statistics.confidence import times_as_many
from trainables.contract import Need, RowShape
from trainables.grading import catalogue as grading
from trainables.objective import LEAST_ROWS
from trainables.specs import warmup_steps

LEAST_UNEVEN = 0.01
"""Excess of examples, as a share, that one trial may have seen over another at a rung; from here on, plans warn."""
NEAR_END = 0.1
"""Share of a trial's length; from a report point to the end it should be more, or stopping there saves little."""
MOST_EVALUATION = 0.5
"""Share of evaluations in all work; above it, plans warn."""
PAIRED_SPREAD = 0.13
"""Standard deviation, in nats per token, of the difference of two trials' losses on one row. Measured on seven LoRA
adapters of SmolLM2-135M and 96 rows of GSM8K; used for every model. Unpaired, it is 0.34."""
QUANTILE = 2.33
"""The 99 % quantile of the normal distribution: several trials are compared with the best at once."""
USUAL_GAP = 0.02
"""Nats per token that often separate the best trials; a tuned learning rate gains more."""
SCORE_SPREAD = 0.5
"""PAIRED_SPREAD for right answers, assuming that on a quarter of the rows only one of two trials is right."""
USUAL_SCORE_GAP = 0.05
"""USUAL_GAP for a share of right answers. The rows of a sweep should tell twice the usual gap."""


def never_early(config: SweepConfig) -> list[str]:
    """Warns where the first report point of a trial is also the last one, so that the scheduler stops none."""
    compared = resource.of(config)
    if not config.scheduler.compares or len(compared.points) > 1:
        return []
    total, longer = f"budget.steps_per_trial {compared.points[0]}", "steps_per_trial"
    if compared.unit == "example":
        total = f"the {counted(compared.points[0], compared.unit)} of a trial"
        longer = "budget.examples_per_trial, or what is given in its place"
    return [
        f"scheduler.grace_steps reaches {total}: no trial can be stopped early; lower grace_steps or raise {longer}"
    ]


def search_warnings(config: SweepConfig, space: SearchSpace, trials: int, slots: int) -> list[str]:
    """Warns where the search cannot save steps, compares unlike trials, or leaves points untried.

    `trials` are the different trials of the sweep, `slots` those of all hosts.
    """
    compared, warnings = resource.of(config), never_early(config)
    if config.scheduler.compares and len(compared.points) > 1:
        warnings += _warmup_warnings(config, space, compared.steps(config.training)[0])
        before, last = compared.points[-2:]
        close = (
            f"report points {before} and {last}: a trial that stops at {before} saves only {last - before} of {last} "
            f"{compared.unit}s: set budget.{compared.unit}s_per_trial={before}, or choose another grace_steps"
        )
        warnings += [close] if last - before < NEAR_END * last else []
    if config.scheduler.kind == "asha" and not config.scheduler.parks and slots >= trials > 1:
        warnings.append(
            f"{slots} slots for {trials} trials: all of them run at once, so early stopping has nothing to "
            "save; raise budget.trials, lower cluster.slots_per_host or set scheduler.variant=promote"
        )
    if "training.learning_rate" not in space.domains:
        warnings.append(
            "the space leaves training.learning_rate alone: it matters most, and the best value moves with the other "
            "fields; add training.learning_rate: {loguniform: [2.0e-5, 2.0e-3]}"
        )
    outside = points.outside(config.base, space) if config.searcher.start_with_default else {}
    if outside:
        values = ", ".join(f"{field} {_shown(value)}" for field, value in outside.items())
        warnings.append(
            f"t00 is the default configuration, which lies outside the space ({values}): it is trained and ranked with "
            "the others; search its values too, change them, or set searcher.start_with_default=false"
        )
    more_seen = resource.more_seen(config, space)
    if more_seen >= LEAST_UNEVEN:
        warnings.append(
            f"{' x '.join(resource.BATCH)}: batches of {', '.join(map(str, resource.batches(config, space)))} have no "
            f"small common multiple: trials ranked together have seen up to {more_seen:.0%} more examples than others; "
            "choose batches with a small common multiple, such as powers of two"
        )
    warnings += points_warnings(config, space)
    count = config.budget.count
    if trials < count:
        warnings.append(f"the space has {trials} different trials, fewer than budget.trials {count}")
    elif config.searcher.kind == "grid" and (distinct := distinct_trials(config, space) or 0) > count:
        warnings.append(
            f"searcher.kind grid: {distinct} different trials, more than budget.trials {count}: "
            f"{counted(distinct - count, 'trial')} would never be tried; set budget.trials={distinct}"
        )
    return warnings


def _warmup_warnings(config: SweepConfig, space: SearchSpace, first: int) -> list[str]:
    """Warns where the learning rate rises for more than half of the steps before the first comparison at `first`."""
    field, steps = "training.warmup_ratio", config.budget.steps_per_trial
    ratio = highest(space.domains[field]) if field in space.domains else config.training.warmup_ratio
    rising = warmup_steps(ratio, steps) - 1
    if 2 * rising <= first:
        return []
    most = math.floor(1000 * (first // 2 + 1) / steps) / 1000
    later = f"raise grace_steps to {2 * rising} or more, or " if 2 * rising < steps else ""
    return [
        f"scheduler.grace_steps {first}: the learning rate rises for {counted(rising, 'step')} ({field} {ratio:g} of "
        f"{steps}), so the first ranking compares how fast rates start; {later}lower warmup_ratio to {most:g}"
    ]


def time_warnings(config: SweepConfig, seen: Forecast, hosts: int, gpus: int) -> list[str]:
    """Warns where a time budget is too short, and where hosts of `gpus` GPUs each are idle."""
    return _too_short(config, seen, hosts * gpus) + (_idle_hosts(config, seen, hosts) if gpus else [])


def _idle_hosts(config: SweepConfig, seen: Forecast, hosts: int) -> list[str]:
    last = max(1, math.ceil(seen.reaching[-1]))
    again = config.searcher.most_repeats(last)
    most, where = (again, "at the end, as repeats of the best") if again > last else (last, "at the last report")
    if not config.scheduler.parks or most >= hosts:
        return []
    return [
        f"cluster.hosts: {hosts} hosts for {counted(most, 'trial')} that can be expected {where}: those "
        "without a trial stay until the sweep ends, and their GPU-hours count: lower cluster.hosts, or run `qsweep "
        f"extend SWEEP cluster.hosts={most}` once fewer trials train than there are hosts"
    ]


def _too_short(config: SweepConfig, seen: Forecast, gpus: int) -> list[str]:
    """Warns where the budget is shorter than the expected time, or where that is unknown and results come late."""
    budgeted = shortest_budget(config, gpus)
    if budgeted is None:
        return []
    budget, words = budgeted
    is_late = (
        config.scheduler.parks
        and getattr(config.scheduler, "order", None) == "breadth"
        and len(resource.of(config).points) > 1
    )
    early = "set scheduler.order=paper, which trains a trial to its last step early"
    is_unsure = seen.seconds is None or (not seen.is_measured and seen.seconds.low <= budget < seen.seconds.high)
    if is_unsure and is_late:
        return [
            f"{words}: whether it is long enough is unknown, and scheduler.order breadth brings the first trial to its "
            f"last step late: {early}, or run `qsweep plan FILE --calibrate` and set budget.trials=auto"
        ]
    if seen.seconds is None or is_unsure or seen.seconds.expected <= budget:
        return []
    hours = seen.gpu_hours.expected if seen.gpu_hours is not None else 0.0
    taken = f"{float(f'{hours:.3g}'):g} GPU-hours" if "gpu_hours" in words else duration(seen.seconds.expected)
    return [
        f"{words} is shorter than the {taken} that are expected: lower budget.trials or set it to auto"
        + (f", or {early}" if is_late else "")
    ]


def evaluation_warnings(config: SweepConfig, seen: Forecast, rows: RowShape | None) -> list[str]:
    """Warns where evaluations take most of the work, and where their rows cannot tell good trials from chance."""
    warnings = []
    share = seen.evaluation_share
    if share is not None and share > MOST_EVALUATION:
        warnings.append(
            f"evaluations take about {share:.0%} of the work, more than the training: lower data.eval_examples, or "
            "raise scheduler.grace_steps or reduction_factor for fewer of them"
        )
    count = rows.eval_rows if rows is not None else config.data.eval_examples if config.data is not None else None
    if count is not None and config.data is not None and config.data.group_by is None:  # with groups, groups count
        parts = config.evaluation.parts(count, len(resource.of(config).points))
        warnings += _few_rows(config, count, parts[0])
    return warnings


def _few_rows(config: SweepConfig, count: int, first: int | None = None) -> list[str]:
    """Judges the loss, or right answers if these are the objective: the spread of other scores is unknown.

    `first` is the number of rows at the first report point, if these are a part of the `count` rows.
    """
    metric, field = config.objectives[0].metric, "data.eval_examples"
    what, spread, usual, unit = "losses differ", PAIRED_SPREAD, USUAL_GAP, " nats per token"
    if config.evaluation.scores_by(metric):
        if metric not in grading.verdicts(config.evaluation):
            return []
        if config.evaluation.examples is not None and config.evaluation.examples < count:
            count, field = config.evaluation.examples, "evaluation.examples"
        what, spread, usual, unit, first = f"{metric} differs", SCORE_SPREAD, USUAL_SCORE_GAP, "", None
    if first is not None:
        count, field = first, "evaluation.rows_factor"
    gap = QUANTILE * spread / math.sqrt(max(1, count))
    if gap <= 2 * usual:
        return []
    told = f"{count} rows tell two trials apart only where their {what} by about {gap:.2f}{unit}"
    if count < LEAST_ROWS:
        told = f"{counted(count, 'row')} cannot tell trials apart: of fewer than {LEAST_ROWS} there is no interval"
    needed = math.ceil((QUANTILE * spread / usual) ** 2)
    return [f"{field}: {told}; the best trials often differ by {usual:g}, which takes about {needed} rows"]


def cost_of_seen_rows(config: SweepConfig, test_rows: int) -> list[str]:
    """Says what it costs that all ranked trials count as comparisons, where data.test_examples: auto draws no rows."""
    trials = config.budget.count
    times = f"{times_as_many(trials, min(trials, config.promotion.top)):.1f}"
    if config.data is None or config.data.test_examples != "auto" or test_rows or times == "1.0":
        return []
    return [
        f"promotion will decide on rows that chose the winner: about {times} times as many rows for the same certainty "
        "(data.test, or data.test_examples=N of data.train, gives it rows of its own)"
    ]


def points_warnings(config: SweepConfig, space: SearchSpace) -> list[str]:
    """Warns where `budget.trials` does not suffice for all of `searcher.points`."""
    listed, count = len(config.searcher.points), config.budget.count
    beginning = len({points.seed(config.seed, point) for point in points.beginning(config, space)})
    if not listed or beginning <= count:
        return []
    together = ", which counts the default configuration too" if config.searcher.start_with_default else ""
    return [
        f"searcher.points: {beginning - count} of {listed} are beyond budget.trials {count}{together}, and are never "
        f"tried: raise budget.trials to {beginning}, or list fewer points"
    ]


def spread_warnings(gpus: int, alone: Need | None, free_bytes: int | None) -> list[str]:
    """Warns where hosts have several GPUs although one GPU holds the base: the other GPUs would wait.

    `alone` is the memory of the largest trials on one GPU; None if it is unknown, or hosts have one GPU. `free_bytes`
    is the memory to plan with on the fullest GPU.
    """
    if alone is None or free_bytes is None or alone.total(1) > free_bytes:
        return []
    return [
        f"cluster.gpus_per_host {gpus}: the base with one adapter takes {alone.total(1) / 1e9:.1f} GB, which one GPU "
        f"holds; a host computes on one of its GPUs at a time, so {gpus} hosts of one GPU train up to {gpus} times as "
        "much: set cluster.gpus_per_host=1"
    ]


def _shown(value: Value) -> str:
    return ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
