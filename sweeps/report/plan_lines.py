"""A plan in words, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from sweeps.config.number_words import counted, duration, epochs, size
from sweeps.planning.capacity import DEVICES
from sweeps.planning.forecast import Answers, Forecast, LengthsFrom
from sweeps.planning.lora_or_qlora import GpuAdvice
from sweeps.planning.plan import Plan
from trainables.contract import Memory

CONTINUED = "      "
_PARTS = {"kept": "snapshots"}
"""Parts of a host's memory under another name than that of the field."""
_ENGINES = {
    "flat": "the adapters of a host share passes over its base",
    "flat, grouped": "the adapters of a host share passes over its base, and are computed together",
    "peft": "PEFT's own layers",
}
_LENGTHS: Mapping[LengthsFrom, str] = {
    "tokens": "",
    "characters": " (by the characters of the rows)",
    "max_length": " (a guess: the rows are not read yet)",
}


def plan_lines(plan: Plan) -> list[str]:
    """The plan, and its warnings."""
    lines = [f"plan: {counted(plan.trials, 'trial')}, {_reports(plan)}; {_steps(plan)}"]
    rest = [*_hosts(plan), *_data(plan), *_few(plan), *_forecast(plan), *_choices(plan.choices)]
    return lines + [CONTINUED + line for line in rest] + [f"warning: {warning}" for warning in plan.warnings]


def _steps(plan: Plan) -> str:
    """What all trials take, with the range, and the most that they can take."""
    low, high = round(plan.forecast.steps.low), round(plan.forecast.steps.high)
    words = f"about {counted(plan.expected_steps, 'step')} in all{f' ({low} to {high})' if low < high else ''}"
    most = f"at most {plan.worst_steps}, if each trial is better than those before it and none fails"
    return words if plan.worst_steps <= high else f"{words}; {most}"


def _reports(plan: Plan) -> str:
    rungs = ", ".join(map(str, plan.points))
    if plan.unit == "example":
        return f"reports after {rungs} {'example' if plan.points == (1,) else 'examples'}, whatever the batch"
    return f"reports at {'step' if len(plan.points) == 1 else 'steps'} {rungs}"


def _hosts(plan: Plan) -> Iterator[str]:
    each = f" of {plan.gpus_per_host} GPUs{' each' if plan.hosts > 1 else ''}" if plan.gpus_per_host > 1 else ""
    hosts = f"{plan.place}: {counted(plan.hosts, f'{DEVICES[plan.device]} host')}{each}"
    disk = f"; up to {size(plan.disk_bytes)} on disk" if plan.disk_bytes else ""
    if plan.slots_per_host is None or plan.slots is None:
        yield f"{hosts}; each decides on its slots from its free memory{disk}"
        return
    of_what = "on the fullest GPU" if each else "per host"
    memory = f", about {plan.memory_bytes / 1e9:.1f} GB {of_what} at most" if plan.memory_bytes is not None else ""
    fewest = plan.slots // plan.hosts
    slots = f"{fewest} to " if fewest < plan.slots_per_host else ""
    yield f"{hosts} with {slots}{counted(plan.slots_per_host, 'slot')}{memory}{disk}"
    yield from _memory(plan.memory)
    if plan.engine is not None:
        means = _ENGINES.get(plan.engine)
        yield f"engine: {plan.engine}{f' ({means})' if means else ''}"


def _memory(memory: Memory | None) -> Iterator[str]:
    """The parts of a host's memory, those that take less than 1 MB left out; nothing where there is one part only."""
    parts = {part: held for part, held in memory.model_dump().items() if held >= 1e6} if memory is not None else {}
    if len(parts) > 1:
        yield f"memory: {', '.join(f'{_PARTS.get(part, part)} {size(held)}' for part, held in parts.items())}"


def _data(plan: Plan) -> Iterator[str]:
    if plan.rows_per_trial is not None:
        steps = plan.points[-1] if plan.unit == "step" else None
        yield epochs(steps, plan.rows_per_trial, plan.train_rows)
    if plan.group_by is not None:
        yield f"rows with an equal {plan.group_by} count as one group (data.group_by)"


def _few(plan: Plan) -> Iterator[str]:
    if plan.ends_alone and plan.trials > 1:
        last = plan.points[-1]
        end = f"step {last}" if plan.unit == "step" else counted(last, plan.unit)
        default = ", and the default configuration beside it" if plan.trains_default else ""
        yield f"with so few trials only the best one is trained to {end}{default}"
    if plan.patience is not None:
        trials = "a trial brings" if plan.patience == 1 else f"{plan.patience} trials in a row bring"
        yield f"ends earlier than this where {trials} no gain beyond chance (budget.patience)"


def _forecast(plan: Plan) -> Iterator[str]:
    seen = plan.forecast
    if len(seen.reaching) > 1:
        yield f"trials at each report, on average: {', '.join(f'{reached:g}' for reached in seen.reaching)}"
    work = []
    if seen.tokens is not None:
        work.append(f"about {_tokens(seen.tokens)} tokens{_LENGTHS[seen.lengths_from]}")
    if seen.evaluation_share is not None:
        work.append(f"{seen.evaluation_share:.0%} of the work is evaluation")
    if work:
        yield "; ".join(work)
    if seen.answers is not None:
        yield _answers(seen.answers)
    yield f"time: {_time(seen, plan)}"


def _answers(answers: Answers) -> str:
    """The tokens that are generated, and the share of time."""
    count, tokens = f"{answers.evaluations:g} evaluations", answers.tokens
    if tokens is None:
        told = f"are generated in {count}, of unknown length before the rows are read: give evaluation.max_new_tokens"
    elif tokens:
        told = f"are generated in {count}, about {_tokens(tokens)} tokens at most"
    else:
        told = f"are ranked in {count}, and none is generated"
    share = "their time is unknown, and not counted: the first sweep with these rows and evaluation measures it"
    return f"answers {told}; {share if answers.share is None else f'{answers.share:.0%} of the work'}"


def _time(seen: Forecast, plan: Plan) -> str:
    """The time, its GPU-hours and what they cost; of an estimate by arithmetic the range alone."""
    taken, hours = seen.seconds, seen.gpu_hours
    if taken is None or hours is None:
        return seen.rate
    told = [f"about {duration(taken.expected)} ({duration(taken.low)} to {duration(taken.high)})"]
    if not seen.is_measured:
        told = [f"about {duration(_rounded(taken.low))} to {duration(_rounded(taken.high))}"]
    for amount, unit in ((hours if plan.device == "cuda" else None, "GPU-hours"), (plan.cost, "in money")):
        if amount is not None:
            low, expected, high = (f"{_rounded(each):,g}" for each in (amount.low, amount.expected, amount.high))
            told.append(f"{expected} ({low} to {high}) {unit}" if seen.is_measured else f"{low} to {high} {unit}")
    if plan.cost is not None:
        told[-1] += f" at {plan.price:g} per GPU-hour"
    return f"{', '.join(told)}; {seen.rate}"


def _rounded(amount: float) -> float:
    """With two digits."""
    return float(f"{amount:.2g}")


def _tokens(count: float) -> str:
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if count >= unit:
            return f"{count / unit:.2g} {name}"
    return f"{count:,.0f}"


def _choices(choices: Sequence[GpuAdvice]) -> Iterator[str]:
    """The table, sizes with equal rows in one."""
    if choices:
        yield "which to use when, for this model, space and rows:"
        yield f"{'GPU':>12}  {'LoRA, 16-bit base':24}{'QLoRA, nf4 base':24}use"
    for (lora, qlora, advice), alike in groupby(choices, lambda each: (each.lora.words, each.qlora.words, each.advice)):
        sizes = [choice.gpu_gb for choice in alike]
        span = f"{sizes[0]} GB" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} GB"
        yield f"{span:>12}  {lora:24}{qlora:24}{advice}"
